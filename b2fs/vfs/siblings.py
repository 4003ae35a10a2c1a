"""Siblings: which files of a directory to fetch along with the one that is opened.

core.siblings decides from the order of opens; here the order of a directory's files is kept, and indexes become
contents.  Only clean small files are fetched ahead: of the others the bytes are here, or not worth guessing.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from cachetools import LRUCache

from b2fs.cache.inode import Inode
from b2fs.core.keys import component_of, name_of
from b2fs.core.siblings import SiblingHint, SiblingTracker
from b2fs.core.types import ObjectRef
from b2fs.vfs.core import Core

_DIRECTORIES = 64


@dataclass(slots=True)
class _Order:
    """The names of a directory's files in byte order, as readdir gives them, and the listing that they are from."""

    names: list[bytes]
    seen_at: float
    #: Opens of names that are not among them.
    missed: int = 0

    def index(self, name: bytes) -> int | None:
        index = bisect_left(self.names, name)
        return index if index < len(self.names) and self.names[index] == name else None


class Siblings:
    """See the module."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._tracker = SiblingTracker()
        self._orders: LRUCache[int, _Order] = LRUCache(_DIRECTORIES)

    def opened(self, inode: Inode) -> SiblingHint | None:
        """Note that a clean file is about to be read; what to fetch along with it."""
        if not inode.links:
            return None
        parent, name = inode.links[0]
        order = self._order(parent)
        index = order.index(name)
        if index is None:
            order.missed += 1
            return None
        ahead = self._tracker.opened(parent.ino, index, len(order.names))
        if not ahead:
            return None
        refs = (self._ref(parent, order.names[index]) for index in ahead)
        return SiblingHint(tuple(ref for ref in refs if ref is not None))

    def _order(self, parent: Inode) -> _Order:
        order = self._orders.get(parent.ino)
        listing = self._core.remote.peek(parent.prefix) if self._core.has_name(parent) else None
        seen_at = listing.seen_at if listing is not None else 0.0
        if order is not None and (listing is None or order.seen_at == seen_at) and order.missed * 8 <= len(order.names):
            return order
        children = parent.children
        assert children is not None
        names = {name_of(component) for component in listing.files} if listing is not None else set()
        names.update(name for name, child in children.items() if not child.is_dir)
        if order is not None:
            self._tracker.forget(parent.ino)
        order = self._orders[parent.ino] = _Order(sorted(names), seen_at)
        return order

    def _ref(self, parent: Inode, name: bytes) -> ObjectRef | None:
        """The content of a name if it is a clean small file, as far as is known without asking."""
        assert parent.children is not None
        child = parent.children.get(name)
        if child is not None:
            clean = child.is_regular and child.content is None and not child.pending
            ref = child.base if clean else None
        else:
            component = component_of(name)
            listing = self._core.remote.peek(parent.prefix)
            gone = listing is None or self._core.engine.is_gone(parent.prefix + component)
            info = listing.info(component) if listing is not None and not gone else None
            ref = info.ref if info is not None else None
        return ref if ref is not None and 0 < ref.size <= self._core.config.reader.warm_bytes else None
