"""What programs ask of a filesystem and see of it, in values that cross layer borders.

Sizes and offsets are bytes, times are nanoseconds since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, NewType

InodeId = NewType("InodeId", int)
HandleId = NewType("HandleId", int)


@dataclass(slots=True)
class Attr:
    """What stat(2) shows of an inode; mode includes the file type.  May be changed by whoever made it."""

    ino: InodeId
    mode: int
    nlink: int = 1
    uid: int = 0
    gid: int = 0
    rdev: int = 0
    size: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    #: st_blocks, in units of 512 bytes.
    blocks: int = 0
    #: How long the kernel may trust these attributes and the name that led here, in seconds.
    ttl_s: float = 0.0


class SetAttr(NamedTuple):
    """The attributes that a setattr call changes; None leaves one as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    #: The times are the present, as utimensat(2) with NULL sets them: then write permission is enough.
    times_now: bool = False


class Caller(NamedTuple):
    """Who asks: the ids of the calling process."""

    uid: int = 0
    gid: int = 0
    pid: int = 0
    umask: int = 0o022
    groups: frozenset[int] = frozenset()


class StatFs(NamedTuple):
    """What statvfs(3) shows; sizes in units of block_size."""

    block_size: int
    blocks: int
    blocks_free: int
    files: int
    files_free: int
    name_max: int = 255


class DirEntry(NamedTuple):
    """One entry of readdir: the cookie continues the listing behind this entry."""

    name: bytes
    attr: Attr
    cookie: int


class OpenFile(NamedTuple):
    """The answer to open: keep_cache tells the kernel that its pages are still right."""

    handle: HandleId
    keep_cache: bool
