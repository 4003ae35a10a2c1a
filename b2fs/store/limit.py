"""LimitedStore: bounds how many bytes of bodies a mount sends and receives in a second.

A body is let through whole when its bytes have been earned, so the bound holds on average: one part of a large file
goes at the line's speed, and then comes a pause.  Bodies of about the same size are a queue; where several queues
wait, each gets an equal share of the bytes (self-clocked fair queueing).  So a small body does not wait until
many large ones are through, and many small ones do not keep a large one from its share.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import trio

from b2fs.core.types import ETag, ObjectInfo, VersionId
from b2fs.errors import StoreError
from b2fs.store.forward import ForwardingStore, StoreCall, bytes_down
from b2fs.store.protocol import ObjectStore

T = TypeVar("T")

#: What may be saved up while nobody wants anything, in seconds of the rate.
BURST_S = 1.0


@dataclass(slots=True, order=True)
class _Waiter:
    """One who waits; the order is the order of service."""

    tag: float
    size: int
    number: int
    served: bool = field(default=False, compare=False)
    #: Set when it was served, and when it comes to stand first.
    news: trio.Event = field(default_factory=trio.Event, compare=False)


class TokenBucket:
    """Bytes that are earned at a rate and spent by bodies.

    INVARIANT: what was spent by time t is at most rate * (t - start + BURST_S), plus what was charged without asking.
    """

    def __init__(self, bytes_per_s: int) -> None:
        self._rate = float(bytes_per_s)
        self._burst = self._rate * BURST_S
        self._earned = self._burst
        self._counted_at = trio.current_time()
        self._waiting: list[_Waiter] = []  # a heap; the first one keeps the time for all
        self._first: _Waiter | None = None
        #: Finish tags count bytes of service: that of the last one served, and where each queue has got to.
        self._tag = 0.0
        self._tags: dict[int, float] = {}
        self._numbers = itertools.count()

    async def take(self, size: int) -> None:
        """Spend size bytes; wait until they are earned.  Checkpoint: only if it waits."""
        self._count()
        if not self._waiting and self._earned >= size:
            self._earned -= size
            return
        waiter = _Waiter(self._finish_tag(size), size, next(self._numbers))
        heapq.heappush(self._waiting, waiter)
        self._serve()
        try:
            while not waiter.served:
                await self._wait_news(waiter)
        finally:
            if not waiter.served:
                self._waiting.remove(waiter)
                heapq.heapify(self._waiting)
                self._serve()

    def charge(self, size: int) -> None:
        """Spend what was not known before; a negative size gives back."""
        self._count()
        self._earned = min(self._earned - size, max(self._burst, self._wanted()))
        self._serve()

    async def _wait_news(self, waiter: _Waiter) -> None:
        waiter.news = trio.Event()
        if waiter is self._first:
            with trio.move_on_after(max(0.0, waiter.size - self._earned) / self._rate):
                await waiter.news.wait()
            self._count()
            self._serve()
        else:
            await waiter.news.wait()

    def _count(self) -> None:
        """Add what was earned; while somebody waits, as much as the first in line wants may be saved up."""
        now = trio.current_time()
        most = max(self._burst, self._wanted())
        if self._earned < most:
            self._earned = min(most, self._earned + (now - self._counted_at) * self._rate)
        self._counted_at = now

    def _finish_tag(self, size: int) -> float:
        """Where its own queue will have got to with it; a queue that was idle begins where the service is."""
        queue = size.bit_length() // 2  # sizes that differ by less than four times
        self._tags[queue] = max(self._tag, self._tags.get(queue, 0.0)) + size
        return self._tags[queue]

    def _wanted(self) -> int:
        return self._waiting[0].size if self._waiting else 0

    def _serve(self) -> None:
        """Serve whom there is enough for, and let the first of the others know that it is the first."""
        # What is missing may be a rounding error of the clock: then waiting for it would never end.
        while self._waiting and self._earned >= self._wanted() - 1e-3:
            waiter = heapq.heappop(self._waiting)
            self._tag = waiter.tag
            self._earned -= waiter.size
            waiter.served = True
            waiter.news.set()
        first = self._waiting[0] if self._waiting else None
        if first is not self._first:
            self._first = first
            if first is not None:
                first.news.set()


class LimitedStore(ForwardingStore):
    """An ObjectStore whose bodies are held to bytes per second in each direction; 0 is no bound."""

    def __init__(self, inner: ObjectStore, *, up_bytes_s: int, down_bytes_s: int) -> None:
        """Make it inside the trio run that uses it."""
        super().__init__(inner)
        self._up = TokenBucket(up_bytes_s) if up_bytes_s else None
        self._down = TokenBucket(down_bytes_s) if down_bytes_s else None

    async def around(self, call: StoreCall, ask: Callable[[], Awaitable[T]]) -> T:
        if self._up is not None and call.bytes_up:
            await self._up.take(call.bytes_up)
        return await ask()

    async def get(
        self,
        key: str,
        *,
        version_id: VersionId | None = None,
        start: int = 0,
        end: int | None = None,
        if_match: ETag | None = None,
    ) -> tuple[ObjectInfo, bytes | memoryview]:
        """A range is earned before it is asked for; of a body of unknown size the bytes are counted afterwards."""
        options: dict[str, Any] = {"version_id": version_id, "start": start, "end": end, "if_match": if_match}
        if self._down is None:
            return await super().get(key, **options)
        taken = 0 if end is None else end - start
        await self._down.take(taken)
        try:
            answer = await super().get(key, **options)
        except StoreError:
            self._down.charge(-taken)
            raise
        self._down.charge(bytes_down(answer) - taken)
        return answer
