"""One multipart upload of one inode, which may be written to while it goes up.

The parts are a snapshot only when all of them are newer than the last write over them, so a write drops the parts that
it touches and they go up again; the upload is completed in a moment in which no part is missing.  So a key never holds
a torn content (I3).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import trio

from b2fs.cache.inode import Inode
from b2fs.cache.ledger import Ledger
from b2fs.cache.parallel import open_flat_nursery
from b2fs.cache.writeback.budget import ByteBudget
from b2fs.core import parts as plans
from b2fs.core.parts import Part, PartSource
from b2fs.core.types import ObjectInfo, ObjectRef, PartInfo, UploadId
from b2fs.errors import RetryableError, StoreError
from b2fs.store.protocol import ObjectStore

ReadBytes = Callable[[Inode, int, int], Awaitable[bytes]]


class PlanChanged(RetryableError):
    """A write changed the object so that its parts must be cut anew."""


class Plan(Protocol):
    """How an object is cut into parts."""

    def parts(self, size: int) -> Sequence[Part]:
        """All parts of the object at this size; raises PlanChanged if it can't have this size."""
        ...

    def touched(self, start: int, end: int) -> range:
        """Numbers of the parts that a write of [start, end) changes."""
        ...

    def full(self, size: int) -> Sequence[Part]:
        """The parts that later writes at the end of the file will not change."""
        ...


class StreamPlan:
    """Parts of fixed places, for files whose final size is not known."""

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
        self._size = parts[-1].end

    def parts(self, size: int) -> Sequence[Part]:
        if size != self._size:
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


class MultipartUpload:
    """See the module."""

    def __init__(
        self,
        store: ObjectStore,
        ledger: Ledger,
        budget: ByteBudget,
        read: ReadBytes,
        inode: Inode,
        key: str,
        plan: Plan,
        in_flight: int,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._budget = budget
        self._read = read
        self.inode = inode
        self.key = key
        self._plan = plan
        self._slots = trio.CapacityLimiter(in_flight)
        self._upload_id: UploadId | None = None
        self._base: ObjectRef | None = inode.base
        self._parts: dict[int, PartInfo] = {}
        self._generation: dict[int, int] = {}
        self._broken: PlanChanged | None = None
        #: The attributes that the object will carry, and the inode's seq that they belong to.
        self.seq = -1
        self.metadata: Mapping[str, str] = {}
        self.content_type: str | None = None
        self.sent_bytes = 0
        #: Set when the file has grown by another part.
        self.grown = trio.Event()
        self._wake_at = 0

    @property
    def stored_bytes(self) -> int:
        """How much of the file the bucket has as parts."""
        return sum(part.size for part in self._parts.values())

    async def start(self, metadata: Mapping[str, str], content_type: str | None) -> None:
        self.seq = self.inode.seq
        self.metadata, self.content_type = metadata, content_type
        self._upload_id = await self._store.create_upload(self.key, metadata=metadata, content_type=content_type)
        self._ledger.save_upload(self.inode.ino, self.key, self._upload_id)
        self._ledger.commit()

    def touched(self, start: int, end: int) -> None:
        """The bytes [start, end) were written, or the size changed there: those parts are stale."""
        if end <= start or self._broken is not None:
            return
        if end >= self._wake_at:
            self.grown.set()
        try:
            numbers = self._plan.touched(start, end)
        except PlanChanged as error:
            self._broken = error
            return
        for number in numbers:
            self._generation[number] = self._generation.get(number, 0) + 1
            self._parts.pop(number, None)

    async def send_full(self, size: int) -> None:
        """Upload the parts below size that are complete and missing; `grown` is set when there is another one."""
        self.grown = trio.Event()
        full = self._plan.full(size)
        self._wake_at = plans.stream_part(len(full) + 1).end
        await self._send(full)

    async def finish(self) -> ObjectInfo:
        """Upload what is missing and make the object; raises PlanChanged when it must be begun anew."""
        while True:
            if self._broken is not None:
                raise self._broken
            content = self.inode.content
            size = content.size if content is not None else self.inode.size
            parts = self._plan.parts(size)
            if all(self._is_sent(part) for part in parts):
                # No await since the check, so this is one content that the file had at this moment.
                return await self._complete(parts)
            await self._send(parts)

    def _is_sent(self, part: Part) -> bool:
        sent = self._parts.get(part.number)
        return sent is not None and sent.size == part.end - part.start

    async def _complete(self, parts: Sequence[Part]) -> ObjectInfo:
        assert self._upload_id is not None
        # Shielded: an upload that was completed unknown to us would be a version that nobody removes.
        with trio.CancelScope(shield=True):
            info = await self._store.complete_upload(
                self.key, self._upload_id, [self._parts[part.number] for part in parts]
            )
        self._ledger.delete_upload(self.inode.ino, self._upload_id)
        self._upload_id = None
        return info

    async def abort(self) -> None:
        """Drop what was uploaded; shielded, since unfinished uploads cost storage."""
        if self._upload_id is None:
            return
        with trio.move_on_after(30) as scope:
            scope.shield = True
            await self._store.abort_upload(self.key, self._upload_id)
            self._ledger.delete_upload(self.inode.ino, self._upload_id)
            self._ledger.commit()

    async def _send(self, parts: Sequence[Part]) -> None:
        missing = [part for part in parts if not self._is_sent(part)]
        async with open_flat_nursery() as nursery:
            for part in missing:
                await self._slots.acquire_on_behalf_of(part)
                nursery.start_soon(self._send_one, part)

    def _check_short(self, part: Part) -> None:
        """A part could not be read whole: the file was cut meanwhile, or its local copy is damaged."""
        content = self.inode.content
        if content is not None and part.end <= content.size:
            raise StoreError(f"{self.key}: the local copy ends before the file does")

    async def _send_one(self, part: Part) -> None:
        try:
            assert self._upload_id is not None
            generation = self._generation.get(part.number, 0)
            if part.source is PartSource.COPY:
                assert self._base is not None
                info = await self._store.copy_part(
                    self.key, self._upload_id, part.number, self._base, part.start, part.end
                )
            else:
                async with self._budget.share(part.end - part.start):
                    body = await self._read(self.inode, part.start, part.end)
                    if len(body) != part.end - part.start:
                        self._check_short(part)
                        return
                    info = await self._store.upload_part(self.key, self._upload_id, part.number, body)
                    self.sent_bytes += len(body)
            if self._generation.get(part.number, 0) == generation:
                self._parts[part.number] = info
                self._ledger.save_part(self.inode.ino, info)
        finally:
            self._slots.release_on_behalf_of(part)
