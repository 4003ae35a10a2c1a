"""Pace: uploads step back while programs are at work.

Both share one interpreter, so every upload that runs beside a busy program takes from it.  While requests come in,
uploads start only as fast as their lateness allows; when the programs pause, they go at full speed.  The sum of the
work is the same, but programs do not wait for it.
"""

from __future__ import annotations

import trio

#: Without a change for this long the foreground counts as idle, in seconds.
IDLE_S = 0.02
#: An upload that is due waits this long for an idle moment, in seconds; from then on a busy mount has one more upload
#: in flight for every 1 / _STARTS_PER_S seconds of lateness.  Both are tuned by measurement.
_PATIENCE_S = 1.0
_STARTS_PER_S = 2.0


class Pace:
    """Told of the foreground's work, asked whether background work may start.  Times are trio's clock."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = float("-inf")

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
        return now - self._last > IDLE_S or running < (now - due - _PATIENCE_S) * _STARTS_PER_S

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
