"""Who may do what to an inode: pure rules on attributes and the caller's ids, no I/O and no state.

The job: the checks and mode changes that POSIX and Linux define for files, so that the filesystem core and its
reference model decide alike, and like the kernel does for a mount with default_permissions.  This module must not know
where attributes come from.  User 0 stands for a process with every privilege.
"""

from __future__ import annotations

import errno
import stat
from typing import Protocol

from b2fs.core.acl import ACCESS, DEFAULT, Acl
from b2fs.core.nodes import Caller, SetAttr

R_OK = 4
W_OK = 2
X_OK = 1

_ANY_EXECUTE = 0o111
_PERMISSION_BITS = 0o7777
_NOTHING = SetAttr()


class Owned(Protocol):
    """What an inode and its attributes have in common: mode (with the file type), owner and group."""

    mode: int
    uid: int
    gid: int


def in_group(gid: int, caller: Caller) -> bool:
    """Whether gid is the caller's group or one of the supplementary ones."""
    return caller.gid == gid or gid in caller.groups


def in_group_or_root(gid: int, caller: Caller) -> bool:
    """As in_group; every group is root's."""
    return caller.uid == 0 or in_group(gid, caller)


def may_access(attr: Owned, caller: Caller, mask: int, acl: Acl | None = None) -> bool:
    """Whether caller has all of mask (R_OK, W_OK, X_OK) on the inode; mask 0 asks nothing and is granted.

    Exactly one class of bits counts: the owner's for the owner, even where the group's would grant more.  Where there
    is an access control list, its entries count in the place of the bits.
    """
    if caller.uid == 0:
        # Reading and writing are always allowed, running a file only if somebody may run it.
        return not mask & X_OK or stat.S_ISDIR(attr.mode) or bool(attr.mode & _ANY_EXECUTE)
    if acl is not None:
        owner = caller.uid == attr.uid
        return acl.grants(
            mask & 7, is_owner=owner, uid=caller.uid, in_group=lambda gid: in_group(gid, caller), gid=attr.gid
        )
    if caller.uid == attr.uid:
        granted = attr.mode >> 6
    elif in_group(attr.gid, caller):
        granted = attr.mode >> 3
    else:
        granted = attr.mode
    return not mask & ~granted & 7


def is_owner(attr: Owned, caller: Caller) -> bool:
    """Whether caller owns the inode or may act for its owner."""
    return caller.uid in (0, attr.uid)


def may_remove_entry(parent: Owned, victim: Owned, caller: Caller) -> bool:
    """The rule of sticky directories: only the owner of the file or of the directory may remove or rename an entry.

    Write permission on the directory is a separate question.
    """
    return not parent.mode & stat.S_ISVTX or is_owner(victim, caller) or is_owner(parent, caller)


def may_mknod(mode: int, caller: Caller) -> bool:
    """Whether caller may make a node of this type: devices need privilege."""
    return caller.uid == 0 or not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode))


def new_node(parent: Owned, mode: int, caller: Caller) -> tuple[int, int]:
    """(mode, gid) of a node made in parent: set-group-ID directories hand on their group, and the bit to directories.

    The set-group-ID bit of a runnable file is dropped for a caller outside that group (as Linux does since 6.0).
    """
    if not parent.mode & stat.S_ISGID:
        return mode, caller.gid
    if stat.S_ISDIR(mode):
        return mode | stat.S_ISGID, parent.gid
    runnable_setgid = stat.S_ISGID | stat.S_IXGRP
    if mode & runnable_setgid == runnable_setgid and not in_group_or_root(parent.gid, caller):
        mode &= ~stat.S_ISGID
    return mode, parent.gid


def setattr_error(
    attr: Owned, changes: SetAttr, caller: Caller, *, through_handle: bool, acl: Acl | None = None
) -> int:
    """The errno that refuses these changes, or 0.

    chmod(2) and explicit times need the owner, chown(2) to another user needs privilege and to another group the
    owner's membership, truncate(2) write permission unless the file was opened for writing (through_handle).
    """
    if caller.uid == 0:
        return 0
    owner = caller.uid == attr.uid
    if changes.uid is not None and not (owner and changes.uid == attr.uid):
        return errno.EPERM
    if changes.gid is not None and not (owner and (changes.gid == attr.gid or in_group(changes.gid, caller))):
        return errno.EPERM
    if changes.mode is not None and not owner:
        return errno.EPERM
    if (changes.atime_ns is not None or changes.mtime_ns is not None) and not owner:
        if not changes.times_now:
            return errno.EPERM
        if not may_access(attr, caller, W_OK, acl):
            return errno.EACCES
    if changes.size is not None and not through_handle and not may_access(attr, caller, W_OK, acl):
        return errno.EACCES
    return 0


def takes_set_ids(changes: SetAttr) -> bool:
    """Whether these changes take the set-id bits away: a chown(2), or nothing.

    With -1 for both owner and group chown arrives as no change at all, and so does a write, for the sake of the bits.
    """
    return changes.uid is not None or changes.gid is not None or changes == _NOTHING


def mode_after_setattr(attr: Owned, changes: SetAttr, caller: Caller) -> int:
    """The mode that these allowed changes leave: chmod's bits, less the set-id bits that must go."""
    mode = attr.mode
    gives = takes_set_ids(changes)
    if gives:
        mode = without_set_ids(mode, attr.gid, caller)
    if changes.size is not None:
        mode = mode_after_write(mode, attr.gid, caller)
    if changes.mode is not None:
        mode = stat.S_IFMT(mode) | (changes.mode & _PERMISSION_BITS)
        if not in_group_or_root(attr.gid if changes.gid is None else changes.gid, caller):
            mode &= ~stat.S_ISGID
        if gives:
            # The kernel's own way of taking the bits away with a chown; it leaves the group of strangers to us.
            mode = without_set_ids(mode, attr.gid, caller)
    return mode


def mode_after_write(mode: int, gid: int, caller: Caller) -> int:
    """The mode after caller changed the content of a file of this group: without the set-id bits unless privileged."""
    return mode if caller.uid == 0 else without_set_ids(mode, gid, caller)


def without_set_ids(mode: int, gid: int, caller: Caller) -> int:
    """mode less set-user-ID, and less set-group-ID.

    Where the group gid may not run the file, the latter marks locking; then only strangers to the group take it away
    (as Linux does since 6.0).  Directories keep both, where the bits mean something else.
    """
    if not mode & (stat.S_ISUID | stat.S_ISGID) or stat.S_ISDIR(mode):
        return mode
    mode &= ~stat.S_ISUID
    if mode & stat.S_IXGRP or not in_group_or_root(gid, caller):
        mode &= ~stat.S_ISGID
    return mode


def xattr_error(attr: Owned, name: bytes, caller: Caller, acl: Acl | None = None, *, write: bool) -> int:
    """The errno that refuses reading or changing this extended attribute, or 0; see xattr(7).

    user.* exists on regular files and directories alone and follows the file's permissions; trusted.* is seen and
    changed with privilege only; security.* is read by all and changed with privilege; access control lists are read by
    all and changed by the owner.
    """
    if name.startswith(b"user."):
        return _user_xattr_error(attr, caller, acl, write=write)
    if name in (ACCESS, DEFAULT):
        return errno.EPERM if write and not is_owner(attr, caller) else 0
    if caller.uid == 0:
        return 0
    if name.startswith(b"trusted."):
        return errno.EPERM if write else errno.ENODATA
    return errno.EPERM if write else 0


def _user_xattr_error(attr: Owned, caller: Caller, acl: Acl | None, *, write: bool) -> int:
    if not (stat.S_ISREG(attr.mode) or stat.S_ISDIR(attr.mode)):
        return errno.EPERM if write else errno.ENODATA
    if write and stat.S_ISDIR(attr.mode) and attr.mode & stat.S_ISVTX and not is_owner(attr, caller):
        return errno.EPERM
    return 0 if may_access(attr, caller, W_OK if write else R_OK, acl) else errno.EACCES
