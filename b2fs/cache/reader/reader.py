"""Reader: opens streams over contents and shares memory, requests and the disk among them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import trio

from b2fs.cache.blocks import BlockCache
from b2fs.cache.reader.completion import Completer
from b2fs.cache.reader.config import ReaderConfig, ReaderStats
from b2fs.cache.reader.fetch import Fetcher, RangeStore
from b2fs.cache.reader.stock import Stocking
from b2fs.cache.reader.stream import Stream
from b2fs.core.prefetch import Prefetcher
from b2fs.core.siblings import SiblingHint
from b2fs.core.slabs import SLABS
from b2fs.core.types import ObjectRef
from b2fs.errors import TimedOut, Unsupported

#: A stream that has not fetched ahead for this long leaves its share of the memory to the others.
_ACTIVE_S = 10.0


class Reader:
    """The door to the bytes of the bucket: from memory, else from the block cache, else from the store.

    blocks=None reads without a disk cache.  `run` must be running while anything is read.
    """

    def __init__(self, store: RangeStore, blocks: BlockCache | None, config: ReaderConfig | None = None) -> None:
        self._config = config or ReaderConfig()
        self._blocks = blocks
        self._fetcher = Fetcher(store, blocks, self._config)
        self._completer: Completer | None = None
        if blocks is not None and self._config.complete_bytes:
            self._completer = Completer(self._fetcher, blocks, self._config)
        self._active: OrderedDict[Stream, float] = OrderedDict()  # streams that fetch ahead: when they last did

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry out the background work until cancelled; use `await nursery.start(reader.run)`."""
        SLABS.keep_at_most(self._config.shelf_bytes)
        await self._fetcher.run(task_status)

    @property
    def stats(self) -> ReaderStats:
        return self._fetcher.stats

    @property
    def memory_used(self) -> int:
        """Bytes held or on their way, at most config.memory_bytes."""
        return self._fetcher.memory.used

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait to be written to the block cache."""
        return self._fetcher.memory.pending

    def open(self, ref: ObjectRef, *, hint: SiblingHint | None = None) -> Stream:
        """Open one immutable content.  hint names files that are fetched along when this one is read from its start."""
        return Stream(self._fetcher, self._config, ref, hint, self._share, self._completer)

    async def fetch_range(self, ref: ObjectRef, start: int, end: int) -> bytes:
        """Return [start, end) of a content, through the cache but without read-ahead.

        The answer counts against no budget; the fetches behind it do, a quarter of it at a time.
        Raises like Stream.read; the time limit holds for each step.  Checkpoint: yes.
        """
        content = self._fetcher.contents.get(ref)
        content.streams += 1
        planner = Prefetcher(ref.size, self._config.prefetch)
        parts: list[bytes | memoryview] = []
        step = max(self._config.prefetch.block_bytes, self._config.memory_bytes // 4)
        try:
            await self._fetcher.look(content, ref)
            for low in range(start, end, step):
                high = min(end, low + step)
                mine = self._fetcher.launch(content, ref, planner.exact(low, high, content.held), ahead=False)
                with trio.fail_after(self._config.timeout_s):
                    parts.append(await self._fetcher.collect(content, ref, low, high, mine))
        except trio.TooSlowError as error:
            raise TimedOut(f"No answer for {ref.key} within {self._config.timeout_s:g} s.") from error
        finally:
            content.streams -= 1
            content.leave()
        return b"".join(parts)

    async def warm(self, refs: Iterable[ObjectRef]) -> None:
        """Fetch small objects (config.warm_bytes) whole and in parallel, as far as the memory budget allows.

        A guess: it raises nothing, and what it could not fetch is fetched when it is read.  Checkpoint: yes.
        """
        flights = self._fetcher.launch_warm(refs)
        await trio.lowlevel.checkpoint()
        for flight in flights:
            await flight.done.wait()

    def stocking(self) -> Stocking:
        """A run that brings whole contents onto the disk.  Raises Unsupported without a block cache."""
        if self._blocks is None:
            raise Unsupported("there is no cache on disk")
        return Stocking(self._fetcher, self._blocks, self._config)

    def check_invariants(self) -> None:
        """Raise AssertionError if the inner books do not balance; for tests."""
        self._fetcher.memory.check_invariants()
        for content in self._fetcher.contents:
            content.check_invariants()

    def _share(self, stream: Stream) -> int:
        """How far a stream may fetch ahead: an equal share among those that do so at present."""
        now = trio.current_time()
        self._active[stream] = now
        self._active.move_to_end(stream)
        while self._active and next(iter(self._active.values())) < now - _ACTIVE_S:
            self._active.popitem(last=False)
        return self._config.ahead_bytes // len(self._active)
