"""LocalContent and DirtyFiles: the bytes of dirty files on the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b2fs.cache.content import DirtyFiles, LocalContent
from b2fs.core.nodes import InodeId

ONE, TWO = InodeId(1), InodeId(2)


@pytest.fixture
def files(tmp_path: Path) -> DirtyFiles:
    return DirtyFiles(str(tmp_path / "dirty"))


def seen(content: LocalContent, base: bytes) -> bytes:
    """The file as a reader sees it: local bytes over those of the base."""
    body = bytearray(content.read_local(0, content.size).ljust(content.size, b"?"))
    for start, end in content.missing(0, content.size):
        body[start:end] = base[start:end]
    return bytes(body)


writes = st.tuples(st.just("write"), st.integers(0, 60), st.binary(min_size=1, max_size=20))
truncates = st.tuples(st.just("truncate"), st.integers(0, 60), st.just(b""))
fills = st.tuples(st.just("fill"), st.integers(0, 60), st.just(b"x" * 15))


@given(base=st.binary(max_size=40), changes=st.lists(st.one_of(writes, truncates, fills), max_size=12))
def test_partial_content_reads_as_the_whole_file_would(
    base: bytes, changes: list[tuple[str, int, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = DirtyFiles(str(tmp_path_factory.mktemp("dirty")))
    content, model = LocalContent.over_base(files, ONE, len(base)), bytearray(base)
    for kind, at, data in changes:
        if kind == "write":
            content.write(at, data)
            model.extend(bytes(max(0, at - len(model))))
            model[at : at + len(data)] = data
        elif kind == "truncate":
            content.truncate(at)
            model = model[:at].ljust(at, b"\0")
        elif not content.complete:
            content.fill(at, base[at : min(at + len(data), content.base_limit)])
        assert content.size == len(model)
        assert seen(content, base) == bytes(model)
        for _, end in content.missing(0, content.size):
            assert end <= content.base_limit <= len(base)
    files.close()


def test_few_descriptors_are_kept_open(tmp_path: Path) -> None:
    files = DirtyFiles(str(tmp_path / "dirty"), max_open=3)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(1, 20):
        LocalContent(files, InodeId(number)).write(0, b"%d" % number)
    assert len(os.listdir("/proc/self/fd")) == before + 3
    assert [LocalContent(files, InodeId(n)).read_local(0, 9) for n in (1, 19)] == [b"1", b"19"]
    files.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_view_is_a_copy(files: DirtyFiles) -> None:
    content = LocalContent(files, InodeId(1))
    for size in (100, 1 << 20):
        content.write(0, b"a" * size)
        view = content.view_local(0, size)
        content.write(0, b"b" * size)
        assert view == b"a" * size
        assert content.view_local(1, size) == b"b" * (size - 1)


def test_a_retired_file_makes_room_for_a_new_one(files: DirtyFiles) -> None:
    LocalContent(files, ONE).write(0, b"old")
    retired = files.retire(ONE)
    LocalContent(files, ONE).write(0, b"new")
    assert Path(retired).read_bytes() == b"old"
    assert Path(files.path(ONE)).read_bytes() == b"new"
    assert files.existing() == [ONE]
    files.remove_retired()
    assert not Path(retired).exists()
    files.close()


def test_what_made_a_file_superfluous_is_made_durable_before_it_goes(tmp_path: Path) -> None:
    there: list[list[InodeId]] = []
    dirty = DirtyFiles(str(tmp_path / "dirty"), before_removal=lambda: there.append(sorted(dirty.existing())))
    for ino in (ONE, TWO):
        LocalContent(dirty, ino).write(0, b"x")
    dirty.remove(ONE)
    dirty.retire(TWO)
    assert there == [[ONE, TWO], [TWO]]
    dirty.remove(ONE)  # a second time is no error
    dirty.close()


def test_so_it_is_when_the_number_is_wanted_again_at_once(tmp_path: Path) -> None:
    """Killed in between, a journal that still wants the old file would put an older content over what was stored."""
    there: list[bytes] = []
    dirty = DirtyFiles(
        str(tmp_path / "dirty"), before_removal=lambda: there.append((tmp_path / "dirty" / "7").read_bytes())
    )
    dirty.on_doomed = lambda: None
    LocalContent(dirty, InodeId(7)).write(0, b"old")
    dirty.remove(InodeId(7))
    LocalContent(dirty, InodeId(7)).write(0, b"new")
    assert there == [b"old"]
    assert (tmp_path / "dirty" / "7").read_bytes() == b"new"
    dirty.close()


def test_a_file_that_is_superfluous_for_another_reason_waits_for_that_to_be_durable(files: DirtyFiles) -> None:
    files.on_doomed = lambda: None
    LocalContent(files, ONE).write(0, b"first")
    files.remove(ONE)
    before = list(files.doomed.items())  # the journal is being synced for these
    LocalContent(files, ONE).write(0, b"second")
    files.remove(ONE)
    files.bury(before)
    assert Path(files.path(ONE)).read_bytes() == b"second"
    files.bury(list(files.doomed.items()))
    assert files.existing() == []
    files.close()


def test_what_fitted_of_a_refused_write_is_taken_back(files: DirtyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    content = LocalContent(files, ONE)
    content.write(0, b"good")
    real = os.pwrite

    def full_disk(fd: int, data: bytes, offset: int) -> int:
        if offset > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, bytes(data)[:3], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full_disk)
        with pytest.raises(OSError, match="No space"):
            content.write(4, b"too much")
    assert content.size == os.path.getsize(files.path(ONE)) == 4
    content.truncate(8)
    assert content.read_local(0, 8) == b"good\0\0\0\0"
    files.close()


def test_files_that_were_made_in_advance_are_like_all_others(files: DirtyFiles) -> None:
    low: list[bool] = []
    files.on_low = lambda: low.append(True)
    content = LocalContent(files, InodeId(7))
    content.write(0, b"made when it was needed")
    assert low
    files.stock()
    assert files.existing() == [7]
    for number in range(100, 180):  # more than are made in advance
        LocalContent(files, InodeId(number)).write(0, b"%d" % number)
    assert sorted(files.existing()) == [7, *range(100, 180)]
    for number in range(100, 180):
        assert Path(files.path(InodeId(number))).read_bytes() == b"%d" % number
        assert os.stat(files.path(InodeId(number))).st_mode & 0o777 == 0o600
    files.close()
    files.stock()
    assert content.read_local(0, 4) == b"made"  # opened again, not made anew
    files.close()


def test_a_filesystem_without_nameless_files_is_used_all_the_same(
    files: DirtyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links")

    files.stock()
    monkeypatch.setattr("b2fs.cache.content.os.link", refuse)
    content = LocalContent(files, InodeId(7))
    content.write(0, b"bytes")
    monkeypatch.undo()
    assert content.read_local(0, 5) == b"bytes"
    assert files.existing() == [7]
    files.close()
