"""Settings and counters of the reader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from b2fs.core.completion import Patience
from b2fs.core.prefetch import PrefetchConfig


class ReaderConfig(NamedTuple):
    """Sizes in bytes, times in seconds."""

    #: Everything that reading holds in memory: fetches on their way, read-ahead, and what was read lately.
    memory_bytes: int = 128 << 20
    prefetch: PrefetchConfig = PrefetchConfig()
    #: Objects up to this size are fetched whole by `warm`.
    warm_bytes: int = 1 << 20
    #: Requests that `warm` keeps in flight.
    warm_parallel: int = 64
    #: A read that has no answer by then fails with TimedOut.
    timeout_s: float = 60.0
    #: Contents up to this size are fetched whole, beside programs that read random pieces of them (see completion).
    complete_bytes: int = 0
    complete_after: Patience = Patience()
    #: Threads that read from the block cache at the same time.
    disk_threads: int = 4

    @property
    def pending_bytes(self) -> int:
        """What may wait to be written to the block cache; beyond it contents are not kept on disk."""
        return self.memory_bytes // 2

    @property
    def scanned_bytes(self) -> int:
        """What stays in memory of large pieces that were read and are on disk."""
        return self.memory_bytes // 8

    @property
    def shelf_bytes(self) -> int:
        """What may be kept of memory that is not in use (core.slabs)."""
        return self.memory_bytes // 2

    @property
    def ahead_bytes(self) -> int:
        """What read-ahead may use together: the rest of the memory stays free for reads that wait."""
        return self.memory_bytes * 3 // 4


@dataclass(slots=True)
class ReaderStats:
    """Counters since the start; bytes unless said otherwise."""

    #: Handed to readers.
    served_bytes: int = 0
    #: Received from the store, and in how many requests.
    fetched_bytes: int = 0
    fetches: int = 0
    #: Read from the block cache.
    disk_bytes: int = 0
    #: Fetched from the store, and let go from memory without having been read; of `completed_bytes`, not read when the
    #: content was closed.
    wasted_bytes: int = 0
    #: The same, of what `warm` fetched.
    wasted_warm_bytes: int = 0
    warmed_bytes: int = 0
    #: Fetched beside programs that read random pieces.
    completed_bytes: int = 0
    #: Not kept on disk, as the disk did not keep up.
    uncached_bytes: int = 0
    #: Requests that failed and were made again, and those that failed for good.
    retries: int = 0
    failures: int = 0
