"""Slabs: large buffers that are used again.

Memory that is new to the process has to be zeroed and mapped page by page: measured, that costs six times what copying
into memory in use does, and with bodies of megabytes it was the largest single cost of reading.  A view that `take`
gives out owns its slab; when the last view of it is gone, in whatever thread, the slab goes back on the shelf.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections import deque
from collections.abc import Mapping
from contextlib import suppress

_KIB, _MIB = 1 << 10, 1 << 20
#: Parameter of madvise(2), from Linux 5.14 on.
_MADV_POPULATE_WRITE = 23
#: How many free slabs of each size are kept.  Bodies that are read come in powers of two up to the largest range, parts
#: that are sent have 10 MiB (what is not touched of a slab takes no memory).  Bodies that are smaller leave no holes in
#: the heaps of the C library that are worth speaking of.
_SHELF = {128 * _KIB: 32, 256 * _KIB: 16, 512 * _KIB: 16, _MIB: 8, 2 * _MIB: 4, 4 * _MIB: 4, 8 * _MIB: 4, 16 * _MIB: 4}


class Slabs:
    """A shelf for slabs of a few sizes.  Safe to use from any thread: every step is one operation of a deque."""

    def __init__(self, shelf: Mapping[int, int] = _SHELF) -> None:
        """shelf says how many free slabs to keep of each size in bytes, a power of two."""
        self._least = min(shelf) // 2
        self._free: dict[int, deque[mmap.mmap]] = {size: deque(maxlen=count) for size, count in shelf.items()}
        self._most_bytes = sum(size * count for size, count in shelf.items())

    def keep_at_most(self, most_bytes: int) -> None:
        """Bound what lies on the shelf, from the next slab on that comes back."""
        self._most_bytes = most_bytes

    @property
    def free_bytes(self) -> int:
        """What lies on the shelf."""
        return sum(size * len(slabs) for size, slabs in self._free.items())

    def recycles(self, size: int) -> bool:
        """Whether memory of this size is kept for the next one."""
        return size > self._least and _capacity(size) in self._free

    def take(self, size: int) -> memoryview:
        """Return `size` bytes of writable memory, which hold whatever they held before."""
        if not self.recycles(size):
            return memoryview(bytearray(size))
        capacity = _capacity(size)
        free = self._free[capacity]
        slab = None
        with suppress(IndexError):
            slab = free.pop()
        is_new = slab is None
        if slab is None:
            slab = mmap.mmap(-1, capacity, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # a bytearray is zeroed twice
        # A mapping cannot tell when its last view goes; an object of ctypes can, and exports the same memory.
        lease = (ctypes.c_ubyte * capacity).from_buffer(slab)
        weakref.finalize(lease, self._put_back, free, slab).atexit = False
        if is_new:
            _populate(ctypes.addressof(lease), size)
        return memoryview(lease).cast("B")[:size]

    def _put_back(self, free: deque[mmap.mmap], slab: mmap.mmap) -> None:
        if self.free_bytes + len(slab) <= self._most_bytes:
            free.append(slab)


def _populate(address: int, size: int) -> None:
    """Have the kernel map `size` bytes at once, without the GIL: by faults, page by page, it takes half as long again.

    A kernel that cannot do it maps them by faults.
    """
    _libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), _MADV_POPULATE_WRITE)


_libc = ctypes.CDLL(None)


def _capacity(size: int) -> int:
    """The power of two that holds size."""
    return 1 << (size - 1).bit_length()


#: The one shelf of the process.
SLABS = Slabs()
