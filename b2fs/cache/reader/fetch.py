"""Fetcher: carries fetches out (block cache first, then the store) and shares them among readers.

A fetch belongs to nobody: it runs in the fetcher's own nursery, so a reader that is cancelled does not take it away
from the others, and what it brings is kept.  Contents are pinned: every GET names the version, or the ETag that it
must have, and the answer is compared besides.  What came from the store is written to the block cache in the
background, and simply not kept if the disk does not keep up: no reader ever waits for a disk write.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Protocol, TypeVar

import trio

from b2fs.cache.blockdisk import Buffer
from b2fs.cache.blocks import BlockCache
from b2fs.cache.reader.config import ReaderConfig, ReaderStats
from b2fs.cache.reader.content import Content, Contents, Flight, Piece
from b2fs.cache.reader.memory import Memory
from b2fs.core.completion import LineRate
from b2fs.core.extents import Extents
from b2fs.core.prefetch import Range
from b2fs.core.types import Capabilities, ETag, ObjectInfo, ObjectRef, VersionId
from b2fs.errors import CorruptBody, InvalidRange, PreconditionFailed, RetryableError, TimedOut, Unavailable

log = logging.getLogger(__name__)
T = TypeVar("T")

_RETRY_DELAY_S = 0.1
_WRITE_BATCH_BYTES = 8 << 20
#: Less than so much waits for more for a while, in seconds: a visit to the disk costs as much as a small request.
_WORTH_WRITING_BYTES = 1 << 20
_LINGER_S = 0.5
#: A disk that writes less per second makes no reader slower; its cache then has gaps.  A guess: below most networks.
_QUICK_DISK_BYTES_S = 64e6
#: The sweep would compete with the first reads for the interpreter.
_SWEEP_DELAY_S = 60
_WRITE_BATCH_PIECES = 256
#: What takes a line longer than the round trip does.
_LARGE_RANGE_BYTES = 1 << 20
#: Up to this size a copy is cheaper than keeping a large piece alive by a view.
_COPY_BYTES = 64 << 10


class RangeStore(Protocol):
    """What reading needs of an ObjectStore."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def get(
        self,
        key: str,
        *,
        version_id: VersionId | None = None,
        start: int = 0,
        end: int | None = None,
        if_match: ETag | None = None,
    ) -> tuple[ObjectInfo, bytes | memoryview]: ...


class Fetcher:
    """See the module's text.  `run` must be running while anything is launched."""

    def __init__(self, store: RangeStore, blocks: BlockCache | None, config: ReaderConfig) -> None:
        self._store = store
        self._blocks = blocks
        self._config = config
        self.stats = ReaderStats()
        self.contents = Contents()
        self.memory = Memory(config, self.stats)
        #: How quick the store is with large ranges.
        self.line = LineRate()
        self._nursery: trio.Nursery | None = None
        self._disk_limit = trio.CapacityLimiter(config.disk_threads)
        self._warm_limit = trio.CapacityLimiter(config.warm_parallel)
        self._unwritten: deque[tuple[Piece, ObjectRef]] = deque()
        self._unwritten_bytes = 0
        self._some_unwritten = trio.Event()
        self._many_unwritten = trio.Event()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry out fetches and disk writes until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                nursery.start_soon(self._write_behind)
                nursery.start_soon(self._sweep)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    # --- starting

    def launch(self, content: Content, ref: ObjectRef, ranges: Iterable[Range], *, ahead: bool) -> list[Flight]:
        """Start fetching ranges (disjoint from what is held).

        Read-ahead is only started as far as the budget allows: the answer then stops before the first refused range.
        """
        flights: list[Flight] = []
        for wanted in ranges:
            for start, end in self._by_place(content, wanted):
                if content.held.overlaps(start, end):
                    continue  # taken along by an entry of the disk that reaches out of its range
                flight = Flight(content, ref, start, end, ahead=ahead)
                if ahead and not self._reserve_nowait(flight):
                    return flights
                self._start(flight)
                flights.append(flight)
        return flights

    def start_soon(self, work: Callable[[], Awaitable[None]]) -> None:
        """Have work done beside the fetches, until it ends or `run` does."""
        self._running().start_soon(work)

    def launch_warm(self, refs: Iterable[ObjectRef]) -> list[Flight]:
        """Start fetching whole small objects ahead, as far as the budget allows."""
        nursery = self._running()
        flights: list[Flight] = []
        for ref in refs:
            if not 0 < ref.size <= self._config.warm_bytes:
                continue
            content = self.contents.get(ref)
            if content.held.overlaps(0, ref.size):
                continue
            flight = Flight(content, ref, 0, ref.size, ahead=True, warm=True)
            if not self._reserve_nowait(flight):
                content.leave()
                break
            content.take_off(flight)
            flights.append(flight)
        if flights:
            nursery.start_soon(self._warm, flights, nursery)
        return flights

    def drop_guesses(self, content: Content) -> None:
        """Nobody reads this content any more: end what is fetched ahead of it, and let its pieces go first."""
        for flight in list(content.flights):
            if flight.ahead and not flight.waiters:
                flight.scope.cancel()
        for piece in content.pieces:
            self.memory.retire(piece)
        rest, content.rest = content.rest, None
        if rest is not None:
            self.stats.wasted_bytes += rest.unread.total
            if rest.scope is not None:
                rest.scope.cancel()

    # --- collecting

    async def look(self, content: Content, ref: ObjectRef) -> None:
        """Ask the block cache what it has of a content.  Checkpoint: only if it is not known yet."""
        if content.on_disk is not None:
            return
        if self._blocks is None:
            content.on_disk = Extents()
        elif ref.size <= self._config.prefetch.small_bytes:
            content.on_disk = Extents([(0, ref.size)])  # one entry: trying to read it is the quickest way to know
        else:
            content.learn_disk(await self._on_disk_thread(partial(self._blocks.present, ref)))

    async def collect(
        self, content: Content, ref: ObjectRef, start: int, end: int, mine: Sequence[Flight]
    ) -> bytes | memoryview:
        """Return [start, end) from pieces and flights; what was lost meanwhile is fetched again.

        mine are the flights that were started for this read: their failure is its failure.
        """
        parts: list[bytes | memoryview] = []
        position = start
        while position < end:
            piece = content.piece_at(position) or await self._arrival(content, ref, position, end, mine)
            stop = min(end, piece.end)
            parts.append(cut(piece, position, stop))
            self.memory.served(piece, stop - position)
            position = stop
        self.stats.served_bytes += end - start
        content.note_read(start, end)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _arrival(
        self, content: Content, ref: ObjectRef, position: int, end: int, mine: Sequence[Flight]
    ) -> Piece:
        """Wait for the piece that holds `position`; somebody else's failed flight is flown once more."""
        own = False
        while True:
            flight = content.flight_at(position)
            if flight is None:
                self._launch_again(content, ref, position, end)
                flight, own = content.flight_at(position), True
                assert flight is not None
            flight.waiters += 1
            try:
                await flight.done.wait()
            finally:
                flight.waiters -= 1
            for piece in flight.pieces:
                if piece.start <= position < piece.end:
                    return piece
            if own or flight in mine:
                # A copy, as several readers raise it with their own tracebacks.
                error = flight.error or Unavailable("The fetch was given up.")
                raise _copy(error) from error
            own = True

    def _launch_again(self, content: Content, ref: ObjectRef, position: int, end: int) -> None:
        grain = self._config.prefetch.grain_bytes
        low = position - position % grain
        high = min(ref.size, end + -end % grain, low + self._config.prefetch.range_bytes)
        low, high = next(gap for gap in content.held.gaps(low, high) if gap[0] <= position < gap[1])
        self.launch(content, ref, [(low, high)], ahead=False)

    # --- flying

    def _running(self) -> trio.Nursery:
        if self._nursery is None:
            raise Unavailable("Reading has been shut down.")
        return self._nursery

    def _reserve_nowait(self, flight: Flight) -> bool:
        if not self.memory.reserve_nowait(flight.size):
            return False
        flight.reserved = flight.size
        return True

    def _start(self, flight: Flight) -> None:
        nursery = self._running()
        flight.content.take_off(flight)
        nursery.start_soon(self._fly, flight)

    def _by_place(self, content: Content, wanted: Range) -> list[Range]:
        """Cut a range into what the disk has and what it has not, the former widened to whole chunks of the disk."""
        if self._blocks is None or content.on_disk is None or not content.on_disk.overlaps(*wanted):
            return [wanted]
        chunk = self._blocks.config.chunk_bytes
        places = content.on_disk.gaps(*wanted)
        for start, end in content.on_disk.intersect(*wanted):
            # The disk hands out whole chunks anyway: take in what is not held yet.
            low, high = start - start % chunk, min(content.size, end + -end % chunk)
            for free in content.held.gaps(low, high):
                places.extend(span for span in content.on_disk.intersect(*free) if span[0] < end and start < span[1])
        return sorted(places)

    async def _fly(self, flight: Flight) -> None:
        """Carry out one flight from start to landing; never raises but when cancelled from outside."""
        try:
            with flight.scope, trio.fail_after(self._config.timeout_s):
                if flight.ahead:
                    # Tasks begin in any order, and what a program waits for goes first.
                    await trio.lowlevel.checkpoint()
                if not flight.reserved:
                    await self.memory.reserve(flight.size)
                    flight.reserved = flight.size
                await self._obtain(flight)
        except trio.TooSlowError:
            flight.error = TimedOut(f"No answer for {flight.ref.key} within {self._config.timeout_s:g} s.")
        except Exception as error:  # noqa: BLE001  # whatever it is belongs to the readers that wait, not to the mount
            flight.error = error
        finally:
            self._land(flight)

    def _land(self, flight: Flight) -> None:
        if flight.error is not None:
            flight.pieces.clear()
            self.stats.failures += 1
            if not flight.waiters:
                log.info("Fetching %s ahead failed: %s", flight.ref.key, flight.error)
        flight.content.land(flight)
        for piece in flight.pieces:
            self._accept(flight, piece)
        self.memory.release(flight.reserved)
        flight.reserved = 0
        flight.done.set()

    def _accept(self, flight: Flight, piece: Piece) -> None:
        self.memory.add(piece)
        flight.reserved -= piece.size
        if piece.fetched and self._blocks is not None and self.memory.hold(piece):
            self._unwritten.append((piece, flight.ref))
            self._unwritten_bytes += piece.size
            self._some_unwritten.set()
            if self._is_worth_writing():
                self._many_unwritten.set()

    async def _obtain(self, flight: Flight) -> None:
        """Fill flight.pieces from disk, and from the store what is missing there."""
        content = flight.content
        if self._blocks is not None and (content.on_disk is None or content.on_disk.overlaps(flight.start, flight.end)):
            found = await self._on_disk_thread(partial(self._blocks.get_range, flight.ref, flight.start, flight.end))
            self._take(flight, found)
        have = Extents((piece.start, piece.end) for piece in flight.pieces)
        for start, end in have.gaps(flight.start, flight.end):
            if content.on_disk is not None:
                content.on_disk.remove(start, end)
            data = await self.get(content, flight.ref, start, end)
            flight.pieces.append(Piece(content, start, data, fetched=True, warm=flight.warm))

    def _take(self, flight: Flight, found: Iterable[tuple[int, Buffer]]) -> None:
        """Make pieces of what the disk had, cut to the flight's range."""
        for start, data in found:
            low, high = max(start, flight.start), min(start + len(data), flight.end)
            if low < high:
                kept = data if high - low == len(data) else data[low - start : high - start]
                self.stats.disk_bytes += len(kept)
                flight.pieces.append(Piece(flight.content, low, kept, fetched=False, warm=flight.warm))

    async def _warm(self, flights: Sequence[Flight], nursery: trio.Nursery) -> None:
        """Load many small objects: one visit to the disk for all, then the rest from the store in parallel."""
        waiting = list(flights)
        try:
            if self._blocks is not None:
                refs = [flight.ref for flight in flights]
                with trio.move_on_after(self._config.timeout_s):
                    wholes = await self._on_disk_thread(partial(self._blocks.get_wholes, refs))
                    for flight, data in zip(flights, wholes, strict=True):
                        if data is not None:
                            self._take(flight, [(0, data)])
                            waiting.remove(flight)
                            self._land(flight)
            for flight in waiting.copy():
                flight.content.on_disk = Extents()
                nursery.start_soon(self._fly_limited, flight)
                waiting.remove(flight)
        finally:
            for flight in waiting:
                self._land(flight)

    async def _fly_limited(self, flight: Flight) -> None:
        try:
            async with self._warm_limit:
                self.stats.warmed_bytes += flight.size
                await self._fly(flight)
        finally:
            if not flight.done.is_set():
                self._land(flight)

    # --- the store

    async def get(self, content: Content, ref: ObjectRef, start: int, end: int) -> Buffer:
        """GET [start, end) of exactly this content, with one more try after a fault that may pass."""
        try:
            return await self._get_once(content, ref, start, end)
        except RetryableError as error:
            log.info("Fetching %s again: %s", ref.key, error)
            self.stats.retries += 1
            await trio.sleep(_RETRY_DELAY_S if error.retry_after_s is None else error.retry_after_s)
        return await self._get_once(content, ref, start, end)

    async def _get_once(self, content: Content, ref: ObjectRef, start: int, end: int) -> Buffer:
        version, if_match = self._pin(content, ref)
        self.stats.fetches += 1
        try:
            info, data = await self._ask(ref.key, version, start, end, if_match)
        except InvalidRange as error:
            raise PreconditionFailed(f"{ref.key} is not what it was: it became shorter.") from error
        if info.ref.size != ref.size and ref.etag and info.ref.etag == ref.etag:
            raise CorruptBody(f"{ref.key} has {ref.size} bytes, and the answer speaks of {info.ref.size}.")
        if info.ref.size != ref.size or (version is None and ref.etag and info.ref.etag != ref.etag):
            raise PreconditionFailed(f"{ref.key} is not what it was: it was replaced.")
        if len(data) != end - start:
            raise CorruptBody(f"{len(data)} bytes of {ref.key} arrived instead of {end - start}.")
        content.infos.setdefault(ref.version_id, info)
        self.stats.fetched_bytes += len(data)
        return data

    async def _ask(
        self, key: str, version: VersionId | None, start: int, end: int, if_match: ETag | None
    ) -> tuple[ObjectInfo, Buffer]:
        """One GET; what large ones take tells how quick the line is."""
        if end - start < _LARGE_RANGE_BYTES:
            return await self._store.get(key, version_id=version, start=start, end=end, if_match=if_match)
        arrived = 0
        self.line.began(trio.current_time())
        try:
            info, data = await self._store.get(key, version_id=version, start=start, end=end, if_match=if_match)
            arrived = len(data)
            return info, data
        finally:
            self.line.ended(trio.current_time(), arrived)

    def _pin(self, content: Content, ref: ObjectRef) -> tuple[VersionId | None, ETag | None]:
        """The version ID to ask for, or the ETag to demand; a version learned from an answer outlives a replacement."""
        if ref.version_id is not None:
            return ref.version_id, None
        learned = content.infos.get(None)
        if learned is not None and learned.ref.version_id is not None:
            return learned.ref.version_id, None
        return None, (ref.etag or None) if self._store.capabilities.conditional_get else None

    # --- the disk

    async def _on_disk_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._disk_limit)

    async def _sweep(self) -> None:
        """Remove what a crash left in the cache directory, once and beside everything else."""
        if self._blocks is not None:
            await trio.sleep(_SWEEP_DELAY_S)
            removed = await trio.to_thread.run_sync(self._blocks.sweep, abandon_on_cancel=True)
            if removed:
                log.info("Removed %d files that an earlier run left in the block cache.", removed)

    def _is_worth_writing(self) -> bool:
        return self._unwritten_bytes >= _WORTH_WRITING_BYTES or len(self._unwritten) >= _WRITE_BATCH_PIECES

    async def _write_behind(self) -> None:
        """Write fetched pieces to the block cache, many at a time; at the end, what is still waiting."""
        try:
            while True:
                await self._some_unwritten.wait()
                with trio.move_on_after(_LINGER_S):
                    await self._many_unwritten.wait()
                await self._write_batch()
                if not self._unwritten:
                    self._some_unwritten = trio.Event()
                if not self._is_worth_writing():
                    self._many_unwritten = trio.Event()
        finally:
            with trio.move_on_after(5, shield=True):
                while self._unwritten:
                    await self._write_batch()

    async def _write_batch(self) -> None:
        assert self._blocks is not None
        batch: list[tuple[Piece, ObjectRef]] = []
        size = 0
        while self._unwritten and size < _WRITE_BATCH_BYTES and len(batch) < _WRITE_BATCH_PIECES:
            batch.append(self._unwritten.popleft())
            size += batch[-1][0].size
        self._unwritten_bytes -= size
        stretches = [(ref, piece.start, piece.data) for piece, ref in batch]
        began = trio.current_time()
        try:
            # Shielded: a batch that was taken is written, or an early end would lose what was just fetched.
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(partial(self._blocks.put_many, stretches))
        except Exception:  # not being able to keep something must not end the mount
            log.exception("Writing to the block cache failed.")
        finally:
            if size >= _WRITE_BATCH_BYTES:  # small files say nothing of the disk's rate
                self.memory.disk_is_quick = size > _QUICK_DISK_BYTES_S * (trio.current_time() - began)
            for piece, _ in batch:
                if piece.content.on_disk is not None:
                    piece.content.on_disk.add(piece.start, piece.end)
                self.memory.let_go(piece)


def _copy(error: Exception) -> Exception:
    """An equal error; not by copy.copy, which calls constructors and these may want other arguments than args."""
    again = type(error).__new__(type(error), *error.args)
    again.args = error.args
    again.__dict__.update(error.__dict__)
    return again


def cut(piece: Piece, start: int, end: int) -> bytes | memoryview:
    """The bytes [start, end) of the content, all of them in this piece, without copying much."""
    if end - start == len(piece.data):
        return piece.data
    if end - start <= _COPY_BYTES:
        return piece.data[start - piece.start : end - piece.start]
    return memoryview(piece.data)[start - piece.start : end - piece.start]
