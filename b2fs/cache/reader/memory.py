"""Memory: the one budget for all that reading holds, and the order in which pieces leave it.

Bytes are *reserved* before they are fetched and stay accounted until their piece is dropped.  A piece that waits to be
written to disk cannot leave; all others leave in this order: what was read already, oldest first; then, but only for a
reader that waits, read-ahead that nobody has asked for yet.  So read-ahead never pushes out other read-ahead that is
in use, and a reader that waits always gets room in the end.

Large pieces that were read and are on disk too go earlier: the kernel has their pages, so they are seldom asked for
again, and memory that is used again soon costs less than memory that is new (see core.slabs).

INVARIANT: used == reserved + the sizes of all pieces; used <= total, unless a single reservation is larger than total.
"""

from __future__ import annotations

from collections import OrderedDict

import trio

from b2fs.cache.reader.config import ReaderConfig, ReaderStats
from b2fs.cache.reader.content import Piece

#: From this size on a piece is one of a sequential read.
_LARGE_PIECE_BYTES = 1 << 20


class Memory:
    """See the module's text.  Only for the trio thread; nothing but `reserve` waits."""

    def __init__(self, config: ReaderConfig, stats: ReaderStats) -> None:
        self._config = config
        self._stats = stats
        self._parked = trio.lowlevel.ParkingLot()
        self._spent: OrderedDict[Piece, None] = OrderedDict()
        self._fresh: OrderedDict[Piece, None] = OrderedDict()
        #: Those of the spent pieces that are large and on disk, oldest first, and their sizes together.
        self._scanned: OrderedDict[Piece, None] = OrderedDict()
        self._scanned_bytes = 0
        self.used = 0
        self.reserved = 0
        self.pending = 0
        #: Whether waiting for the disk is worth while; said by who writes to it.
        self.disk_is_quick = True

    def reserve_nowait(self, size: int) -> bool:
        """Take `size` bytes for read-ahead if that costs nobody anything.

        A disk that nearly keeps up is given the time that it needs, so that what is read is also kept; a slow one
        is not waited for (see `hold`).
        """
        if self.disk_is_quick and self.pending > self._config.pending_bytes * 3 // 4:
            return False
        limit = self._config.memory_bytes * 7 // 8  # the rest is for readers that wait
        self._drop_spent(self.used + size - limit)
        if self.used + size > limit:
            return False
        self._take(size)
        return True

    async def reserve(self, size: int) -> None:
        """Take `size` bytes for a reader that waits; waits until there is room.  Checkpoint: only if it waits."""
        while not self._make_room(size):
            await self._parked.park()
        self._take(size)

    def release(self, size: int) -> None:
        """Give back reserved bytes that did not become pieces."""
        self.reserved -= size
        self.used -= size
        self._parked.unpark_all()

    def add(self, piece: Piece) -> None:
        """Turn reserved bytes into a piece."""
        self.reserved -= piece.size
        self._file(piece)

    def hold(self, piece: Piece) -> bool:
        """Keep a piece until `let_go`, for writing it to disk; False if too much is waiting already."""
        if self.pending + piece.size > self._config.pending_bytes:
            self._stats.uncached_bytes += piece.size
            return False
        self.pending += piece.size
        piece.pending = True
        self._unfile(piece)
        return True

    def let_go(self, piece: Piece) -> None:
        """The piece is on disk."""
        self.pending -= piece.size
        piece.pending = False
        piece.on_disk = True
        self._file(piece)

    def served(self, piece: Piece, size: int) -> None:
        """Note that `size` bytes of the piece were handed to a reader."""
        piece.served += size
        if piece in self._spent:
            self._spent.move_to_end(piece)
        elif piece in self._fresh:  # neither: it is being written to disk, or has just left memory
            if piece.spent:
                del self._fresh[piece]
                self._spend(piece)
            else:
                self._fresh.move_to_end(piece)

    def retire(self, piece: Piece) -> None:
        """Nobody has the content open any more: the piece is the next to go, read or not."""
        if piece in self._fresh:
            del self._fresh[piece]
            self._spent[piece] = None
            self._parked.unpark_all()

    def drop(self, piece: Piece) -> None:
        """Forget a piece that is not pending."""
        self._unfile(piece)
        self.used -= piece.size
        self._count_waste(piece)
        piece.content.forget(piece)
        self._parked.unpark_all()

    def check_invariants(self) -> None:
        """Raise AssertionError if the books do not balance; for tests."""
        filed = sum(piece.size for queue in (self._spent, self._fresh) for piece in queue)
        assert self.used == self.reserved + self.pending + filed
        assert min(self.reserved, self.pending) >= 0
        assert self._scanned_bytes == sum(piece.size for piece in self._scanned)
        assert self._scanned.keys() <= self._spent.keys()

    def _take(self, size: int) -> None:
        self.reserved += size
        self.used += size

    def _file(self, piece: Piece) -> None:
        if piece.spent:
            self._spend(piece)
        else:
            self._fresh[piece] = None
        self._parked.unpark_all()

    def _spend(self, piece: Piece) -> None:
        """File a piece that was read, and let go of what was scanned before."""
        self._spent[piece] = None
        if not (piece.on_disk and piece.size >= _LARGE_PIECE_BYTES):
            return
        self._scanned[piece] = None
        self._scanned_bytes += piece.size
        while self._scanned_bytes > self._config.scanned_bytes and len(self._scanned) > 1:
            self.drop(next(iter(self._scanned)))

    def _unfile(self, piece: Piece) -> None:
        self._spent.pop(piece, None)
        self._fresh.pop(piece, None)
        if piece in self._scanned:
            del self._scanned[piece]
            self._scanned_bytes -= piece.size

    def _make_room(self, size: int) -> bool:
        """Let go what must go for `size` bytes; True if they fit, or if there is nothing left that could go."""
        total = self._config.memory_bytes
        self._drop_spent(self.used + size - total)
        while self.used + size > total and self._fresh:
            self.drop(next(iter(self._fresh)))
        return self.used + size <= total or self.used == 0

    def _drop_spent(self, wanted: int) -> None:
        while wanted > 0 and self._spent:
            piece = next(iter(self._spent))
            wanted -= piece.size
            self.drop(piece)

    def _count_waste(self, piece: Piece) -> None:
        if piece.fetched and not piece.spent:
            unread = piece.size - piece.served
            self._stats.wasted_bytes += unread
            if piece.warm:
                self._stats.wasted_warm_bytes += unread
