"""Sites: one bucket in memory, and the mount of it that an example of the model's machine stands on at the moment.

A crash copies the ledger, the dirty files and the bucket as they are at that moment (tests/writeback/harness.py) and
goes on with the copies.  A cold mount has an empty cache.  Another client changes the bucket while nothing waits here.
"""

from __future__ import annotations

import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import trio

from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.core.nodes import Caller, InodeId
from b2fs.errors import Unavailable
from b2fs.store.faults import FaultyStore
from b2fs.store.forward import CHANGES
from b2fs.vfs.config import VfsConfig
from b2fs.vfs.filesystem import B2Filesystem, open_filesystem
from tests.mounting import NoKernel
from tests.vfs.direct import DirectDriver, hosted
from tests.vfs.driver import Driver, Fd, Stat
from tests.vfs.walk import Walk
from tests.writeback.harness import Place
from tests.writeback.memstore import MemBucket, MemStore

#: Uploads begin at once, so that crashes find them under way.
EAGER = WriteBackConfig(
    quiet_s=0,
    bulk_quiet_s=0,
    remove_quiet_s=0,
    dir_quiet_s=0,
    open_quiet_s=0,
    spacing_s=0.002,
    retry_min_s=0.002,
    retry_max_s=0.01,
)


class _CountingDriver(DirectDriver):
    """A directory's link count is known once it was listed, so it is listed first."""

    def fstat(self, fd: Fd) -> Stat:
        return self._counted(super().fstat(fd))

    def _stat(self, path: str, *, follow: bool) -> Stat:
        return self._counted(super()._stat(path, follow=follow), path, follow=follow)

    def _counted(self, found: Stat, path: str | None = None, *, follow: bool = False) -> Stat:
        if not stat.S_ISDIR(found.mode):
            return found

        async def count(walk: Walk) -> int:
            ino = InodeId(found.ino) if path is None else (await walk.find(path, follow=follow)).ino
            handle = await self.fs.opendir(ino, Caller())
            try:
                return sum([stat.S_ISDIR(entry.attr.mode) async for entry in self.fs.readdir(handle, 0)])
            finally:
                await self.fs.releasedir(handle)

        with suppress(OSError):  # it is not in any directory any more
            return replace(found, nlink=2 + self.call(count))
        return found


class Site:
    """See the module.

    ttl_s is how long listings are trusted.  With faults the bucket answers slowly, refuses, and loses answers.
    """

    def __init__(self, root: Path, *, ttl_s: float = 60.0, faults: bool = True) -> None:
        self._stack = ExitStack()
        self._ttl_s, self._faults = ttl_s, faults
        self.place = Place(root, MemBucket(clock=time.time))
        self.driver = self._open()

    def close(self) -> None:
        self._stack.close()

    def _open(self) -> DirectDriver:
        self.driver = self._stack.enter_context(hosted(self._serve, _CountingDriver))
        return self.driver

    @asynccontextmanager
    async def _serve(self) -> AsyncIterator[B2Filesystem]:
        cache = self.place.cache
        cache.mkdir(mode=0o700, exist_ok=True)
        store = FaultyStore(MemStore(self.place.bucket), seed=self.place.generation)
        if self._faults:
            store.latency_s = 0.001
            store.fail(CHANGES, Unavailable("500"), times=None, probability=0.1)
            store.fail(CHANGES, Unavailable("reset"), times=None, probability=0.1, answer_lost=True)
        config = VfsConfig(str(cache), attr_index=False, check_permissions=True, writeback=EAGER, ttl_s=self._ttl_s)
        async with store, open_filesystem(store, config, NoKernel()) as fs:
            yield fs

    def _in_mount(self, call: Callable[[B2Filesystem], Awaitable[None]]) -> None:
        """Run in the mount's own trio run, between two of its steps."""
        filesystem = self.driver.fs
        assert isinstance(filesystem, B2Filesystem)

        async def run(_: Walk) -> None:
            await call(filesystem)

        self.driver.call(run)

    def crash(self) -> Driver:
        async def kill(_: B2Filesystem) -> None:
            self.place.crash()

        self._in_mount(kill)
        self._stack.close()
        return self._open()

    def cold(self) -> Driver:
        self._in_mount(_settle)
        self._stack.close()
        self.place.forget_cache()
        return self._open()

    def put_by_another(self, key: str, content: bytes) -> None:
        """Another client stores an object without attributes."""
        self._change_by_another(key, content)

    def removed_by_another(self, key: str) -> None:
        self._change_by_another(key, None)

    def _change_by_another(self, key: str, content: bytes | None) -> None:
        """While nothing waits here; where listings are trusted for a time, this mount is then told to look anew."""

        async def change(filesystem: B2Filesystem) -> None:
            await _settle(filesystem)
            # What is settled rides along with the next commit.  After a crash in between it is stored once more, on top
            # of what another client did in that twentieth of a second.
            filesystem._core.ledger.commit()
            self.place.bucket.add(key, content)
            if self._ttl_s:
                await filesystem.refresh(key.encode())

        self._in_mount(change)

    def stored(self, fd: Fd) -> list[bytes | None]:
        """What the bucket holds under each name of an open file."""
        keys: list[str] = []

        async def find(filesystem: B2Filesystem) -> None:
            inode = filesystem._core.inode(self.driver._opens[fd].ino)  # the names of a descriptor
            keys.extend(inode.all_keys())

        self._in_mount(find)
        versions = [self.place.bucket.latest(key) for key in keys]
        return [version.body if version is not None else None for version in versions]


async def _settle(filesystem: B2Filesystem) -> None:
    """Bring everything into the bucket; faults pass."""
    filesystem.writeback.hurry()
    with trio.fail_after(60):
        while filesystem.writeback.status().pending_files:
            # It gives up on what has failed twice; here everything passes.
            with suppress(Unavailable):
                await filesystem.writeback.wait_drained()
            await trio.lowlevel.checkpoint()
