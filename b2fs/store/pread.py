"""pread(2) into memory that is used again, where that is worth it (see core.slabs)."""

from __future__ import annotations

import os

from b2fs.core.slabs import SLABS


def pread(fd: int, length: int, offset: int) -> bytes | memoryview:
    """Return the bytes [offset, offset + length) of a file; fewer only at its end, or beyond 2 GiB.  Raises OSError."""
    if not SLABS.recycles(length):
        return os.pread(fd, length, offset)
    data = SLABS.take(length)
    return data[: os.preadv(fd, [data], offset)]
