"""How an object is cut into parts while its file may still be written to."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

from b2fs.core import parts as plans
from b2fs.core.parts import Part, PartSource
from b2fs.errors import RetryableError, StoreError


class PlanChanged(RetryableError):
    """A write changed the object so that its parts must be cut anew."""


class UploadLost(StoreError):
    """The server has dropped an upload or parts of it, and with it bytes that were nowhere else."""


class Plan(Protocol):
    """How an object is cut into parts."""

    @property
    def size(self) -> int | None:
        """The size that the object will have, if it is settled."""
        ...

    def parts(self, size: int) -> Sequence[Part]:
        """All parts of the object at this size; raises PlanChanged if it can't have this size."""
        ...

    def touched(self, start: int, end: int) -> range:
        """Numbers of the parts that a write of [start, end) changes; raises PlanChanged if it spoils the plan."""
        ...

    def full(self, size: int) -> Sequence[Part]:
        """The parts that later writes at the end of the file will not change."""
        ...


class StreamPlan:
    """Parts of fixed places, for files whose final size is not known."""

    size = None

    def parts(self, size: int) -> Sequence[Part]:
        if not size:
            raise PlanChanged("the file was emptied while it was being uploaded")
        return plans.stream_parts(size)

    def touched(self, start: int, end: int) -> range:
        return range(plans.stream_part_at(start), plans.stream_part_at(end - 1) + 1)

    def full(self, size: int) -> Sequence[Part]:
        parts = plans.stream_parts(size) if size else []
        return parts if parts and parts[-1] == plans.stream_part(parts[-1].number) else parts[:-1]


class FixedPlan:
    """Parts that were cut for one size and one set of changes."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._starts = [part.start for part in parts]
        self.size = parts[-1].end

    def parts(self, size: int) -> Sequence[Part]:
        if size != self.size:
            raise PlanChanged("the file changed its size while it was being uploaded")
        return self._parts

    def touched(self, start: int, end: int) -> range:
        first = bisect_right(self._starts, start)
        last = bisect_right(self._starts, end - 1)
        if any(part.source is PartSource.COPY for part in self._parts[max(first - 1, 0) : last]):
            raise PlanChanged("the file changed where it was to be copied")
        return range(max(first, 1), last + 1)

    def full(self, size: int) -> Sequence[Part]:
        return ()
