"""Calls to the local disk that the cache and the embedded store share."""

from __future__ import annotations

import os

from b2fs.core.slabs import SLABS


def pread(fd: int, length: int, offset: int) -> bytes | memoryview:
    """Return the bytes [offset, offset + length) of a file; fewer only at its end, or beyond 2 GiB.  Raises OSError.

    They come in memory that is used again, where that is worth it (see core.slabs).
    """
    if not SLABS.recycles(length):
        return os.pread(fd, length, offset)
    data = SLABS.take(length)
    return data[: os.preadv(fd, [data], offset)]


def sync_directory(path: str) -> None:
    """Make the names in a directory survive a power cut.  Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
