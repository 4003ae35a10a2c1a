"""Telling the kernel, of our own accord, that something it remembers is no longer so.

A notification waits inside the kernel for locks that a process may hold whose request waits for us.  So it is never
sent from the trio thread: the core only notes it here, and one task sends all that is noted from a worker thread.
While a batch is on its way, further notes are merged; their number is bounded by what the kernel can remember.
"""

from __future__ import annotations

import errno
import logging

import pyfuse3
import trio

from b2fs.core.nodes import InodeId

log = logging.getLogger(__name__)

#: Errors that say that there is nothing to forget: the inode or name is not remembered, or the mount is going away.
_NOTHING_TO_DO = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ENODEV, errno.ENOTCONN))


class Notifier:
    """A KernelNotifier for the mount of this process.

    May be used from the trio thread before the mount exists and after it has gone; then there is nothing to tell.
    """

    def __init__(self) -> None:
        #: Inode -> whether the attributes alone are to be dropped.
        self._inodes: dict[InodeId, bool] = {}
        self._entries: dict[tuple[InodeId, bytes], None] = {}
        self._running = False
        self._noted = trio.Event()

    def invalidate_inode(self, ino: InodeId, *, attributes_only: bool) -> None:
        if self._running:
            self._inodes[ino] = self._inodes.get(ino, True) and attributes_only
            self._noted.set()

    def invalidate_entry(self, parent: InodeId, name: bytes) -> None:
        if self._running:
            self._entries[parent, name] = None
            self._noted.set()

    async def run(self) -> None:
        """Send what is noted until cancelled.

        Cancelled in the midst of a batch it ends after that batch, which needs the main loop still running: so the
        loop is stopped after this task.  Checkpoint: yes.
        """
        self._running = True
        try:
            while True:
                await self._noted.wait()
                self._noted = trio.Event()
                inodes, self._inodes = self._inodes, {}
                entries, self._entries = self._entries, {}
                await trio.to_thread.run_sync(_send, inodes, entries)
        finally:
            self._running = False


def _send(inodes: dict[InodeId, bool], entries: dict[tuple[InodeId, bytes], None]) -> None:
    for ino, attributes_only in inodes.items():
        try:
            pyfuse3.invalidate_inode(ino, attributes_only)
        except OSError as error:
            _check_harmless(error)
    for parent, name in entries:
        try:
            pyfuse3.invalidate_entry(parent, name)
        except OSError as error:
            _check_harmless(error)


def _check_harmless(error: OSError) -> None:
    if error.errno not in _NOTHING_TO_DO:
        log.warning("the kernel did not take an invalidation: %s", error)
