"""Parts of a mount without a kernel and without a bucket, for tests of the daemon around them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import cast

import trio

from b2fs.cache.status import FailedItem, WriteBackStatus
from b2fs.config.settings import MountSettings, build_settings
from b2fs.daemon.interfaces import Core, Frontend, NoKernel
from b2fs.daemon.messages import ReadFigures
from b2fs.daemon.parts import Parts
from b2fs.errors import StoreError
from b2fs.store.protocol import ObjectStore
from b2fs.vfs.api import KernelNotifier


class FakeWriteBack:
    """Pending files that are uploaded when the test says so."""

    def __init__(self, pending_files: int = 0) -> None:
        self.pending_files = pending_files
        self.hurried = False
        self.paths: list[str | None] = []
        self.waiting = trio.Event()
        self.uploaded = trio.Event()
        self.failure: StoreError | None = None
        self.offline = False

    def status(self) -> WriteBackStatus:
        failed = (FailedItem("a/b", str(self.failure)),) if self.failure else ()
        return WriteBackStatus(
            pending_files=self.pending_files,
            pending_bytes=self.pending_files * 1000,
            failed=failed,
            offline=self.offline,
        )

    async def wait_drained(self, path: str | None) -> None:
        self.paths.append(path)
        self.waiting.set()
        if self.pending_files:
            await self.uploaded.wait()
            if self.failure is not None:
                raise self.failure
            self.pending_files = 0
        await trio.lowlevel.checkpoint()

    def hurry(self) -> None:
        self.hurried = True


class FakeCore:
    def __init__(self, writeback: FakeWriteBack) -> None:
        self.writeback = writeback
        self.reading = ReadFigures()

    def set_aside(self) -> int:
        return 0


class FakeStore:
    """Can be entered, if there is no error to be raised."""

    def __init__(self, error: StoreError | None = None) -> None:
        self.identity = "fake:bucket"
        self._error = error
        self._is_open = False

    def is_open(self) -> bool:
        return self._is_open

    async def __aenter__(self) -> FakeStore:
        await trio.lowlevel.checkpoint()
        if self._error is not None:
            raise self._error
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False


class FakeFrontend:
    """A mount that is there as long as the test leaves it."""

    def __init__(self) -> None:
        self.notifier: KernelNotifier = NoKernel()
        self.unmounted = trio.Event()
        self.cancelled = False
        self.fault: Exception | None = None
        self.fault_after_ready = False

    async def serve(self, core: Core, ready: Callable[[], None]) -> None:
        if self.fault is not None and not self.fault_after_ready:
            raise self.fault
        ready()
        try:
            await self.unmounted.wait()
        except trio.Cancelled:
            self.cancelled = True
            raise
        if self.fault is not None:
            raise self.fault


class World:
    """All fakes of one mount."""

    def __init__(self, tmp_path: Path, pending_files: int = 0, store_error: StoreError | None = None) -> None:
        mountpoint = tmp_path / "mnt"
        mountpoint.mkdir(exist_ok=True)
        self.settings = fake_settings(tmp_path)
        self.writeback = FakeWriteBack(pending_files)
        self.store = FakeStore(store_error)
        self.frontend = FakeFrontend()
        self.core_dir: Path | None = None
        self.parts = Parts(
            make_store=lambda settings: cast(ObjectStore, self.store),
            open_core=self._open_core,
            make_frontend=lambda settings: cast(Frontend, self.frontend),
        )

    @asynccontextmanager
    async def _open_core(
        self, store: ObjectStore, settings: MountSettings, directory: Path, kernel: KernelNotifier
    ) -> AsyncIterator[Core]:
        self.core_dir = directory
        yield cast(Core, FakeCore(self.writeback))


def fake_settings(tmp_path: Path, **raw: str) -> MountSettings:
    """Settings whose paths are all below tmp_path."""
    return build_settings(
        f"file://{tmp_path}/store/photos", str(tmp_path / "mnt"), {"cache_dir": str(tmp_path / "cache"), **raw}
    )
