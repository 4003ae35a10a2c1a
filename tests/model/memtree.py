"""MemTree: what MemFs is made of: nodes and handles, how they are found, what is refused, and single changes."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable

from b2fs.core.nodes import Attr, Caller, HandleId, InodeId, OpenFile
from b2fs.errors import FsError
from b2fs.vfs import permissions
from b2fs.vfs.api import ROOT
from b2fs.vfs.clock import now_ns
from b2fs.vfs.permissions import W_OK, X_OK
from tests.model.nodes import Handle, Node

NAME_MAX = 255
XATTR_NAME_MAX = 255
#: Taken away by the filesystem itself, as the kernel leaves that to it.
CAPABILITY = b"security.capability"
MAX_FILE_BYTES = 10_000_000_000_000
_XATTR_PREFIXES = (b"user.", b"trusted.", b"security.")


class MemTree:
    """See the module, and MemFs for the arguments.  Nothing here checks more than its name says."""

    def __init__(
        self, *, check_permissions: bool = True, clock: Callable[[], int] = now_ns, ttl_s: float = 0.0
    ) -> None:
        self._check_permissions = check_permissions
        self._clock = clock
        self._ttl_s = ttl_s
        self._nodes: dict[InodeId, Node] = {}
        self._handles: dict[HandleId, Handle] = {}
        self._next_ino = int(ROOT)
        self._next_handle = 1
        root = self._new_node(stat.S_IFDIR | 0o755, 0, 0)
        root.attr.nlink = 2

    # -- finding

    def _node(self, ino: InodeId) -> Node:
        try:
            return self._nodes[ino]
        except KeyError:
            raise FsError(errno.ESTALE) from None

    def _handle(self, handle: HandleId) -> Handle:
        try:
            return self._handles[handle]
        except KeyError:
            raise FsError(errno.EBADF) from None

    def _child_or_none(self, parent: InodeId, name: bytes, caller: Caller) -> Node | None:
        directory = self._node(parent)
        if not directory.is_dir:
            raise FsError(errno.ENOTDIR)
        self._check_access(directory, caller, X_OK)
        if len(name) > NAME_MAX:
            raise FsError(errno.ENAMETOOLONG)
        ino = directory.children.get(name)
        return None if ino is None else self._nodes[ino]

    def _child(self, parent: InodeId, name: bytes, caller: Caller) -> Node:
        child = self._child_or_none(parent, name, caller)
        if child is None:
            raise FsError(errno.ENOENT)
        return child

    def _is_inside(self, ino: InodeId, directory: Node) -> bool:
        """Whether directory ino is directory itself or lies below it."""
        while ino != directory.attr.ino:
            if ino == ROOT:
                return False
            ino = self._node(ino).parent
        return True

    # -- refusing

    def _check_access(self, node: Node, caller: Caller, mask: int) -> None:
        if self._check_permissions and not permissions.may_access(node.attr, caller, mask):
            raise FsError(errno.EACCES)

    def _check_new_name(self, parent: InodeId, name: bytes, caller: Caller) -> None:
        if self._child_or_none(parent, name, caller) is not None:
            raise FsError(errno.EEXIST)
        self._check_may_add(parent, caller)

    def _check_may_add(self, parent: InodeId, caller: Caller) -> None:
        directory = self._node(parent)
        if directory.attr.nlink == 0:  # removed while somebody stood in it
            raise FsError(errno.ENOENT)
        self._check_access(directory, caller, W_OK | X_OK)

    def _check_may_remove(self, parent: InodeId, child: Node, caller: Caller) -> None:
        directory = self._node(parent)
        self._check_access(directory, caller, W_OK | X_OK)
        if self._check_permissions and not permissions.may_remove_entry(directory.attr, child.attr, caller):
            raise FsError(errno.EPERM)

    def _check_truncate(self, node: Node, size: int, handle: HandleId | None) -> None:
        if node.is_dir:
            raise FsError(errno.EISDIR)
        if not stat.S_ISREG(node.attr.mode) or size < 0:
            raise FsError(errno.EINVAL)
        if size > MAX_FILE_BYTES:
            raise FsError(errno.EFBIG)
        if handle is not None:
            self._handle(handle)

    def _check_xattr(self, node: Node, name: bytes, caller: Caller, *, write: bool) -> None:
        if not name.startswith(_XATTR_PREFIXES):
            raise FsError(errno.EOPNOTSUPP)
        if len(name) > XATTR_NAME_MAX:
            raise FsError(errno.ERANGE)
        if self._check_permissions:
            refused = permissions.xattr_error(node.attr, name, caller, write=write)
            if refused:
                raise FsError(refused)
        if name in _XATTR_PREFIXES:
            raise FsError(errno.EINVAL)

    # -- changing

    def _new_node(self, mode: int, uid: int, gid: int, rdev: int = 0) -> Node:
        ino = InodeId(self._next_ino)
        self._next_ino += 1
        now = self._clock()
        attr = Attr(ino, mode, uid=uid, gid=gid, rdev=rdev, atime_ns=now, mtime_ns=now, ctime_ns=now, ttl_s=self._ttl_s)
        node = self._nodes[ino] = Node(attr)
        return node

    def _make(self, parent: InodeId, name: bytes, mode: int, caller: Caller, rdev: int = 0) -> Node:
        directory = self._node(parent)
        mode, gid = permissions.new_node(directory.attr, mode, caller)
        child = self._new_node(mode, caller.uid, gid, rdev)
        child.references = 1
        directory.children[name] = child.attr.ino
        self._mark_changed(directory)
        return child

    def _drop_name(self, directory: Node, name: bytes, child: Node) -> None:
        """Take a name away; a file lives on while it has other names, handles or references."""
        del directory.children[name]
        if child.is_dir:
            child.attr.nlink = 0
            directory.attr.nlink -= 1
        else:
            child.attr.nlink -= 1
        child.attr.ctime_ns = self._mark_changed(directory)
        self._unreference(child, 0)

    def _open_file(self, node: Node, flags: int, caller: Caller) -> OpenFile:
        handle = HandleId(self._next_handle)
        self._next_handle += 1
        self._handles[handle] = Handle(node, flags, caller)
        node.references += 1
        return OpenFile(handle, keep_cache=True)

    def _unreference(self, node: Node, count: int) -> None:
        node.references = max(0, node.references - count)
        if node.references == 0 and node.attr.nlink == 0:
            del self._nodes[node.attr.ino]

    def _resize(self, node: Node, size: int) -> None:
        if size < node.attr.size:
            node.content.truncate(size)
        self._set_size(node, size)

    def _set_size(self, node: Node, size: int) -> None:
        node.attr.size = size
        node.attr.blocks = (size + 511) // 512

    def _mark_changed(self, directory: Node) -> int:
        """The names of directory changed: its times say so; returns them."""
        now = directory.attr.mtime_ns = directory.attr.ctime_ns = self._clock()
        return now

    def _mark_written(self, node: Node, caller: Caller) -> None:
        node.attr.mtime_ns = node.attr.ctime_ns = self._clock()
        node.attr.mode = permissions.mode_after_write(node.attr.mode, node.attr.gid, caller)
        node.xattrs.pop(CAPABILITY, None)

    def _touch_atime(self, node: Node) -> None:
        node.accessed(self._clock())
