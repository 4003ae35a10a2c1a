"""Completer: fetches the rest of contents of which random pieces are read, beside the programs that read them.

Not with `--random-reads=exact`, and only when it is worth it (core.completion).  What comes goes onto the disk, from
where later pieces are read; a program that wants a piece meanwhile fetches it by itself, as it would without us: a
small piece is there sooner than a large range that is on its way.  Some of it so comes twice, and nobody waits for us.

Its memory is taken from the reader's budget only as far as that costs nobody anything.  It ends when the content is
closed, and goes on with the next read that has to wait if memory was short or the line turned out slower than thought.

INVARIANT: `Rest.unread` is within what was fetched here and no program has read since.
"""

from __future__ import annotations

import logging
from functools import partial

import trio

from b2fs.cache.blocks import BlockCache
from b2fs.cache.reader.config import ReaderConfig
from b2fs.cache.reader.content import Content, Rest
from b2fs.cache.reader.fetch import Fetcher
from b2fs.core.completion import is_worth_it
from b2fs.core.extents import Extents
from b2fs.core.prefetch import Range
from b2fs.core.types import ObjectRef

log = logging.getLogger(__name__)

#: Ranges at a time, for all contents together: enough to fill a line, and small reads still get through.
_PARALLEL = 4
#: Of the reader's memory, what one range may take.
_RANGE_SHARE = 16
#: Pieces that are less than this part of a range are fetched again with it.
_FEW_PIECES = 8


class Completer:
    """See the module's text.  Only for the trio thread, while the fetcher runs."""

    def __init__(self, fetcher: Fetcher, blocks: BlockCache, config: ReaderConfig) -> None:
        self._fetcher = fetcher
        self._blocks = blocks
        self._stats = fetcher.stats
        self._line = fetcher.line
        self._timeout_s = config.timeout_s
        self._least_bytes = config.prefetch.block_bytes
        self._most_bytes = config.complete_bytes
        self._patience = config.complete_after
        self._range_bytes = min(blocks.config.block_sizes[0], config.memory_bytes // _RANGE_SHARE)
        self._places = trio.CapacityLimiter(_PARALLEL)

    def waited(self, content: Content, ref: ObjectRef, seconds: float) -> None:
        """A program has waited for a random piece of an open content; never a checkpoint."""
        if not (self._least_bytes < ref.size <= self._most_bytes and content.streams):
            return
        if content.rest is None:
            content.rest = Rest()
        rest = content.rest
        rest.waits.add(seconds)
        if rest.scope is None and self._next(content, rest) is not None:
            rest.scope = trio.CancelScope()
            self._fetcher.start_soon(partial(self._complete, content, ref, rest, rest.scope))

    async def _complete(self, content: Content, ref: ObjectRef, rest: Rest, scope: trio.CancelScope) -> None:
        try:
            with scope:
                async with trio.open_nursery() as nursery:
                    for _ in range(_PARALLEL):
                        nursery.start_soon(self._work, content, ref, rest)
        finally:
            rest.scope = None

    async def _work(self, content: Content, ref: ObjectRef, rest: Rest) -> None:
        """Bring one range after the other, until there is none, it is not worth it, or no memory is free."""
        while True:
            async with self._places:
                # No await from choosing to marking: the choice is only right for what is there now.
                chosen = self._next(content, rest)
                if chosen is None or not self._fetcher.memory.reserve_nowait(chosen[1] - chosen[0]):
                    return
                rest.under_way.add(*chosen)
                try:
                    await self._bring(content, ref, rest, chosen)
                except Exception as error:  # noqa: BLE001  # nobody waits for it: whoever reads meets it by himself
                    log.info("Fetching the rest of %s failed: %s", ref.key, error)
                    rest.waits.forget()  # so it takes a while until it is tried again
                finally:
                    rest.under_way.remove(*chosen)
                    self._fetcher.memory.release(chosen[1] - chosen[0])

    def _next(self, content: Content, rest: Rest) -> Range | None:
        """The next range to fetch, None if there is none or it is not worth it."""
        there = Extents(content.on_disk or ())
        there.update(rest.under_way)
        missing = content.size - there.total
        if rest.given_up or not is_worth_it(rest.waits, missing, self._line.bytes_s, self._patience):
            return None
        there.update(content.held)
        gaps = there.gaps(0, content.size)
        return self._around(gaps[0][0], there, rest.under_way, content.size) if gaps else None

    def _around(self, position: int, there: Extents, under_way: Extents, size: int) -> Range:
        """What to fetch together with `position`, which is missing: whole blocks of the disk, as large as is worth it.

        What programs have fetched of a block lies about in it as small pieces, and one range over all is cheaper.
        """
        unit = self._line.range_bytes(_PARALLEL, self._range_bytes)
        while True:
            low = position - position % unit
            high = min(size, low + unit)
            gaps = there.gaps(low, high)
            known = high - low - sum(end - start for start, end in gaps)
            if known * _FEW_PIECES < high - low and not under_way.overlaps(low, high):
                return low, high
            if unit <= self._least_bytes:
                return gaps[0][0], gaps[-1][1]
            unit //= 2

    async def _bring(self, content: Content, ref: ObjectRef, rest: Rest, chosen: Range) -> None:
        """Fetch a range and put it onto the disk.  Raises StoreError, TooSlowError."""
        start, end = chosen
        with trio.fail_after(self._timeout_s):
            data = await self._fetcher.get(content, ref, start, end)
        # Shielded: what was fetched is kept, or closing a file early would lose it.
        with trio.CancelScope(shield=True):
            kept = await trio.to_thread.run_sync(self._blocks.put_range, ref, start, data)
        if kept < end - start:  # the disk takes no more, and everything else would be fetched for nothing
            rest.given_up = True
            self._stats.wasted_bytes += end - start
            return
        if content.on_disk is not None:
            content.on_disk.add(start, end)
        self._stats.completed_bytes += end - start
        if content.rest is rest:
            rest.unread.add(start, end)
        else:  # closed meanwhile
            self._stats.wasted_bytes += end - start
