"""Between the values of the core and the objects of pyfuse3.

These run for every request: they are flat on purpose.
"""

from __future__ import annotations

import pyfuse3

from b2fs.core.nodes import Attr, Caller, SetAttr, StatFs


class KernelCaller(Caller):
    """The process behind a request, whose supplementary groups are read from /proc whenever somebody asks.

    The process waits inside its system call for our answer, so what /proc says then is right.  With
    default_permissions the kernel has asked already and hardly anybody does.
    """

    __slots__ = ()

    @property
    def groups(self) -> frozenset[int]:
        try:
            return frozenset(pyfuse3.get_sup_groups(self.pid))
        except (OSError, RuntimeError):
            # Killed meanwhile, or in a PID namespace that we do not see: no group beyond its own is known.
            return frozenset()


def fill_entry(entry: pyfuse3.EntryAttributes, attr: Attr) -> None:
    """Copy attr into entry."""
    entry.st_ino = attr.ino
    entry.st_mode = attr.mode
    entry.st_nlink = attr.nlink
    entry.st_uid = attr.uid
    entry.st_gid = attr.gid
    entry.st_rdev = attr.rdev
    entry.st_size = attr.size
    entry.st_blocks = attr.blocks
    entry.st_atime_ns = attr.atime_ns
    entry.st_mtime_ns = attr.mtime_ns
    entry.st_ctime_ns = attr.ctime_ns
    entry.entry_timeout = entry.attr_timeout = attr.ttl_s


def changes_of(attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields) -> SetAttr:
    """The changes that a setattr request asks for.  Whether times mean 'now' is not in what pyfuse3 passes on."""
    return SetAttr(
        mode=attr.st_mode if fields.update_mode else None,
        uid=attr.st_uid if fields.update_uid else None,
        gid=attr.st_gid if fields.update_gid else None,
        size=attr.st_size if fields.update_size else None,
        atime_ns=attr.st_atime_ns if fields.update_atime else None,
        mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
    )


def statvfs_of(figures: StatFs) -> pyfuse3.StatvfsData:
    """What statfs shows; every free block and inode is available to all users."""
    data = pyfuse3.StatvfsData()
    data.f_bsize = data.f_frsize = figures.block_size
    data.f_blocks = figures.blocks
    data.f_bfree = data.f_bavail = figures.blocks_free
    data.f_files = figures.files
    data.f_ffree = data.f_favail = figures.files_free
    data.f_namemax = figures.name_max
    return data
