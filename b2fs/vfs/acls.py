"""Access control lists of inodes: kept as extended attributes, in step with the permission bits.

Only where the mount keeps them (`VfsConfig.acl`); else lists that an object came with stay with it, unseen and not
obeyed.  See acl(5) and, for what becomes of the mode, posix_acl_update_mode in Linux.
"""

from __future__ import annotations

import errno
import stat

from b2fs.cache.inode import Inode
from b2fs.core.acl import ACCESS, DEFAULT, Acl
from b2fs.core.nodes import Caller
from b2fs.errors import FsError
from b2fs.vfs.permissions import in_group_or_root

_BITS = 0o777


def access_list(inode: Inode) -> Acl | None:
    """The list that counts in the place of the permission bits, if there is one."""
    return _read(inode, ACCESS)


def _read(inode: Inode, name: bytes) -> Acl | None:
    value = inode.xattrs.get(name)
    if value is None:
        return None
    try:
        return Acl.parse(value)
    except ValueError:
        return None  # another program's metadata; the bits count


def changed(inode: Inode, name: bytes, value: bytes, caller: Caller) -> dict[bytes, bytes]:
    """The extended attributes with this list set; for an access list the mode is changed too.

    Raises FsError (EINVAL, EACCES for a default list on what is no directory).
    """
    try:
        acl = Acl.parse(value)
    except ValueError as error:
        raise FsError(errno.EINVAL, str(error)) from error
    others = {key: kept for key, kept in inode.xattrs.items() if key != name}
    if name == DEFAULT:
        if not inode.is_dir:
            raise FsError(errno.EACCES)
        return {**others, name: value}
    inode.mode = inode.mode & ~_BITS | acl.mode
    if not in_group_or_root(inode.gid, caller):
        inode.mode &= ~stat.S_ISGID
    return others if acl.is_minimal else {**others, name: value}


def follow_mode(inode: Inode) -> None:
    """After a chmod: the access list says what the bits say."""
    acl = access_list(inode)
    if acl is not None:
        inode.xattrs = {**inode.xattrs, ACCESS: acl.with_mode(inode.mode).pack()}


def inherit(parent: Inode, inode: Inode, caller: Caller) -> None:
    """Give a new inode, whose mode is as it was asked for, what its directory's default list or the umask makes it."""
    if inode.is_symlink:
        return
    default = _read(parent, DEFAULT)
    if default is None:
        inode.mode &= ~(caller.umask & _BITS)
        return
    acl = default.created(inode.mode)
    inode.mode = inode.mode & ~_BITS | acl.mode
    if not acl.is_minimal:
        inode.xattrs[ACCESS] = acl.pack()
    if inode.is_dir:
        inode.xattrs[DEFAULT] = default.pack()
