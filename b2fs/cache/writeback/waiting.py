"""Waiting: fsync, fsync of a directory, and drains."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import trio

from b2fs.cache.inode import Inode
from b2fs.cache.writeback.doubts import Doubts
from b2fs.cache.writeback.pending import Pending
from b2fs.cache.writeback.retry import passes
from b2fs.cache.writeback.table import PendingTable
from b2fs.errors import StoreError, TimedOut

#: How often a drain looks for what has failed, in seconds.
_LOOK_S = 1.0


class Waiting:
    """See the module.

    make_urgent(entry): bring it in at once, somebody waits.
    """

    def __init__(
        self,
        pending: PendingTable,
        make_urgent: Callable[[Pending], None],
        doubts: Doubts,
        timeout_s: float,
    ) -> None:
        self._pending = pending
        self._make_urgent = make_urgent
        self._doubts = doubts
        self._timeout_s = timeout_s
        #: How many entries are gone from the table so far, and who waits until there are how many.
        self._gone = 0
        self._until: list[tuple[int, trio.Event]] = []

    def settled(self) -> None:
        """An entry is gone from the table."""
        self._gone += 1
        if self._until:
            for count, event in self._until:
                if count <= self._gone:
                    event.set()

    async def stored(self, inode: Inode) -> None:
        """Return when the bucket holds the inode as it is now, under all its names.

        Raises the StoreError of a refused upload, TimedOut after timeout_s.
        """
        seq = inode.seq

        def is_stored(p: Pending) -> bool:
            return p.stored_seq >= seq

        await self._all([(p, partial(is_stored, p)) for p in self._pending.of(inode)])

    async def recalled(self, inode: Inode) -> None:
        """Return when no byte of the inode is only in an unfinished upload: the object is then its base.

        Raises the StoreError of a refused upload, TimedOut after timeout_s.
        """
        with trio.move_on_after(self._timeout_s):
            while inode.content is not None and inode.content.away:
                upload = inode.upload
                p = self._pending.get(upload.key) if upload is not None else None
                if upload is None or p is None:
                    raise StoreError("a part of the file was only in an upload that is gone")
                if p.error is not None and not passes(p.error):
                    raise p.error
                self._make_urgent(p)
                upload.grown.set()
                await self._tried(p)
            return
        raise TimedOut(f"the bucket did not confirm within {self._timeout_s:.0f} s")

    async def names(self, prefix: str) -> None:
        """Return when every change of names directly below prefix is in the bucket, and prefix itself if it is new.

        What is changed again meanwhile is not waited for.  The directory's times change with every name; they are
        stored soon after, but nobody waits for them.
        """
        entries = [p for key in self._pending.directly_below(prefix) if (p := self._pending.get(key)) is not None]
        own = self._pending.get(prefix)
        if own is not None and prefix and own.remote.ref is None:
            entries.append(own)
        await self._all([(p, partial(self._is_done, _Asked(p))) for p in entries])

    async def _all(self, wanted: list[tuple[Pending, Callable[[], bool]]]) -> None:
        with trio.move_on_after(self._timeout_s):
            for p, is_done in wanted:
                if not is_done():
                    self._make_urgent(p)
            for p, is_done in wanted:
                await self._one(p, is_done)
            return
        raise TimedOut(f"the bucket did not confirm within {self._timeout_s:.0f} s")

    async def _one(self, p: Pending, is_done: Callable[[], bool]) -> None:
        tries = None
        while self._pending.get(p.key) is p and not is_done():
            if tries is not None and p.attempts > tries and p.error is not None and not passes(p.error):
                raise p.error
            tries = p.attempts if tries is None else tries
            self._make_urgent(p)
            await self._tried(p)

    @staticmethod
    async def _tried(p: Pending) -> None:
        """Return when the present or next try for the entry has ended."""
        done = trio.Event()
        p.waiters.append(done)
        await done.wait()

    async def drained(self, path: str | None, *, ending: bool) -> None:
        """Return when what is pending now below the key prefix `path` (None: anywhere) is done, or something later.

        With ending nobody changes anything any more, and this returns when nothing is pending there.
        Raises the error that keeps an entry from being stored, once every other one is done.
        """
        await trio.lowlevel.checkpoint()  # whoever asks again and again must not keep others from working
        asked = [_Asked(p) for p in self._pending if path is None or p.key.startswith(path)]
        while True:
            if ending:
                left = [p for p in self._pending if path is None or p.key.startswith(path)]
            else:
                asked = [one for one in asked if not self._is_done(one)]
                left = [one.p for one in asked]
            if not left:
                return
            stuck = [p.error for p in left if p.error is not None and not p.running and p.attempts > 1]
            if len(stuck) == len(left):
                raise stuck[0]
            for p in left:
                self._make_urgent(p)
            # Before so many are gone there is no need to look at all of them again.
            waiter = (self._gone + len(left), trio.Event())
            self._until.append(waiter)
            try:
                with trio.move_on_after(_LOOK_S):
                    await waiter[1].wait()
            finally:
                self._until.remove(waiter)

    def _is_done(self, asked: _Asked) -> bool:
        """Whether the bucket has what was asked for, or something later, for good."""
        p = asked.p
        return self._pending.get(p.key) is not p or (asked.is_stored() and not self._doubts.threaten(p))


class _Asked:
    """What an entry stood for when somebody began to wait for it."""

    __slots__ = ("_inode", "_seq", "_stores", "p")

    def __init__(self, p: Pending) -> None:
        self.p = p
        self._inode = p.inode
        self._seq = p.inode.seq if p.inode is not None else -1
        #: A try that is under way may have begun with something older.
        self._stores = p.stores + 1 + p.running

    def is_stored(self) -> bool:
        """Whether a try has brought that into the bucket, or something later."""
        p = self.p
        return p.stores >= self._stores or (
            p.inode is not None and p.inode is self._inode and p.stored_seq >= self._seq
        )
