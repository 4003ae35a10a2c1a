"""B2Filesystem: the FileSystem protocol over a bucket."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import stat
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from b2fs.cache.inode import Inode
from b2fs.cache.reader import ReaderStats
from b2fs.cache.reader.stock import StockProgress
from b2fs.cache.writeback.engine import Engine
from b2fs.core.attrs import kept_time
from b2fs.core.nodes import Attr, Caller, DirEntry, HandleId, InodeId, OpenFile, SetAttr, StatFs
from b2fs.errors import FsError
from b2fs.store.protocol import ObjectStore
from b2fs.vfs import acls, permissions
from b2fs.vfs.api import KernelNotifier
from b2fs.vfs.build import build_core
from b2fs.vfs.clock import now_ns
from b2fs.vfs.config import VfsConfig
from b2fs.vfs.core import Core
from b2fs.vfs.directories import Directories
from b2fs.vfs.files import Files
from b2fs.vfs.foreign import ForeignAttributes
from b2fs.vfs.handles import FileHandle
from b2fs.vfs.linkgroups import LinkGroups
from b2fs.vfs.memory import Memory
from b2fs.vfs.mutations import Held, Mutations, check_target, symlink_mode
from b2fs.vfs.namespace import Namespace
from b2fs.vfs.outcomes import Outcomes
from b2fs.vfs.recovery import Recovery
from b2fs.vfs.refresh import Refresher
from b2fs.vfs.renames import Renames
from b2fs.vfs.scan import Scanner
from b2fs.vfs.warm import Warmer
from b2fs.vfs.watch import Watches
from b2fs.vfs.xattrs import Xattrs, is_own

log = logging.getLogger(__name__)

_MAKEABLE = (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)


class B2Filesystem:
    """See the module and vfs.api.FileSystem, which has the meaning of every operation."""

    def __init__(self, core: Core) -> None:
        self._core = core
        foreign = ForeignAttributes(core)
        self.memory = Memory(core, foreign)
        self._refresher = Refresher(core, foreign)
        self._names = Namespace(core, foreign)
        self._scanner = Scanner(core, self._names, foreign)
        self._groups = LinkGroups(core, self._names)
        self._directories = Directories(core, self._names, self._scanner, self._groups)
        self._files = Files(core, self._names)
        self._mutations = Mutations(core, self._names, self._scanner, self._files)
        self._watches = Watches(core)
        self._renames = Renames(core, self._names, self._scanner, self._mutations, self._files, self._watches)
        self._warmer = Warmer(core, self._names)
        self._xattrs = Xattrs(core)
        self._recovery = Recovery(core, self._names)
        self._handles: dict[HandleId, FileHandle] = {}
        self._next_handle = itertools.count(1)
        core.engine.listen(Outcomes(core, self._files, self._watches, self._handles.values()))

    @property
    def writeback(self) -> Engine:
        return self._core.engine

    @property
    def reading(self) -> ReaderStats:
        """What was read and fetched since the beginning."""
        return self._core.reader.stats

    def set_aside(self) -> int:
        """How many parts of files are kept that power cuts have left."""
        return self._core.files.count_aside()

    @property
    def held(self) -> int:
        """How many inodes are known because somebody holds them, or they differ from the bucket."""
        return len(self._core.inodes) + len(self._core.dormant)

    # ---- lookups and attributes ---------------------------------------------------------------------------------

    async def lookup(self, parent: InodeId, name: bytes, caller: Caller) -> Attr:
        directory = self._searched(parent, caller)
        if directory.sleepers:
            ino = await self._core.dormant.look(directory, name)
            if ino is not None:
                return await self._look_at(ino)
        while True:
            inode = await self._names.existing(directory, name)
            if inode.link_id is not None:
                inode = await self._groups.complete(inode)
            if self._core.inodes.get(inode.ino) is inode:
                return self._core.entry(inode)
            # It was stored while we asked, and forgotten, since nobody held it yet: what is in the bucket is it now.

    async def _look_at(self, ino: InodeId) -> Attr:
        """The answer to a lookup that leads to a dormant file."""
        self._core.dormant.hold_again(ino)  # now, so that it is not forgotten while its attributes are asked for
        try:
            return await self.getattr(ino)
        except BaseException:
            self.forget([(ino, 1)])
            raise

    def _searched(self, ino: InodeId, caller: Caller) -> Inode:
        """A directory that the caller may look names up in."""
        directory = self._core.directory(ino)
        self._core.require(directory, caller, permissions.X_OK)
        return directory

    def forget(self, inodes: Sequence[tuple[InodeId, int]]) -> None:
        for ino, count in inodes:
            inode = self._core.inodes.get(ino)
            if inode is not None:
                inode.holds = max(0, inode.holds - count)
                self._core.drop_if_unused(inode)
            else:
                self._core.dormant.forget(ino, count)

    def hold(self, ino: InodeId) -> None:
        self._directories.hold(ino)

    async def getattr(self, ino: InodeId) -> Attr:
        inode = self._core.shown_inode(ino)
        if not inode.attrs_known:
            await self._names.shown(inode)
        if inode.link_id is not None:
            inode = await self._groups.complete(inode)
        return self._core.attr(self._core.inodes.get(ino, inode))  # it may have woken up meanwhile

    async def _complete(self, inode: Inode) -> Inode:
        """The same inode with its attributes and all its names known.  Checkpoint: only if it asks."""
        if inode.attrs_known and inode.link_id is None:
            return inode
        return await self._groups.complete(await self._names.known(inode))

    async def setattr(self, ino: InodeId, changes: SetAttr, handle: HandleId | None, caller: Caller) -> Attr:
        core = self._core
        inode = await self._complete(core.inode(ino))
        core.writable()
        core.check_not_sealed(inode)
        if changes.size is not None and not inode.is_regular:
            raise FsError(errno.EISDIR if inode.is_dir else errno.EINVAL)
        if core.config.check_permissions:
            through_handle, acl = handle is not None, core.acl(inode)
            refused = permissions.setattr_error(inode, changes, caller, through_handle=through_handle, acl=acl)
            if refused:
                raise FsError(refused)
        if changes.size is not None:
            await self._files.truncate(inode, changes.size)
            if handle is not None:
                self._handle(handle).wrote = True
        self._apply(inode, changes, caller)
        core.touch(inode)
        core.ledger.commit()
        return core.attr(inode)

    def _apply(self, inode: Inode, changes: SetAttr, caller: Caller) -> None:
        now = now_ns()
        inode.mode = permissions.mode_after_setattr(inode, changes, caller)
        if changes.mode is not None and self._core.config.acl:
            acls.follow_mode(inode)
        if permissions.takes_set_ids(changes) or changes.size is not None:
            inode.drop_capability()
        if changes.uid is not None:
            inode.uid = changes.uid
        if changes.gid is not None:
            inode.gid = changes.gid
        if changes.atime_ns is not None:
            inode.atime_ns = kept_time(changes.atime_ns)
        if changes.mtime_ns is not None:
            inode.mtime_ns = kept_time(changes.mtime_ns)
        inode.ctime_ns = now
        if inode.is_dir:
            inode.marked = True

    async def access(self, ino: InodeId, mask: int, caller: Caller) -> bool:
        inode = await self._names.shown(self._core.shown_inode(ino))
        if mask & permissions.W_OK and self._core.config.read_only:
            raise FsError(errno.EROFS)
        return self._core.may(inode, caller, mask)

    async def readlink(self, ino: InodeId) -> bytes:
        inode = self._core.inode(ino)
        if not inode.is_symlink:
            raise FsError(errno.EINVAL)
        inode.accessed(now_ns)
        while inode.target is None:
            base = inode.base
            if base is None:
                return b""
            target = await self._core.reader.fetch_range(base, 0, base.size)
            if inode.base is base:
                inode.target = bytes(target)
        return inode.target

    async def statfs(self) -> StatFs:
        return await self._core.usage.statfs()

    # ---- names --------------------------------------------------------------------------------------------------

    async def mknod(self, parent: InodeId, name: bytes, mode: int, rdev: int, caller: Caller) -> Attr:
        if stat.S_IFMT(mode) == 0:
            mode |= stat.S_IFREG
        if stat.S_IFMT(mode) not in _MAKEABLE:
            raise FsError(errno.EINVAL)
        made = await self._mutations.make(self._searched(parent, caller), name, mode, caller, rdev=rdev)
        return self._core.entry(made)

    async def mkdir(self, parent: InodeId, name: bytes, mode: int, caller: Caller) -> Attr:
        mode = stat.S_IFDIR | stat.S_IMODE(mode)
        return self._core.entry(await self._mutations.make(self._searched(parent, caller), name, mode, caller))

    async def symlink(self, parent: InodeId, name: bytes, target: bytes, caller: Caller) -> Attr:
        check_target(target)
        directory = self._searched(parent, caller)
        return self._core.entry(await self._mutations.make(directory, name, symlink_mode(), caller, target=target))

    async def link(self, ino: InodeId, parent: InodeId, name: bytes, caller: Caller) -> Attr:
        inode = await self._complete(self._core.inode(ino))
        await self._mutations.link(inode, self._searched(parent, caller), name, caller)
        return self._core.entry(inode)

    async def unlink(self, parent: InodeId, name: bytes, caller: Caller) -> None:
        await self._mutations.unlink(self._searched(parent, caller), name, caller)

    async def rmdir(self, parent: InodeId, name: bytes, caller: Caller) -> None:
        await self._mutations.rmdir(self._searched(parent, caller), name, caller)

    async def rename(
        self,
        old_parent: InodeId,
        old_name: bytes,
        new_parent: InodeId,
        new_name: bytes,
        flags: int,
        caller: Caller,
    ) -> None:
        old = (self._searched(old_parent, caller), old_name)
        await self._renames.rename(old, (self._searched(new_parent, caller), new_name), flags, caller)

    # ---- files --------------------------------------------------------------------------------------------------

    async def create(
        self, parent: InodeId, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[OpenFile, Attr]:
        directory = self._searched(parent, caller)
        child = await self._names.child(directory, name)
        if child is None:
            self._core.writable()
            self._mutations.check_may_change(directory, caller)
            self._mutations.check_key(directory, name)
            child = self._mutations.make_now(directory, name, stat.S_IFREG | stat.S_IMODE(mode), caller)
            return self._opened(child, flags, caller, changed=True), self._core.entry(child)
        if flags & os.O_EXCL:
            raise FsError(errno.EEXIST)
        with Held(self._core, child):
            return await self.open(child.ino, flags, caller), self._core.entry(child)

    async def open(self, ino: InodeId, flags: int, caller: Caller) -> OpenFile:
        mode = flags & os.O_ACCMODE
        changes = mode != os.O_RDONLY or bool(flags & os.O_TRUNC)
        inode = await (self._names.known if changes else self._names.shown)(self._core.inode(ino))
        if changes:
            await self._groups.complete(inode)
            self._core.writable()
            self._core.check_not_sealed(inode)
        if inode.is_dir and (changes or flags & os.O_CREAT):
            raise FsError(errno.EISDIR)
        if inode.is_symlink:
            raise FsError(errno.ELOOP)
        wanted = {os.O_RDONLY: 4, os.O_WRONLY: 2}.get(mode, 6) | (2 if flags & os.O_TRUNC else 0)
        self._core.require(inode, caller, wanted)
        cuts = inode.is_regular and bool(flags & os.O_TRUNC)
        if cuts:
            await self._files.truncate(inode, 0)
            self._core.drop_privileges(inode, caller)
            self._core.touch(inode)
            self._core.ledger.commit()
        return self._opened(inode, flags, caller, changed=cuts)

    def _opened(self, inode: Inode, flags: int, caller: Caller, *, changed: bool) -> OpenFile:
        handle = FileHandle(HandleId(next(self._next_handle)), inode, flags, caller, wrote=changed)
        self._handles[handle.id] = handle
        inode.opens += 1
        if handle.writes:
            inode.writers += 1
        # An inode stands for one content that only this mount changes, so the kernel's pages stay right.
        return OpenFile(handle.id, keep_cache=True)

    def _handle(self, handle: HandleId) -> FileHandle:
        try:
            return self._handles[handle]
        except KeyError:
            raise FsError(errno.EBADF) from None

    # These two hand on what is to be awaited: one coroutine less for each request.

    def read(self, handle: HandleId, offset: int, length: int) -> Coroutine[Any, Any, bytes | memoryview]:
        return self._files.read(self._handle(handle), offset, length)

    def write(self, handle: HandleId, offset: int, data: bytes | memoryview) -> Coroutine[Any, Any, int]:
        return self._files.write(self._handle(handle), offset, data)

    async def flush(self, handle: HandleId) -> None:
        opened = self._handle(handle)
        self._files.report(opened)
        if self._core.config.sync_on_close and opened.wrote:
            opened.wrote = False
            await self._files.sync(opened)

    async def fsync(self, handle: HandleId, datasync: bool) -> None:
        await self._files.sync(self._handle(handle))

    async def release(self, handle: HandleId) -> None:
        opened = self._handles.pop(handle, None)
        if opened is None:
            return
        opened.close_stream()
        inode = opened.inode
        inode.opens -= 1
        if opened.writes:
            inode.writers -= 1
            if not inode.writers and inode.pending:
                self._core.engine.closed(inode)
        if not inode.opens:
            self._files.retire(inode)
            self._core.drop_if_unused(inode)

    # ---- directories --------------------------------------------------------------------------------------------

    async def opendir(self, ino: InodeId, caller: Caller) -> HandleId:
        directory = self._core.directory(ino)
        self._core.require(directory, caller, permissions.R_OK)
        handle = HandleId(next(self._next_handle))
        self._directories.open(handle, directory)
        return handle

    def readdir(self, handle: HandleId, start: int) -> AsyncIterator[DirEntry]:
        return self._directories.read(handle, start)

    def dots(self, handle: HandleId) -> tuple[InodeId, InodeId]:
        directory = self._directories.handle(handle).inode
        return directory.ino, (directory.links[0][0] if directory.links else directory).ino

    async def fsyncdir(self, handle: HandleId, datasync: bool) -> None:
        await self._files.sync_names(self._directories.handle(handle).inode)

    async def releasedir(self, handle: HandleId) -> None:
        self._directories.close(handle)

    # ---- extended attributes ------------------------------------------------------------------------------------

    async def getxattr(self, ino: InodeId, name: bytes, caller: Caller) -> bytes:
        inode = self._core.shown_inode(ino)
        if not inode.attrs_known:
            inode = await self._names.shown(inode)
        self._xattrs.check(inode, name, caller, write=False)
        if is_own(name):
            await self._xattrs.find_version(inode, name)
        return self._xattrs.get(inode, name)

    async def setxattr(self, ino: InodeId, name: bytes, value: bytes, flags: int, caller: Caller) -> None:
        self._core.writable()
        inode = await self._groups.complete(await self._names.known(self._core.inode(ino)))
        self._core.check_not_sealed(inode)
        self._xattrs.check(inode, name, caller, write=True)
        self._xattrs.set(inode, name, bytes(value), flags, caller)

    async def listxattr(self, ino: InodeId, caller: Caller) -> list[bytes]:
        return self._xattrs.names(await self._names.shown(self._core.shown_inode(ino)), caller)

    async def removexattr(self, ino: InodeId, name: bytes, caller: Caller) -> None:
        self._core.writable()
        inode = await self._groups.complete(await self._names.known(self._core.inode(ino)))
        self._core.check_not_sealed(inode)
        self._xattrs.check(inode, name, caller, write=True)
        self._xattrs.remove(inode, name)

    # ---- what others change -------------------------------------------------------------------------------------

    async def refresh(self, path: bytes = b"") -> None:
        """As Refresher.refresh."""
        await self._refresher.refresh(path)

    async def warm(self, path: bytes, progress: Callable[[StockProgress], None]) -> StockProgress:
        """Bring what is at and below a path onto the local disk; progress is told once, and changes from then on.

        Raises like Warmer.begin and Stocking.run.
        """
        stocking, pages = await self._warmer.begin(path)
        progress(stocking.progress)
        await stocking.run(pages)
        return stocking.progress

    # ---- life ---------------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Take up what an earlier end left, and learn the root's attributes."""
        await self.memory.restore()
        if self._core.config.read_only:
            self._recovery.leave()
        else:
            self._recovery.restore()
        root = self._core.root
        if not root.pending:
            info = await self._names.directory_info(root.prefix)
            if info is not None:
                self._names.learn(root, info)
                root.marked = True

    async def write_index(self) -> None:
        """Write what is known of attributes and not in the bucket yet; without it they are only found more slowly."""
        if self._core.index is not None:
            await self._core.index.finish()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Background work until cancelled; started when files can be read."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._core.reader.run)
            task_status.started()
            nursery.start_soon(self._files.run)
            nursery.start_soon(self._files.stock)
            nursery.start_soon(self._core.remote.run)
            if self._core.config.look_ahead:
                nursery.start_soon(self._core.remote.look_ahead, self._core.root.prefix)
            nursery.start_soon(self._core.usage.run)
            if self._core.index is not None:
                nursery.start_soon(self._core.index.run)
            if not self._core.config.read_only:
                nursery.start_soon(self._core.engine.run)


@asynccontextmanager
async def open_filesystem(
    store: ObjectStore, config: VfsConfig, notifier: KernelNotifier
) -> AsyncIterator[B2Filesystem]:
    """A running filesystem over an entered store.  Leaving does not drain: `writeback.wait_drained` does."""
    core = build_core(store, config, notifier)
    try:
        filesystem = B2Filesystem(core)
        await filesystem.prepare()
        async with trio.open_nursery() as nursery:
            await nursery.start(filesystem.run)
            try:
                yield filesystem
                await filesystem.write_index()
            finally:
                nursery.cancel_scope.cancel()
        await filesystem.memory.save()
    finally:
        try:
            core.ledger.close()
            core.files.bury(list(core.files.doomed.items()))  # its log is in the database now, on the disk
        finally:
            core.files.close()
            core.blocks.close()
