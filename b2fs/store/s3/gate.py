"""One gate for all requests of a store: how many may be in flight, how many bytes they may hold, and when.

The number follows the server: it halves when the server asks to slow down and grows by one per round of successes
(additive increase, multiplicative decrease), so all callers slow down together and recover together.

INVARIANTS: 0 <= in_flight, 0 <= buffered_bytes; admission is first come, first served, so a big body cannot starve.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType

import trio

from b2fs.errors import TimedOut


class _Ticket:
    __slots__ = ("admitted", "event", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.admitted = False
        self.event = trio.Event()


class Admission:
    """A place for one request: a context, which a generator would make at three times the cost."""

    __slots__ = ("_deadline", "_gate", "_size")

    def __init__(self, gate: Gate, size: int, deadline: float) -> None:
        self._gate = gate
        self._size = size
        self._deadline = deadline

    async def __aenter__(self) -> float:
        await self._gate.acquire(self._size, self._deadline)
        return trio.current_time()

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gate.release(self._size)


class Gate:
    """Bounds requests in flight and the bytes of their bodies."""

    def __init__(self, max_in_flight: int, max_bytes: int) -> None:
        self.max_in_flight = max_in_flight
        self.max_bytes = max_bytes
        self.in_flight = 0
        self.buffered_bytes = 0
        self.slowdowns = 0
        self._limit = float(max_in_flight)
        self._paused_until = -float("inf")
        self._last_cut = -float("inf")
        self._queue: deque[_Ticket] = deque()

    @property
    def limit(self) -> int:
        """Requests that may be in flight now."""
        return max(1, int(self._limit))

    @property
    def paused_until(self) -> float:
        """The trio time before which nothing is sent."""
        return self._paused_until

    def admitted(self, size: int, deadline: float = float("inf")) -> Admission:
        """Within it, one request with a body of `size` bytes has a place; its value is the trio time of admission.

        A body larger than max_bytes passes alone.  Raises TimedOut if there is no place by `deadline`, in trio time: a
        server that has first asked to slow down and then fallen silent lets one request through per stall.
        Checkpoint: only when waiting.
        """
        return Admission(self, min(size, self.max_bytes), deadline)

    def succeeded(self) -> None:
        """A request came back well: let a little more through."""
        if self._limit < self.max_in_flight:
            self._limit = min(float(self.max_in_flight), self._limit + 1.0 / self._limit)
            self._admit()

    def slow_down(self, sent_at: float, retry_after_s: float | None) -> None:
        """The server asked for less, in answer to a request admitted at `sent_at`.

        Requests that were in flight together are one piece of news, not many, so the limit halves once for them.
        """
        self.slowdowns += 1
        now = trio.current_time()
        if sent_at >= self._last_cut:
            self._limit = max(1.0, self._limit / 2)
            self._last_cut = now
        if retry_after_s is not None:
            self._paused_until = max(self._paused_until, now + retry_after_s)

    def check_invariants(self) -> None:
        """Used by tests."""
        assert self.in_flight >= 0
        assert self.buffered_bytes >= 0
        assert not (self.in_flight == 0 and self.buffered_bytes)

    async def acquire(self, size: int, deadline: float) -> None:
        """Wait for a place; `release` has to follow.  See `admitted`."""
        if not self._queue and self._fits(size):
            self._take(size)
        else:
            await self._wait_admitted(_Ticket(size), deadline)

    def release(self, size: int) -> None:
        """Give a place back, and let in who waits for it."""
        self.in_flight -= 1
        self.buffered_bytes -= size
        if self._queue:
            self._admit()

    def _fits(self, size: int) -> bool:
        if trio.current_time() < self._paused_until or self.in_flight >= self.limit:
            return False
        return self.in_flight == 0 or self.buffered_bytes + size <= self.max_bytes

    def _take(self, size: int) -> None:
        self.in_flight += 1
        self.buffered_bytes += size

    async def _wait_admitted(self, ticket: _Ticket, deadline: float) -> None:
        self._queue.append(ticket)
        finished = False
        try:
            while not ticket.admitted:
                # Nobody else wakes the queue when a pause ends, so each waiter looks for itself.
                pause = self._paused_until
                with trio.move_on_at(min(deadline, pause if pause > trio.current_time() else float("inf"))):
                    await ticket.event.wait()
                self._admit()
                if not ticket.admitted and trio.current_time() >= deadline:
                    raise TimedOut("the server answers too slowly: no request could be sent in time")
            finished = True
        finally:
            if not finished:
                self._give_up(ticket)

    def _give_up(self, ticket: _Ticket) -> None:
        if ticket.admitted:  # admitted and cancelled in the same step
            self.release(ticket.size)
        else:
            self._queue.remove(ticket)
            self._admit()

    def _admit(self) -> None:
        while self._queue and self._fits(self._queue[0].size):
            ticket = self._queue.popleft()
            self._take(ticket.size)
            ticket.admitted = True
            ticket.event.set()
