"""What waits, as figures for a user."""

from __future__ import annotations

import trio

from b2fs.cache.status import FailedItem, WriteBackStatus
from b2fs.cache.writeback.table import PendingTable

#: So many failed keys are named.
_MOST_FAILED = 100


def unsent_bytes(pending: PendingTable) -> int:
    """Local content of pending files that no version in the bucket has, less what is there as parts already."""
    inodes = {id(p.inode): p.inode for p in pending if p.inode is not None}
    return sum(
        max(0, inode.content.changed_bytes() - (inode.upload.stored_bytes if inode.upload is not None else 0))
        for inode in inodes.values()
        if inode.content is not None
    )


def status(pending: PendingTable, sent: tuple[int, int, int], conflicts: int, offline: bool) -> WriteBackStatus:
    """sent: uploads under way, files uploaded so far, bytes sent so far."""
    now = trio.current_time()
    unsent = unsent_bytes(pending)
    failed = [FailedItem(p.key, str(p.error)) for p in pending if p.error is not None]
    return WriteBackStatus(
        pending_files=len(pending),
        pending_bytes=unsent,
        uploading=sent[0],
        uploaded_files=sent[1],
        uploaded_bytes=sent[2],
        failed=tuple(failed[:_MOST_FAILED]),
        conflicts=conflicts,
        dirty_bytes=unsent,
        oldest_pending_s=now - min((p.since for p in pending), default=now),
        offline=offline,
    )
