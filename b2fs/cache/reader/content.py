"""Content: what the reader knows of one immutable content: its pieces in memory and fetches on their way.

All streams of one content share it.  It lives as long as a stream, a piece or a fetch needs it.

INVARIANT: `held` is exactly the union of the pieces and the flights, and these do not overlap each other.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from itertools import pairwise
from operator import attrgetter

import trio

from b2fs.cache.blocks import content_key
from b2fs.core.completion import Waits
from b2fs.core.extents import Extents
from b2fs.core.types import ObjectInfo, ObjectRef, VersionId

_start = attrgetter("start")


class Piece:
    """A stretch of a content in memory: data is content[start:end)."""

    __slots__ = ("content", "data", "end", "fetched", "on_disk", "pending", "served", "start", "warm")

    def __init__(self, content: Content, start: int, data: bytes | memoryview, *, fetched: bool, warm: bool) -> None:
        self.content = content
        self.start = start
        self.end = start + len(data)
        self.data = data
        self.served = 0  # bytes handed out, counted again when read again
        self.fetched = fetched  # came from the store, not from disk
        self.on_disk = not fetched
        self.warm = warm  # was fetched ahead as a sibling
        self.pending = False  # waits to be written to disk

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def spent(self) -> bool:
        return self.served >= len(self.data)


class Flight:
    """A fetch of [start, end) that is on its way.

    When `done` is set, either `error` says why it failed or `pieces` cover the range.
    """

    __slots__ = (
        "ahead",
        "content",
        "done",
        "end",
        "error",
        "pieces",
        "ref",
        "reserved",
        "scope",
        "start",
        "waiters",
        "warm",
    )

    def __init__(
        self, content: Content, ref: ObjectRef, start: int, end: int, *, ahead: bool, warm: bool = False
    ) -> None:
        self.content = content
        self.ref = ref
        self.start = start
        self.end = end
        self.ahead = ahead  # a guess, not what a reader waits for
        self.warm = warm  # a sibling's guess
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.error: Exception | None = None
        self.pieces: list[Piece] = []
        self.reserved = 0  # bytes of the budget that are not pieces yet
        self.waiters = 0

    @property
    def size(self) -> int:
        return self.end - self.start


class Rest:
    """What is known and done about the rest of an open content of which random pieces are read (see completion)."""

    __slots__ = ("given_up", "scope", "under_way", "unread", "waits")

    def __init__(self) -> None:
        #: For pieces, of all programs.
        self.waits = Waits()
        #: Of what is being fetched, while it is.
        self.scope: trio.CancelScope | None = None
        self.under_way = Extents()
        #: What was fetched and not read since.
        self.unread = Extents()
        self.given_up = False


class Content:
    """See the module's text."""

    __slots__ = ("_home", "flights", "held", "infos", "key", "on_disk", "pieces", "rest", "size", "streams")

    def __init__(self, home: dict[str, Content], key: str, size: int) -> None:
        self._home = home
        self.key = key
        self.size = size
        self.pieces: list[Piece] = []  # by start
        self.flights: list[Flight] = []  # by start
        self.held = Extents()
        #: What the block cache has; None until it was asked.
        self.on_disk: Extents | None = None
        #: What answers told of the versions that hold this content.
        self.infos: dict[VersionId | None, ObjectInfo] = {}
        self.streams = 0
        self.rest: Rest | None = None

    def leave(self) -> None:
        """Go out of the register if nothing needs this content any more."""
        if not (self.streams or self.pieces or self.flights):
            self._home.pop(self.key, None)

    def learn_disk(self, found: Extents) -> None:
        """Add what the block cache was found to have; somebody else may have asked, or written, meanwhile."""
        found.update(self.on_disk or ())
        self.on_disk = found

    def note_read(self, start: int, end: int) -> None:
        """A program was given [start, end)."""
        if self.rest is not None:
            self.rest.unread.remove(start, end)

    def piece_at(self, position: int) -> Piece | None:
        index = bisect_right(self.pieces, position, key=_start) - 1
        if index >= 0 and position < self.pieces[index].end:
            return self.pieces[index]
        return None

    def pieces_over(self, start: int, end: int) -> Iterator[Piece]:
        """Yield the pieces from the one that holds `start` on, until [start, end) is covered or a gap comes."""
        index = max(0, bisect_right(self.pieces, start, key=_start) - 1)
        while start < end and index < len(self.pieces) and self.pieces[index].start <= start < self.pieces[index].end:
            yield self.pieces[index]
            start = self.pieces[index].end
            index += 1

    def flight_at(self, position: int) -> Flight | None:
        index = bisect_right(self.flights, position, key=_start) - 1
        if index >= 0 and position < self.flights[index].end:
            return self.flights[index]
        return None

    def take_off(self, flight: Flight) -> None:
        insort(self.flights, flight, key=_start)
        self.held.add(flight.start, flight.end)

    def land(self, flight: Flight) -> None:
        """The flight is over, and its pieces (none if it failed) take its place."""
        self.flights.remove(flight)
        self.held.remove(flight.start, flight.end)
        for piece in flight.pieces:
            insort(self.pieces, piece, key=_start)
            self.held.add(piece.start, piece.end)
        self.leave()

    def forget(self, piece: Piece) -> None:
        """The piece left memory."""
        del self.pieces[bisect_right(self.pieces, piece.start, key=_start) - 1]
        self.held.remove(piece.start, piece.end)
        self.leave()

    def check_invariants(self) -> None:
        """Raise AssertionError if pieces and flights overlap or `held` is wrong; for tests."""
        spans = sorted([(p.start, p.end) for p in self.pieces] + [(f.start, f.end) for f in self.flights])
        assert all(one[1] <= two[0] for one, two in pairwise(spans)), spans
        assert Extents(spans) == self.held


class Contents:
    """The register of all contents that are in use, by content key."""

    def __init__(self) -> None:
        self._contents: dict[str, Content] = {}

    def get(self, ref: ObjectRef) -> Content:
        """Return the content of ref, a new one if it is not in use; whoever gets it calls `leave` at the end."""
        key = content_key(ref)
        content = self._contents.get(key)
        if content is None:
            content = self._contents[key] = Content(self._contents, key, ref.size)
        return content

    def __iter__(self) -> Iterator[Content]:
        return iter(self._contents.values())

    def __len__(self) -> int:
        return len(self._contents)
