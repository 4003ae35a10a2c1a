"""A real daemon on a real kernel mount, whose filesystem is in memory and whose bucket is a file that a test writes.

    python -m tests.e2e.memory_daemon BUCKET_FILE MOUNTPOINT CACHE_DIR

BUCKET_FILE says how many files are pending; 0 lets whoever waits for uploads go on, "fail" makes waiting fail.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import trio

from b2fs.cache.status import WriteBackStatus
from b2fs.config.settings import MountSettings, build_settings
from b2fs.daemon import process
from b2fs.daemon.build import make_frontend
from b2fs.daemon.exits import EXIT_LEFT, EXIT_OK
from b2fs.daemon.interfaces import Core
from b2fs.daemon.messages import ReadFigures
from b2fs.daemon.parts import Parts
from b2fs.daemon.run import Events
from b2fs.errors import CapExceeded
from b2fs.store.protocol import ObjectStore
from b2fs.vfs.api import KernelNotifier
from tests.model.memfs import MemFs
from tests.unit.daemon_fakes import FakeStore

_POLL_S = 0.02


class FileWriteBack:
    """Write-back whose figures are in a file."""

    def __init__(self, file: str) -> None:
        self._file = Path(file)

    def _pending(self) -> str:
        return self._file.read_text().strip()

    def status(self) -> WriteBackStatus:
        pending = self._pending()
        count = int(pending) if pending.isdecimal() else 1
        return WriteBackStatus(pending_files=count, pending_bytes=count * 1024)

    async def wait_drained(self, path: str | None) -> None:
        while self._pending() != "0":
            if self._pending() == "fail":
                raise CapExceeded("the storage cap of the account is used up")
            await trio.sleep(_POLL_S)

    def hurry(self) -> None:
        """There is nothing to hurry."""


class MemoryCore(MemFs):
    def __init__(self, writeback: FileWriteBack) -> None:
        super().__init__(check_permissions=False, ttl_s=60.0)
        self.writeback = writeback
        self.reading = ReadFigures()

    def set_aside(self) -> int:
        return 0


def main(bucket_file: str, mountpoint: str, cache_dir: str) -> int:
    @asynccontextmanager
    async def open_core(
        store: ObjectStore, settings: MountSettings, directory: Path, kernel: KernelNotifier
    ) -> AsyncIterator[Core]:
        yield cast(Core, MemoryCore(FileWriteBack(bucket_file)))

    settings = build_settings("file:///nowhere/memory", mountpoint, {"cache_dir": cache_dir})
    parts = Parts(lambda _: cast(ObjectStore, FakeStore()), open_core, make_frontend)
    outcome = process.serve(settings, parts, Events(ready=lambda: print("ready", flush=True)))  # noqa: T201  # for the test
    assert outcome is not None
    return EXIT_LEFT if outcome.left_files else EXIT_OK


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
