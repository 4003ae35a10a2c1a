"""Storing: the tries to bring entries into the bucket, and what follows from their outcome.

A failure leaves the entry, the local content and the old version as they are (I5); the entry is tried again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable

import trio

from b2fs.cache.inode import Inode
from b2fs.cache.ledger import Ledger
from b2fs.cache.ledger_rows import Remote
from b2fs.cache.localsync import LocalSync
from b2fs.cache.parallel import for_each
from b2fs.cache.remote import RemoteView
from b2fs.cache.writeback import merge
from b2fs.cache.writeback.claim import NameTaken
from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.cache.writeback.conflicts import ConflictGuard
from b2fs.cache.writeback.doubts import Doubts
from b2fs.cache.writeback.listener import Listener
from b2fs.cache.writeback.newnames import NewNames
from b2fs.cache.writeback.pending import Pending
from b2fs.cache.writeback.plans import PlanChanged
from b2fs.cache.writeback.retry import Retries, passes
from b2fs.cache.writeback.schedule import Schedule
from b2fs.cache.writeback.table import PendingTable
from b2fs.cache.writeback.transfer import Stored, Transfer
from b2fs.cache.writeback.unseen import Unseen
from b2fs.cache.writeback.versions import OwnVersions
from b2fs.cache.writeback.waiting import Waiting
from b2fs.core.types import ObjectInfo, ObjectRef
from b2fs.errors import B2fsError, InvalidRequest, NotFound, RetryableError, SlowDown, StoreError

log = logging.getLogger(__name__)

_REPLAN_S = 0.5
#: So many tries after the first do not find what is to be copied before it is taken for gone: about 10 s.
_LOST_AFTER = 3
#: An upload of a file that is still written waits this long for its writer to pause, in seconds.
_STREAM_PATIENCE_S = 1.0


class Storing:
    """See the module.  All methods belong to the trio thread."""

    def __init__(
        self,
        ledger: Ledger,
        local: LocalSync,
        remote: RemoteView,
        transfer: Transfer,
        config: WriteBackConfig,
        pending: PendingTable,
        schedule: Schedule,
        versions: OwnVersions,
        doubts: Doubts,
        conflicts: ConflictGuard,
        unseen: Unseen,
        new_names: NewNames,
        waiting: Waiting,
    ) -> None:
        self._ledger = ledger
        self._local = local
        self._remote = remote
        self._transfer = transfer
        self._config = config
        self._pending = pending
        self._schedule = schedule
        self._versions = versions
        self._doubts = doubts
        self._conflicts = conflicts
        self._unseen = unseen
        self._new_names = new_names
        self._waiting = waiting
        self._retries = Retries(config)
        self.listener = Listener()
        # Figures for the status.
        self.under_way = 0
        self.stored_files = 0

    @property
    def offline(self) -> bool:
        """The bucket cannot be reached."""
        return self._retries.offline

    def drop(self, p: Pending) -> None:
        """The entry is done."""
        self._pending.remove(p)
        self._ledger.delete_entry(p.key)
        p.wake()
        self._schedule.removed()
        self._waiting.settled()

    def vanished(self, key: str) -> None:
        """A key without an object holds nothing from now on: answers from before may show the directory that it was."""
        if key.endswith("/"):
            self._remote.note_absent(key)
            self.listener.settled(key, None)

    # ---- storing ------------------------------------------------------------------------------------------------

    def grows(self, p: Pending, inode: Inode) -> bool:
        """Whether the file goes up part by part while it is written, so that nobody can say when that ends."""
        content = inode.content
        growing = p.inode is inode and inode.writers > 0 and not p.urgent and not self._schedule.hurrying
        return growing and content is not None and content.complete and content.size >= self._config.stream_bytes

    async def attempt(self, p: Pending, inode: Inode) -> None:
        """One try to make the bucket hold the inode under the key, and what follows from its outcome."""
        await self._try(p, inode, self._bring)

    async def attempt_growing(self, p: Pending, inode: Inode) -> None:
        """As attempt, of a file that is still being written: part by part."""
        await self._try(p, inode, self._bring_growing)

    async def _try(self, p: Pending, inode: Inode, bring: Callable[[Pending, Inode], Awaitable[None]]) -> None:
        """One try to make the bucket hold the inode under the key, and what follows from its outcome."""
        self.under_way += 1
        error: B2fsError | OSError | None = None
        base = inode.base
        p.asked = (inode, inode.seq)
        try:
            with p.try_scope():
                await bring(p, inode)
            self._retries.succeeded()
        except PlanChanged as change:
            # No failure, but it goes up anew: not at once, or a busy writer would have us begin without end.
            log.debug("%s: %s", p.key, change)
            await trio.sleep(_REPLAN_S)
        except (B2fsError, OSError) as failure:
            error = failure
        except Exception as mistake:
            # What goes wrong inside b2fs with one file must not end the mount for all others.
            log.exception("%s: a mistake inside b2fs", p.key)
            error = StoreError(f"a mistake inside b2fs, see the log: {mistake!r}")
        finally:
            self.under_way -= 1
            p.running = inode.storing = False
            p.scope = None
            self._pending.ended(p)
        if inode.upload is not None and inode.upload.unwanted:
            self._transfer.forget(inode.upload)
        self._follow(p, inode, base, error)
        for other in self._pending.of(inode):
            if other is not p:
                self._schedule.put(other)  # it may have waited for this upload
        if inode.upload is not None and (owed := self._pending.get(inode.upload.key)) not in (None, p):
            self._schedule.put(owed)

    def _follow(self, p: Pending, inode: Inode, base: ObjectRef | None, error: B2fsError | OSError | None) -> None:
        """What follows from the outcome of a try that began with this base."""
        if error is not None:
            if not isinstance(error, InvalidRequest):
                # A call that failed may have made its version all the same: from now on we do not know what is there.
                p.remote = Remote(False, p.remote.ref)
                p.layered = True
                self._note_lost([p], error)
            self._journal(p)
        if isinstance(error, NotFound) and p.inode is inode and inode.base != base:
            self._settle_or_repeat(p, inode)  # what was not found is not what is wanted by now
        elif isinstance(error, NotFound) and p.inode is inode and inode.content is None and base is not None:
            if p.attempts < _LOST_AFTER:
                # One answer may be a mistake, of a server that does not show yet what was stored a moment ago.
                self._failed([p], RetryableError(f"its content is not found in the bucket: {error}"))
            else:
                self._lost(p, inode, error)
        elif error is not None and (p.inode is inode or self._transfer.owed(p.key) is inode):
            self._failed([p], error)
        else:
            # What went wrong with something that the key should not hold any more does not matter.
            self._settle_or_repeat(p, inode)

    async def _bring_growing(self, p: Pending, inode: Inode) -> None:
        """Upload part by part while the file is written; then, or when it has not grown for long, as any other."""
        await self._transfer.wait_server_known()
        await self._transfer.pace.wait_idle(_STREAM_PATIENCE_S)
        if p.inode is not inode:
            return  # it was removed or renamed meanwhile
        upload = await self._transfer.stream(inode, p.key)
        grew_at = trio.current_time()
        while self.grows(p, inode) and trio.current_time() - grew_at < self._config.open_max_s:
            assert inode.content is not None
            if not await self._transfer.send_full(upload, inode.content.size):
                break
            with trio.move_on_after(self._config.open_quiet_s):
                await upload.grown.wait()
                grew_at = trio.current_time()
        await self._bring(p, inode)

    async def _bring(self, p: Pending, inode: Inode) -> None:
        """One try to make the bucket hold the inode under the key."""
        await self._transfer.wait_server_known()
        seq, content_seq = inode.seq, inode.content_seq
        if p.holds(inode) and self._doubts.threaten(p):
            await self._look_again(p, inode)
        if not p.holds(inode):
            await self._transfer.sources.pin(self._pending, p.key)
            await self._journal_copies([p])
            theirs = await self._conflicts.check(p, self._versions.seconds_ago(p.key))
            if theirs is not None and p.inode is not None:
                self._merge(p.inode, theirs)
            self._begin(p, inode)
            if theirs is not None:
                # Before the server has heard of it: the next mount must find theirs as the base of what it brings back.
                self._ledger.commit()
            stored = await self._put_first(p, inode)
            seq = stored.seq
            self._stored(p, inode, stored, content_seq)
        else:
            self._remote.note_kept(p.key)
        if p.superseded:
            await self._journal_copies([p])
        await self._versions.remove_superseded(p)
        p.stores += 1
        if p.inode is inode:
            # Only now: what is tied with an older version of ours is not durable before that one is gone.
            p.stored_seq = seq

    def _merge(self, inode: Inode, theirs: ObjectInfo) -> None:
        """Only attributes were changed here, and somebody else has put another version: it takes part in ours."""
        if inode.is_dir:
            merge.adopt(inode, theirs)
        else:
            merge.carry(inode, theirs, lambda: self._transfer.fits(inode, [theirs.key]))
            self.listener.replaced(inode)
        self._ledger.save_inode(inode)

    async def _put_first(self, p: Pending, inode: Inode) -> Stored:
        """Store the inode under the key, and see to it that what somebody else has just put there is not lost."""
        claim = self._conflicts.claim(p, inode, many=len(self._pending) >= self._config.bulk_threshold)
        if claim is None:
            stored = await self._transfer.store(inode, p.key)
            self._new_names.stored_again(stored.info.ref)
            return stored
        try:
            stored = await self._transfer.store(inode, p.key, claim)
        except NameTaken:
            await self._conflicts.taken(p)
            return await self._transfer.store(inode, p.key)
        if not claim.proved:
            self._new_names.stored(stored.info.ref)
        return stored

    async def _journal_copies(self, changing: Iterable[Pending]) -> None:
        """Before what was copied from goes: from now on no mount wants to copy it again, whatever ends this one.

        Else the next mount would copy from nothing, and a rename would take the copy away as if nobody wanted it.
        Checkpoint: only if something was copied from one of these.  Raises OSError if the journal cannot be written.
        """
        if any(self._pending.was_copied(p.key) for p in changing):
            copies = self._pending.copies
            await self._local.journal()
            self._pending.journaled(copies)

    def _begin(self, p: Pending, inode: Inode) -> None:
        """Journal that what the bucket holds is unknown: after a kill the server may carry the request out late.

        It rides along with the next commit: a request that is killed before that has hardly begun.
        """
        p.asked = (inode, inode.seq)  # it may have changed since the try began
        self._journal(p)

    def _journal(self, p: Pending) -> None:
        self._ledger.save_entry(p.key, p.inode.ino if p.inode is not None else None, self._versions.journaled(p))

    async def _look_again(self, p: Pending, inode: Inode) -> None:
        """A lost request may have been carried out after ours: then ours is to be stored again."""
        if await self._conflicts.is_covered(p):
            log.warning("%s was changed by a request of ours that was lost sight of; it is stored again", p.key)
            p.stored_seq = -1
            content = inode.content
            if content is not None and content.complete:
                inode.base_content_seq = -1  # what it would be copied from may be gone, too
        else:
            self._doubts.end(p.key)

    def _stored(self, p: Pending, inode: Inode, stored: Stored, content_seq: int) -> None:
        """The bucket has confirmed a version.  No await: state is changed in one step."""
        info, content = stored.info, inode.content
        self._versions.made(p, info.ref)
        if stored.late is not None and content is not None:
            if not stored.late:
                content_seq = inode.content_seq
            if stored.late or content.away or inode.writers:
                content.rest_on(info.size, stored.late)
        self._adopt(inode, info.ref, stored.seq, content_seq)
        inode.base_modified_ns = 0
        if inode.attrs_known or info.metadata is not None:
            self._remote.note_object(info)
        self.stored_files += 1
        done = p.inode is inode and inode.pending == 1 and stored.seq >= inode.seq and not p.superseded
        if inode.pending and (not done or self._doubts.threaten(p)):
            # Before any older version goes: after a crash the local changes must find the base that they are on.
            self._ledger.save_inode(inode)
        if p.superseded:
            self._ledger.commit()

    def _adopt(self, inode: Inode, ref: ObjectRef, seq: int, content_seq: int) -> None:
        """The new version is the inode's base from now on."""
        names = self._pending.of(inode)
        for p in names:
            self._pending.free_source(p)
        inode.base = ref
        inode.base_content_seq = content_seq
        inode.base_seq = seq
        for p in names:
            self._pending.use_source(p)

    def _settle_or_repeat(self, p: Pending, inode: Inode | None) -> None:
        p.attempts, p.error = 0, None
        doubted = self._doubts.threaten(p) and (inode is None or p.holds(inode))
        if p.inode is inode and (inode is None or p.stored_seq >= inode.seq) and not doubted:
            self._settle(p, inode)
            return
        self._journal(p)
        p.urgent = p.urgent and bool(p.waiters)
        p.wake()
        p.since = trio.current_time()
        self._schedule.put(p)

    def _settle(self, p: Pending, inode: Inode | None) -> None:
        if inode is not None:
            inode.pending -= 1
            if not inode.pending:
                self._ledger.delete_inode(inode.ino)
        self.drop(p)
        self.listener.settled(p.key, inode)

    # ---- removing -----------------------------------------------------------------------------------------------

    async def remove(self, batch: list[Pending]) -> None:
        self.under_way += 1
        for p in batch:
            p.asked = None
        try:
            await self._transfer.wait_server_known()
            going = [p for p in batch if p.gone_at is None]
            returned, failed = await self._look_for_returned([p for p in batch if p.gone_at is not None])
            left, unread = await self._unseen.find(p for p in going if not self._versions.removes_by_version(p))
            failed |= unread
            going = [p for p in (*going, *returned) if p.key not in left and p.key not in unread]
            await self._journal_copies(going)
            failed |= await self._versions.remove(going, self._transfer.side_keys)
        except (StoreError, OSError) as error:
            self._note_lost(batch, error)
            self._failed(batch, error)
            return
        finally:
            self.under_way -= 1
            for p in batch:
                p.running = False
                self._pending.ended(p)
        if len(failed) < len(batch):
            self._retries.succeeded()
        for p in batch:
            if p.key in left:
                self._left(p, left[p.key])
                continue
            refusal = failed.get(p.key)
            # What a server refuses as malformed is not there, unless we have seen it there.
            if refusal is None or (isinstance(refusal, InvalidRequest) and p.remote.ref is None):
                self._removed(p)
            else:
                self._note_lost([p], refusal)
                self._failed([p], refusal)

    async def _look_for_returned(self, batch: list[Pending]) -> tuple[list[Pending], dict[str, StoreError]]:
        """Those of these removed keys that hold what a lost request of ours has brought since: to be removed again.

        And the errors of those that cannot be looked at.
        """
        returned: list[Pending] = []
        failed: dict[str, StoreError] = {}

        async def look(p: Pending) -> None:
            try:
                if await self._conflicts.has_returned(p):
                    log.info("%s was brought back by a request whose answer was lost; it is removed again", p.key)
                    returned.append(p)
                else:
                    self._doubts.end(p.key)
            except StoreError as error:
                failed[p.key] = error

        await for_each(batch, look)
        return returned, failed

    def _removed(self, p: Pending) -> None:
        p.remote = Remote(True, None)
        if p.inode is None:
            p.gone_at = trio.current_time()
        p.stores += 1
        p.newest = None
        p.superseded.clear()
        self._remote.note_absent(p.key)
        self._settle_or_repeat(p, None)

    def _left(self, p: Pending, info: ObjectInfo) -> None:
        """What somebody else has put under the key stays there."""
        if p.inode is None:
            self._conflicts.left(info.ref)
            p.remote = Remote(True, info.ref)
            p.gone_at = trio.current_time()
        p.stores += 1
        self._remote.note_kept(p.key)
        self._settle_or_repeat(p, None)

    def _note_lost(self, batch: Iterable[Pending], error: Exception) -> None:
        """A try ended with this error: the server may have carried it out all the same, or do so later.

        The store tells of answers that did not come, but not of those that came and could not be understood, nor of
        those among many in one answer.
        """
        if isinstance(error, RetryableError) and not isinstance(error, SlowDown):
            for p in batch:
                self._doubts.lost(p)

    # ---- failures -----------------------------------------------------------------------------------------------

    def _failed(self, batch: list[Pending], error: B2fsError | OSError) -> None:
        reason = error if isinstance(error, B2fsError) else StoreError(f"local disk: {error}")
        for p in batch:
            p.attempts += 1
            p.error = reason
            p.running = False
            p.due = trio.current_time() + self._retries.delay(reason, p.attempts)
            self._schedule.queue.push(p.key, p.due)
            if not passes(reason):
                log.error("%s cannot be stored and will be tried again: %s", p.key, reason)
                self.listener.failed(p.key, p.inode, reason)
            p.wake()

    def _lost(self, p: Pending, inode: Inode, error: NotFound) -> None:
        """What the key was to be copied from was removed by somebody else, and there is no local copy."""
        log.error("%s: its content is gone from the bucket, somebody else removed it: %s", p.key, error)
        p.stored_seq = inode.seq
        self._settle_or_repeat(p, inode)
