"""Engine: reconciles the bucket with the ledger, key by key.

The filesystem core says what a key should hold (`want`, `want_absent`, `changed`); the engine journals it, waits until
the key is quiet, and makes the calls.  One entry per key, so all that happens to a key before its turn coalesces.

Rules kept here: one call at a time per key, version-creating calls on a key at least `spacing_s` apart or the earlier
version removed by its ID (I10); a key that another key is still to be copied from is not removed; a failure leaves the
entry, the local content and the old version as they are (I5) and is tried again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable

import trio

from b2fs.cache.inode import Inode
from b2fs.cache.ledger import EntryRow, Ledger, Remote
from b2fs.cache.remote import RemoteView
from b2fs.cache.status import WriteBackStatus
from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.cache.writeback.conflicts import ConflictGuard
from b2fs.cache.writeback.keeper import LedgerKeeper
from b2fs.cache.writeback.listener import Listener
from b2fs.cache.writeback.multipart import PlanChanged
from b2fs.cache.writeback.pace import IDLE_S, Pace
from b2fs.cache.writeback.pending import Pending
from b2fs.cache.writeback.queue import DueQueue
from b2fs.cache.writeback.report import status, unsent_bytes
from b2fs.cache.writeback.retry import Retries, passes
from b2fs.cache.writeback.table import PendingTable
from b2fs.cache.writeback.transfer import Transfer
from b2fs.cache.writeback.versions import REMOVE_BATCH, OwnVersions
from b2fs.cache.writeback.waiting import Waiting
from b2fs.core.types import ObjectInfo, ObjectRef, VersionId
from b2fs.errors import B2fsError, NotFound, StoreError
from b2fs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

#: Changes that acknowledge nothing are committed within this time, in seconds.
_LAZY_COMMIT_S = 0.05
_LONG_S = 3600.0
_REPLAN_S = 0.5


class Engine:
    """See the module.  All methods belong to the trio thread."""

    def __init__(
        self, store: ObjectStore, ledger: Ledger, remote: RemoteView, transfer: Transfer, config: WriteBackConfig
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._remote = remote
        self._transfer = transfer
        self._config = config
        self.listener = Listener()
        self._pending = PendingTable(self._schedule)
        self._versions = OwnVersions(store, config, self._is_needed)
        self._conflicts = ConflictGuard(store, config.conflict)
        self.waiting = Waiting(self._pending, self._make_urgent, config.durable_timeout_s)
        self._retries = Retries(config)
        self._queue = DueQueue()
        self._slots = trio.Semaphore(config.requests)
        self.pace = Pace()
        self._bulk = False
        self._hurry = False
        self._nursery: trio.Nursery | None = None
        # Counters for the status.
        self._uploading = 0
        self._uploaded_files = 0

    # ---- what should be -----------------------------------------------------------------------------------------

    def want(self, key: str, inode: Inode, remote: Remote) -> None:
        """The key should hold this inode; journaled with the next commit of the ledger.

        remote is what the bucket holds there now, as far as the caller knows; it counts only for a new entry.
        """
        self.pace.foreground()
        p = self._pending.get(key)
        if p is None:
            p = self._add(key, inode, remote)
        elif p.inode is not inode:
            self._drop_inode(p)
            p.inode = inode
            p.stored_seq = -1
        else:
            self._schedule(p)
            return
        self._hold(p, inode)
        inode.changed_at = trio.current_time()
        self._ledger.save_entry(key, inode.ino, p.remote)
        self._schedule(p)

    def want_absent(self, key: str, remote: Remote) -> None:
        """The key should hold nothing.

        A directory's key waits until everything pending below it is done, so while it waits the name is gone even if
        the bucket still lists keys below it.
        """
        self.pace.foreground()
        p = self._pending.get(key)
        below = self._pending.count_below(key)
        if p is None:
            if remote.known and remote.ref is None and not below:
                return
            p = self._add(key, None, remote)
        else:
            self._drop_inode(p)
            if not p.running and p.remote.known and p.remote.ref is None and not p.superseded and not below:
                # It never reached the bucket: nothing to do there.
                self._remove(p)
                return
            p.inode = None
            p.stored_seq = -1
        self._ledger.save_entry(key, None, p.remote)
        self._schedule(p)

    def want_many(self, rows: Iterable[tuple[str, Inode | None, Remote]]) -> None:
        """As want and want_absent for many new keys, in one journal call: a directory's rename."""
        saved: list[EntryRow] = []
        for key, inode, remote in rows:
            if inode is None:
                self.want_absent(key, remote)
            elif key in self._pending:
                self.want(key, inode, remote)
            else:
                self._schedule(self._hold(self._add(key, inode, remote), inode))
                saved.append(EntryRow(key, inode.ino, remote))
        self._ledger.save_entries(saved)

    def changed(self, inode: Inode) -> None:
        """The inode's content or attributes changed: every key of it is to be brought up to date."""
        self.pace.foreground()
        inode.changed_at = trio.current_time()
        if inode.pending < len(inode.links):
            for key in inode.all_keys():
                if key not in self._pending:
                    base = inode.base
                    known = base is None or base.key == key
                    self.want(key, inode, Remote(known, base if known else None))

    def closed(self, inode: Inode) -> None:
        """The last writer closed the inode: it need not wait as long as an open one."""
        for p in self._pending.of(inode):
            self._schedule(p)
        if inode.upload is not None:
            inode.upload.grown.set()

    def grown(self, inode: Inode) -> None:
        """The inode has become so large that its upload should begin while it is written."""
        p = self._pending.get(inode.all_keys()[0]) if inode.links else None
        content = inode.content
        if self._nursery is None or p is None or p.running or p.error is not None:
            return
        if not inode.storing and content is not None and content.complete:
            p.running = inode.storing = True
            self._nursery.start_soon(self._try, p, inode, self._bring_growing)

    def remote_of(self, key: str) -> Remote | None:
        """What the bucket holds under a pending key; None if the key is not pending."""
        return p.remote if (p := self._pending.get(key)) is not None else None

    def is_gone(self, key: str) -> bool:
        """Whether the key was removed here and the bucket may still hold it."""
        return (p := self._pending.get(key)) is not None and p.inode is None

    def count_below(self, prefix: str) -> int:
        """As PendingTable.count_below."""
        return self._pending.count_below(prefix)

    def wanted_below(self, prefix: str) -> list[tuple[str, Inode | None]]:
        """Every pending key that starts with prefix and what it should hold."""
        return [(p.key, p.inode) for p in self._pending if p.key.startswith(prefix)]

    def restore(self, key: str, inode: Inode | None, remote: Remote) -> None:
        """Take up an entry of the ledger after a crash or an undrained end.

        What is under the key may be an upload of ours that was cut off before we heard of it, so nothing is assumed.
        """
        p = self._add(key, inode, Remote(False, remote.ref))
        self._versions.answered(key, None)  # the last call may have been made just now
        if inode is not None:
            self._hold(p, inode)
        self._schedule(p)

    # ---- waiting ------------------------------------------------------------------------------------------------

    async def wait_drained(self, path: str | None = None) -> None:
        """As Waiting.drained, which has fsync too: sync and the end of a mount."""
        await self.waiting.drained(path)

    def hurry(self) -> None:
        """From now on nothing waits to coalesce: the mount is ending."""
        self._hurry = True
        for p in self._pending:
            self._schedule(p)

    def hasten(self) -> None:
        """Too much waits: what could still coalesce goes now."""
        if not self._bulk:
            self._bulk = True
            for p in self._pending:
                self._schedule(p)

    def unsent_bytes(self) -> int:
        """As report.unsent_bytes."""
        return unsent_bytes(self._pending)

    def status(self) -> WriteBackStatus:
        """As report.status."""
        sent = (self._uploading, self._uploaded_files, self._transfer.sent_bytes)
        return status(self._pending, sent, self._conflicts.count, self._retries.offline)

    # ---- entries ------------------------------------------------------------------------------------------------

    def _add(self, key: str, inode: Inode | None, remote: Remote) -> Pending:
        p = self._pending.add(key, inode, remote)
        if len(self._pending) >= self._config.bulk_threshold and not self._bulk:
            self._bulk = True
            for other in self._pending:
                self._schedule(other)
        return p

    def _remove(self, p: Pending) -> None:
        self._pending.remove(p)
        self._ledger.delete_entry(p.key)
        p.wake()
        if not self._pending:
            self._bulk = False
        self.waiting.settled()

    def _hold(self, p: Pending, inode: Inode) -> Pending:
        """The key stands for the inode from now on; undone by _drop_inode or _settle."""
        inode.pending += 1
        self._pending.use_source(p)
        return p

    def _drop_inode(self, p: Pending) -> None:
        """The key no longer stands for the inode that it stood for."""
        self._pending.free_source(p)
        if p.inode is not None:
            p.inode.pending -= 1
            # A renamed file goes on: what is uploaded under the old name is copied to the new one in the bucket.
            if p.inode.upload is not None and p.inode.upload.key == p.key and p.inode.all_keys() in ([], [p.key]):
                p.cancel_upload.cancel()
            p.inode = None

    # ---- when ---------------------------------------------------------------------------------------------------

    def _make_urgent(self, p: Pending) -> None:
        if not p.urgent:
            p.urgent = True
            self._schedule(p)
            if p.inode is not None and p.inode.upload is not None:
                p.inode.upload.grown.set()

    def _schedule(self, p: Pending) -> None:
        p.due = self._due(p)
        self._queue.push(p.key, p.due, first=p.urgent)

    def _due(self, p: Pending) -> float:
        now = trio.current_time()
        if p.error is not None and p.attempts:
            return max(now, p.due)
        due = now if p.urgent or self._hurry else self._quiet_at(p)
        return max(due, self._versions.earliest(p))

    def _quiet_at(self, p: Pending) -> float:
        config, inode = self._config, p.inode
        if inode is None:
            return p.since + config.remove_quiet_s
        if inode.is_dir:
            return inode.changed_at + config.dir_quiet_s
        if inode.writers and inode.content is not None:
            return min(inode.changed_at + config.open_quiet_s, p.since + config.open_max_s)
        quiet = config.bulk_quiet_s if self._bulk else config.quiet_s
        return min(inode.changed_at + quiet, p.since + config.open_max_s)

    # ---- the loop -----------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(LedgerKeeper(self._ledger, self.pace).run)
            task_status.started()
            while True:
                await self._wait_due()
                await self._start_due(nursery)
                self._versions.forget_old()

    async def _wait_due(self) -> None:
        while self._queue.head() is None:
            await self._queue.wait(_LAZY_COMMIT_S if self._ledger.uncommitted else _LONG_S)
            self._ledger.commit()
        await trio.lowlevel.checkpoint()

    async def _start_due(self, nursery: trio.Nursery) -> None:
        removals: list[Pending] = []
        while (due := self._queue.head()) is not None:
            if due and not self._hurry and not self.pace.may_start(due, self._uploading):
                await self._queue.pause(IDLE_S / 2)
                continue
            # The slot comes first: between taking an entry and starting its task nothing may change.
            await self._slots.acquire()
            p = self._take_due()
            if p is not None and p.inode is not None:
                nursery.start_soon(self._store_one, p, p.inode)
                continue
            self._slots.release()
            if p is not None:
                removals.append(p)
        for i in range(0, len(removals), REMOVE_BATCH):
            await self._slots.acquire()
            nursery.start_soon(self._remove_many, removals[i : i + REMOVE_BATCH])

    def _take_due(self) -> Pending | None:
        """The next entry whose time has come, marked as running; None when the head of the queue was outdated."""
        if self._queue.head() is None:
            return None
        p = self._pending.get(self._queue.pop())
        if p is None or p.running or p.due > trio.current_time():
            return None
        p.due = self._due(p)
        if p.due > trio.current_time():
            self._queue.push(p.key, p.due)
            return None
        if self._pending.must_wait(p, versioning=self._store.capabilities.versioning):
            return None
        p.running = True
        if p.inode is not None:
            p.inode.storing = True
        return p

    # ---- storing ------------------------------------------------------------------------------------------------

    async def _store_one(self, p: Pending, inode: Inode) -> None:
        try:
            await self._try(p, inode, self._bring)
        finally:
            self._slots.release()

    async def _try(self, p: Pending, inode: Inode, bring: Callable[[Pending, Inode], Awaitable[None]]) -> None:
        """One try to make the bucket hold the inode under the key, and what follows from its outcome."""
        self._uploading += 1
        error: B2fsError | OSError | None = None
        try:
            with p.cancel_upload:
                await bring(p, inode)
            self._retries.succeeded()
        except PlanChanged as change:
            # No failure, but it goes up anew: not at once, or a busy writer would have us begin without end.
            log.debug("%s: %s", p.key, change)
            await trio.sleep(_REPLAN_S)
        except (B2fsError, OSError) as failure:
            error = failure
        finally:
            self._uploading -= 1
            p.running = inode.storing = False
            p.cancel_upload = trio.CancelScope()
        if error is not None:
            # A call that failed may have made its version all the same: from now on we do not know what is there.
            p.remote = Remote(False, p.remote.ref)
            self._ledger.save_entry(p.key, p.inode.ino if p.inode is not None else None, p.remote)
        if isinstance(error, NotFound) and p.inode is inode and inode.content is None and inode.base is not None:
            self._lost(p, inode, error)
        elif error is not None and p.inode is inode:
            self._failed([p], error)
        else:
            # What went wrong with something that the key should not hold any more does not matter.
            self._settle_or_repeat(p, inode)
        for other in self._pending.of(inode):
            if other is not p:
                self._schedule(other)  # it may have waited for this upload

    async def _bring_growing(self, p: Pending, inode: Inode) -> None:
        """Upload part by part while the file is written; then as any other."""
        upload = await self._transfer.begin_stream(inode, p.key)
        try:
            while inode.writers and inode.content is not None and not p.urgent and not self._hurry:
                await upload.send_full(inode.content.size)
                with trio.move_on_after(self._config.open_quiet_s):
                    await upload.grown.wait()
        except BaseException:
            await self._transfer.give_up(upload)
            raise
        await self._bring(p, inode)

    async def _bring(self, p: Pending, inode: Inode) -> None:
        """One try to make the bucket hold the inode under the key."""
        seq, content_seq = inode.seq, inode.content_seq
        if not p.holds(inode):
            await self._conflicts.check(p, self._versions.seconds_ago(p.key))
            info, seq = await self._transfer.store(inode, p.key)
            self._stored(p, inode, info, seq, content_seq)
        await self._versions.remove_superseded(p)
        if p.inode is inode:
            # Only now: what is tied with an older version of ours is not durable before that one is gone.
            p.stored_seq = seq

    def _stored(self, p: Pending, inode: Inode, info: ObjectInfo, seq: int, content_seq: int) -> None:
        """The bucket has confirmed a version.  No await: state is changed in one step."""
        self._versions.made(p, info.ref)
        self._adopt(inode, info.ref, seq, content_seq)
        inode.base_modified_ns = 0
        if inode.attrs_known or info.metadata is not None:
            self._remote.note_object(info)
        self._uploaded_files += 1
        if inode.pending:
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

    def _is_needed(self, key: str, version: VersionId) -> bool:
        """Whether a version is still to be copied from, or read by an open file."""
        return self._pending.is_source_version(key, version) or self.listener.in_use(version)

    def _settle_or_repeat(self, p: Pending, inode: Inode | None) -> None:
        p.attempts, p.error = 0, None
        if p.inode is inode and (inode is None or p.stored_seq >= inode.seq):
            self._settle(p, inode)
            return
        self._ledger.save_entry(p.key, p.inode.ino if p.inode else None, p.remote)
        p.urgent = p.urgent and bool(p.waiters)
        p.wake()
        p.since = trio.current_time()
        self._schedule(p)

    def _settle(self, p: Pending, inode: Inode | None) -> None:
        if inode is not None:
            inode.pending -= 1
            if not inode.pending:
                self._ledger.delete_inode(inode.ino)
        self._remove(p)
        self.listener.settled(p.key, inode)

    # ---- removing -----------------------------------------------------------------------------------------------

    async def _remove_many(self, batch: list[Pending]) -> None:
        self._uploading += 1
        try:
            failed = await self._versions.remove(batch, self._transfer.side_keys)
        except StoreError as error:
            self._failed(batch, error)
            return
        finally:
            self._uploading -= 1
            self._slots.release()
            for p in batch:
                p.running = False
        self._retries.succeeded()
        for p in batch:
            if p.key in failed:
                self._failed([p], failed[p.key])
            else:
                self._removed(p)

    def _removed(self, p: Pending) -> None:
        p.remote = Remote(True, None)
        p.newest = None
        p.superseded.clear()
        self._remote.note_absent(p.key)
        self._settle_or_repeat(p, None)

    # ---- failures -----------------------------------------------------------------------------------------------

    def _failed(self, batch: list[Pending], error: B2fsError | OSError) -> None:
        reason = error if isinstance(error, B2fsError) else StoreError(f"local disk: {error}")
        for p in batch:
            p.attempts += 1
            p.error = reason
            p.running = False
            p.due = trio.current_time() + self._retries.delay(reason, p.attempts)
            self._queue.push(p.key, p.due)
            if not passes(reason):
                log.error("%s cannot be stored and will be tried again: %s", p.key, reason)
                self.listener.failed(p.key, p.inode, reason)
            p.wake()

    def _lost(self, p: Pending, inode: Inode, error: NotFound) -> None:
        """What the key was to be copied from was removed by somebody else, and there is no local copy."""
        log.error("%s: its content is gone from the bucket, somebody else removed it: %s", p.key, error)
        p.stored_seq = inode.seq
        self._settle_or_repeat(p, inode)
