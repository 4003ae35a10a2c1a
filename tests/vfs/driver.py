"""Driver: the calls that the behaviour suite makes, in the manner of the os module.

Paths are relative to a directory of the test's own.  Errors are OSError.  Two drivers exist: one calls a FileSystem
object in this process, the other makes real system calls on a real mount; a test must not know which it has, unless it
asks for what only the kernel does (`mounted`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import NewType, Protocol

import pytest

Fd = NewType("Fd", int)

#: The user that stands for everybody who is not root, and a second one.
ALICE = 1234
BOB = 2345

R, W, RW = os.O_RDONLY, os.O_WRONLY, os.O_RDWR
CREAT, EXCL, TRUNC, APPEND = os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND


@dataclass(frozen=True, slots=True)
class Stat:
    """What the suite looks at of stat(2)."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


class Driver(Protocol):
    """os-like calls; flags and meanings are those of the manual pages."""

    #: Whether the kernel stands between.
    mounted: bool

    def enter(self, directory: str) -> None:
        """Paths are from now on relative to this directory of the filesystem's root."""
        ...

    def open(self, path: str, flags: int, mode: int = 0o666) -> Fd: ...
    def close(self, fd: Fd) -> None: ...
    def pread(self, fd: Fd, length: int, offset: int) -> bytes: ...
    def pwrite(self, fd: Fd, data: bytes, offset: int) -> int: ...
    def write_on(self, fd: Fd, data: bytes) -> int:
        """write(2) on a handle opened with O_APPEND, which alone says where it goes."""
        ...

    def fsync(self, fd: Fd) -> None: ...
    def fstat(self, fd: Fd) -> Stat: ...
    def ftruncate(self, fd: Fd, size: int) -> None: ...
    def fchmod(self, fd: Fd, mode: int) -> None: ...
    def fchown(self, fd: Fd, uid: int, gid: int) -> None: ...
    def opendir(self, path: str) -> Fd: ...
    def readdir(self, fd: Fd, count: int) -> list[str]:
        """Up to count further names, fewer at the end only; '.' and '..' left out."""
        ...

    def rewinddir(self, fd: Fd) -> None: ...
    def closedir(self, fd: Fd) -> None: ...
    def stat(self, path: str) -> Stat: ...
    def lstat(self, path: str) -> Stat: ...
    def access(self, path: str, mask: int) -> bool: ...
    def truncate(self, path: str, size: int) -> None: ...
    def chmod(self, path: str, mode: int) -> None: ...
    def chown(self, path: str, uid: int, gid: int) -> None: ...
    def lchown(self, path: str, uid: int, gid: int) -> None: ...
    def utime(self, path: str, times_ns: tuple[int, int] | None) -> None: ...
    def mkdir(self, path: str, mode: int = 0o777) -> None: ...
    def mknod(self, path: str, mode: int, rdev: int = 0) -> None: ...
    def symlink(self, target: str, path: str) -> None: ...
    def readlink(self, path: str) -> str: ...
    def link(self, source: str, path: str) -> None: ...
    def unlink(self, path: str) -> None: ...
    def rmdir(self, path: str) -> None: ...
    def rename(self, source: str, path: str, flags: int = 0) -> None: ...
    def getxattr(self, path: str, name: str) -> bytes: ...
    def setxattr(self, path: str, name: str, value: bytes, flags: int = 0) -> None: ...
    def listxattr(self, path: str) -> list[str]: ...
    def removexattr(self, path: str, name: str) -> None: ...
    def statvfs(self) -> os.statvfs_result: ...

    def user(self, uid: int, gid: int | None = None, groups: Sequence[int] = ()) -> AbstractContextManager[None]:
        """Within the context calls are made by this user, whose group is gid or else of the same number."""
        ...

    def umask(self, mask: int) -> AbstractContextManager[None]: ...

    # -- short-hands, the same for all drivers

    @contextmanager
    def opened(self, path: str, flags: int = R, mode: int = 0o666) -> Iterator[Fd]:
        fd = self.open(path, flags, mode)
        try:
            yield fd
        finally:
            self.close(fd)

    def write(self, path: str, data: bytes = b"", mode: int = 0o644) -> None:
        """Make or replace a file."""
        with self.umask(0), self.opened(path, W | CREAT | TRUNC, mode) as fd:
            if data:
                assert self.pwrite(fd, data, 0) == len(data)

    def read(self, path: str) -> bytes:
        with self.opened(path) as fd:
            return self.pread(fd, self.fstat(fd).size, 0)

    def make_dir(self, path: str, mode: int = 0o755, owner: int = 0) -> None:
        """A directory with exactly this mode and owner."""
        self.mkdir(path)
        self.chown(path, owner, owner)
        self.chmod(path, mode)

    def make_file(self, path: str, mode: int = 0o644, owner: int = 0, data: bytes = b"") -> None:
        """A file with exactly this mode and owner."""
        self.write(path, data)
        self.chown(path, owner, owner)
        self.chmod(path, mode)

    def names(self, path: str = ".") -> set[str]:
        """What readdir shows, each name at most once."""
        fd = self.opendir(path)
        try:
            names = self.readdir(fd, 1 << 30)
        finally:
            self.closedir(fd)
        assert len(names) == len(set(names))
        return set(names)

    def exists(self, path: str) -> bool:
        try:
            self.lstat(path)
        except FileNotFoundError:
            return False
        return True

    def bits(self, path: str) -> int:
        """The permission bits, set-id and sticky included."""
        return stat.S_IMODE(self.lstat(path).mode)


@contextmanager
def fails(code: int) -> Iterator[None]:
    """The block must raise OSError with exactly this errno."""
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == code, f"wanted {os.strerror(code)}, got {caught.value}"


#: Everything that a name can stand for; a dangling link leads nowhere.
KINDS = ("file", "directory", "symlink", "dangling", "fifo")
NOT_DIRECTORIES = ("file", "symlink", "dangling", "fifo")


def make_node(fs: Driver, path: str, kind: str) -> None:
    """Make something of one of KINDS."""
    if kind == "file":
        fs.write(path)
    elif kind == "directory":
        fs.mkdir(path)
    elif kind == "fifo":
        fs.mknod(path, stat.S_IFIFO | 0o644)
    elif kind == "symlink":
        fs.write(f"{path}-target")
        fs.symlink(f"{os.path.basename(path)}-target", path)
    else:
        fs.symlink("nowhere", path)
