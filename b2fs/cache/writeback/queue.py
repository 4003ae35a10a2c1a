"""DueQueue: keys in the order in which their time comes.

Rows may be outdated: whoever takes one compares it with the entry's own `due`.
"""

from __future__ import annotations

import heapq
import itertools

import trio


class DueQueue:
    """See the module.  Times are trio's clock; `first` rows come before all that is late."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        self._wake = trio.Event()

    def push(self, key: str, due: float, *, first: bool = False) -> None:
        rank = 0.0 if first and due <= trio.current_time() else due
        heapq.heappush(self._rows, (rank, next(self._order), key))
        if self._rows[0][0] >= rank:
            self._wake.set()

    def head(self) -> float | None:
        """When the first row is due, 0 for one that somebody waits for; None if nothing is due yet."""
        if not self._rows or self._rows[0][0] > trio.current_time():
            return None
        return self._rows[0][0]

    def first(self) -> str:
        """The key of the first row, due or not; there is one."""
        return self._rows[0][2]

    def pop(self) -> str:
        return heapq.heappop(self._rows)[2]

    def wake(self) -> None:
        """Whoever waits looks again."""
        self._wake.set()

    async def wait(self, at_most_s: float) -> None:
        """Return when the first row is due, when another one has become the first, or after at_most_s."""
        self._wake = trio.Event()
        until = trio.current_time() + at_most_s
        if self._rows:
            until = min(until, self._rows[0][0])
        with trio.move_on_at(until):
            await self._wake.wait()

    async def pause_until(self, until: float) -> None:
        """Wait although rows are due, unless an earlier one comes; until may be over already."""
        self._wake = trio.Event()
        with trio.move_on_at(until):
            await self._wake.wait()
