"""Room: dirty files keep within their share of the disk.

As they near it, first what the bucket has already is dropped here: bytes that are the base's, parts of unfinished
uploads that the server has acknowledged, open files that are stored (and cached blocks, where it is the disk that is
short).  Nothing is dropped before the journal knows it durably, so that neither a crash nor a power cut takes a hole
for content. Then writers are slowed, the more the less room there is; only when nothing has left for long does a
write fail, before it is accepted.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping

import trio

from b2fs.cache.content import DirtyFiles, LocalContent
from b2fs.cache.inode import Inode
from b2fs.cache.ledger import Ledger
from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.cache.writeback.engine import Engine
from b2fs.cache.writeback.multipart import MultipartUpload
from b2fs.cache.writeback.transfer import Transfer
from b2fs.core.extents import Extents
from b2fs.core.nodes import InodeId
from b2fs.core.parts import Part
from b2fs.errors import FsError

#: Shares of the room: above the first, what is spare is dropped down to it; above the second, writers are slowed.
_SPARE_LEVEL = 0.6
_SLOW_LEVEL = 0.75
#: What a writer waits half way from slow to full, in seconds for each stretch (a guess: 16 MiB/s), and at most.
_DELAY_S = 0.5
_MOST_DELAY_S = 5.0
#: Room is looked at once in so many bytes written, or when a share of what is free has been written.
_STRETCH_BYTES = 8 << 20
_STRETCH_SHARE = 16
#: How often a writer that waits looks again, in seconds.
_LOOK_S = 0.25
#: Left free on the disk for the ledger and for everybody else.
_RESERVE_BYTES = 64 << 20


class Room:
    """See the module.  All methods belong to the trio thread."""

    def __init__(
        self,
        files: DirtyFiles,
        ledger: Ledger,
        transfer: Transfer,
        engine: Engine,
        config: WriteBackConfig,
        inodes: Mapping[InodeId, Inode],
        yield_disk: Callable[[], None],
    ) -> None:
        """inodes: those that may have local bytes.  yield_disk has others give up the disk, and blocks."""
        self._inodes = inodes
        self._yield_disk = yield_disk
        self._files = files
        self._ledger = ledger
        self._transfer = transfer
        self._engine = engine
        self._config = config
        self._until_look = 0
        self._dropping = trio.Lock()
        self._can_punch: bool | None = None
        #: How much had been sent when something was last seen to be sent, and when that was.
        self._sent = 0
        self._sent_at = 0.0
        #: Since when there has been no room.
        self._full_since: float | None = None
        self._last_level = 0.0

    @property
    def short(self) -> bool:
        """Whether writers wait for room, or will soon."""
        return self._last_level > _SPARE_LEVEL

    def take_nowait(self, size: int) -> bool:
        """As take, if nothing needs to be looked at; whether it is done."""
        if size >= self._until_look:
            return False
        self._until_look -= size
        return True

    async def take(self, inode: Inode, size: int) -> None:
        """Return when size more bytes of the inode may be written; FsError(ENOSPC) when there is no room for them."""
        self._until_look -= size
        if self._until_look > 0:
            return
        level = await self._level(size)
        if level >= 1:
            await self._wait(inode, size)
            return
        self._full_since = None
        if level > _SLOW_LEVEL:
            self._engine.make_room(inode)
            share = (level - _SLOW_LEVEL) / (1 - _SLOW_LEVEL)
            await trio.sleep(min(_MOST_DELAY_S, _DELAY_S * share / (1 - share)))

    async def _wait(self, inode: Inode, size: int) -> None:
        """There is no room: wait until some has become free."""
        while True:
            if self._full_since is None:  # or another writer has found room meanwhile
                self._full_since = trio.current_time()
            if self._transfer.acknowledged != self._sent:
                self._sent, self._sent_at = self._transfer.acknowledged, trio.current_time()
            if trio.current_time() - max(self._sent_at, self._full_since) >= self._config.no_room_s:
                raise FsError(errno.ENOSPC, "the cache is full, and nothing can leave it")
            self._engine.make_room(inode, full=True)
            await trio.sleep(_LOOK_S)
            if await self._level(size) < 1:
                self._full_since = None
                return

    async def _level(self, size: int) -> float:
        """How full the room would be with size more bytes, 1 for full, when what is spare has been dropped."""
        held, room = self._measure()
        if held + size > _SPARE_LEVEL * room:
            await self._drop(held + size - int(_SPARE_LEVEL * room))
            await trio.to_thread.run_sync(self._yield_disk)
            held, room = self._measure()
        self._until_look = min(_STRETCH_BYTES, max(room - held, 0) // _STRETCH_SHARE)
        self._last_level = (held + size) / room if room > 0 else float("inf")
        return self._last_level

    def _measure(self) -> tuple[int, int]:
        """What dirty files need, and what they may need, in bytes."""
        held = self._files.held_bytes()
        found = os.statvfs(self._files.directory)
        free = found.f_bavail * found.f_frsize - _RESERVE_BYTES
        return held, min(self._config.dirty_bytes, held + free)

    # ---- dropping -----------------------------------------------------------------------------------------------

    async def _drop(self, size: int) -> None:
        """Give up the space of about size bytes that the bucket has, if there are so many."""
        if self._can_punch is None:
            self._can_punch = self._files.can_punch()
        if not self._can_punch:
            return
        async with self._dropping:
            jobs = self._choose(size)
            if not jobs:
                return
            self._ledger.commit()
            await trio.to_thread.run_sync(self._ledger.sync)
            for job in jobs:
                job()

    def _choose(self, size: int) -> list[Callable[[], None]]:
        """What to do when the journal is durable; from now on nobody counts on these bytes here."""
        jobs: list[Callable[[], None]] = list(_drops(self._files.contents.values(), size))
        size -= sum(content.spare_bytes() for content in self._files.contents.values())
        for upload in self._transfer.uploads:
            parts = _first(upload.spare(), size)
            if parts and upload.inode.content is not None:
                upload.send_away(parts)
                size -= sum(part.end - part.start for part in parts)
                jobs.extend(_Punch(upload, upload.inode.content, part) for part in parts)
        return [*jobs, *_drops(self._rested(), size)]

    def _rested(self) -> Iterator[LocalContent]:
        """Contents of open files that the bucket has as they are; from now on these rest on that, one by one.

        No row of the journal speaks of them.  Without versions others could take away what they rest on.
        """
        for content in self._files.contents.values():
            inode = self._inodes.get(content.ino)
            if inode is None or inode.content is not content or inode.pending or not inode.writers or not inode.links:
                continue
            base = inode.base
            stored = base is not None and base.version_id is not None and inode.base_content_seq == inode.content_seq
            if base is not None and stored and content.can_rest_on(base.size):
                content.rest_on(base.size, Extents())
                yield content


def _drops(contents: Iterable[LocalContent], size: int) -> Iterator[_Drop]:
    """Jobs for about size bytes of what the bases of these contents have; no more contents are taken than it needs."""
    if size <= 0:
        return
    for content in contents:
        for start, end in content.spare():
            yield _Drop(content, start, end)
            size -= end - start
            if size <= 0:
                return


class _Drop:
    """Bytes that the base has."""

    def __init__(self, content: LocalContent, start: int, end: int) -> None:
        self._content, self._start, self._end = content, start, end

    def __call__(self) -> None:
        # The content may have changed, or gone, since it was chosen.
        for start, end in self._content.spare():
            if start < self._end and self._start < end:
                self._content.let_go(max(start, self._start), min(end, self._end))


class _Punch:
    """A part that was sent away."""

    def __init__(self, upload: MultipartUpload, content: LocalContent, part: Part) -> None:
        self._upload, self._content, self._part = upload, content, part

    def __call__(self) -> None:
        if self._upload.inode.content is self._content and self._content.away.covers(self._part.start, self._part.end):
            self._content.let_go(self._part.start, self._part.end)


def _first(parts: list[Part], size: int) -> list[Part]:
    """The first parts that make up size bytes, the last of them perhaps more."""
    chosen: list[Part] = []
    for part in parts:
        if size <= 0:
            break
        chosen.append(part)
        size -= part.end - part.start
    return chosen
