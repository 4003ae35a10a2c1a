"""Merging: what somebody else has put under a key of which nothing but attributes was changed here.

Both changes can stay then: a file keeps their content and gets our attributes, a directory's own object keeps their
attributes if only its times are ours.
"""

from __future__ import annotations

import stat
from collections.abc import Callable

from b2fs.cache.inode import Inode
from b2fs.core.attrs import CAPABILITY, Defaults, Posix, carries_posix, decode
from b2fs.core.types import ObjectInfo

_SET_ID = stat.S_ISUID | stat.S_ISGID
#: Extended attributes that go with a content, and not with its permissions.
_SAID_OF_CONTENT = b"user.", b"trusted."


def theirs(inode: Inode, info: ObjectInfo) -> Posix:
    """The attributes that somebody else's version carries; what it does not say is as ours."""
    ours = inode.posix()
    mode = stat.S_IMODE(ours.mode)
    return decode(
        info.metadata or {},
        is_dir=inode.is_dir,
        modified_ns=ours.mtime_ns if inode.is_dir else info.modified_ns,
        defaults=Defaults(ours.uid, ours.gid, file_mode=mode, dir_mode=mode),
    )


def has_base_content(inode: Inode) -> bool:
    """Whether nothing but attributes of a file differs from its base, and none of its bytes are kept here."""
    return inode.is_regular and inode.content is None and inode.base_content_seq == inode.content_seq


def can_carry(inode: Inode, key: str, info: ObjectInfo) -> bool:
    """Whether the attributes of this file can go onto somebody else's version of its key.

    Nobody may be reading the old bytes or be about to change them, and no other name may stand for them.
    """
    base = inode.base
    if not has_base_content(inode) or base is None or base.key != key or not inode.attrs_known:
        return False
    if inode.link_id is not None or len(inode.links) != 1:
        return False
    if inode.opens or inode.upload is not None or inode.detached:
        return False
    found = theirs(inode, info)
    return stat.S_ISREG(found.mode) and found.link_id is None


def has_rights(inode: Inode) -> bool:
    """Whether a file has what lets its content do more than who runs it: set-id bits, capabilities."""
    return bool(inode.mode & _SET_ID) or CAPABILITY in inode.xattrs


def carry(inode: Inode, info: ObjectInfo, fits: Callable[[], bool]) -> None:
    """The file has their content and our attributes: of the times the later ones, and their extended attributes too.

    Rights that were given to the old content are not given to theirs.  Of what the object cannot carry with ours (fits
    tells) nothing is kept.  The caller journals it, and tells whoever keeps bytes of it.
    """
    found = theirs(inode, info)
    inode.base, inode.base_modified_ns, inode.size = info.ref, info.modified_ns, info.size
    inode.mode &= ~_SET_ID
    inode.drop_capability()
    ours = inode.xattrs
    inode.xattrs = _both(inode, found)
    inode.mtime_ns = max(inode.mtime_ns, found.mtime_ns)
    inode.ctime_ns = max(inode.ctime_ns, found.mtime_ns)
    inode.adopt_metadata(info.metadata or {}, info.content_type)
    if not fits():
        inode.xattrs, inode.foreign_metadata = ours, {}


def _both(inode: Inode, found: Posix) -> dict[bytes, bytes]:
    """Our extended attributes, and those of theirs that we have not and that do not go with permissions."""
    return {**{n: v for n, v in found.xattrs.items() if n.startswith(_SAID_OF_CONTENT)}, **inode.xattrs}


def loses(inode: Inode, info: ObjectInfo) -> bool:
    """Whether their version says something of permissions, owner or extended attributes that ours takes away."""
    found = theirs(inode, info)
    if not carries_posix(info.metadata or {}):
        return False
    if (found.mode, found.uid, found.gid) != (inode.mode, inode.uid, inode.gid):
        return True
    return found.xattrs != inode.xattrs if inode.is_dir else not found.xattrs.items() <= _both(inode, found).items()


def adopt(directory: Inode, info: ObjectInfo) -> None:
    """The directory has their attributes, and the later ones of all times."""
    ours, found = directory.posix(), theirs(directory, info)
    directory.adopt(
        found._replace(
            mtime_ns=max(ours.mtime_ns, found.mtime_ns),
            atime_ns=max(ours.atime_ns, found.atime_ns),
            ctime_ns=max(ours.ctime_ns, found.ctime_ns),
        )
    )
    directory.adopt_metadata(info.metadata or {}, info.content_type)
