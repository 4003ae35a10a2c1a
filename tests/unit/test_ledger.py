"""The ledger: what was committed comes back, and what a kill in the middle of a change leaves is understood."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b2fs.cache.content import DirtyFiles, LocalContent
from b2fs.cache.inode import Inode
from b2fs.cache.ledger import EntryRow, Ledger, LedgerError, Remote
from b2fs.core.types import ETag, InodeId, ObjectRef, PartInfo, UploadId, VersionId

ONE = InodeId(1)
REF = ObjectRef("key", VersionId("v1"), ETag("e"), 100)
UNVERSIONED = ObjectRef("key", None, ETag("e"), 100)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[DirtyFiles]:
    files = DirtyFiles(str(tmp_path / "dirty"))
    yield files
    files.close()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(str(tmp_path / "ledger.db"))
    yield ledger
    ledger.close()


def after_kill(ledger: Ledger, directory: Path) -> Ledger:
    """The ledger as the next process finds it."""
    directory.mkdir()
    for end in ("", "-wal"):
        shutil.copyfile(ledger.path + end, directory / f"ledger.db{end}")
    return Ledger(str(directory / "ledger.db"))


def regular(size: int = 0) -> Inode:
    inode = Inode(ONE, stat.S_IFREG | 0o644)
    inode.size = size
    return inode


def test_only_what_was_committed_survives(ledger: Ledger, tmp_path: Path) -> None:
    ledger.save_entry("a", ONE, Remote(True))
    ledger.commit()
    ledger.save_entry("b", ONE, Remote(True))
    assert ledger.uncommitted
    found = after_kill(ledger, tmp_path / "next")
    assert [row.key for row in found.load_entries()] == ["a"]
    found.close()


@pytest.mark.parametrize("remote", [Remote(True), Remote(False), Remote(True, REF), Remote(False, UNVERSIONED)])
@pytest.mark.parametrize("ino", [None, ONE])
def test_entries_come_back(ledger: Ledger, remote: Remote, ino: InodeId | None) -> None:
    ledger.save_entries([EntryRow("key", ino, remote)])
    assert ledger.load_entries() == [EntryRow("key", ino, remote)]
    ledger.delete_entry("key")
    assert ledger.load_entries() == []


texts = st.text(st.characters(codec="utf-8"), max_size=5)


@given(
    mode=st.integers(0, 0o7777),
    numbers=st.lists(st.integers(0, 2**62), min_size=3, max_size=3),
    ids=st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    target=st.none() | st.binary(max_size=10),
    xattrs=st.dictionaries(st.binary(max_size=5), st.binary(max_size=5), max_size=3),
    link_id=st.none() | texts,
    foreign=st.dictionaries(texts, texts, max_size=2),
    base=st.sampled_from([None, REF, UNVERSIONED]),
)
def test_inodes_come_back(
    mode: int,
    numbers: list[int],
    ids: tuple[int, int],
    target: bytes | None,
    xattrs: dict[bytes, bytes],
    link_id: str | None,
    foreign: dict[str, str],
    base: ObjectRef | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("ledger")
    inode = Inode(ONE, stat.S_IFLNK | mode)
    inode.atime_ns, inode.mtime_ns, inode.ctime_ns = numbers
    inode.uid, inode.gid = ids
    inode.target, inode.xattrs, inode.link_id, inode.foreign_metadata = target, xattrs, link_id, foreign
    inode.base, inode.content_type = base, "text/plain"
    ledger, files = Ledger(str(directory / "ledger.db")), DirtyFiles(str(directory / "dirty"))
    ledger.save_inode(inode)
    (found,) = ledger.load_inodes(files)
    assert found.posix() == inode.posix()
    assert (found.target, found.base, found.foreign_metadata) == (target, base, foreign)
    assert found.attrs_known
    ledger.close()
    files.close()


def test_the_dirty_file_tells_of_writes_that_were_not_journaled(ledger: Ledger, files: DirtyFiles) -> None:
    inode = regular()
    ledger.save_inode(inode)
    LocalContent(files, ONE).write(0, b"written later")
    (found,) = ledger.load_inodes(files)
    assert found.content is not None
    assert (found.size, found.content.complete) == (13, True)
    assert found.mtime_ns == os.stat(files.path(ONE)).st_mtime_ns


def test_a_file_made_local_without_a_commit_is_not_believed(ledger: Ledger, files: DirtyFiles) -> None:
    inode = regular(100)
    inode.base = REF
    ledger.save_inode(inode)
    LocalContent.over_base(files, ONE, 100)
    (found,) = ledger.load_inodes(files)
    assert (found.content, found.size) == (None, 100)


def partial(files: DirtyFiles) -> Inode:
    """100 bytes of which [10, 20) are local."""
    inode = regular(100)
    inode.base = REF
    inode.content = LocalContent.over_base(files, ONE, 100)
    inode.content.write(10, b"x" * 10)
    return inode


def test_partial_content_comes_back(ledger: Ledger, files: DirtyFiles) -> None:
    ledger.save_inode(partial(files))
    (found,) = ledger.load_inodes(files)
    assert found.content is not None
    assert found.content.changed_ranges() == [(10, 20)]
    assert (found.content.base_limit, found.content.complete) == (100, False)


def test_killed_between_growing_a_partial_file_and_the_commit(ledger: Ledger, files: DirtyFiles) -> None:
    """What is behind the base can only be local, or the upload's plan would have a hole."""
    inode = partial(files)
    ledger.save_inode(inode)
    assert inode.content is not None
    inode.content.write(150, b"y" * 10)
    (found,) = ledger.load_inodes(files)
    assert found.content is not None
    assert found.size == 160
    assert found.content.changed_ranges() == [(10, 20), (100, 160)]


def test_killed_between_cutting_a_partial_file_and_the_commit(ledger: Ledger, files: DirtyFiles) -> None:
    inode = partial(files)
    ledger.save_inode(inode)
    assert inode.content is not None
    inode.content.truncate(15)
    (found,) = ledger.load_inodes(files)
    assert found.content is not None
    assert (found.size, found.content.base_limit) == (15, 15)
    assert found.content.changed_ranges() == [(10, 15)]


def test_uploads_and_their_parts_come_back(ledger: Ledger) -> None:
    parts = [PartInfo(number, ETag(f"e{number}"), 5) for number in (1, 3)]
    ledger.save_upload(ONE, "key", UploadId("u1"))
    for part in reversed(parts):
        ledger.save_part(ONE, part)
    ledger.save_part(ONE, PartInfo(2, ETag("gone"), 1))
    ledger.delete_part(ONE, 2)
    assert ledger.load_uploads() == [(ONE, "key", UploadId("u1"), parts)]
    ledger.delete_upload(ONE, UploadId("another"))
    assert ledger.load_uploads() == [(ONE, "key", UploadId("u1"), parts)]
    ledger.delete_upload(ONE, UploadId("u1"))
    assert ledger.load_uploads() == []


def test_a_ledger_of_a_newer_program_is_not_touched(ledger: Ledger, tmp_path: Path) -> None:
    ledger._db.execute("PRAGMA user_version=99")  # as a newer program would leave it
    with pytest.raises(LedgerError, match="newer"):
        Ledger(ledger.path)


def test_the_log_is_moved_into_the_database(ledger: Ledger) -> None:
    for number in range(500):
        ledger.save_entry(f"{number}", None, Remote(False))
    ledger.commit()
    ledger.sync()
    assert ledger.wal_bytes() > 0
    ledger.checkpoint()
    assert os.path.getsize(ledger.path) > 10_000


def test_others_may_not_read_it(ledger: Ledger) -> None:
    assert stat.S_IMODE(os.stat(ledger.path).st_mode) == 0o600
