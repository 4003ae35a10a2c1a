"""Stream: one open file: reads of a pinned content, with its own read-ahead decisions."""

from __future__ import annotations

from collections.abc import Callable

import trio

from b2fs.cache.reader.completion import Completer
from b2fs.cache.reader.config import ReaderConfig
from b2fs.cache.reader.fetch import Fetcher, cut
from b2fs.core.extents import Extents
from b2fs.core.prefetch import Prefetcher, Range
from b2fs.core.siblings import SiblingHint
from b2fs.core.types import ObjectInfo, ObjectRef
from b2fs.errors import TimedOut


class Stream:
    """Made by Reader.open; call close when done."""

    def __init__(
        self,
        fetcher: Fetcher,
        config: ReaderConfig,
        ref: ObjectRef,
        hint: SiblingHint | None,
        share: Callable[[Stream], int],
        completer: Completer | None = None,
    ) -> None:
        self.ref = ref
        self._fetcher = fetcher
        self._memory = fetcher.memory
        self._config = config
        self._share = share
        self._completer = completer
        self._prefetcher = Prefetcher(ref.size, config.prefetch)
        self._content = fetcher.contents.get(ref)
        self._content.streams += 1
        self._hint = hint
        self._window_limit = config.ahead_bytes
        self._closed = False

    @property
    def info(self) -> ObjectInfo | None:
        """What the store told of this version with the first GET; None before, and if all came from the cache."""
        return self._content.infos.get(self.ref.version_id)

    @property
    def fetches_ahead(self) -> bool:
        """Whether this stream is being read sequentially."""
        return self._prefetcher.sequential

    def read_nowait(self, start: int, end: int) -> bytes | memoryview | None:
        """Return [start, end) within [0, size) if it is in memory, else None.  Never a checkpoint."""
        content = self._content
        piece = content.piece_at(start)
        if piece is None:
            return b"" if start >= end else None
        if end <= piece.end:
            data = cut(piece, start, end)
            self._memory.served(piece, end - start)
        else:
            pieces = list(content.pieces_over(start, end))
            if pieces[-1].end < end:
                return None
            parts = []
            for piece in pieces:
                low, high = max(start, piece.start), min(end, piece.end)
                parts.append(memoryview(piece.data)[low - piece.start : high - piece.start])
                self._memory.served(piece, high - low)
            data = b"".join(parts)
        self._fetcher.stats.served_bytes += end - start
        content.note_read(start, end)
        ahead = self._prefetcher.advance(start, end, content.held, self._window_limit)
        if ahead or self._hint is not None:
            self._go_ahead(start, ahead)
        return data

    async def read(self, start: int, end: int) -> bytes | memoryview:
        """Return exactly [start, end), which lies within [0, size).

        Raises what the store raises: PreconditionFailed or NotFound when the pinned version is gone, TimedOut when
        there is no answer within the configured time.  Checkpoint: yes.
        """
        if start >= end:
            await trio.lowlevel.checkpoint()
            return b""
        try:
            with trio.fail_after(self._config.timeout_s):
                return await self._read(start, end)
        except trio.TooSlowError as error:
            raise TimedOut(f"No answer for {self.ref.key} within {self._config.timeout_s:g} s.") from error

    def close(self) -> None:
        """Let go of the content.  Calling it twice does no harm."""
        if self._closed:
            return
        self._closed = True
        self._content.streams -= 1
        if not self._content.streams:
            self._fetcher.drop_guesses(self._content)
        self._content.leave()

    async def _read(self, start: int, end: int) -> bytes | memoryview:
        content = self._content
        if content.on_disk is None:
            await self._fetcher.look(content, self.ref)
        else:
            await trio.lowlevel.checkpoint()
        # No await from planning to launching: the plan is only true for what is held now.
        plan = self._prefetcher.plan(start, end, content.held, self._window_limit)
        mine = self._fetcher.launch(content, self.ref, plan.demand, ahead=False)
        if plan.ahead or self._hint is not None:
            self._go_ahead(start, plan.ahead)
        if self._completer is None or self._prefetcher.sequential or (content.on_disk or Extents()).covers(start, end):
            return await self._fetcher.collect(content, self.ref, start, end, mine)
        began = trio.current_time()
        data = await self._fetcher.collect(content, self.ref, start, end, mine)
        self._completer.waited(content, self.ref, trio.current_time() - began)
        return data

    def _go_ahead(self, start: int, ranges: tuple[Range, ...]) -> None:
        if self._hint is not None and start == 0:
            hint, self._hint = self._hint, None
            self._fetcher.launch_warm(hint.upcoming)
        if ranges:
            self._window_limit = self._share(self)
            flights = self._fetcher.launch(self._content, self.ref, ranges, ahead=True)
            reached = flights[-1].end if flights else ranges[0][0]
            if reached < ranges[-1][1]:
                self._prefetcher.refused(reached)
