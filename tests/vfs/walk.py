"""The kernel's path walk, for a filesystem that is called without a kernel."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace

from b2fs.core.nodes import Attr, Caller, InodeId
from b2fs.errors import FsError
from b2fs.vfs.api import ROOT, FileSystem

_MAX_SYMLINKS = 40


class Walk:
    """One system call: who makes it, the way to its inodes, and the references that it has to give back."""

    def __init__(self, fs: FileSystem, caller: Caller, base: str) -> None:
        self.fs = fs
        self.caller = caller
        self._base = base
        self._held: list[tuple[InodeId, int]] = []
        self._symlinks_left = _MAX_SYMLINKS

    def hold(self, attr: Attr) -> Attr:
        """attr comes with a reference, which is given back at the end; a copy, since the original may live on."""
        self._held.append((attr.ino, 1))
        return replace(attr)

    def done(self) -> None:
        self.fs.forget(self._held)

    async def parent(self, path: str) -> tuple[InodeId, bytes]:
        """The directory that holds the last component, and that component."""
        stack = await self._start()
        *components, last = _components(path)
        for component in components:
            attr = await self._step(stack, component, follow=True)
            if not stat.S_ISDIR(attr.mode):
                raise FsError(errno.ENOTDIR)
        return stack[-1], os.fsencode(last)

    async def find(self, path: str, *, follow: bool = True) -> Attr:
        """The attributes of what the path leads to."""
        if not path:
            raise FsError(errno.ENOENT)
        stack = await self._start()
        return await self._walk(stack, path, follow=follow)

    async def _start(self) -> list[InodeId]:
        # The suite's own directory is where the calling process stands: reaching it asks for no permission.
        stack = [ROOT]
        for component in _components(self._base.removeprefix(".")):
            attr = self.hold(await self.fs.lookup(stack[-1], os.fsencode(component), Caller()))
            stack.append(attr.ino)
        return stack

    async def _walk(self, stack: list[InodeId], path: str, *, follow: bool) -> Attr:
        components = _components(path)
        attr = replace(await self.fs.getattr(stack[-1]))
        for index, component in enumerate(components):
            is_last = index == len(components) - 1
            attr = await self._step(stack, component, follow=follow or not is_last)
        return attr

    async def _step(self, stack: list[InodeId], component: str, *, follow: bool) -> Attr:
        """Go one component further; stack is the way from the root to where we are."""
        if component == ".":
            return replace(await self.fs.getattr(stack[-1]))
        if component == "..":
            if len(stack) > 1:
                stack.pop()
            return replace(await self.fs.getattr(stack[-1]))
        attr = self.hold(await self.fs.lookup(stack[-1], os.fsencode(component), self.caller))
        if follow and stat.S_ISLNK(attr.mode):
            self._symlinks_left -= 1
            if self._symlinks_left < 0:
                raise FsError(errno.ELOOP)
            return await self._walk(stack, os.fsdecode(await self.fs.readlink(attr.ino)), follow=True)
        stack.append(attr.ino)
        return attr


def _components(path: str) -> list[str]:
    return [part for part in path.split("/") if part]
