"""Usage: how much is stored below the mount's root, and the quota on it.

Counted are the bytes and the number of objects, our own below `.b2fs/` left out; each name of a hard-linked file is an
object of its own.  The figure comes from a flat listing behind everything else and is kept by what changes here; what
others do is seen with the next listing.  A key that is stored while the listing runs may be counted as it was or as it
is: the next one puts that right.
Without a quota nothing is listed.
"""

from __future__ import annotations

import errno
import logging

import trio

from b2fs.cache.inode import Inode
from b2fs.cache.writeback.engine import Engine
from b2fs.core.nodes import StatFs
from b2fs.errors import FsError, StoreError
from b2fs.store.protocol import ObjectStore
from b2fs.vfs.config import Quota

log = logging.getLogger(__name__)

_BLOCK = 4096
#: Inodes that a filesystem without a limit shows as free.
_MANY_FILES = 1 << 31
#: Sorts behind every key that is in use.
_LAST = "\U0010fffd"
#: The bucket is listed anew after this time, and sooner after a failure, in seconds.
_REFRESH_S = 900.0
_RETRY_S = 30.0
#: Who asks for the figures right after the mount waits this long for them, in seconds.
_PATIENCE_S = 2.0


class Usage:
    """See the module.  root is the mount's key prefix; open_bytes is the size that is shown without a quota."""

    def __init__(self, store: ObjectStore, engine: Engine, root: str, quota: Quota | None, open_bytes: int) -> None:
        self._store = store
        self._engine = engine
        self._root = root
        self._quota = quota
        self._open_bytes = open_bytes
        self._bytes = 0
        self._files = 0
        self._known = trio.Event()

    # ---- kept by what changes here ------------------------------------------------------------------------------

    def check(self, grown_bytes: int, new_files: int) -> None:
        """Refuse with EDQUOT what would not fit; call it before anything is accepted."""
        quota = self._quota
        if quota is None:
            return
        if grown_bytes > 0 and self._bytes + grown_bytes > quota.size_bytes:
            raise FsError(errno.EDQUOT, "the quota of the mount")
        if new_files > 0 and quota.files is not None and self._files + new_files > quota.files:
            raise FsError(errno.EDQUOT, "the quota of the mount on files")

    def changed(self, grown_bytes: int, new_files: int) -> None:
        """So much more is stored, or less."""
        self._bytes += grown_bytes
        self._files += new_files

    def resized(self, inode: Inode, before: int) -> None:
        """A file's size was `before`; every one of its names is an object."""
        self._bytes += (inode.size - before) * len(inode.links)

    def named(self, inode: Inode, names: int) -> None:
        """An inode has so many names more, or less."""
        self.changed(0 if inode.is_dir else names * inode.size, names)

    # ---- figures ------------------------------------------------------------------------------------------------

    async def statfs(self) -> StatFs:
        """What statvfs shows."""
        quota = self._quota
        if quota is None:
            blocks = self._open_bytes // _BLOCK
            return StatFs(_BLOCK, blocks, blocks, _MANY_FILES, _MANY_FILES)
        with trio.move_on_after(_PATIENCE_S):
            await self._known.wait()
        used, used_files = max(0, self._bytes), max(0, self._files)
        blocks = quota.size_bytes // _BLOCK
        files = quota.files if quota.files is not None else used_files + _MANY_FILES
        free = max(0, blocks - -(-used // _BLOCK))
        return StatFs(_BLOCK, blocks, free, files, max(0, files - used_files))

    # ---- from the bucket ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """List the bucket now and then, until cancelled; nothing without a quota."""
        while self._quota is not None:
            try:
                await self._count()
            except StoreError as error:
                log.info("what is stored cannot be counted now: %s", error)
                await trio.sleep(_RETRY_S)
            else:
                await trio.sleep(_REFRESH_S)

    async def _count(self) -> None:
        # What differs from the bucket is taken from here, as it is now; what changes from now on is added to that.
        local = {key: inode for key, inode in self._engine.wanted_below(self._root) if key != self._root}
        held = [inode for inode in local.values() if inode is not None]
        size = sum(inode.size for inode in held if not inode.is_dir)
        files = len(held)
        before = self._bytes, self._files
        reserved = f"{self._root}.b2fs/"
        after: str | None = None
        token: str | None = None
        while True:
            page = await self._store.list_objects(self._root, start_after=after, token=token)
            for info in page.objects:
                if info.key not in local and info.key != self._root and not info.key.startswith(reserved):
                    size += info.size
                    files += 1
            token, after = page.next_token, None
            if token is None:
                break
            if page.objects and page.objects[-1].key.startswith(reserved):
                token, after = None, reserved + _LAST
        self._bytes, self._files = size + self._bytes - before[0], files + self._files - before[1]
        self._known.set()
