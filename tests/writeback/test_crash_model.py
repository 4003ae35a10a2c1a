"""Random operations, crashes and cold mounts against the reference model; the bucket answers slowly and loses answers.

A crash copies the ledger, the dirty files and the bucket as they are at that moment (see harness) and goes on with the
copies.  A cold mount has an empty cache, so it compares with the model what is in the bucket: keys, contents, metadata.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hypothesis import settings
from hypothesis.stateful import rule, run_state_machine_as_test

from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.core.types import Caller, InodeId
from b2fs.errors import Unavailable
from b2fs.store.faults import FaultyStore
from b2fs.store.forward import CHANGES
from b2fs.vfs.config import VfsConfig
from b2fs.vfs.filesystem import B2Filesystem, open_filesystem
from tests.model.machine import ModelMachine, Pick, Real, handles
from tests.mounting import NoKernel
from tests.vfs.direct import DirectDriver, hosted
from tests.vfs.driver import Driver, Fd, Stat
from tests.vfs.walk import Walk
from tests.writeback.harness import Place
from tests.writeback.memstore import MemBucket, MemStore

LONG = os.environ.get("B2FS_LONG") == "1"

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
    """One bucket and the mount of it that the example stands on at the moment."""

    def __init__(self, root: Path) -> None:
        self._stack = ExitStack()
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
        store.latency_s = 0.001
        store.fail(CHANGES, Unavailable("500"), times=None, probability=0.1)
        store.fail(CHANGES, Unavailable("reset"), times=None, probability=0.1, answer_lost=True)
        config = VfsConfig(str(cache), attr_index=False, check_permissions=True, writeback=EAGER)
        async with store, open_filesystem(store, config, NoKernel()) as fs:
            yield fs

    def _in_mount(self, call: object) -> None:
        """Run in the mount's own trio run, between two of its steps."""
        self.driver.call(call)  # type: ignore[arg-type]  # a function of the walk, which it does not need

    def crash(self) -> Driver:
        async def kill(_: object) -> None:
            self.place.crash()

        self._in_mount(kill)
        self._stack.close()
        return self._open()

    def cold(self) -> Driver:
        filesystem = self.driver.fs
        assert isinstance(filesystem, B2Filesystem)

        async def drain(_: object) -> None:
            filesystem.writeback.hurry()
            with trio.fail_after(60):
                while filesystem.writeback.status().pending_files:
                    # It gives up on what has failed twice; here everything passes.
                    with suppress(Unavailable):
                        await filesystem.writeback.wait_drained()
                    await trio.lowlevel.checkpoint()

        self._in_mount(drain)
        self._stack.close()
        self.place.forget_cache()
        return self._open()

    def stored(self, fd: Fd) -> list[bytes | None]:
        """What the bucket holds under each name of an open file."""
        filesystem = self.driver.fs
        assert isinstance(filesystem, B2Filesystem)
        keys: list[str] = []

        async def find(_: object) -> None:
            inode = filesystem._core.inode(self.driver._opens[fd].ino)  # the names of a descriptor
            keys.extend(inode.all_keys())

        self._in_mount(find)
        versions = [self.place.bucket.latest(key) for key in keys]
        return [version.body if version is not None else None for version in versions]


_sites: list[Site] = []


@contextmanager
def _real() -> Iterator[Real]:
    with tempfile.TemporaryDirectory(prefix="b2fs-crash-") as directory:
        site = Site(Path(directory))
        _sites.append(site)
        try:
            yield Real(site.driver, crash_and_remount=site.crash, clean_remount=site.cold)
        finally:
            _sites.pop()
            site.close()


class CrashMachine(ModelMachine):
    """The model's machine; a fsync that returns has put the bytes into the bucket."""

    @staticmethod
    def make_real() -> AbstractContextManager[Real]:
        return _real()

    def link(self, pick: Pick, to: Pick) -> None:
        """No rule: after a cold mount the names of a hard-linked file are files of their own."""

    @rule(index=handles)
    def fsync_handle(self, index: int) -> None:
        super().on_handle(index, lambda driver, fd: driver.fsync(fd))
        if self._handles:
            real, model = self._handles[index % len(self._handles)]
            size = self.model.fstat(model).size
            for body in _sites[-1].stored(real):
                assert body is not None, "a fsync has returned and the bucket has nothing"
                assert len(body) == size

    def teardown(self) -> None:
        try:
            self._close_all()
            self._go_on_with(_sites[-1].cold())
        finally:
            super().teardown()


@pytest.mark.timeout(600)
def test_random_operations_and_crashes() -> None:
    run_state_machine_as_test(CrashMachine, settings=settings(max_examples=400 if LONG else 15, stateful_step_count=30))
