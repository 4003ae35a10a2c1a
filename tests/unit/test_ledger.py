"""The ledger: what was committed comes back, and what a kill in the middle of a change leaves is understood."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b2fs.cache.content import DirtyFiles, LocalContent
from b2fs.cache.inode import Inode
from b2fs.cache.ledger import Ledger, LedgerError
from b2fs.cache.ledger_rows import EntryRow, PartRow, Remote, UploadRow
from b2fs.core.nodes import InodeId
from b2fs.core.types import ETag, ObjectRef, PartInfo, UploadId, VersionId

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
    ledger.commit()
    assert ledger.load_entries() == [EntryRow("key", ino, remote)]
    ledger.delete_entry("key")
    ledger.commit()
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
    ledger.commit()
    (found,) = ledger.load_inodes(files)
    assert found.posix() == inode.posix()
    assert (found.target, found.base, found.foreign_metadata) == (target, base, foreign)
    assert found.attrs_known
    ledger.close()
    files.close()


@pytest.mark.parametrize("synced", [None, -1, 0])
@pytest.mark.parametrize("unusual", ["nothing", "base", "target", "xattrs", "unknown"])
def test_plain_inodes_come_back_as_unusual_ones_do(
    unusual: str, synced: int | None, ledger: Ledger, files: DirtyFiles
) -> None:
    """What is usual is written by statements of its own."""
    inode = regular(5)
    inode.uid, inode.gid, inode.rdev, inode.atime_ns, inode.mtime_ns, inode.ctime_ns = 1, 2, 3, 4, 2**62, 2**62
    if synced is not None:
        inode.content = LocalContent(files, ONE)
        inode.content.write(0, b"12345")
        inode.content.synced_seq = synced
    match unusual:
        case "base":
            inode.base, inode.base_content_seq = REF, -1
        case "target":
            inode.target = b"t"
        case "xattrs":
            inode.xattrs = {b"user.x": b"1"}
        case "unknown":
            inode.attrs_known = False
    ledger.save_inode(inode)
    ledger.commit()
    (found,) = ledger.load_inodes(files)
    assert found.posix() == inode.posix()
    assert (found.target, found.base, found.attrs_known) == (inode.target, inode.base, inode.attrs_known)
    assert found.content is None if synced is None else found.content and found.content.synced_seq == synced


def test_times_are_changed_alone(ledger: Ledger, files: DirtyFiles) -> None:
    inode = regular()
    inode.uid, inode.mtime_ns, inode.ctime_ns = 7, 1, 1
    ledger.save_inode(inode)
    inode.mtime_ns, inode.ctime_ns = 2, 3
    ledger.save_times(inode)
    ledger.commit()
    (found,) = ledger.load_inodes(files)
    assert (found.uid, found.mtime_ns, found.ctime_ns) == (7, 2, 3)


def test_the_dirty_file_tells_of_writes_that_were_not_journaled(ledger: Ledger, files: DirtyFiles) -> None:
    inode = regular()
    ledger.save_inode(inode)
    LocalContent(files, ONE).write(0, b"written later")
    ledger.commit()
    (found,) = ledger.load_inodes(files)
    assert found.content is not None
    assert (found.size, found.content.complete) == (13, True)
    assert found.mtime_ns == os.stat(files.path(ONE)).st_mtime_ns


def test_a_file_made_local_without_a_commit_is_not_believed(ledger: Ledger, files: DirtyFiles) -> None:
    inode = regular(100)
    inode.base = REF
    ledger.save_inode(inode)
    LocalContent.over_base(files, ONE, 100)
    ledger.commit()
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
    ledger.commit()
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
    ledger.commit()
    (found,) = ledger.load_inodes(files)
    assert found.content is not None
    assert found.size == 160
    assert found.content.changed_ranges() == [(10, 20), (100, 160)]


def test_killed_between_cutting_a_partial_file_and_the_commit(ledger: Ledger, files: DirtyFiles) -> None:
    inode = partial(files)
    ledger.save_inode(inode)
    assert inode.content is not None
    inode.content.truncate(15)
    ledger.commit()
    (found,) = ledger.load_inodes(files)
    assert found.content is not None
    assert (found.size, found.content.base_limit) == (15, 15)
    assert found.content.changed_ranges() == [(10, 15)]


U1, U2 = UploadId("u1"), UploadId("u2")


def test_uploads_and_their_parts_come_back(ledger: Ledger) -> None:
    parts = [PartInfo(number, ETag(f"e{number}"), 5) for number in (1, 3, 4)]
    ledger.save_upload(U1, "key", ONE)
    for part in reversed(parts):
        ledger.save_part(U1, part)
    ledger.save_part(U1, PartInfo(2, ETag("gone"), 1))
    ledger.delete_part(U1, 2)
    ledger.mark_away(U1, parts[:1])
    rows = tuple(PartRow(part.number, part.etag, part.size, part.number == 1) for part in parts)
    ledger.commit()
    assert ledger.load_uploads() == [UploadRow(U1, "key", ONE, rows)]
    ledger.delete_upload(U2)
    ledger.commit()
    assert ledger.load_uploads() == [UploadRow(U1, "key", ONE, rows)]
    ledger.delete_upload(U1)
    ledger.commit()
    assert ledger.load_uploads() == []


def test_a_part_that_is_sent_again_is_here_again(ledger: Ledger) -> None:
    ledger.save_upload(U1, "key", ONE)
    ledger.mark_away(U1, [PartInfo(1, ETag("e"), 5)])
    ledger.save_part(U1, PartInfo(1, ETag("f"), 5))
    ledger.commit()
    assert ledger.load_uploads()[0].parts == (PartRow(1, ETag("f"), 5),)


def test_an_upload_that_is_to_be_aborted_stays_beside_a_new_one_of_the_same_file(ledger: Ledger) -> None:
    """F11: it costs storage until it is aborted."""
    ledger.save_upload(U1, "key", ONE)
    ledger.save_part(U1, PartInfo(1, ETag("e"), 5))
    ledger.abandon_upload(U1)
    ledger.save_upload(U2, "key", ONE)
    ledger.commit()
    assert ledger.load_uploads() == [UploadRow(U1, "key", None), UploadRow(U2, "key", ONE)]


#: The ledger of format 1, as it was made until uploads were kept by their own ID.
_FORMAT_1 = """
CREATE TABLE inode(
    ino INTEGER PRIMARY KEY, mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL,
    rdev INTEGER NOT NULL, size INTEGER NOT NULL, atime_ns INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL, target BLOB, extra BLOB, attrs_known INTEGER NOT NULL,
    base_key TEXT, base_version TEXT, base_etag TEXT, base_size INTEGER, local BLOB
);
CREATE TABLE entry(
    key TEXT PRIMARY KEY, ino INTEGER, remote_known INTEGER NOT NULL, remote_version TEXT, remote_etag TEXT,
    remote_size INTEGER
) WITHOUT ROWID;
CREATE INDEX entry_ino ON entry(ino);
CREATE TABLE upload(
    ino INTEGER PRIMARY KEY, key TEXT NOT NULL, upload_id TEXT NOT NULL
);
CREATE TABLE part(
    ino INTEGER NOT NULL, number INTEGER NOT NULL, etag TEXT NOT NULL, size INTEGER NOT NULL,
    PRIMARY KEY(ino, number)
) WITHOUT ROWID;
INSERT INTO inode VALUES(7, 33188, 1, 2, 0, 5, 10, 20, 30, NULL, NULL, 1, NULL, NULL, NULL, NULL, x'');
INSERT INTO entry VALUES('a', 7, 1, NULL, NULL, NULL);
INSERT INTO entry VALUES('b', NULL, 1, 'v', 'e', 3);
INSERT INTO upload VALUES(7, 'a', 'u1');
INSERT INTO part VALUES(7, 1, 'e1', 5);
INSERT INTO part VALUES(7, 2, 'e2', 6);
INSERT INTO part VALUES(9, 1, 'stray', 6);
PRAGMA user_version=1;
"""


def test_a_ledger_of_format_1_is_taken_over(tmp_path: Path) -> None:
    path = str(tmp_path / "ledger.db")
    with closing(sqlite3.connect(path)) as old:
        old.executescript(_FORMAT_1)
    files = DirtyFiles(str(tmp_path / "dirty"))
    LocalContent(files, InodeId(7)).write(0, b"dirty")
    for _ in range(2):  # the second time it has today's format
        ledger = Ledger(path)
        (inode,) = ledger.load_inodes(files)
        assert (inode.ino, inode.size, inode.uid) == (7, 5, 1)
        assert inode.content is not None and inode.content.read_local(0, 5) == b"dirty"
        assert [(row.key, row.ino) for row in ledger.load_entries()] == [("a", 7), ("b", None)]
        parts = (PartRow(1, ETag("e1"), 5), PartRow(2, ETag("e2"), 6))
        assert ledger.load_uploads() == [UploadRow(U1, "a", InodeId(7), parts)]
        ledger.close()


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


def test_a_database_that_was_large_gives_its_space_back(ledger: Ledger) -> None:
    rows = [EntryRow(f"{number:0400d}", None, Remote(False)) for number in range(30_000)]
    ledger.save_entries(rows)
    ledger.save_entry("left", None, Remote(True))
    ledger.commit()
    ledger.checkpoint(cut=True)
    assert os.path.getsize(ledger.path) > 10 << 20
    for row in rows:
        ledger.delete_entry(row.key)
    ledger.commit()
    ledger.checkpoint(cut=True)
    assert os.path.getsize(ledger.path) < 1 << 20
    assert ledger.wal_bytes() == 0
    ledger.save_entry("new", None, Remote(True))
    ledger.commit()
    assert [row.key for row in ledger.load_entries()] == ["left", "new"]


def test_others_may_not_read_it(ledger: Ledger) -> None:
    assert stat.S_IMODE(os.stat(ledger.path).st_mode) == 0o600
