"""Watches: what is settled while somebody waits for a listing, which may be older than that.

A listing that was asked for before a file was stored does not show it, and one from before a removal still shows what
is gone.  While a watch is open, what is stored keeps its inode, and what is removed is remembered.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from b2fs.cache.inode import Inode
from b2fs.vfs.core import Core


@dataclass(slots=True)
class Watch:
    """What was settled since the watch began: removed keys, and inodes that were stored and are kept until it ends."""

    removed: set[str] = field(default_factory=set)
    kept: list[Inode] = field(default_factory=list)


class Watches:
    """The watches that are open.  All methods belong to the trio thread."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._open: list[Watch] = []

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        """Watch until the context ends."""
        watch = Watch()
        self._open.append(watch)
        try:
            yield watch
        finally:
            self._open = [other for other in self._open if other is not watch]
            for inode in watch.kept:
                inode.holds -= 1
                self._core.drop_if_unused(inode)

    def settled(self, key: str, inode: Inode | None) -> None:
        """The bucket holds the inode under the key, or nothing.  To be called before the inode may be dropped."""
        for watch in self._open:
            if inode is None:
                watch.removed.add(key)
            else:
                watch.removed.discard(key)
                watch.kept.append(inode)
                inode.holds += 1
