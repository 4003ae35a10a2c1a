"""Stock: whole contents brought onto the local disk because somebody asked for them, not because they are read.

What is on the disk already is left there and counts as just used.  The rest is fetched with many requests at a time,
large contents in parallel ranges, and each range is on the disk before it counts as done.  Reading that goes on
meanwhile has its memory and its requests: stocking takes a share of the reader's budget, never more.

INVARIANT: nothing that this run found or put on the disk is pushed out by what it puts there later: it stops before.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

import trio

from b2fs.cache.blockdisk import Buffer
from b2fs.cache.blocks import BlockCache
from b2fs.cache.reader.config import ReaderConfig
from b2fs.cache.reader.content import Content
from b2fs.cache.reader.fetch import Fetcher
from b2fs.core.extents import Extents
from b2fs.core.types import ObjectRef
from b2fs.errors import B2fsError, NotFound, PreconditionFailed, StoreError, TimedOut

#: Requests in flight for small contents; one connection carries about 45 a second at 20 ms round trip.
_SMALL_PARALLEL = 64
_WRITE_BATCH_BYTES = 16 << 20
_WRITE_BATCH_ITEMS = 256
#: The share of the cache that may be filled: its index and half-filled disk blocks take room too.
_FILL = 0.9
#: What an entry costs besides its bytes.
_ENTRY_BYTES = 512


class CacheFull(B2fsError):
    """What was asked for does not fit into the cache."""


class CacheRefuses(B2fsError):
    """The cache's disk does not take what is given to it."""


@dataclass(slots=True)
class StockProgress:
    """How far it is; files and bytes.  Totals grow until `listed`."""

    files: int = 0
    bytes: int = 0
    files_done: int = 0
    bytes_done: int = 0
    #: Of bytes_done, what had to be fetched.
    bytes_fetched: int = 0
    #: Keys of contents that were replaced or removed while this ran.
    changed: list[str] = field(default_factory=list)
    listed: bool = False


class _File:
    """One content on its way to the disk."""

    __slots__ = ("content", "missing", "parts", "ref")

    def __init__(self, content: Content, ref: ObjectRef, missing: int) -> None:
        self.content = content
        self.ref = ref
        #: Bytes that are not on the disk yet, and parts that have not ended.
        self.missing = missing
        self.parts = 0


class _Part:
    """A range [start, end) of a content, and where it holds its place among those in flight."""

    __slots__ = ("data", "end", "file", "places", "start", "written")

    def __init__(self, file: _File, start: int, end: int, places: trio.CapacityLimiter) -> None:
        self.file = file
        self.start = start
        self.end = end
        self.places = places
        self.data: Buffer = b""
        self.written = trio.Event()

    @property
    def size(self) -> int:
        return self.end - self.start


class Stocking:
    """One run; use it once, while the fetcher runs."""

    def __init__(self, fetcher: Fetcher, blocks: BlockCache, config: ReaderConfig) -> None:
        self.progress = StockProgress()
        self._fetcher = fetcher
        self._blocks = blocks
        self._timeout_s = config.timeout_s
        self._unit = blocks.config.block_sizes[0]
        self._small = blocks.config.block_bytes
        # Half of the memory for small ones at most, were they all as large as they may be; a quarter for large ones.
        small, large = config.memory_bytes // 2 // self._small, config.memory_bytes // 4 // self._unit
        self._small_places = trio.CapacityLimiter(max(1, min(_SMALL_PARALLEL, small)))
        self._large_places = trio.CapacityLimiter(max(1, large))
        self._room = int(blocks.config.size_bytes * _FILL)
        self._unwritten: deque[_Part] = deque()
        self._arrived = trio.Event()
        self._fault: B2fsError | None = None

    async def run(self, pages: AsyncGenerator[Sequence[ObjectRef], None]) -> None:
        """Bring all contents of the pages onto the disk.

        Raises CacheFull when they do not fit; what fitted stays.  Raises StoreError for a fault that is not that of a
        single content, CacheRefuses for one of the disk.  Checkpoint: yes.
        """
        async with trio.open_nursery() as nursery:
            writing = await nursery.start(self._write)
            try:
                async with trio.open_nursery() as fetching:
                    await self._plan(pages, fetching)
            finally:
                writing.cancel()
        if self._fault is not None:
            raise self._fault
        if self._room < 0:
            raise CacheFull("the cache is full (--cache-size)")

    async def _plan(self, pages: AsyncGenerator[Sequence[ObjectRef], None], fetching: trio.Nursery) -> None:
        async with aclosing(pages):
            async for page in pages:
                self.progress.files += len(page)
                self.progress.bytes += sum(ref.size for ref in page)
                have = await trio.to_thread.run_sync(self._blocks.use_all, page)
                for ref, extents in zip(page, have, strict=True):
                    if self._fault is not None or not self._fits(ref):
                        return
                    await self._start(ref, extents, fetching)
        self.progress.listed = True

    def _fits(self, ref: ObjectRef) -> bool:
        """Take the content's room; False, then and ever after, if there is not enough."""
        self._room -= ref.size + _ENTRY_BYTES * (1 + ref.size // self._unit)
        return self._room >= 0

    async def _start(self, ref: ObjectRef, have: Extents, fetching: trio.Nursery) -> None:
        gaps = have.gaps(0, ref.size)
        missing = sum(end - start for start, end in gaps)
        self.progress.bytes_done += ref.size - missing
        if not missing:
            self.progress.files_done += 1
            return
        content = self._fetcher.contents.get(ref)
        content.streams += 1  # until its last part has ended
        file = _File(content, ref, missing)
        places = self._small_places if ref.size <= self._small else self._large_places
        parts = [_Part(file, start, end, places) for gap in gaps for start, end in self._cut(*gap)]
        file.parts = len(parts)
        for part in parts:
            fetching.start_soon(self._fetch, part)
        # One file's parts at a time wait for places: a plan of millions would fill the memory.
        await self._one_is_free(places)

    async def _one_is_free(self, places: trio.CapacityLimiter) -> None:
        async with places:
            pass

    def _cut(self, start: int, end: int) -> list[tuple[int, int]]:
        """Ranges that are whole entries of the cache, as far as the gap allows."""
        cuts = [start, *range(start - start % self._unit + self._unit, end, self._unit), end]
        return list(itertools.pairwise(cuts))

    async def _fetch(self, part: _Part) -> None:
        """Fetch one part and have it written; ends when it is on the disk."""
        key = part.file.ref.key
        try:
            async with part.places:
                if self._fault is None and key not in self.progress.changed:
                    await self._bring(part)
        except (NotFound, PreconditionFailed):
            if key not in self.progress.changed:
                self.progress.changed.append(key)
        except StoreError as error:
            self._fault = self._fault or error
        finally:
            self._ended(part.file)

    async def _bring(self, part: _Part) -> None:
        memory = self._fetcher.memory
        await memory.reserve(part.size)
        try:
            with trio.move_on_after(self._timeout_s) as patience:
                part.data = await self._fetcher.get(part.file.content, part.file.ref, part.start, part.end)
            if patience.cancelled_caught:
                raise TimedOut(f"no answer for {part.file.ref.key} within {self._timeout_s:g} s")
            self._unwritten.append(part)
            self._arrived.set()
            await part.written.wait()
        finally:
            part.data = b""
            memory.release(part.size)

    def _ended(self, file: _File) -> None:
        file.parts -= 1
        if file.parts:
            return
        if not file.missing:
            self.progress.files_done += 1
        file.content.streams -= 1
        file.content.leave()

    async def _write(self, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        """Write what arrives, many at a time, until cancelled."""
        with trio.CancelScope() as scope:
            task_status.started(scope)
            while True:
                await self._arrived.wait()
                self._arrived = trio.Event()
                while self._unwritten:
                    await self._write_batch()

    async def _write_batch(self) -> None:
        batch: list[_Part] = []
        size = 0
        while self._unwritten and size < _WRITE_BATCH_BYTES and len(batch) < _WRITE_BATCH_ITEMS:
            batch.append(self._unwritten.popleft())
            size += batch[-1].size
        stretches = [(part.file.ref, part.start, part.data) for part in batch]
        kept = await trio.to_thread.run_sync(partial(self._blocks.put_many, stretches))
        if kept < size:
            self._fault = self._fault or CacheRefuses("the cache's disk takes no more")
        for part in batch:
            if kept == size:
                self._note_written(part)
            part.written.set()

    def _note_written(self, part: _Part) -> None:
        part.file.missing -= part.size
        self.progress.bytes_done += part.size
        self.progress.bytes_fetched += part.size
        if part.file.content.on_disk is not None:
            part.file.content.on_disk.add(part.start, part.end)
