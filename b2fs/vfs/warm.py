"""Warm: what the bucket has at and below a path is brought onto the local disk before it is read."""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator, Sequence

from b2fs.cache.inode import Inode
from b2fs.cache.reader.stock import Stocking
from b2fs.core.types import ObjectRef
from b2fs.errors import FsError
from b2fs.vfs.core import Core
from b2fs.vfs.namespace import Namespace


class Warmer:
    """See the module."""

    def __init__(self, core: Core, names: Namespace) -> None:
        self._core = core
        self._names = names

    async def begin(self, path: bytes) -> tuple[Stocking, AsyncGenerator[Sequence[ObjectRef], None]]:
        """A run for the file or subtree at a path relative to the mount, and what it has to be given.

        What was changed here and not uploaded yet has its bytes here, and is left out; so is what somebody adds while
        this runs.  Raises FsError for a path that is not there or has no content.
        """
        inode = self._core.root
        for name in (name for name in path.split(b"/") if name):
            if not inode.is_dir:
                raise FsError(errno.ENOTDIR)
            inode = await self._names.existing(inode, name)
        if not inode.is_dir and not inode.is_regular:
            raise FsError(errno.EINVAL, "neither a file nor a directory")
        return self._core.reader.stocking(), self._below(inode) if inode.is_dir else self._alone(inode)

    async def _alone(self, inode: Inode) -> AsyncGenerator[Sequence[ObjectRef], None]:
        if inode.base is not None and inode.base.size and inode.content is None:
            yield [inode.base]

    async def _below(self, directory: Inode) -> AsyncGenerator[Sequence[ObjectRef], None]:
        """The contents of a listing of all keys, a page at a time: no inode is made for them."""
        core, token = self._core, None
        reserved = f"{core.config.prefix}.b2fs/"
        while True:
            page = await core.store.list_objects(directory.prefix, token=token)
            yield [
                info.ref
                for info in page.objects
                if info.size and not info.key.startswith(reserved) and not core.engine.is_gone(info.key)
            ]
            token = page.next_token
            if token is None:
                return
