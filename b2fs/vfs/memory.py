"""Memory: what a mount knows of the bucket, from its end to the next mount."""

from __future__ import annotations

import logging
import os
from functools import partial

import trio

from b2fs.cache.remote.saved import save, take
from b2fs.vfs.core import Core
from b2fs.vfs.foreign import ForeignAttributes

log = logging.getLogger(__name__)


class Memory:
    """See the module and cache.remote.saved."""

    def __init__(self, core: Core, foreign: ForeignAttributes) -> None:
        self._core = core
        self._foreign = foreign
        self._path = os.path.join(core.config.cache_dir, "listings")

    async def restore(self) -> None:
        """Take up what the last mount left, if it ended in order."""
        saved = await trio.to_thread.run_sync(take, self._path)
        self._core.remote.restore(saved)
        self._foreign.restore(saved.plain)

    async def save(self) -> None:
        """Keep it for the next mount.  Nothing may be uploaded any more."""
        remote, now = self._core.remote, trio.current_time()
        keep = partial(save, self._path, remote.listings(), remote.known.rows(), self._foreign.saved(), now)
        try:
            await trio.to_thread.run_sync(keep)
        except OSError as error:
            log.info("the next mount will ask the bucket anew: %s", error.strerror)
