"""What the daemon needs of the parts that it runs; tests run the daemon with fakes of these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from b2fs.vfs.api import FileSystem, KernelNotifier


class FailedUpload(Protocol):
    """A path whose upload failed, and the error as one sentence."""

    @property
    def path(self) -> str: ...
    @property
    def error(self) -> str: ...


class WriteBackStatus(Protocol):
    """A moment of the write-back; sizes in bytes, times in seconds."""

    @property
    def pending_files(self) -> int: ...
    @property
    def pending_bytes(self) -> int: ...
    @property
    def uploading(self) -> int: ...
    @property
    def uploaded_files(self) -> int: ...
    @property
    def uploaded_bytes(self) -> int: ...
    @property
    def failed(self) -> Sequence[FailedUpload]: ...
    @property
    def conflicts(self) -> int: ...
    @property
    def dirty_bytes(self) -> int: ...
    @property
    def oldest_pending_s(self) -> float: ...
    @property
    def offline(self) -> bool: ...


class WriteBack(Protocol):
    """The part of the core that brings local changes into the bucket."""

    def status(self) -> WriteBackStatus: ...

    async def wait_drained(self, path: str | None) -> None:
        """Return when nothing is pending (below path); raises the StoreError that stops it."""
        ...

    def hurry(self) -> None:
        """From now on upload without coalescing delays."""
        ...


class Warming(Protocol):
    """How far the bringing of contents onto the local disk is; totals grow until `listed`."""

    @property
    def files(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def files_done(self) -> int: ...
    @property
    def bytes_done(self) -> int: ...
    @property
    def bytes_fetched(self) -> int: ...
    @property
    def changed(self) -> Sequence[str]: ...
    @property
    def listed(self) -> bool: ...


class Reading(Protocol):
    """What was read since the mount began, in bytes; fetches and failures are requests."""

    @property
    def served_bytes(self) -> int: ...
    @property
    def fetched_bytes(self) -> int: ...
    @property
    def fetches(self) -> int: ...
    @property
    def disk_bytes(self) -> int: ...
    @property
    def wasted_bytes(self) -> int: ...
    @property
    def failures(self) -> int: ...


class Core(FileSystem, Protocol):
    """The filesystem core with its write-back."""

    @property
    def writeback(self) -> WriteBack: ...

    @property
    def reading(self) -> Reading: ...

    def set_aside(self) -> int:
        """How many parts of files are kept that power cuts have left, until a user removes them."""
        ...

    async def refresh(self, path: bytes) -> None:
        """Look at the bucket anew for everything at and below a path relative to the mount."""
        ...

    async def warm(self, path: bytes, progress: Callable[[Warming], None]) -> Warming:
        """Bring what is at and below a path onto the local disk; what progress is given changes from then on.

        Raises B2fsError with a sentence for the user.
        """
        ...


class Frontend(Protocol):
    """The way by which programs reach the core: the FUSE mount.

    `notifier` may be used before `serve` runs; what it is told then is dropped.
    """

    @property
    def notifier(self) -> KernelNotifier: ...

    async def serve(self, core: Core, ready: Callable[[], None]) -> None:
        """Mount, call ready() once requests are being answered, return when the kernel has unmounted.

        Cancelling it unmounts.  Raises ConfigError when mounting is not possible.
        """
        ...


class NoKernel:
    """A KernelNotifier for a core without a mount."""

    def invalidate_inode(self, ino: Any, *, attributes_only: bool) -> None:
        """Nobody caches anything."""

    def invalidate_entry(self, parent: Any, name: bytes) -> None:
        """Nobody caches anything."""
