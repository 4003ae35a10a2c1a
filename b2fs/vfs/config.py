"""Settings of the filesystem core."""

from __future__ import annotations

from typing import NamedTuple

from b2fs.cache.reader import ReaderConfig
from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.core.attrs import Defaults

GIB = 1 << 30


class Quota(NamedTuple):
    """How much may be stored below the mount's root; files None: as many as fit."""

    size_bytes: int
    files: int | None = None


class VfsConfig(NamedTuple):
    """cache_dir: this mount's own directory for ledger, dirty files and blocks; sizes in bytes, times in seconds.

    prefix: the key prefix that is the mount's root, "" or ending in '/'.
    fsync_level: 'bucket' (fsync returns when the bucket holds the data) or 'local' (when the local disk does).
    foreign_attrs: how objects that other programs stored get their attributes.  'head' asks for every single one.
    'sample' asks for some of a directory with many unknown objects, and if none of these carries mode, owner or time,
    the others are shown with defaults until they are read or changed.
    attr_index: keep the attributes of many objects in few objects below `.b2fs/` in the bucket, and use those.
    acl: keep access control lists and obey them; modes of new files come without the umask applied.
    look_ahead: list the root before anybody asks for it.
    check_permissions: for front doors that do not check themselves; a FUSE mount has the kernel do it.
    """

    cache_dir: str
    cache_size_bytes: int = 10 * GIB
    prefix: str = ""
    read_only: bool = False
    fsync_level: str = "bucket"
    sync_on_close: bool = False
    ttl_s: float = 60.0
    foreign_attrs: str = "sample"
    attr_index: bool = True
    acl: bool = False
    look_ahead: bool = False
    check_permissions: bool = False
    quota: Quota | None = None
    #: Without a quota, what statvfs reports as the size of the filesystem: a bucket has no end.
    statfs_bytes: int = 1 << 50
    defaults: Defaults = Defaults()
    writeback: WriteBackConfig = WriteBackConfig()
    reader: ReaderConfig = ReaderConfig()
    #: What a root without attributes of its own shows as its times, in ns; None: when the core was made.
    started_ns: int | None = None
