"""Prefetcher: which ranges of one object to fetch when a reader asks for some bytes.  Pure: no I/O, no clock.

One Prefetcher follows one open file.  It is told of every read and answers with ranges: the ones that the read needs
and the ones that should be on their way because the reader will want them soon.  What to do with them (memory,
cache, network) is the caller's business.

A file may be read by several programs at once and the kernel reorders the requests of one program, so a Prefetcher
follows several *runs*.  A run is a stretch that is being read forwards; it counts as sequential when at least half of
its bytes were asked for.  Only sequential runs fetch ahead: a window that starts small, for a fast first byte, and
doubles each time it is used up.  A first read at the start that asks for as much as a small file has counts as one,
with half a window: it saves a round trip.  Everything else gets small exact ranges.

Ranges lie on a grid: `grain_bytes` for small ranges, `block_bytes` for windows; only the end of the object may be off
the grid.  What is planned never overlaps what is held (present or on its way).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from b2fs.core.extents import Extents

Range = tuple[int, int]

#: A window is at most this many times what its run has read so far (a guess; 8 lets windows double at every use).
_EVIDENCE = 8


@dataclass(frozen=True, slots=True)
class PrefetchConfig:
    """Sizes in bytes.  block_bytes is a multiple of grain_bytes."""

    #: Unit of a random read: large against a request's fixed cost, small against a slow line (5 ms at 50 Mbit/s).
    grain_bytes: int = 32 << 10
    #: Unit of windows, and of what is kept on disk.
    block_bytes: int = 1 << 20
    #: Fetched by the first read at the start of an object.
    first_bytes: int = 1 << 20
    #: First window of a run that has proved sequential, beyond the read itself.
    start_window_bytes: int = 8 << 20
    #: Largest window.
    window_bytes: int = 64 << 20
    #: Largest single range: long enough that a request's overhead vanishes, short enough that eight fill a window.
    range_bytes: int = 8 << 20
    #: How far from a sequential run's end a request may lie and still belong to it (the kernel's read-ahead reorders).
    reorder_bytes: int = 4 << 20
    #: Gaps up to this size are fetched along: cheaper than another round trip.
    near_bytes: int = 64 << 10
    #: Objects up to this size are always fetched whole.
    small_bytes: int = 256 << 10
    #: How many runs are followed at once.
    runs: int = 8

    def __post_init__(self) -> None:
        if self.grain_bytes <= 0 or self.block_bytes % self.grain_bytes:
            raise ValueError("block_bytes must be a multiple of grain_bytes")
        if self.range_bytes < self.block_bytes or self.window_bytes < self.range_bytes:
            raise ValueError("block_bytes <= range_bytes <= window_bytes must hold")


class Plan(NamedTuple):
    """Ranges to fetch, disjoint: demand is needed by the read, ahead is a guess; either in the order of wanting."""

    demand: tuple[Range, ...] = ()
    ahead: tuple[Range, ...] = ()


class _Run:
    """A stretch [start, end) that is being read."""

    __slots__ = ("back", "bridged", "end", "frontier", "reads", "seen", "start", "window")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.seen = end - start  # bytes asked for within the run
        self.bridged = 0  # bytes of small gaps that were skipped
        self.reads = 1
        self.window = 0  # how far to fetch beyond the end; 0 before the first window
        self.frontier = end  # behind the last range that was planned ahead
        self.back = 0  # how much to fetch in front of a read, when reading backwards

    @property
    def sequential(self) -> bool:
        return self.reads > 1 and 2 * (self.seen + self.bridged) >= self.end - self.start


class Prefetcher:
    """Decisions for one open object of `size` bytes; see the module's text."""

    def __init__(self, size: int, config: PrefetchConfig) -> None:
        self._size = size
        self._config = config
        self._runs: list[_Run] = []  # most recently used last

    @property
    def sequential(self) -> bool:
        """Whether the latest read belongs to a run that fetches ahead."""
        return bool(self._runs) and self._runs[-1].window > 0

    def plan(self, start: int, end: int, held: Extents, window_limit: int) -> Plan:
        """Note the read [start, end), 0 <= start < end <= size, and return what to fetch for it.

        The demand ranges and held together cover the read.  ahead lies within window_limit bytes behind the run's
        end (the caller's share of memory).
        """
        run = self._observe(start, end)
        low, high = self._rounded(run, start, end)
        demand = tuple(self._split(held.gaps(low, high), self._config.range_bytes))
        return Plan(demand, self._ahead(run, high, held, window_limit))

    def advance(self, start: int, end: int, held: Extents, window_limit: int) -> tuple[Range, ...]:
        """Note a read that needed nothing, and return only what to fetch ahead."""
        run = self._observe(start, end)
        return self._ahead(run, end, held, window_limit)

    def refused(self, position: int) -> None:
        """The latest ahead ranges were only started up to `position`: plan the rest again, in smaller steps."""
        run = self._runs[-1]
        run.frontier = min(run.frontier, position)
        run.window = max(run.window // 2, self._config.block_bytes)

    def exact(self, start: int, end: int, held: Extents) -> tuple[Range, ...]:
        """Return the ranges that [start, end) needs, without noting a read."""
        low, high = self._grained(start, end)
        return tuple(self._split(held.gaps(low, high), self._config.range_bytes))

    def _observe(self, start: int, end: int) -> _Run:
        """Find or make the run of a read, extend it and put it last."""
        run = self._match(start, end)
        if run is None:
            run = _Run(start, end)
            if len(self._runs) >= self._config.runs:
                del self._runs[0]
        else:
            self._runs.remove(run)
            if start < run.start and not run.sequential:
                run = self._turned(run, start, end)
            else:
                self._extend(run, start, end)
        self._runs.append(run)
        return run

    def _match(self, start: int, end: int) -> _Run | None:
        """The run whose end is nearest to the read, if it is near enough."""
        best: _Run | None = None
        distance = 0
        for run in self._runs:
            slack = self._config.reorder_bytes if run.sequential else self._config.near_bytes
            away = abs(start - run.end)
            in_front = start < run.start <= end + self._config.near_bytes
            if (away <= slack or in_front) and (best is None or away < distance):
                best, distance = run, away
        return best

    def _extend(self, run: _Run, start: int, end: int) -> None:
        gap = start - run.end
        if 0 < gap <= self._config.near_bytes:
            run.bridged += gap
        run.reads += 1
        run.back = 0
        run.start = min(run.start, start)
        run.end = max(run.end, end)
        run.seen = min(run.seen + end - start, run.end - run.start)
        if run.end - run.start > 2 * self._config.window_bytes:
            # What was long ago must not outweigh what happens now.
            run.start = (run.start + run.end) // 2
            run.seen //= 2
            run.bridged //= 2

    def _turned(self, run: _Run, start: int, end: int) -> _Run:
        """The run that follows a read in front of `run`: it fetches a growing stretch in front of its reads."""
        turned = _Run(start, end)
        turned.back = min(max(2 * run.back, self._config.grain_bytes), self._config.block_bytes)
        return turned

    def _rounded(self, run: _Run, start: int, end: int) -> Range:
        """The range to have in memory for a read: at least [start, end)."""
        config = self._config
        if self._size <= config.small_bytes:
            return 0, self._size
        low, high = self._grained(start, end)
        if run.back:
            low = max(0, low - run.back)
        elif run.start == 0:
            high = max(high, config.first_bytes)
        if run.sequential and _EVIDENCE * run.seen >= config.block_bytes:
            high = _up(high, config.block_bytes)
        # A tail too small to deserve a request of its own comes along.
        return low, high if self._size - high > config.near_bytes else self._size

    def _ahead(self, run: _Run, high: int, held: Extents, window_limit: int) -> tuple[Range, ...]:
        """Ranges behind `high` to start now; empty most of the time, as windows grow in large steps."""
        config = self._config
        bold = run.reads == 1 and run.start == 0 and run.seen >= config.first_bytes
        if run.back or not (run.sequential or bold):
            run.window = 0
            return ()
        frontier = max(run.frontier, run.end, high)
        if frontier >= self._size:
            return ()
        cap = min(config.window_bytes, window_limit)
        # Two small reads in a row may be chance: what was read bounds what is guessed.
        window = min(run.window or config.start_window_bytes, _EVIDENCE * run.seen, cap)
        if bold:
            window = min(window, config.start_window_bytes // 2)
        run.window = run.window or config.start_window_bytes
        unit = self._unit(window)
        horizon = run.end + window
        horizon = self._size if horizon >= self._size else _down(horizon, unit)
        step = min(config.range_bytes, max(unit, window // 2))
        if horizon <= frontier or (horizon - frontier < step and horizon < self._size):
            return ()
        run.frontier = horizon
        run.window = min(2 * run.window, config.window_bytes)
        part = min(config.range_bytes, max(config.block_bytes, _power_of_two(window // 4)))
        frontier = min(_up(frontier, config.grain_bytes), horizon)
        return tuple(self._split(held.gaps(frontier, horizon), part))

    def _unit(self, window: int) -> int:
        """What ends of windows are multiples of: of whole ranges as soon as a window holds some."""
        config = self._config
        if window >= 4 * config.range_bytes:
            return config.range_bytes
        return config.block_bytes if window >= config.block_bytes else config.grain_bytes

    def _grained(self, start: int, end: int) -> Range:
        grain = self._config.grain_bytes
        return _down(start, grain), min(self._size, _up(end, grain))

    def _split(self, ranges: Iterable[Range], part: int) -> Iterable[Range]:
        """Cut ranges into pieces of at most `part` bytes, at multiples of part: whole entries of the block cache."""
        for start, end in ranges:
            while end - start > part:
                cut = _down(start + part, part)
                yield start, cut
                start = cut
            yield start, end


def _power_of_two(size: int) -> int:
    """The largest power of two that is not above size; 0 for 0."""
    return 1 << size.bit_length() >> 1


def _down(position: int, unit: int) -> int:
    return position - position % unit


def _up(position: int, unit: int) -> int:
    return -(-position // unit) * unit
