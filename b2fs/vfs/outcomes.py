"""Outcomes: what follows in the tree of files from what write-back has done."""

from __future__ import annotations

from collections.abc import Collection

import trio

from b2fs.cache.inode import Inode
from b2fs.cache.writeback.listener import Listener
from b2fs.core.types import VersionId
from b2fs.errors import B2fsError
from b2fs.vfs.core import Core
from b2fs.vfs.files import Files
from b2fs.vfs.handles import FileHandle
from b2fs.vfs.watch import Watches


class Outcomes(Listener):
    """See the module.  handles are those of all files that are open."""

    def __init__(self, core: Core, files: Files, watches: Watches, handles: Collection[FileHandle]) -> None:
        self._core = core
        self._files = files
        self._watches = watches
        self._handles = handles

    def settled(self, key: str, inode: Inode | None) -> None:
        self._watches.settled(key, inode)
        if inode is None:
            self._core.removed[key] = trio.current_time()
            return
        self._core.is_there(key)
        inode.validated_at = trio.current_time()
        if inode.link_id is not None and inode.base is not None:
            inode.linked[key] = inode.base, 0
        if not inode.pending:
            self._files.retire(inode)
            self._core.drop_if_unused(inode)

    def failed(self, key: str, inode: Inode | None, error: B2fsError) -> None:
        for handle in self._handles:
            if handle.inode is inode and handle.writes:
                handle.error = error

    def replaced(self, inode: Inode) -> None:
        self._core.notifier.invalidate_inode(inode.ino, attributes_only=False)

    def in_use(self, version: VersionId) -> bool:
        """Whether an open file reads from the version; one that is still under its name moves on to the newer one."""
        for handle in self._handles:
            inode = handle.inode
            whole = inode.content is not None and inode.content.complete
            if not inode.links and not whole and inode.base is not None and inode.base.version_id == version:
                return True
        return False
