"""Extents: a set of byte positions, kept as sorted half-open ranges `[start, end)`.

Which bytes of a file are dirty, uploaded, cached or in flight: all of these are sets of ranges with few members.
Ranges are kept disjoint and never touch each other (neighbours are joined), so two sets are equal exactly when their
lists are.  Every operation costs O(log n) plus the ranges that it changes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise


class Extents:
    """A mutable set of positions.  Iterating gives its ranges `(start, end)` in ascending order.

    Every method takes half-open ranges with 0 <= start; a range with end <= start is empty and changes nothing.
    """

    __slots__ = ("_ends", "_starts")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        # INVARIANT: starts[i] < ends[i] < starts[i + 1].
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in ranges:
            self.add(start, end)

    def add(self, start: int, end: int) -> None:
        """Put [start, end) into the set, joining it with ranges that it overlaps or touches."""
        if end <= start:
            return
        first = bisect_left(self._ends, start)  # the first range that ends at or behind start
        last = bisect_right(self._starts, end)  # behind the last range that starts at or before end
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def remove(self, start: int, end: int) -> None:
        """Take [start, end) out of the set, cutting ranges that it overlaps."""
        if end <= start:
            return
        first, last = self._overlapping(start, end)
        if first == last:
            return
        starts: list[int] = []
        ends: list[int] = []
        if self._starts[first] < start:
            starts.append(self._starts[first])
            ends.append(start)
        if end < self._ends[last - 1]:
            starts.append(end)
            ends.append(self._ends[last - 1])
        self._starts[first:last] = starts
        self._ends[first:last] = ends

    def clear(self) -> None:
        """Make the set empty."""
        self._starts.clear()
        self._ends.clear()

    def copy(self) -> Extents:
        """Return an independent set of the same positions."""
        twin = Extents()
        twin._starts = self._starts.copy()
        twin._ends = self._ends.copy()
        return twin

    def update(self, other: Iterable[tuple[int, int]]) -> None:
        """Add every range of other, which may be an Extents."""
        for start, end in other:
            self.add(start, end)

    def covers(self, start: int, end: int) -> bool:
        """Whether every position of [start, end) is in the set; True for an empty range."""
        if end <= start:
            return True
        index = bisect_right(self._starts, start) - 1
        return index >= 0 and end <= self._ends[index]

    def overlaps(self, start: int, end: int) -> bool:
        """Whether any position of [start, end) is in the set; False for an empty range."""
        first, last = self._overlapping(start, end)
        return start < end and first < last

    def intersect(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return the parts of [start, end) that are in the set, ascending."""
        if end <= start:
            return []
        first, last = self._overlapping(start, end)
        return [(max(start, self._starts[index]), min(end, self._ends[index])) for index in range(first, last)]

    def gaps(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return the parts of [start, end) that are not in the set, ascending."""
        missing: list[tuple[int, int]] = []
        position = start
        for held_start, held_end in self.intersect(start, end):
            if position < held_start:
                missing.append((position, held_start))
            position = held_end
        if position < end:
            missing.append((position, end))
        return missing

    @property
    def total(self) -> int:
        """How many positions are in the set."""
        return sum(self._ends) - sum(self._starts)

    @property
    def end(self) -> int:
        """The position behind the last member; 0 for an empty set."""
        return self._ends[-1] if self._ends else 0

    def check_invariants(self) -> None:
        """Raise AssertionError unless the ranges are sorted, not empty, and neither overlap nor touch."""
        assert len(self._starts) == len(self._ends)
        edges = [edge for pair in self for edge in pair]
        assert all(low < high for low, high in pairwise(edges)), edges

    def _overlapping(self, start: int, end: int) -> tuple[int, int]:
        """Indexes [first, last) of the ranges that share a position with [start, end)."""
        return bisect_right(self._ends, start), bisect_left(self._starts, end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __len__(self) -> int:
        """How many ranges (not positions: that is `total`) the set has."""
        return len(self._starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Extents):
            return NotImplemented
        return self._starts == other._starts and self._ends == other._ends

    __hash__ = None  # type: ignore[assignment]  # mutable, so not usable as a key

    def __repr__(self) -> str:
        return f"Extents({list(self)})"
