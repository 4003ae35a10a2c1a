"""Schedule: when each entry's turn comes.

An entry waits until its key is quiet, and until the second between versions has passed (I10); who is waited for, and
everything once the mount ends, need not be quiet.
"""

from __future__ import annotations

import trio

from b2fs.cache.inode import Inode
from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.cache.writeback.pending import Pending
from b2fs.cache.writeback.queue import DueQueue
from b2fs.cache.writeback.table import PendingTable
from b2fs.cache.writeback.versions import OwnVersions


class Schedule:
    """See the module.  Times are trio's clock."""

    def __init__(self, pending: PendingTable, versions: OwnVersions, config: WriteBackConfig) -> None:
        self._pending = pending
        self._versions = versions
        self._config = config
        self.queue = DueQueue()
        #: Nothing waits to coalesce: the mount is ending.
        self.hurrying = False
        #: So much waits that throughput counts for more than what could still coalesce.
        self._bulk = False

    def put(self, p: Pending) -> None:
        """Find out anew when the entry is due."""
        p.due = self.due(p)
        self.queue.push(p.key, p.due, first=p.urgent)

    def make_urgent(self, p: Pending) -> None:
        """Somebody waits for the entry."""
        if not p.urgent:
            p.urgent = True
            self.put(p)
            if p.inode is not None and p.inode.upload is not None:
                p.inode.upload.grown.set()

    def hurry(self) -> None:
        """From now on nothing waits to coalesce."""
        self.hurrying = True
        self._put_all()

    def hasten(self) -> None:
        """Too much waits: what could still coalesce goes now."""
        if not self._bulk:
            self._bulk = True
            self._put_all()

    def added(self) -> None:
        """An entry was added."""
        if len(self._pending) >= self._config.bulk_threshold:
            self.hasten()

    def removed(self) -> None:
        """An entry was removed."""
        if not self._pending:
            self._bulk = False

    def _put_all(self) -> None:
        for p in self._pending:
            self.put(p)

    def due(self, p: Pending) -> float:
        """When the entry's turn comes."""
        now = trio.current_time()
        if p.error is not None and p.attempts:
            return max(now, p.due)
        due = now if p.urgent or self.hurrying else self._quiet_at(p)
        return max(due, self._versions.earliest(p))

    def _quiet_at(self, p: Pending) -> float:
        config, inode = self._config, p.inode
        if inode is None:
            return p.since + config.remove_quiet_s
        if inode.is_dir:
            return min(inode.changed_at + config.dir_quiet_s, p.since + config.open_max_s)
        if inode.writers and inode.content is not None:
            return min(inode.changed_at + config.open_quiet_s, p.since + config.open_max_s)
        return min(inode.changed_at + self._quiet_s(p, inode), p.since + config.open_max_s)

    def _quiet_s(self, p: Pending, inode: Inode) -> float:
        """How long a closed file is to be unchanged, in seconds."""
        config = self._config
        if self._bulk:
            return config.bulk_quiet_s
        partial = inode.content is not None and not inode.content.complete
        if partial and self._versions.seconds_ago(p.key) > config.change_rest_s:
            return config.change_quiet_s
        return config.quiet_s
