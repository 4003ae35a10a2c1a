"""What write-back tells a user about itself."""

from __future__ import annotations

from typing import NamedTuple


class FailedItem(NamedTuple):
    """A key that could not be brought into the bucket so far, and why; it is tried again by itself."""

    path: str
    error: str


class WriteBackStatus(NamedTuple):
    """A moment of write-back.  Sizes in bytes, ages in seconds."""

    pending_files: int = 0
    pending_bytes: int = 0
    uploading: int = 0
    uploaded_files: int = 0
    uploaded_bytes: int = 0
    failed: tuple[FailedItem, ...] = ()
    conflicts: int = 0
    dirty_bytes: int = 0
    oldest_pending_s: float = 0.0
    offline: bool = False
