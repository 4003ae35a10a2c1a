"""One multipart upload of one inode, which may be written to while it goes up.

The parts are a snapshot only when all of them are newer than the last write over them, so a write drops the parts that
it touches and they go up again; the upload is completed in a moment in which no part is missing.  So a key never holds
a torn content (I3).  What is appended once the end is near is left for the next version, so an end comes.

Every part that the server has acknowledged is in the ledger.  After a crash the upload goes on with those parts whose
bytes are still the same here and there; bytes that are `away` are only there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence

import trio

from b2fs.cache.inode import Inode
from b2fs.cache.ledger import Ledger
from b2fs.cache.ledger_rows import PartRow, UploadRow
from b2fs.cache.parallel import open_flat_nursery
from b2fs.cache.writeback.budget import ByteBudget
from b2fs.cache.writeback.claim import Claim
from b2fs.cache.writeback.plans import Plan, PlanChanged, StreamPlan, UploadLost
from b2fs.core import parts as plans
from b2fs.core.extents import Extents
from b2fs.core.parts import Part, PartSource
from b2fs.core.types import ObjectInfo, ObjectRef, PartInfo, UploadId
from b2fs.errors import NotFound, StoreError
from b2fs.store.protocol import Body, ObjectStore

ReadBytes = Callable[[Inode, int, int], Awaitable[Body]]
CountSent = Callable[[int], None]


class MultipartUpload:
    """See the module."""

    def __init__(
        self,
        store: ObjectStore,
        ledger: Ledger,
        budget: ByteBudget,
        ways: tuple[ReadBytes, CountSent],
        inode: Inode,
        key: str,
        plan: Plan,
        in_flight: int,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._budget = budget
        self._read, self._count_sent = ways
        self.inode = inode
        self.key = key
        self._plan = plan
        self._slots = trio.CapacityLimiter(in_flight)
        self.upload_id: UploadId | None = None
        self._base: ObjectRef | None = inode.base
        self._parts: dict[int, PartInfo] = {}
        self._generation: dict[int, int] = {}
        self._broken: PlanChanged | None = None
        #: What an earlier life had sent, until it has been compared with what the server has and with what is here.
        self._unchecked: tuple[PartRow, ...] = ()
        #: The numbers of the parts whose bytes are `away`.
        self._away: set[int] = set()
        self._unsynced = True
        #: The size of the object once that is settled, and what was written behind it or too late for it.
        self._end = plan.size
        self.late = Extents()
        self._completing = False
        #: Nothing is known to be under the key, which is to be looked at before the end.
        self.claim: Claim | None = None
        #: The attributes that the object will carry (None: not known any more), and the inode's seq of that time.
        self.seq = -1
        self.metadata: Mapping[str, str] | None = None
        self.content_type: str | None = None
        #: Nobody wants what it brings any more.
        self.unwanted = False
        #: The server has dropped it although some bytes were only there.
        self.lost = False
        #: Set when the file has grown by another part, or the upload is to be finished.
        self.grown = trio.Event()
        self._wake_at = 0

    @property
    def stored_bytes(self) -> int:
        """How much of the file the bucket has as parts."""
        return sum(part.size for part in self._parts.values())

    @property
    def away(self) -> bool:
        """Whether some bytes of the file are only in this upload."""
        return bool(self._away)

    @property
    def owed(self) -> bool:
        """Whether it must be completed, since some bytes that are wanted are only there."""
        return bool(self._away) and not self.unwanted and not self.lost

    @property
    def lasting(self) -> bool:
        """Whether another try, or another mount, can go on with it."""
        return isinstance(self._plan, StreamPlan) and self._broken is None and self.upload_id is not None

    # ---- life ---------------------------------------------------------------------------------------------------

    async def start(self, metadata: Mapping[str, str], content_type: str | None) -> None:
        self.seq = self.inode.seq
        self.metadata, self.content_type = metadata, content_type
        self.upload_id = await self._store.create_upload(self.key, metadata=metadata, content_type=content_type)
        self._ledger.save_upload(self.upload_id, self.key, self.inode.ino)
        self._ledger.commit()

    def resume(self, row: UploadRow) -> None:
        """Take up what a ledger has of an upload that was cut off; the inode has its content already."""
        content = self.inode.content
        assert content is not None and content.complete
        self.upload_id, self._unchecked = row.upload_id, row.parts
        for part in row.parts:
            place = plans.stream_part(part.number)
            if part.away and place.end <= content.size:
                self._away.add(part.number)
                content.away.add(place.start, place.end)
            elif part.away:
                # Killed after the file was cut off before it, and before that was committed.
                self._ledger.delete_part(row.upload_id, part.number)

    def touched(self, start: int, end: int) -> None:
        """The bytes [start, end) were written, or the size changed there: those parts are stale."""
        if end <= start or self._broken is not None:
            return
        if end >= self._wake_at:
            self.grown.set()
        if self._completing:
            self.late.add(start, end)
        if self._end is not None:
            if start >= self._end:
                self.late.add(start, end)
                return
            # With this change, but without what was appended before, the object would be what the file never was.
            self._end = None
        try:
            numbers = self._plan.touched(start, end)
        except PlanChanged as error:
            self._broken = error
            return
        for number in numbers:
            self._generation[number] = self._generation.get(number, 0) + 1
            self._parts.pop(number, None)
            self._forget_away(number)

    def _forget_away(self, number: int) -> None:
        """The file was cut off before a part that was away: nobody needs it.  The caller commits."""
        if number in self._away:
            assert self.upload_id is not None
            self._away.discard(number)
            self._ledger.delete_part(self.upload_id, number)

    async def send_full(self, size: int) -> None:
        """Upload the parts below size that are complete and missing; `grown` is set when there is another one."""
        self.grown = trio.Event()
        await self._check()
        full = self._plan.full(size)
        self._wake_at = plans.stream_part(len(full) + 1).end
        await self._send(full)

    async def finish(self) -> ObjectInfo:
        """Upload what is missing and make the object; raises PlanChanged when it must be begun anew.

        `late` is then what was written since and is not in the object.
        """
        await self._check()
        self._end = self._plan.size
        while True:
            if self._broken is not None:
                raise self._broken
            if self._end is None:
                content = self.inode.content
                self._end = content.size if content is not None else self.inode.size
                self.late.clear()
            parts = self._plan.parts(self._end)
            missing = [part for part in parts if not self._is_sent(part)]
            if missing:
                await self._send(missing)
            elif self._away and self._unsynced:
                # If the answer gets lost, these parts are how the object is known again.
                self._unsynced = False
                self._ledger.commit()
                await trio.to_thread.run_sync(self._ledger.sync)
            elif self.claim is not None:
                claim, self.claim = self.claim, None
                await claim.look(self._store)
            else:
                # No await since the check, so this is one content that the file had at this moment.
                return await self._complete(parts)

    def _is_sent(self, part: Part) -> bool:
        sent = self._parts.get(part.number)
        return sent is not None and sent.size == part.end - part.start

    async def _complete(self, parts: Sequence[Part]) -> ObjectInfo:
        assert self.upload_id is not None
        self._ledger.commit()
        self._completing = True
        chosen = [self._parts[part.number] for part in parts]
        try:
            # Shielded: an upload that was completed unknown to us would be a version that nobody removes.
            with trio.CancelScope(shield=True):
                info = await self._store.complete_upload(self.key, self.upload_id, chosen)
        finally:
            self._completing = False
        return info

    def completed(self) -> None:
        """Its object is known to be in the bucket; with the next commit the journal knows it."""
        assert self.upload_id is not None
        self._away.clear()
        self._ledger.delete_upload(self.upload_id)
        self.upload_id = None

    # ---- sending ------------------------------------------------------------------------------------------------

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
            assert self.upload_id is not None
            generation = self._generation.get(part.number, 0)
            if part.source is PartSource.COPY:
                assert self._base is not None
                info = await self._store.copy_part(
                    self.key, self.upload_id, part.number, self._base, part.start, part.end
                )
            else:
                async with self._budget.share(part.end - part.start):
                    body = await self._read(self.inode, part.start, part.end)
                    if len(body) != part.end - part.start:
                        self._check_short(part)
                        return
                    info = await self._store.upload_part(self.key, self.upload_id, part.number, body)
                    self._count_sent(len(body))
            if self._generation.get(part.number, 0) == generation:
                self._parts[part.number] = info
                self._unsynced = True
                self._ledger.save_part(self.upload_id, info)
        finally:
            self._slots.release_on_behalf_of(part)

    # ---- parts without local bytes ------------------------------------------------------------------------------

    def spare(self) -> list[Part]:
        """Parts that the server has, whose bytes are still here and need not be."""
        content = self.inode.content
        if not self.lasting or self.lost or self._completing or content is None or not content.complete:
            return []
        full = (plans.stream_part(number) for number in sorted(self._parts) if number not in self._away)
        return [part for part in full if part.end <= content.size and self._is_sent(part)]

    def send_away(self, parts: Sequence[Part]) -> None:
        """The bytes of these `spare` parts count as gone from now on, here and in the journal; the caller commits.

        They may go from the disk when that is durable.
        """
        content = self.inode.content
        assert content is not None and self.upload_id is not None
        self._ledger.mark_away(self.upload_id, [self._parts[part.number] for part in parts])
        for part in parts:
            self._away.add(part.number)
            content.away.add(part.start, part.end)
        if content.dense:
            content.dense = False  # holes will be punched
            self._ledger.save_inode(self.inode)

    async def find_completed(self) -> ObjectInfo | None:
        """The object, if the upload is unknown to the server because it was completed and we never heard of it.

        What was written here since is not known then: all that is not away counts as `late`.
        """
        rows = sorted(self._known_parts(), key=lambda part: part.number)
        size = sum(part.size for part in rows)
        try:
            info = await self._store.head(self.key)
        except NotFound:
            return None
        etag = plans.multipart_etag([part.etag for part in rows])
        if str(info.ref.version_id) != str(self.upload_id) and (info.ref.etag != etag or info.size != size):
            return None
        content = self.inode.content
        if content is not None:
            self.late = Extents(content.away.gaps(0, content.size))
        return info

    def _known_parts(self) -> list[PartInfo]:
        unchecked = [PartInfo(row.number, row.etag, row.size) for row in self._unchecked]
        return unchecked or list(self._parts.values())

    async def rescue(self) -> bool:
        """The server has forgotten the upload: whether all bytes that count as away are here all the same."""
        parts = {part.number: part for part in self._known_parts()}
        for number in sorted(self._away):
            if not await self._is_here(parts[number]):
                return False
        content = self.inode.content
        if content is not None:
            content.away.clear()
        self._away.clear()
        return True

    # ---- going on after a crash ---------------------------------------------------------------------------------

    def mistrust(self) -> None:
        """The server refuses the parts that it had acknowledged: compare all of them before they are used again."""
        self._unchecked = tuple(
            PartRow(part.number, part.etag, part.size, part.number in self._away) for part in self._parts.values()
        )
        self._parts.clear()

    async def _check(self) -> None:
        """Compare what was sent with the server and with the local bytes; only what agrees counts.

        Nothing to do unless an earlier life has sent it, or the server has refused it since.  Raises UploadLost.
        """
        if not self._unchecked:
            return
        assert self.upload_id is not None
        there = {part.number: part for part in await self._store.list_parts(self.key, self.upload_id)}
        for row in self._unchecked:
            part = PartInfo(row.number, row.etag, row.size)
            generation = self._generation.get(row.number, 0)
            if there.get(row.number) != part:
                if row.number in self._away and not await self._is_here(part):
                    self.lost = True
                    raise UploadLost(f"{self.key}: the server has lost part {row.number}, which was only there")
                self._take_back(row.number)
                continue
            same = row.number in self._away or await self._is_here(part)
            if same and self._generation.get(row.number, 0) == generation:
                self._parts[row.number] = part
        self._unchecked = ()

    def _take_back(self, number: int) -> None:
        """The bytes of a part that counts as away are here after all."""
        content = self.inode.content
        if number in self._away and content is not None:
            place = plans.stream_part(number)
            content.away.remove(place.start, place.end)
            self._forget_away(number)

    async def _is_here(self, part: PartInfo) -> bool:
        """Whether the local bytes in a part's place are those that were sent; an ETag that is no MD5 cannot tell."""
        content = self.inode.content
        place = plans.stream_part(part.number)
        if content is None or place.start + part.size > content.size:
            return False
        path, end = content.path(), place.start + part.size
        return await trio.to_thread.run_sync(_md5_of_range, path, place.start, end) == part.etag


def _md5_of_range(path: str, start: int, end: int) -> str:
    """MD5 of bytes [start, end) of a file, a piece at a time."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while start < end and (piece := file.read(min(1 << 20, end - start))):
            digest.update(piece)
            start += len(piece)
    return digest.hexdigest()
