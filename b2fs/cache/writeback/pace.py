"""Pace: uploads step back while programs are at work.

Both share one interpreter, so every upload that runs beside a busy program takes from it.  While requests come in,
uploads start only as fast as their lateness allows; when the programs pause, they go at full speed.  The sum of the
work is the same, but programs do not wait for it.

A server elsewhere works beside the programs, so it is not left idle all that time: once a burst has lasted, uploads
begin in batches, one batch after the other.  Together they cost the interpreter less than one by one.
"""

from __future__ import annotations

import trio

#: Without a change for this long the foreground counts as idle, in seconds.
IDLE_S = 0.02
#: An upload that is due waits this long for an idle moment, in seconds; from then on a busy mount has one more upload
#: in flight for every 1 / _STARTS_PER_S seconds of lateness.  Both are tuned by measurement.
_PATIENCE_S = 1.0
_STARTS_PER_S = 2.0
#: A batch begins when an upload has waited for an idle moment for so long, in seconds.
_BATCH_PATIENCE_S = 0.3


class Pace:
    """Told of the foreground's work, asked whether background work may start.  Times are trio's clock."""

    __slots__ = ("_batch", "_began", "_last", "_left")

    def __init__(self, batch: int = 0) -> None:
        """batch: how many uploads may begin together beside a busy program; 0: batches are of no use."""
        self._batch = batch
        self._began = self._last = float("-inf")
        self._left = 0  # of the batch that was begun last

    def foreground(self) -> float:
        """A program's request is being served; the time."""
        self._last = now = trio.current_time()
        return now

    @property
    def last(self) -> float:
        """When a program's request was last served."""
        return self._last

    def idle(self) -> bool:
        return trio.current_time() - self._last > IDLE_S

    def may_start(self, due: float, running: int) -> bool:
        """Whether one more upload may start, that was due then, beside `running` others."""
        now = trio.current_time()
        if now - self._last > IDLE_S or running < (now - due - _PATIENCE_S) * _STARTS_PER_S:
            return True
        if not running and now - self._began > IDLE_S:  # what has just begun is not counted as running yet
            self._began = now
            self._left = self._batch if now - due > _BATCH_PATIENCE_S else 0
        if not self._left:
            return False
        self._left -= 1
        return True

    def next_chance(self, due: float, running: int) -> float:
        """When may_start, which says no now, may say yes if nothing else happens."""
        return min(self._last + IDLE_S * 1.01, due + _PATIENCE_S + (running + 0.5) / _STARTS_PER_S)

    async def wait_idle(self, at_most_s: float) -> None:
        """Return when programs pause, or after at_most_s."""
        until = trio.current_time() + at_most_s
        while True:
            now = trio.current_time()
            if now >= until or now - self._last > IDLE_S:
                return
            await trio.sleep_until(min(until, self._last + IDLE_S * 1.01))
