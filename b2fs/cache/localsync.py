"""LocalSync: makes what the journal and the dirty files hold survive a power cut.

Until then both are in the page cache, which a dead daemon leaves behind and a machine without power does not.  Those
who wait for the journal at the same time share one sync.
"""

from __future__ import annotations

import trio

from b2fs.cache.content import DirtyFiles
from b2fs.cache.inode import Inode
from b2fs.cache.ledger import Ledger

#: Files that are to be removed wait this long for others, in seconds.
_BURY_AFTER_S = 1.0
#: So many are removed before programs get their turn: it takes up to half a millisecond each.
_BURIED_AT_ONCE = 20


class LocalSync:
    """See the module.  All methods belong to the trio thread; the work is done in others."""

    def __init__(self, ledger: Ledger, files: DirtyFiles) -> None:
        self._ledger = ledger
        self._files = files
        self._doomed = trio.Event()
        self._turn = trio.Lock()
        #: How many have asked for the journal, and how many of them have got it.
        self._asked = 0
        self._served = 0
        files.on_doomed = self._wake

    def _wake(self) -> None:
        self._doomed.set()

    async def run(self) -> None:
        """Remove dirty files that nobody needs, once the journal is on the disk that says so, until cancelled."""
        while True:
            await self._doomed.wait()
            await trio.sleep(_BURY_AFTER_S)
            self._doomed = trio.Event()
            doomed = list(self._files.doomed.items())
            try:
                await self.journal()
            except OSError:  # the disk is full, say: who changes something is told
                self._doomed.set()
            else:
                for i in range(0, len(doomed), _BURIED_AT_ONCE):
                    self._files.bury(doomed[i : i + _BURIED_AT_ONCE])
                    await trio.lowlevel.checkpoint()

    async def content(self, inode: Inode) -> None:
        """Return when the local bytes of the inode are on the disk as they are now.  Raises OSError."""
        content, seq = inode.content, inode.content_seq
        if content is None or content.synced_seq == seq:
            return
        await trio.to_thread.run_sync(content.syncing())
        content.synced_seq = seq

    async def journal(self) -> None:
        """Return when every change so far is in the journal on the disk.  Raises OSError (ENOSPC, EIO)."""
        self._ledger.commit()
        self._asked += 1
        ticket = self._asked
        async with self._turn:
            if self._served >= ticket:
                return  # a sync that began after this was asked for
            served = self._asked
            if self._ledger.unsynced:
                await trio.to_thread.run_sync(self._ledger.sync)
            self._served = served
