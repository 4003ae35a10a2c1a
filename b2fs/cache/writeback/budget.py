"""A global bound on bytes held in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class ByteBudget:
    """First come, first served shares of a number of bytes; a share larger than the whole is granted alone."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._used = 0
        self._waiting: deque[tuple[int, trio.Event]] = deque()

    @property
    def used(self) -> int:
        return self._used

    @asynccontextmanager
    async def share(self, size: int) -> AsyncIterator[None]:
        """Hold `size` bytes of the budget; waits for its turn."""
        size = min(size, self._total)
        if self._waiting or self._used + size > self._total:
            turn = trio.Event()
            item = (size, turn)
            self._waiting.append(item)
            try:
                await turn.wait()
            except BaseException:
                # Cancelled: either still in the queue, or granted in the same moment.
                if turn.is_set():
                    self._give_back(size)
                else:
                    self._waiting.remove(item)
                    self._grant()
                raise
        else:
            self._used += size
        try:
            yield
        finally:
            self._give_back(size)

    def _give_back(self, size: int) -> None:
        self._used -= size
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._used + self._waiting[0][0] <= self._total:
            size, turn = self._waiting.popleft()
            self._used += size
            turn.set()
