"""Aborts: multipart uploads of ours that nobody wants any more, until the server has dropped them.

Unfinished uploads cost storage.  Each is in the ledger until its abort has succeeded, so that no end of the mount
forgets it.  Uploads of others are not known here and never touched.
"""

from __future__ import annotations

import logging

import trio

from b2fs.cache.ledger import Ledger
from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.core.types import UploadId
from b2fs.errors import RetryableError, StoreError
from b2fs.store.protocol import ObjectStore

log = logging.getLogger(__name__)


class Aborts:
    """See the module.  All methods belong to the trio thread."""

    def __init__(self, store: ObjectStore, ledger: Ledger, config: WriteBackConfig) -> None:
        self._store = store
        self._ledger = ledger
        self._config = config
        self._waiting: dict[UploadId, str] = {}
        self._wake = trio.Event()
        self._done = trio.Event()

    async def wait_done(self) -> None:
        """Return when none is left."""
        while self._waiting:
            await self._done.wait()

    def add(self, upload_id: UploadId, key: str) -> None:
        """Abort this upload, whose row in the ledger says the same with the next commit."""
        self._ledger.abandon_upload(upload_id)
        self._waiting[upload_id] = key
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        delay_s = self._config.retry_min_s
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            if await self._try_all():
                delay_s = self._config.retry_min_s
                continue
            with trio.move_on_after(delay_s):
                await self._wake.wait()
            delay_s = min(2 * delay_s, self._config.retry_max_s)
            self._wake.set()

    async def _try_all(self) -> bool:
        """One try for each; whether none is left."""
        try:
            self._ledger.commit()  # before the parts go, nothing may count on them
        except OSError:
            return False
        for upload_id, key in list(self._waiting.items()):
            try:
                await self._store.abort_upload(key, upload_id)
            except RetryableError as error:
                log.debug("an upload of %s cannot be aborted yet: %s", key, error)
            except StoreError as error:
                log.warning("an upload of %s cannot be aborted and costs storage until it is: %s", key, error)
            else:
                del self._waiting[upload_id]
                self._ledger.delete_upload(upload_id)
        if self._waiting:
            return False
        self._done.set()
        self._done = trio.Event()
        return True
