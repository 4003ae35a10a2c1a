"""Extended attributes: those that the object carries, and b2fs's own read-only ones."""

from __future__ import annotations

import errno

from b2fs.cache.inode import Inode
from b2fs.core.acl import ACCESS, DEFAULT
from b2fs.core.nodes import Caller
from b2fs.errors import FsError
from b2fs.vfs import acls
from b2fs.vfs.clock import now_ns
from b2fs.vfs.core import Core
from b2fs.vfs.permissions import xattr_error

XATTR_CREATE = 1
XATTR_REPLACE = 2

_OWN = b"user.b2fs."
#: Access control lists belong to these only where they are obeyed, or programs would leave a file's mode to them.
_NAMESPACES = (b"user.", b"trusted.", b"security.")
_LISTS = (ACCESS, DEFAULT)
#: Linux's limits (xattr(7)).
_NAME_MAX = 255
_SIZE_MAX = 65536


def is_own(name: bytes) -> bool:
    """Whether this is one of b2fs's own read-only attributes."""
    return name.startswith(_OWN)


class Xattrs:
    """See the module."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def check(self, inode: Inode, name: bytes, caller: Caller, *, write: bool) -> None:
        """What xattr(7) says of names and permissions."""
        if name in _LISTS and self._core.config.acl and not inode.is_symlink:
            pass
        elif not name.startswith(_NAMESPACES):
            raise FsError(errno.EOPNOTSUPP)
        if len(name) > _NAME_MAX:
            raise FsError(errno.ERANGE)
        if write and name.startswith(_OWN):
            raise FsError(errno.EPERM, "b2fs's own attributes are read-only")
        if self._core.config.check_permissions:
            refused = xattr_error(inode, name, caller, self._core.acl(inode), write=write)
            if refused:
                raise FsError(refused)
        if name in _NAMESPACES:
            raise FsError(errno.EINVAL)

    def get(self, inode: Inode, name: bytes) -> bytes:
        value = self._own(inode).get(name) if name.startswith(_OWN) else inode.xattrs.get(name)
        if value is None:
            raise FsError(errno.ENODATA)
        return value

    async def find_version(self, inode: Inode, name: bytes) -> None:
        """Learn the version ID of a file that only a listing has shown, if that is what is asked for."""
        base = inode.base
        if name != _OWN + b"version_id" or inode.is_dir or base is None or base.version_id is not None:
            return
        if self._core.store.capabilities.versioning and not inode.pending:
            found = (await self._core.store.head(base.key)).ref
            if inode.base is base and (found.etag, found.size) == (base.etag, base.size):
                inode.base = found

    def names(self, inode: Inode, caller: Caller) -> list[bytes]:
        """b2fs's own are not listed, so that copying programs do not copy them."""
        shown: tuple[bytes, ...] = _NAMESPACES if caller.uid == 0 else (b"user.", b"security.")
        if self._core.config.acl:
            shown += _LISTS
        return [name for name in inode.xattrs if name.startswith(shown)]

    def set(self, inode: Inode, name: bytes, value: bytes, flags: int, caller: Caller) -> None:
        if flags & ~(XATTR_CREATE | XATTR_REPLACE):
            raise FsError(errno.EINVAL)
        if len(value) > _SIZE_MAX:
            raise FsError(errno.E2BIG)
        if flags & XATTR_CREATE and name in inode.xattrs:
            raise FsError(errno.EEXIST)
        if flags & XATTR_REPLACE and name not in inode.xattrs:
            raise FsError(errno.ENODATA)
        before, mode = inode.xattrs, inode.mode
        inode.xattrs = acls.changed(inode, name, value, caller) if name in _LISTS else {**before, name: value}
        if not self._core.transfer.fits(inode, inode.all_keys()):
            inode.xattrs, inode.mode = before, mode
            raise FsError(errno.ENOSPC, "the extended attributes are larger than an object's metadata may be")
        self._changed(inode)

    def remove(self, inode: Inode, name: bytes) -> None:
        if name not in inode.xattrs:
            raise FsError(errno.ENODATA)
        inode.xattrs = {k: v for k, v in inode.xattrs.items() if k != name}
        self._changed(inode)

    def _changed(self, inode: Inode) -> None:
        inode.ctime_ns = now_ns()
        if inode.is_dir:
            inode.marked = True
        self._core.touch(inode)
        self._core.ledger.commit()

    def _own(self, inode: Inode) -> dict[bytes, bytes]:
        """user.b2fs.state, and of a file what names the version in the bucket."""
        own = {b"user.b2fs.state": self._core.engine.state_of(inode).encode()}
        if not inode.is_dir and inode.base is not None and inode.base_content_seq == inode.content_seq:
            own[b"user.b2fs.etag"] = inode.base.etag.encode()
            if inode.base.version_id is not None:
                own[b"user.b2fs.version_id"] = inode.base.version_id.encode()
        return own
