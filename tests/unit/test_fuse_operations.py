"""The shell's answers, without a kernel: errors, attributes, listings, negative names."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import cast

import pyfuse3
import pytest
import trio

from b2fs.core.nodes import Attr, Caller, DirEntry, HandleId, InodeId
from b2fs.errors import CapExceeded, FsError, NotFound, TimedOut, Unavailable
from b2fs.fuse.config import FuseConfig
from b2fs.fuse.convert import KernelCaller, fill_entry
from b2fs.fuse.operations import Shell
from b2fs.vfs.api import FileSystem

CTX = pyfuse3.RequestContext()
TOKEN = pyfuse3.ReaddirToken()


class Failing:
    """A filesystem of which every tested operation raises the same."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def getattr(self, ino: InodeId) -> Attr:
        raise self.error

    async def lookup(self, parent: InodeId, name: bytes, caller: Caller) -> Attr:
        raise self.error

    def forget(self, inodes: Sequence[tuple[InodeId, int]]) -> None:
        raise self.error


def shell(fs: object) -> Shell:
    return Shell(cast(FileSystem, fs), FuseConfig())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FsError(errno.ENOTEMPTY), errno.ENOTEMPTY),
        (FsError(errno.ENOSYS), errno.EOPNOTSUPP),
        (NotFound("gone"), errno.ENOENT),
        (CapExceeded("full"), errno.EDQUOT),
        (TimedOut("late"), errno.ETIMEDOUT),
        (Unavailable("down"), errno.EIO),
        (ExceptionGroup("parallel", [ExceptionGroup("inner", [TimedOut("late")])]), errno.ETIMEDOUT),
    ],
    ids=repr,
)
async def test_a_foreseen_error_becomes_its_errno_without_a_word(
    error: Exception, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await shell(Failing(error)).getattr(2, CTX)
    assert caught.value.errno == code
    assert not caplog.records


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyError("bug"), errno.EIO),
        (AssertionError(), errno.EIO),
        (OSError(errno.ENOSPC, "the cache disk is full"), errno.ENOSPC),
        (FileNotFoundError(errno.ENOENT, "a cache file is lost"), errno.EIO),
        (ExceptionGroup("parallel", [ZeroDivisionError()]), errno.EIO),
    ],
    ids=repr,
)
async def test_an_unforeseen_error_becomes_eio_and_a_traceback(
    error: Exception, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await shell(Failing(error)).getattr(2, CTX)
    assert caught.value.errno == code
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is error


async def test_cancellation_passes_through() -> None:
    class Waiting:
        async def getattr(self, ino: InodeId) -> Attr:
            await trio.sleep_forever()
            raise AssertionError

    with trio.move_on_after(0) as scope:
        await shell(Waiting()).getattr(2, CTX)
    assert scope.cancelled_caught


def test_forgetting_never_raises(caplog: pytest.LogCaptureFixture) -> None:
    shell(Failing(RuntimeError("bug"))).forget([(2, 1)])
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_a_name_that_may_be_remembered_as_missing() -> None:
    entry = await shell(Failing(FsError(errno.ENOENT, ttl_s=7.5))).lookup(1, b"x", CTX)
    assert entry.st_ino == 0
    assert entry.entry_timeout == 7.5


@pytest.mark.parametrize("error", [FsError(errno.ENOENT), FsError(errno.EACCES, ttl_s=5)], ids=repr)
async def test_other_errors_are_not_remembered(error: FsError) -> None:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await shell(Failing(error)).lookup(1, b"x", CTX)
    assert caught.value.errno == error.code


def test_attributes_are_carried_over() -> None:
    attr = Attr(
        ino=InodeId(42),
        mode=0o104755,
        nlink=3,
        uid=4,
        gid=5,
        rdev=6,
        size=2**40 + 1,
        atime_ns=-1,
        mtime_ns=1_999_999_999_999_999_999,
        ctime_ns=10**9 - 1,
        blocks=9,
        ttl_s=0.25,
    )
    entry = pyfuse3.EntryAttributes()
    fill_entry(entry, attr)
    for field in ("ino", "mode", "nlink", "uid", "gid", "rdev", "size", "blocks", "atime_ns", "mtime_ns", "ctime_ns"):
        assert getattr(entry, f"st_{field}") == getattr(attr, field), field
    assert entry.entry_timeout == entry.attr_timeout == 0.25


class Listing:
    """A directory of three entries, and what is held of them."""

    def __init__(self, fails_behind: int = 3) -> None:
        self.fails_behind = fails_behind
        self.held: list[int] = []
        self.closed = False

    async def readdir(self, handle: HandleId, start: int) -> AsyncIterator[DirEntry]:
        try:
            for number in range(start + 1, 4):
                if number > self.fails_behind:
                    raise Unavailable("the next page does not come")
                yield DirEntry(b"n%d" % number, Attr(InodeId(100 + number), 0o100644), number)
        finally:
            self.closed = True

    def dots(self, handle: HandleId) -> tuple[InodeId, InodeId]:
        return InodeId(7), InodeId(8)

    def hold(self, ino: InodeId) -> None:
        self.held.append(ino)

    def forget(self, inodes: Sequence[tuple[InodeId, int]]) -> None:
        for ino, count in inodes:
            assert count == 1
            self.held.remove(ino)


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, int, int]]:
    """What readdir_reply was told; it takes two entries at most."""
    taken: list[tuple[bytes, int, int]] = []

    def reply(_token: object, name: bytes, entry: pyfuse3.EntryAttributes, cookie: int) -> bool:
        if len(taken) == 2:
            return False
        taken.append((name, entry.st_ino, cookie))
        return True

    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)
    return taken


async def test_only_entries_that_the_kernel_took_are_held(replies: list[tuple[bytes, int, int]]) -> None:
    listing = Listing()
    await shell(listing).readdir(1, 2, TOKEN)
    assert replies == [(b"n1", 101, 3), (b"n2", 102, 4)]
    assert listing.held == [101, 102]
    assert listing.closed


async def test_the_directory_and_the_one_above_it_come_first(replies: list[tuple[bytes, int, int]]) -> None:
    listing = Listing()
    await shell(listing).readdir(1, 0, TOKEN)
    assert replies == [(b".", 7, 1), (b"..", 8, 2)]
    replies.clear()
    await shell(listing).readdir(1, 1, TOKEN)
    assert replies == [(b"..", 8, 2), (b"n1", 101, 3)]
    assert listing.held == [101]


async def test_a_listing_that_fails_half_way_holds_nothing(replies: list[tuple[bytes, int, int]]) -> None:
    listing = Listing(fails_behind=1)
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await shell(listing).readdir(1, 2, TOKEN)
    assert caught.value.errno == errno.EIO
    assert replies == [(b"n1", 101, 3)]
    assert listing.held == []


def test_the_callers_groups_are_read_when_somebody_asks() -> None:
    caller = KernelCaller(1, 2, os.getpid(), 0o22)
    assert (caller.uid, caller.gid, caller.umask) == (1, 2, 0o22)
    assert caller.groups == frozenset(os.getgroups())
    assert KernelCaller(1, 2, 2**22 + 1, 0).groups == frozenset()


async def test_callers_are_kept_but_not_without_bound() -> None:
    seen: list[Caller] = []

    class Looking:
        async def lookup(self, parent: InodeId, name: bytes, caller: Caller) -> Attr:
            seen.append(caller)
            return Attr(InodeId(2), 0o100644)

    kept = shell(Looking())
    for pid in (*range(1000), 999):
        await kept.lookup(1, b"x", cast(pyfuse3.RequestContext, SimpleNamespace(uid=1, gid=2, pid=pid, umask=3)))
    assert [caller.pid for caller in seen] == [*range(1000), 999]
    assert seen[-1] is seen[-2]
    assert len(kept._callers) <= 256
