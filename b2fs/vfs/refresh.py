"""Refresh: what others may have changed is looked at anew, here and in the kernel."""

from __future__ import annotations

import trio

from b2fs.cache.inode import Inode
from b2fs.core.keys import component_of
from b2fs.vfs.core import Core
from b2fs.vfs.foreign import ForeignAttributes


class Refresher:
    """See the module."""

    def __init__(self, core: Core, foreign: ForeignAttributes) -> None:
        self._core = core
        self._foreign = foreign

    async def refresh(self, path: bytes = b"") -> None:
        """Look at the bucket anew for everything at and below a path (relative to the mount), and let the kernel too.

        Makes no request itself.  Local changes stay what they are, and open files keep their version.
        """
        core, names = self._core, [name for name in path.split(b"/") if name]
        self._foreign.forget()
        core.store.refresh()
        if core.index is not None:
            core.index.refresh()
        if not names:
            core.remote.forget(core.root.prefix)
            await self._forget_below(core.root)
            return
        prefix, last = core.root.prefix, component_of(names[-1])
        parent: Inode | None = core.root
        for name in names[:-1]:
            prefix += f"{parent.component(name) if parent is not None else component_of(name)}/"
            parent = parent.children.get(name) if parent is not None and parent.children is not None else None
        core.remote.forget_name(prefix, parent.component(names[-1]) if parent is not None else last)
        if parent is None or parent.children is None:
            return
        self._forget_entry(parent, names[-1])
        child = parent.children.get(names[-1])
        if child is not None and child.is_dir:
            await self._forget_below(child)

    async def _forget_below(self, directory: Inode) -> None:
        stack, seen = [directory], set()
        while stack:
            parent = stack.pop()
            seen.add(parent)
            for name, child in list((parent.children or {}).items()):
                self._forget_entry(parent, name)
                if child.is_dir:
                    stack.append(child)
            await trio.lowlevel.checkpoint()
        for parent, name in self._core.dormant.names():
            if parent in seen:
                self._core.notifier.invalidate_entry(parent.ino, name)

    def _forget_entry(self, parent: Inode, name: bytes) -> None:
        child = parent.children.get(name) if parent.children is not None else None
        if child is not None:
            child.validated_at = float("-inf")
        self._core.notifier.invalidate_entry(parent.ino, name)
