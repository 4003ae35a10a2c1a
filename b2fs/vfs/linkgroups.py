"""LinkGroups: finds the other names of a hard-linked file, so that what is done through one is done to all.

Only files that carry an identity cost anything, and each once in a time to live.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack

import trio

from b2fs.cache.inode import Inode
from b2fs.core import attrs
from b2fs.core.types import ObjectInfo
from b2fs.errors import FsError
from b2fs.vfs.core import Core
from b2fs.vfs.mutations import Held
from b2fs.vfs.namespace import Namespace

log = logging.getLogger(__name__)


class LinkGroups:
    """See the module."""

    def __init__(self, core: Core, names: Namespace) -> None:
        self._core = core
        self._names = names

    async def complete(self, inode: Inode) -> Inode:
        """The same inode with all its names, as far as the bucket tells.  Checkpoint: only if it asks."""
        now = trio.current_time()
        if inode.link_id is None or not inode.links or inode.grouped_at + self._core.config.ttl_s >= now:
            return inode
        inode.holds += 1
        try:
            for key in await self._core.remote.links.names(inode.link_id):
                await self._look(key)
            for parent, name in list(inode.links):
                await self._names.child(parent, name)
            self._take_newest_ctime(inode)
            inode.grouped_at = now
        finally:
            inode.holds -= 1
        return inode

    def _take_newest_ctime(self, inode: Inode) -> None:
        """When a name came or went, one of the names alone was stored with that time."""
        core = self._core
        if inode.pending:
            return
        for ref, modified_ns in inode.linked.values():
            info = core.remote.head_nowait(ObjectInfo(ref, modified_ns))
            if info is not None:
                defaults = core.config.defaults
                posix = attrs.decode(info.metadata or {}, is_dir=False, modified_ns=modified_ns, defaults=defaults)
                inode.ctime_ns = max(inode.ctime_ns, posix.ctime_ns)

    async def _look(self, key: str) -> None:
        """Look the key's name up; if its object says that it is another name, the inode gets it with that."""
        root = self._core.root
        *middle, last = key[len(root.prefix) :].split("/")
        parent = root
        with ExitStack() as way:
            try:
                for component in middle:
                    found = await self._names.child(parent, self._names.odd.give(parent, component))
                    if found is None or not found.is_dir:
                        return
                    way.enter_context(Held(self._core, found))  # or it may be forgotten while its names are asked for
                    parent = found
                await self._names.child(parent, self._names.odd.give(parent, last))
            except FsError as error:
                # Nothing can be there: what stands in the group proves nothing.
                log.debug("%s is no name of a link: %s", key, error)
