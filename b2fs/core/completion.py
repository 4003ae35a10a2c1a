"""When the rest of an object is worth fetching of which a program reads pieces at random.  Pure: no I/O, no clock.

The question is that of whoever rents and might buy: each random piece costs a round trip, the whole costs the line for
a while, and nobody knows how many pieces will still be wanted.  Time that was waited for pieces is what is known, so it
decides: once it comes to a share of what fetching the rest would take, the rest is fetched.

Bytes may cost money as well.  So somebody can want more than that first (`Patience`): a few pieces, as whoever looks at
the index at a file's end wants no more than them, and a server that is far away, as with a near one little is won.

How quick the line is nobody knows either, before something large came over it.  So there is a guess at first, which
counts for little as soon as there are figures, and the first ranges are small.
"""

from __future__ import annotations

from typing import NamedTuple

_MIB = 1 << 20
#: The rate at first, and the time for which it counts: after as much time of fetching it has half of the weight.  A
#: guess at a machine near its server; if it is far too high, some MiB are fetched before that is known.
_GUESS_BYTES_S = 256e6
_GUESS_S = 0.25
#: What was long ago must not outweigh what happens now.
_REMEMBERED_S = 5.0
#: Of the time that the rest would take.  Fetching goes on beside the program, which finds more and more of it, so it
#: pays earlier than by waiting as long again.
_SHARE = 0.25
#: How long a range may take: other pieces come through the same line.
_RANGE_S = 0.2


class LineRate:
    """How many bytes a second large ranges bring together, from when they begin and end; times in seconds."""

    def __init__(self, guess_bytes_s: float = _GUESS_BYTES_S) -> None:
        self._guess = guess_bytes_s
        self._under_way = 0
        self._busy_since = 0.0
        self._busy_s = 0.0
        self._bytes = 0.0
        #: All that came so far.
        self.received_bytes = 0

    def began(self, now: float) -> None:
        """A range was asked for."""
        if not self._under_way:
            self._busy_since = now
        self._under_way += 1

    def ended(self, now: float, size: int) -> None:
        """One that had begun is over and brought `size` bytes, 0 if it failed."""
        self._under_way -= 1
        self._busy_s += now - self._busy_since
        self._busy_since = now
        self._bytes += size
        self.received_bytes += size
        if self._busy_s > _REMEMBERED_S:
            self._busy_s /= 2
            self._bytes /= 2

    @property
    def bytes_s(self) -> float:
        return (self._bytes + self._guess * _GUESS_S) / (self._busy_s + _GUESS_S)

    def range_bytes(self, parallel: int, most: int) -> int:
        """How much to ask for at once with `parallel` ranges at a time: a power of two between 1 MiB and `most`."""
        known = max(self.received_bytes / 2, _MIB)
        wanted = min(self.bytes_s * _RANGE_S / parallel, known, most)
        return max(_MIB, 1 << int(wanted).bit_length() >> 1)


class Patience(NamedTuple):
    """What must have been seen of an object before the rest of it may be fetched."""

    #: Random pieces that had to be waited for.
    pieces: int = 1
    #: How long one of them took on average, in seconds.
    wait_s: float = 0.0


class Waits:
    """What programs have waited for pieces of one object, in seconds."""

    __slots__ = ("pieces", "total_s")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.total_s = 0.0
        self.pieces = 0

    def add(self, seconds: float) -> None:
        """A program has waited for a piece for so long."""
        self.total_s += seconds
        self.pieces += 1


def is_worth_it(waits: Waits, missing_bytes: int, bytes_s: float, patience: Patience) -> bool:
    """Whether to fetch what is missing, after programs have waited for pieces so often and for so long."""
    return (
        missing_bytes > 0
        and waits.pieces >= patience.pieces
        and waits.total_s >= patience.wait_s * waits.pieces
        and waits.total_s >= _SHARE * missing_bytes / bytes_s
    )
