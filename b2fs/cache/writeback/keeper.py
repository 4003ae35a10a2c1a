"""LedgerKeeper: keeps the ledger small: its log goes into its database now and then, and free space to the disk.

All in a worker thread, and when programs pause.
"""

from __future__ import annotations

from functools import partial

import trio

from b2fs.cache.ledger import Ledger
from b2fs.cache.writeback.pace import Pace

#: A write-ahead log larger than this is moved, and one that has become so large all the same is emptied.
_WAL_BYTES = 4 << 20
_MOST_WAL_BYTES = 16 << 20
#: At rest the log is emptied if it is larger than this.
_REST_BYTES = 1 << 20
_LOOK_EVERY_S = 1.0
#: How long a large log waits for an idle moment.
_PATIENCE_S = 1.0


class LedgerKeeper:
    """See the module."""

    def __init__(self, ledger: Ledger, pace: Pace) -> None:
        self._ledger = ledger
        self._pace = pace

    async def run(self) -> None:
        """Work until cancelled."""
        before = 0
        while True:
            await trio.sleep(_LOOK_EVERY_S)
            size = self._ledger.wal_bytes()
            rests = size == before and self._pace.idle() and not self._ledger.uncommitted
            before = size
            if size > _WAL_BYTES or (rests and size > _REST_BYTES):
                if size <= _MOST_WAL_BYTES:
                    await self._pace.wait_idle(_PATIENCE_S)
                cut = partial(self._ledger.checkpoint, cut=rests or size > _MOST_WAL_BYTES)
                await trio.to_thread.run_sync(cut)
