"""Engine: reconciles the bucket with the ledger, key by key.

The filesystem core says what a key should hold (`want`, `want_absent`, `changed`); the engine journals it, waits until
the key is quiet, and has `Storing` make the calls.  One entry per key, so all that happens to a key before its turn
coalesces.

Rules kept here: one call at a time per key, version-creating calls on a key at least `spacing_s` apart or the earlier
version removed by its ID (I10); a key that another key is still to be copied from is not removed; a failure leaves the
entry, the local content and the old version as they are (I5) and is tried again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable

import trio

from b2fs.cache.inode import Inode
from b2fs.cache.ledger import Ledger
from b2fs.cache.ledger_rows import EntryRow, Remote
from b2fs.cache.localsync import LocalSync
from b2fs.cache.remote import RemoteView
from b2fs.cache.status import WriteBackStatus
from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.cache.writeback.conflicts import ConflictGuard
from b2fs.cache.writeback.doubts import Doubts
from b2fs.cache.writeback.keeper import LedgerKeeper
from b2fs.cache.writeback.listener import Listener
from b2fs.cache.writeback.newnames import NewNames
from b2fs.cache.writeback.pending import Pending
from b2fs.cache.writeback.report import status
from b2fs.cache.writeback.retry import passes
from b2fs.cache.writeback.schedule import Schedule
from b2fs.cache.writeback.storing import Storing
from b2fs.cache.writeback.table import PendingTable
from b2fs.cache.writeback.transfer import Transfer
from b2fs.cache.writeback.unseen import Unseen
from b2fs.cache.writeback.versions import REMOVE_BATCH, OwnVersions
from b2fs.cache.writeback.waiting import Waiting
from b2fs.core.types import VersionId
from b2fs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

#: Changes that acknowledge nothing are committed within this time, in seconds.
_LAZY_COMMIT_S = 0.05
#: How often that is tried while the disk is full.
_FULL_COMMIT_S = 1.0
_LONG_S = 3600.0
#: So many outdated rows of the queue are dropped at once.
_DROPS = 100
#: How often somebody who waits until uploads are done looks, in seconds.
_CALM_S = 0.1
#: At its end a drain waits so long for aborts of uploads, and for a look at new names, in seconds.
_ABORTS_S = 5.0


class Engine:
    """See the module.  All methods belong to the trio thread."""

    def __init__(
        self,
        store: ObjectStore,
        ledger: Ledger,
        local: LocalSync,
        remote: RemoteView,
        transfer: Transfer,
        config: WriteBackConfig,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._transfer = transfer
        self._config = config
        self.pace = transfer.pace
        self._pending = PendingTable(self._freed)
        self._doubts = Doubts()
        self._versions = OwnVersions(store, config, self._doubts, self._is_needed)
        self._conflicts = ConflictGuard(store, config.conflict, transfer.writer, self._doubts)
        self._new_names = NewNames(store, self._conflicts, config)
        self._schedule = Schedule(self._pending, self._versions, config)
        self.waiting = Waiting(self._pending, self._schedule.make_urgent, self._doubts, config.durable_timeout_s)
        self._storing = Storing(
            ledger,
            local,
            remote,
            transfer,
            config,
            self._pending,
            self._schedule,
            self._versions,
            self._doubts,
            self._conflicts,
            Unseen(store, self._conflicts),
            self._new_names,
            self.waiting,
        )
        self.local = local
        self._slots = trio.Semaphore(config.requests)
        self._nursery: trio.Nursery | None = None
        self._lazy_commit_s = _LAZY_COMMIT_S
        self._resting = False
        ledger.began = self._began
        store.watch_lost(self._lost)

    def listen(self, listener: Listener) -> None:
        """Tell this listener from now on."""
        self._storing.listener = listener

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
            if p.running and p.inode is None:
                p.remote = Remote(False, p.remote.ref)  # after a crash nobody knows when its removal is carried out
            self._drop_inode(p)
            p.inode = inode
            p.stored_seq = -1
        else:
            self._schedule.put(p)
            return
        self._hold(p, inode)
        inode.changed_at = trio.current_time()
        self._ledger.save_entry(key, inode.ino, self._versions.journaled(p))
        self._schedule.put(p)

    def want_absent(self, key: str, remote: Remote) -> None:
        """The key should hold nothing.

        A directory's key waits until everything pending below it is done, so while it waits the name is gone even if
        the bucket still lists keys below it.
        """
        self.pace.foreground()
        p = self._pending.get(key)
        # Of a directory that was never stored a server may have made a folder, for what was stored below it.
        below = self._pending.count_below(key) or (key.endswith("/") and self._store.capabilities.folders)
        if p is None:
            if remote.known and remote.ref is None and not below:
                self._storing.vanished(key)
                return
            p = self._add(key, None, remote)
        else:
            self._drop_inode(p)
            untouched = not p.running and p.remote.known and p.remote.ref is None and not p.superseded
            untouched = untouched and not self._doubts.threaten(p)
            if untouched and not below and self._transfer.owed(key) is None:
                # It never reached the bucket: nothing to do there.
                self._storing.drop(p)
                self._storing.vanished(key)
                return
            p.inode = None
            p.stored_seq = -1
        self._ledger.save_entry(key, None, self._versions.journaled(p))
        self._schedule.put(p)

    def want_many(self, rows: Iterable[tuple[str, Inode | None, Remote]]) -> None:
        """As want and want_absent for many new keys, in one journal call: a directory's rename."""
        saved: list[EntryRow] = []
        for key, inode, remote in rows:
            if inode is None:
                self.want_absent(key, remote)
            elif key in self._pending:
                self.want(key, inode, remote)
            else:
                self._schedule.put(self._hold(self._add(key, inode, remote), inode))
                saved.append(EntryRow(key, inode.ino, remote))
        self._ledger.save_entries(saved)

    def changed(self, inode: Inode) -> None:
        """The inode's content or attributes changed: every key of it is to be brought up to date."""
        inode.changed_at = self.pace.foreground()
        if inode.pending < inode.key_count:
            for key in inode.all_keys():
                if key not in self._pending:
                    self.want(key, inode, _seen_under(key, inode))

    def closed(self, inode: Inode) -> None:
        """The last writer closed the inode: it need not wait as long as an open one."""
        for p in self._pending.of(inode):
            self._schedule.put(p)
        if inode.upload is not None:
            inode.upload.grown.set()

    def grown(self, inode: Inode) -> None:
        """The inode has become so large that its upload should begin while it is written."""
        p = self._pending.get(inode.all_keys()[0]) if inode.links else None
        content = inode.content
        if self._nursery is None or p is None or p.running or p.error is not None:
            return
        large = content is not None and content.complete and content.size > self._config.put_max_bytes
        if large and not inode.storing:
            p.running = inode.storing = True
            self._nursery.start_soon(self._storing.attempt_growing, p, inode)

    def remote_of(self, key: str) -> Remote | None:
        """What the bucket holds under a pending key; None if the key is not pending."""
        return p.remote if (p := self._pending.get(key)) is not None else None

    def state_of(self, inode: Inode) -> str:
        """In one word: clean, dirty, uploading, or failed (refused or unanswered; it is tried again)."""
        names = self._pending.of(inode)
        if any(p.error is not None and not p.running for p in names):
            return "failed"
        if inode.storing or any(p.running for p in names):
            return "uploading"
        return "dirty" if names else "clean"

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
        A removal that was on its way may even be carried out later; nothing else comes to its key, so what was seen
        there before still tells what others have put.
        """
        removes = inode is None and remote.known
        p = self._add(key, inode, Remote(removes and remote.ref is not None, remote.ref))
        self._versions.answered(key, None)  # the last call may have been made just now
        if inode is None or not remote.known:
            self._doubts.restored(key, removes=removes)
        if inode is not None:
            self._hold(p, inode)
        self._schedule.put(p)

    # ---- waiting ------------------------------------------------------------------------------------------------

    async def wait_drained(self, path: str | None = None) -> None:
        """As Waiting.drained, which has fsync too: sync and, after `hurry`, the end of a mount.

        After a power cut nothing is taken up again that was stored.  Raises OSError if the journal cannot be synced.
        """
        await self.waiting.drained(path, ending=self._schedule.hurrying)
        await self.local.journal()
        # What cannot be aborted soon is left to the next mount.
        with trio.move_on_after(_ABORTS_S):
            await self._transfer.aborts.wait_done()
        if self._schedule.hurrying:
            with trio.move_on_after(_ABORTS_S):
                await self._new_names.finish()

    async def wait_calm(self, at_most_s: float, rest_s: float = 0.0) -> None:
        """Return when for rest_s programs have paused and no upload was under way or due, or after at_most_s."""
        until, busy_at = trio.current_time() + at_most_s, trio.current_time()
        while trio.current_time() < until:
            if self._storing.under_way or self._schedule.queue.head() is not None:
                busy_at = trio.current_time()
            elif self.pace.idle() and trio.current_time() - max(busy_at, self.pace.last) >= rest_s:
                return
            await trio.sleep(_CALM_S)

    def hurry(self) -> None:
        """From now on nothing waits to coalesce: the mount is ending."""
        self._schedule.hurry()

    def make_room(self, inode: Inode, *, full: bool = False) -> None:
        """Little room is left for dirty files, or none: what could still coalesce goes now, and so does this inode."""
        self._schedule.hasten()
        self.grown(inode)
        if full and inode.upload is None:
            for p in self._pending.of(inode):
                self._schedule.make_urgent(p)

    def status(self) -> WriteBackStatus:
        """As report.status."""
        sent = (self._storing.under_way, self._storing.stored_files, self._transfer.sent_bytes)
        return status(self._pending, sent, self._conflicts.count, self._storing.offline)

    # ---- entries ------------------------------------------------------------------------------------------------

    def _add(self, key: str, inode: Inode | None, remote: Remote) -> Pending:
        p = self._pending.add(key, inode, remote)
        self._schedule.added()
        return p

    def _hold(self, p: Pending, inode: Inode) -> Pending:
        """The key stands for the inode from now on; undone by _drop_inode or _settle."""
        inode.pending += 1
        self._pending.use_source(p)
        return p

    def _drop_inode(self, p: Pending) -> None:
        """The key no longer stands for the inode that it stood for."""
        if p.error is not None and not passes(p.error):
            p.error, p.attempts = None, 0  # that was refused for what it stood for
        self._pending.free_source(p)
        inode, p.inode = p.inode, None
        p.gone_at = None
        if inode is not None:
            inode.pending -= 1
            # A renamed file goes on: what is uploaded under the old name is copied to the new one in the bucket.  So
            # does one that is read without a name, if the upload alone has some of it.
            upload = inode.upload
            last = upload is not None and upload.key == p.key and inode.all_keys() in ([], [p.key])
            if upload is not None and last and not (inode.opens and upload.away):
                self.abandon(inode)

    def abandon(self, inode: Inode) -> None:
        """Nobody wants the inode's content any more."""
        upload = inode.upload
        if upload is None:
            return
        upload.unwanted = True
        p = self._pending.get(upload.key)
        if p is not None and p.running and inode.storing:
            p.try_scope().cancel()
        else:
            self._transfer.forget(upload)

    # ---- the loop -----------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(LedgerKeeper(self._ledger, self.pace).run)
            nursery.start_soon(self.local.run)
            nursery.start_soon(self._transfer.aborts.run)
            nursery.start_soon(self._new_names.run)
            task_status.started()
            while True:
                await self._wait_due()
                await self._start_due(nursery)
                self._versions.forget_old()
                self._doubts.forget_old()

    async def _wait_due(self) -> None:
        """Return when an entry is due; meanwhile commit what acknowledges nothing, a little later."""
        while self._schedule.queue.head() is None:
            # While programs change something the ledger begins anew with each request, which commits by itself.
            self._resting = not self._ledger.uncommitted and self.pace.idle()
            await self._schedule.queue.wait(_LONG_S if self._resting else self._lazy_commit_s)
            self._resting = False
            if self._ledger.uncommitted:
                self._commit_lazily()
        await trio.lowlevel.checkpoint()

    def _began(self) -> None:
        """The ledger has something to commit: whoever rests sees to that."""
        if self._resting:
            self._schedule.queue.wake()

    def _commit_lazily(self) -> None:
        """Commit what acknowledges nothing; a full disk delays it."""
        try:
            self._ledger.commit()
        except OSError as error:
            if self._lazy_commit_s == _LAZY_COMMIT_S:
                log.error("the journal of changes cannot be written, changes are refused: %s", error)
            self._lazy_commit_s = _FULL_COMMIT_S
        else:
            if self._lazy_commit_s != _LAZY_COMMIT_S:
                log.warning("the journal of changes can be written again")
            self._lazy_commit_s = _LAZY_COMMIT_S

    async def _start_due(self, nursery: trio.Nursery) -> None:
        removals: list[Pending] = []
        while (due := await self._next_due()) is not None:
            if due and not self._schedule.hurrying and not self.pace.may_start(due, self._storing.under_way):
                await self._start_removals(nursery, removals)
                await self._schedule.queue.pause_until(self.pace.next_chance(due, self._storing.under_way))
                continue
            # The slot comes first: between taking an entry and starting its task nothing may change.
            await self._slots.acquire()
            taken = self._take_due()
            if taken is None:
                self._slots.release()
                continue
            p, inode = taken
            if inode is None:
                self._slots.release()
                removals.append(p)
            elif self._storing.grows(p, inode):
                self._slots.release()
                nursery.start_soon(self._storing.attempt_growing, p, inode)
            else:
                nursery.start_soon(self._in_slot, self._storing.attempt, p, inode)
        await self._start_removals(nursery, removals)

    async def _start_removals(self, nursery: trio.Nursery, removals: list[Pending]) -> None:
        """Many in one request each; the list is empty afterwards.  Checkpoint: only if there are any."""
        while removals:
            batch = removals[:REMOVE_BATCH]
            del removals[:REMOVE_BATCH]
            await self._slots.acquire()
            nursery.start_soon(self._in_slot, self._storing.remove, batch)

    async def _next_due(self) -> float | None:
        """As DueQueue.head, once the outdated rows before it are gone.  Checkpoint: only if there are many."""
        queue, dropped = self._schedule.queue, 0
        while (due := queue.head()) is not None:
            if self._is_due(queue.first()):
                return due
            queue.pop()
            dropped += 1
            if dropped % _DROPS == 0:
                await trio.lowlevel.checkpoint()
        return None

    def _is_due(self, key: str) -> bool:
        """Whether an entry's turn has come; one that was changed since its row was made gets another row."""
        p = self._pending.get(key)
        if p is None or p.running or p.due > trio.current_time():
            return False
        p.due = self._schedule.due(p)
        if p.due <= trio.current_time():
            return True
        self._schedule.queue.push(p.key, p.due)
        return False

    def _take_due(self) -> tuple[Pending, Inode | None] | None:
        """The next entry whose time has come, marked as running, and what to bring under its key.

        None when the head of the queue was outdated.
        """
        queue = self._schedule.queue
        if queue.head() is None:
            return None
        is_due, p = self._is_due(queue.first()), self._pending.get(queue.pop())
        if p is None or not is_due:
            return None
        # What is only in an upload under this key becomes an object before the key becomes something else.
        inode = self._transfer.owed(p.key) or p.inode
        if inode is not None and self._must_wait_for_upload(p, inode):
            return None
        if inode is p.inode and self._pending.must_wait(p, self._store.capabilities):
            return None
        p.running = True
        if inode is not None:
            inode.storing = True
        return p, inode

    def _must_wait_for_upload(self, p: Pending, inode: Inode) -> bool:
        """Whether another key comes first; Storing schedules this one when that is done."""
        if inode is not p.inode:
            return inode.storing
        upload = inode.upload
        return upload is not None and upload.owed and upload.key != p.key

    async def _in_slot(self, job: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run a job that a slot was acquired for."""
        try:
            await job(*args)
        finally:
            self._slots.release()

    def _freed(self, p: Pending) -> None:
        self._schedule.put(p)

    def _lost(self, key: str) -> None:
        """See ObjectStore.watch_lost."""
        p = self._pending.get(key)
        if p is not None and p.running:
            self._doubts.lost(p)

    def _is_needed(self, key: str, version: VersionId) -> bool:
        """Whether a version is still to be copied from, or read by an open file."""
        return self._pending.is_source_version(key, version) or self._storing.listener.in_use(version)


def _seen_under(key: str, inode: Inode) -> Remote:
    """What the bucket was last seen to hold under a name of an inode of which no change is pending."""
    base = inode.base
    if base is None:
        # Of a directory that was only listed the marker may be there although nobody has asked for it.
        return Remote(not inode.is_dir, None)
    if base.key != key:
        base, _ = inode.linked.get(key, (None, 0))
    return Remote(True, base) if base is not None and base.key == key else Remote(False, None)
