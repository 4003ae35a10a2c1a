"""LedgerKeeper: moves the ledger's log into its database now and then, in a worker thread, when programs pause."""

from __future__ import annotations

from functools import partial

import trio

from b2fs.cache.ledger import Ledger
from b2fs.cache.writeback.pace import Pace

#: A write-ahead log larger than this is moved, and one that has become so large all the same is emptied.
_WAL_BYTES = 16 << 20
_MOST_WAL_BYTES = 48 << 20
_LOOK_EVERY_S = 2.0
#: How long a large log waits for an idle moment.
_PATIENCE_S = 5.0


class LedgerKeeper:
    """See the module."""

    def __init__(self, ledger: Ledger, pace: Pace) -> None:
        self._ledger = ledger
        self._pace = pace

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await trio.sleep(_LOOK_EVERY_S)
            size = self._ledger.wal_bytes()
            if size > _WAL_BYTES:
                await self._pace.wait_idle(_PATIENCE_S)
                cut = partial(self._ledger.checkpoint, cut=size > _MOST_WAL_BYTES)
                await trio.to_thread.run_sync(cut)
