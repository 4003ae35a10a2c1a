"""Filesystems by name, and real mounts of them in processes of their own.

    python -m tests.mounting NAME STATE_DIRECTORY MOUNTPOINT

mounts one, says "ready" on stdout, and ends when it is unmounted.  To put another implementation under the behaviour
suite, add it to FILESYSTEMS: everything else follows.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
import trio

from b2fs.core.nodes import InodeId
from b2fs.fuse.config import FuseConfig
from b2fs.fuse.mount import FuseMount
from b2fs.store.embedded.store import EmbeddedConfig, EmbeddedStore
from b2fs.vfs.api import FileSystem, KernelNotifier
from b2fs.vfs.config import VfsConfig
from b2fs.vfs.filesystem import open_filesystem
from tests.model.memfs import MemFs

STOP_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how a filesystem is opened."""

    #: A directory that is its own and is there again when it is opened again.
    state: Path
    notifier: KernelNotifier
    #: Whether a kernel with default_permissions stands before it and has checked permissions.
    kernel_checks: bool


FileSystemFactory = Callable[[Place], AbstractAsyncContextManager[FileSystem]]


@asynccontextmanager
async def _memfs(place: Place) -> AsyncIterator[FileSystem]:
    # The kernel may remember all it likes: it is the only way in.
    fs = MemFs(check_permissions=not place.kernel_checks, ttl_s=60.0 if place.kernel_checks else 0.0)
    yield fs
    fs.check_invariants()


@asynccontextmanager
async def _embedded(place: Place) -> AsyncIterator[FileSystem]:
    """The real core over an embedded store."""
    cache = place.state / "cache"
    cache.mkdir(mode=0o700, exist_ok=True)
    config = VfsConfig(str(cache), check_permissions=not place.kernel_checks)
    bucket = EmbeddedStore(EmbeddedConfig(str(place.state / "store"), "bucket"))
    async with bucket as store, open_filesystem(store, config, place.notifier) as fs:
        yield fs
        fs.writeback.hurry()
        await fs.writeback.wait_drained()


FILESYSTEMS: dict[str, FileSystemFactory] = {"memfs": _memfs, "b2fs": _embedded}


class NoKernel:
    """The KernelNotifier of a filesystem that is called directly."""

    def invalidate_inode(self, ino: InodeId, *, attributes_only: bool) -> None:
        """Nobody remembers anything."""

    def invalidate_entry(self, parent: InodeId, name: bytes) -> None:
        """Nobody remembers anything."""


def why_no_fuse() -> str:
    """Why this machine cannot mount, or an empty text."""
    if not os.path.exists("/dev/fuse"):
        return "/dev/fuse is missing: tests on real mounts cannot run here"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse may not be opened: tests on real mounts cannot run here"
    return ""


def require_fuse() -> None:
    """Skip the test where mounts are impossible; with CI=true that is a failure, since there they must run."""
    reason = why_no_fuse()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount that is up and the process that serves it."""

    mountpoint: str
    process: subprocess.Popen[bytes]


@contextmanager
def mounted(name: str, state: Path) -> Iterator[Mounted]:
    """Mount a filesystem in a process of its own; at the end it must unmount and end cleanly, with a clean log."""
    # Not below pytest's own directories: other users may not enter those.
    with tempfile.TemporaryDirectory(prefix="b2fs-mount-") as parent, tempfile.TemporaryFile() as log:
        os.chmod(parent, 0o755)
        mountpoint = os.path.join(parent, "mnt")
        os.mkdir(mountpoint)
        command = [sys.executable, "-W", "error", "-m", "tests.mounting", name, str(state), mountpoint]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        try:
            assert process.stdout is not None
            with process.stdout:
                assert process.stdout.readline() == b"ready\n", _text(log)
                yield Mounted(mountpoint, process)
            if process.poll() is None:
                subprocess.run(["fusermount3", "-u", mountpoint], check=True)
            assert process.wait(STOP_TIMEOUT_S) == 0, _text(log)
            assert _text(log) == "", "the daemon has logged something"
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
                subprocess.run(["fusermount3", "-u", "-z", mountpoint], check=False)


def _text(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read().decode(errors="replace")


async def _serve(name: str, state: str, mountpoint: str) -> None:
    mount = FuseMount(mountpoint, FuseConfig(fsname=name, allow_other=os.geteuid() == 0))
    place = Place(Path(state), mount.notifier, kernel_checks=True)
    async with FILESYSTEMS[name](place) as fs:
        await mount.serve(fs, lambda: print("ready", flush=True))  # noqa: T201  # what the test waits for


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    name, state, mountpoint = sys.argv[1:]
    trio.run(_serve, name, state, mountpoint)
