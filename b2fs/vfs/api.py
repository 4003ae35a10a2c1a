"""FileSystem: what the FUSE shell, the tests and every other front door see of the filesystem core.

Names are bytes as the kernel passes them (no '/' and no NUL).  Errors are FsError with the errno of the POSIX page, or
StoreError for faults of the bucket.  Every change is acknowledged only when it is journaled (I1).
lookup, create, mknod, mkdir, symlink, link and every entry handed out by readdir count one reference on the inode,
which `forget` gives back; the names `.` and `..` never appear.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from b2fs.core.nodes import Attr, Caller, DirEntry, HandleId, InodeId, OpenFile, SetAttr, StatFs

ROOT = InodeId(1)

#: Flags of rename, as in renameat2(2).
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


class KernelNotifier(Protocol):
    """What the core tells the kernel of its own accord; none of these waits."""

    def invalidate_inode(self, ino: InodeId, *, attributes_only: bool) -> None:
        """Drop the cached attributes, and the cached pages unless attributes_only."""
        ...

    def invalidate_entry(self, parent: InodeId, name: bytes) -> None:
        """Drop a cached name, positive or negative."""
        ...


class FileSystem(Protocol):
    """The POSIX operations by inode.  Unless said otherwise each may wait for the bucket."""

    async def lookup(self, parent: InodeId, name: bytes, caller: Caller) -> Attr: ...

    def forget(self, inodes: Sequence[tuple[InodeId, int]]) -> None:
        """Give back references: (inode, how many)."""
        ...

    async def getattr(self, ino: InodeId) -> Attr: ...

    async def setattr(self, ino: InodeId, changes: SetAttr, handle: HandleId | None, caller: Caller) -> Attr:
        """Change attributes; changes.size truncates or extends with zeros (through handle where given)."""
        ...

    async def readlink(self, ino: InodeId) -> bytes: ...

    async def mknod(self, parent: InodeId, name: bytes, mode: int, rdev: int, caller: Caller) -> Attr:
        """Make a regular file, fifo, socket or device; mode holds the type, umask already applied."""
        ...

    async def mkdir(self, parent: InodeId, name: bytes, mode: int, caller: Caller) -> Attr: ...

    async def symlink(self, parent: InodeId, name: bytes, target: bytes, caller: Caller) -> Attr: ...

    async def link(self, ino: InodeId, parent: InodeId, name: bytes, caller: Caller) -> Attr: ...

    async def unlink(self, parent: InodeId, name: bytes, caller: Caller) -> None: ...

    async def rmdir(self, parent: InodeId, name: bytes, caller: Caller) -> None: ...

    async def rename(
        self,
        old_parent: InodeId,
        old_name: bytes,
        new_parent: InodeId,
        new_name: bytes,
        flags: int,
        caller: Caller,
    ) -> None: ...

    async def create(
        self, parent: InodeId, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[OpenFile, Attr]:
        """Make and open a regular file; an existing one is opened unless flags has O_EXCL."""
        ...

    async def open(self, ino: InodeId, flags: int, caller: Caller) -> OpenFile: ...

    async def read(self, handle: HandleId, offset: int, length: int) -> bytes | memoryview:
        """Bytes [offset, offset + length) of the open file; shorter only at its end."""
        ...

    async def write(self, handle: HandleId, offset: int, data: bytes | memoryview) -> int:
        """Write all of data at offset; the answer is len(data)."""
        ...

    async def flush(self, handle: HandleId) -> None:
        """One descriptor of the handle was closed; reports a latched upload error."""
        ...

    async def fsync(self, handle: HandleId, datasync: bool) -> None:
        """Return when the content is durable at the mount's level (I2)."""
        ...

    async def release(self, handle: HandleId) -> None: ...

    async def opendir(self, ino: InodeId, caller: Caller) -> HandleId: ...

    def readdir(self, handle: HandleId, start: int) -> AsyncIterator[DirEntry]:
        """Entries with cookies above start, in a stable order; the caller stops when its buffer is full.

        An entry's reference is counted when `hold` is called for it, not by the iteration itself.
        """
        ...

    def dots(self, handle: HandleId) -> tuple[InodeId, InodeId]:
        """An open directory's own inode and that of the one above it; the root is above itself."""
        ...

    def hold(self, ino: InodeId) -> None:
        """Count one reference: a readdir entry was accepted by the kernel."""
        ...

    async def fsyncdir(self, handle: HandleId, datasync: bool) -> None:
        """Return when every change of names in this directory is durable at the mount's level."""
        ...

    async def releasedir(self, handle: HandleId) -> None: ...

    async def getxattr(self, ino: InodeId, name: bytes, caller: Caller) -> bytes:
        """Raises FsError(ENODATA) for a name that is not there."""
        ...

    async def setxattr(self, ino: InodeId, name: bytes, value: bytes, flags: int, caller: Caller) -> None:
        """flags: 0, XATTR_CREATE (1: EEXIST if there) or XATTR_REPLACE (2: ENODATA if not there)."""
        ...

    async def listxattr(self, ino: InodeId, caller: Caller) -> list[bytes]: ...

    async def removexattr(self, ino: InodeId, name: bytes, caller: Caller) -> None: ...

    async def statfs(self) -> StatFs: ...

    async def access(self, ino: InodeId, mask: int, caller: Caller) -> bool:
        """Whether caller may do all of mask (R_OK 4, W_OK 2, X_OK 1)."""
        ...
