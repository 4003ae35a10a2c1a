"""MemFs: the reference implementation of the FileSystem protocol, in memory, simple enough to be believed by reading.

The job: to answer every operation as the POSIX page of its name says (Linux where POSIX leaves a choice), so that the
behaviour suite can be debugged against it and the real core can be held against it.  It knows nothing of buckets,
caches or pyfuse3.  Attributes that it hands out are its own live objects: a caller who keeps one must copy it.

Every operation first finds all reasons to refuse and changes nothing before the last of them, and none awaits, so
each is atomic.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Sequence

from b2fs.core.attrs import kept_time
from b2fs.core.nodes import Attr, Caller, DirEntry, HandleId, InodeId, OpenFile, SetAttr, StatFs
from b2fs.errors import FsError
from b2fs.vfs import permissions
from b2fs.vfs.api import RENAME_EXCHANGE, RENAME_NOREPLACE
from b2fs.vfs.permissions import R_OK, W_OK
from tests.model.memtree import CAPABILITY, MAX_FILE_BYTES, MemTree
from tests.model.nodes import Node, check_nodes

XATTR_SIZE_MAX = 65536
XATTR_CREATE = 1
XATTR_REPLACE = 2


class MemFs(MemTree):
    """A FileSystem in memory.

    check_permissions=False leaves the decisions to the kernel, for a mount with default_permissions.
    clock gives nanoseconds since the epoch; ttl_s is what the answers allow the kernel to remember.
    """

    # -- names and attributes

    async def lookup(self, parent: InodeId, name: bytes, caller: Caller) -> Attr:
        child = self._child(parent, name, caller)
        child.references += 1
        return child.attr

    def forget(self, inodes: Sequence[tuple[InodeId, int]]) -> None:
        for ino, count in inodes:
            node = self._nodes.get(ino)
            if node is not None:
                self._unreference(node, count)

    def hold(self, ino: InodeId) -> None:
        self._nodes[ino].references += 1

    async def getattr(self, ino: InodeId) -> Attr:
        return self._node(ino).attr

    async def setattr(self, ino: InodeId, changes: SetAttr, handle: HandleId | None, caller: Caller) -> Attr:
        node = self._node(ino)
        attr = node.attr
        if changes.size is not None:
            self._check_truncate(node, changes.size, handle)
        if self._check_permissions:
            refused = permissions.setattr_error(attr, changes, caller, through_handle=handle is not None)
            if refused:
                raise FsError(refused)
        attr.mode = permissions.mode_after_setattr(attr, changes, caller)
        attr.uid = attr.uid if changes.uid is None else changes.uid
        attr.gid = attr.gid if changes.gid is None else changes.gid
        attr.ctime_ns = self._clock()
        if permissions.takes_set_ids(changes) or changes.size is not None:
            node.xattrs.pop(CAPABILITY, None)
        if changes.size is not None:
            self._resize(node, changes.size)
            attr.mtime_ns = attr.ctime_ns
        attr.atime_ns = attr.atime_ns if changes.atime_ns is None else kept_time(changes.atime_ns)
        attr.mtime_ns = attr.mtime_ns if changes.mtime_ns is None else kept_time(changes.mtime_ns)
        return attr

    async def access(self, ino: InodeId, mask: int, caller: Caller) -> bool:
        return permissions.may_access(self._node(ino).attr, caller, mask)

    async def statfs(self) -> StatFs:
        return StatFs(block_size=4096, blocks=1 << 30, blocks_free=1 << 30, files=1 << 30, files_free=1 << 30)

    # -- making nodes

    async def mknod(self, parent: InodeId, name: bytes, mode: int, rdev: int, caller: Caller) -> Attr:
        self._check_new_name(parent, name, caller)
        if self._check_permissions and not permissions.may_mknod(mode, caller):
            raise FsError(errno.EPERM)
        is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        return self._make(parent, name, mode, caller, rdev=rdev if is_device else 0).attr

    async def mkdir(self, parent: InodeId, name: bytes, mode: int, caller: Caller) -> Attr:
        self._check_new_name(parent, name, caller)
        child = self._make(parent, name, stat.S_IFDIR | stat.S_IMODE(mode), caller)
        child.attr.nlink = 2
        child.parent = parent
        self._node(parent).attr.nlink += 1
        return child.attr

    async def symlink(self, parent: InodeId, name: bytes, target: bytes, caller: Caller) -> Attr:
        self._check_new_name(parent, name, caller)
        child = self._make(parent, name, stat.S_IFLNK | 0o777, caller)
        child.target = target
        child.attr.size = len(target)
        return child.attr

    async def readlink(self, ino: InodeId) -> bytes:
        node = self._node(ino)
        if not stat.S_ISLNK(node.attr.mode):
            raise FsError(errno.EINVAL)
        self._touch_atime(node)
        return node.target

    async def link(self, ino: InodeId, parent: InodeId, name: bytes, caller: Caller) -> Attr:
        node = self._node(ino)
        self._check_new_name(parent, name, caller)
        if node.is_dir:
            raise FsError(errno.EPERM)
        if node.attr.nlink == 0:
            raise FsError(errno.ENOENT)
        directory = self._node(parent)
        directory.children[name] = ino
        node.attr.nlink += 1
        node.references += 1
        node.attr.ctime_ns = self._mark_changed(directory)
        return node.attr

    # -- removing names

    async def unlink(self, parent: InodeId, name: bytes, caller: Caller) -> None:
        child = self._child(parent, name, caller)
        self._check_may_remove(parent, child, caller)
        if child.is_dir:
            raise FsError(errno.EISDIR)
        self._drop_name(self._node(parent), name, child)

    async def rmdir(self, parent: InodeId, name: bytes, caller: Caller) -> None:
        child = self._child(parent, name, caller)
        self._check_may_remove(parent, child, caller)
        if not child.is_dir:
            raise FsError(errno.ENOTDIR)
        if child.children:
            raise FsError(errno.ENOTEMPTY)
        self._drop_name(self._node(parent), name, child)

    async def rename(
        self,
        old_parent: InodeId,
        old_name: bytes,
        new_parent: InodeId,
        new_name: bytes,
        flags: int,
        caller: Caller,
    ) -> None:
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) or flags == RENAME_NOREPLACE | RENAME_EXCHANGE:
            raise FsError(errno.EINVAL)
        moved = self._child(old_parent, old_name, caller)
        replaced = self._child_or_none(new_parent, new_name, caller)
        if replaced is None and flags & RENAME_EXCHANGE:
            raise FsError(errno.ENOENT)
        if replaced is not None and flags & RENAME_NOREPLACE:
            raise FsError(errno.EEXIST)
        exchange = bool(flags & RENAME_EXCHANGE)
        self._check_no_cycle(old_parent, moved, new_parent, replaced, exchange=exchange)
        if replaced is moved:
            return
        self._check_may_move(old_parent, moved, new_parent, caller)
        if replaced is None:
            self._check_may_add(new_parent, caller)
        elif exchange:
            self._check_may_move(new_parent, replaced, old_parent, caller)
        else:
            self._check_may_replace(moved, new_parent, replaced, caller)
        self._move(old_parent, old_name, moved, new_parent, new_name, replaced, exchange=exchange)

    def _check_no_cycle(
        self, old_parent: InodeId, moved: Node, new_parent: InodeId, replaced: Node | None, *, exchange: bool
    ) -> None:
        """A directory never becomes its own descendant, and never takes the place of one that holds it."""
        if moved.is_dir and self._is_inside(new_parent, moved):
            raise FsError(errno.EINVAL)
        if replaced is not None and replaced.is_dir and self._is_inside(old_parent, replaced):
            raise FsError(errno.EINVAL if exchange else errno.ENOTEMPTY)

    def _check_may_move(self, parent: InodeId, child: Node, new_parent: InodeId, caller: Caller) -> None:
        self._check_may_remove(parent, child, caller)
        if child.is_dir and parent != new_parent:  # its '..' changes
            self._check_access(child, caller, W_OK)

    def _check_may_replace(self, moved: Node, new_parent: InodeId, replaced: Node, caller: Caller) -> None:
        self._check_may_remove(new_parent, replaced, caller)
        if moved.is_dir and not replaced.is_dir:
            raise FsError(errno.ENOTDIR)
        if replaced.is_dir and not moved.is_dir:
            raise FsError(errno.EISDIR)
        if replaced.children:
            raise FsError(errno.ENOTEMPTY)

    def _move(
        self,
        old_parent: InodeId,
        old_name: bytes,
        moved: Node,
        new_parent: InodeId,
        new_name: bytes,
        replaced: Node | None,
        *,
        exchange: bool,
    ) -> None:
        source, destination = self._node(old_parent), self._node(new_parent)
        if exchange:
            assert replaced is not None
            source.children[old_name] = replaced.attr.ino
            self._set_parent(replaced, destination, source)
            replaced.attr.ctime_ns = self._clock()
        else:
            if replaced is not None:
                self._drop_name(destination, new_name, replaced)
            del source.children[old_name]
        destination.children[new_name] = moved.attr.ino
        self._set_parent(moved, source, destination)
        self._mark_changed(source)
        moved.attr.ctime_ns = self._mark_changed(destination)

    def _set_parent(self, child: Node, old: Node, new: Node) -> None:
        if child.is_dir:
            child.parent = new.attr.ino
            old.attr.nlink -= 1
            new.attr.nlink += 1

    # -- files

    async def create(
        self, parent: InodeId, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[OpenFile, Attr]:
        existing = self._child_or_none(parent, name, caller)
        if existing is not None:
            if flags & os.O_EXCL:
                raise FsError(errno.EEXIST)
            opened = await self.open(existing.attr.ino, flags, caller)
            existing.references += 1
            return opened, existing.attr
        self._check_new_name(parent, name, caller)
        child = self._make(parent, name, stat.S_IFREG | stat.S_IMODE(mode), caller)
        return self._open_file(child, flags, caller), child.attr

    async def open(self, ino: InodeId, flags: int, caller: Caller) -> OpenFile:
        node = self._node(ino)
        accmode = flags & os.O_ACCMODE
        truncates = bool(flags & os.O_TRUNC)
        if node.is_dir and (accmode != os.O_RDONLY or truncates or flags & os.O_CREAT):
            raise FsError(errno.EISDIR)
        if stat.S_ISLNK(node.attr.mode):
            raise FsError(errno.ELOOP)
        wanted = (R_OK if accmode != os.O_WRONLY else 0) | (W_OK if accmode != os.O_RDONLY or truncates else 0)
        self._check_access(node, caller, wanted)
        if truncates:
            self._resize(node, 0)
            self._mark_written(node, caller)
        return self._open_file(node, flags, caller)

    async def read(self, handle: HandleId, offset: int, length: int) -> bytes:
        node = self._handle(handle).node
        if node.is_dir:
            raise FsError(errno.EISDIR)
        data = node.content.read(offset, min(length, max(0, node.attr.size - offset)))
        if data and not self._handle(handle).flags & os.O_NOATIME:
            self._touch_atime(node)
        return data

    async def write(self, handle: HandleId, offset: int, data: bytes | memoryview) -> int:
        opened = self._handle(handle)
        node = opened.node
        if opened.flags & os.O_APPEND:
            offset = node.attr.size
        if offset + len(data) > MAX_FILE_BYTES:
            raise FsError(errno.EFBIG)
        if data:
            node.content.write(offset, data)
            self._set_size(node, max(node.attr.size, offset + len(data)))
            self._mark_written(node, opened.caller)
        return len(data)

    async def flush(self, handle: HandleId) -> None:
        self._handle(handle)

    async def fsync(self, handle: HandleId, datasync: bool) -> None:
        self._handle(handle)

    async def release(self, handle: HandleId) -> None:
        self._unreference(self._handles.pop(handle).node, 1)

    # -- directories

    async def opendir(self, ino: InodeId, caller: Caller) -> HandleId:
        node = self._node(ino)
        if not node.is_dir:
            raise FsError(errno.ENOTDIR)
        self._check_access(node, caller, R_OK)
        return self._open_file(node, os.O_RDONLY | os.O_DIRECTORY, caller).handle

    async def readdir(self, handle: HandleId, start: int) -> AsyncIterator[DirEntry]:
        opened = self._handle(handle)
        if start == 0:
            opened.names = list(opened.node.children)
            self._touch_atime(opened.node)
        for cookie in range(start + 1, len(opened.names) + 1):
            name = opened.names[cookie - 1]
            ino = opened.node.children.get(name)
            if ino is not None:
                yield DirEntry(name, self._nodes[ino].attr, cookie)

    def dots(self, handle: HandleId) -> tuple[InodeId, InodeId]:
        node = self._handle(handle).node
        return node.attr.ino, node.parent

    async def fsyncdir(self, handle: HandleId, datasync: bool) -> None:
        self._handle(handle)

    async def releasedir(self, handle: HandleId) -> None:
        await self.release(handle)

    # -- extended attributes

    async def getxattr(self, ino: InodeId, name: bytes, caller: Caller) -> bytes:
        node = self._node(ino)
        self._check_xattr(node, name, caller, write=False)
        if name not in node.xattrs:
            raise FsError(errno.ENODATA)
        return node.xattrs[name]

    async def setxattr(self, ino: InodeId, name: bytes, value: bytes, flags: int, caller: Caller) -> None:
        node = self._node(ino)
        if flags & ~(XATTR_CREATE | XATTR_REPLACE):
            raise FsError(errno.EINVAL)
        self._check_xattr(node, name, caller, write=True)
        if len(value) > XATTR_SIZE_MAX:
            raise FsError(errno.E2BIG)
        if flags & XATTR_CREATE and name in node.xattrs:
            raise FsError(errno.EEXIST)
        if flags & XATTR_REPLACE and name not in node.xattrs:
            raise FsError(errno.ENODATA)
        node.xattrs[name] = bytes(value)
        node.attr.ctime_ns = self._clock()

    async def listxattr(self, ino: InodeId, caller: Caller) -> list[bytes]:
        names = self._node(ino).xattrs
        return [name for name in names if caller.uid == 0 or not name.startswith(b"trusted.")]

    async def removexattr(self, ino: InodeId, name: bytes, caller: Caller) -> None:
        node = self._node(ino)
        self._check_xattr(node, name, caller, write=True)
        if name not in node.xattrs:
            raise FsError(errno.ENODATA)
        del node.xattrs[name]
        node.attr.ctime_ns = self._clock()

    # -- for tests

    def check_invariants(self) -> None:
        """Every link count is what the tree says, every name leads to a live inode, nothing dead is kept."""
        check_nodes(self._nodes)
