"""KernelDriver: the suite's calls as real system calls on a real mount."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.vfs.driver import Driver, Fd, Stat

_libc = ctypes.CDLL(None, use_errno=True)
#: setresuid, setresgid, setgroups as bare system calls change this thread alone, where glibc would change all.
_SYSCALLS = {"x86_64": (117, 119, 116), "aarch64": (147, 149, 159)}
_AT_FDCWD = -100
#: Few entries per getdents64, so that a listing of some hundred names takes many.
_DIRENT_BUFFER_BYTES = 1024


class KernelDriver(Driver):
    """The driver of the filesystem that is mounted at mountpoint."""

    mounted = True

    def __init__(self, mountpoint: str) -> None:
        self.mountpoint = mountpoint
        self._base = mountpoint
        self._listings: dict[Fd, list[str]] = {}

    def enter(self, directory: str) -> None:
        self._base = os.path.join(self.mountpoint, directory)

    def path(self, path: str) -> str:
        """Where a path of the suite is found on this machine; kept as it is, trailing slashes too."""
        return f"{self._base}/{path}" if path else ""

    @contextmanager
    def user(self, uid: int, gid: int | None = None, groups: Sequence[int] = ()) -> Iterator[None]:
        if os.getuid() != 0:
            pytest.skip("only root can act as other users")
        before = os.geteuid(), os.getegid(), os.getgroups()
        _become(uid, uid if gid is None else gid, groups)
        try:
            yield
        finally:
            _become(*before)

    @contextmanager
    def umask(self, mask: int) -> Iterator[None]:
        before = os.umask(mask)
        try:
            yield
        finally:
            os.umask(before)

    # -- descriptors

    def open(self, path: str, flags: int, mode: int = 0o666) -> Fd:
        return Fd(os.open(self.path(path), flags, mode))

    def close(self, fd: Fd) -> None:
        os.close(fd)

    def pread(self, fd: Fd, length: int, offset: int) -> bytes:
        return os.pread(fd, length, offset)

    def pwrite(self, fd: Fd, data: bytes, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def write_on(self, fd: Fd, data: bytes) -> int:
        return os.write(fd, data)

    def fsync(self, fd: Fd) -> None:
        os.fsync(fd)

    def fstat(self, fd: Fd) -> Stat:
        return _stat(os.fstat(fd))

    def ftruncate(self, fd: Fd, size: int) -> None:
        os.ftruncate(fd, size)

    def fchmod(self, fd: Fd, mode: int) -> None:
        os.fchmod(fd, mode)

    def fchown(self, fd: Fd, uid: int, gid: int) -> None:
        os.fchown(fd, uid, gid)

    # -- directories

    def opendir(self, path: str) -> Fd:
        fd = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._listings[fd] = []
        return fd

    def readdir(self, fd: Fd, count: int) -> list[str]:
        names = self._listings[fd]
        while len(names) < count:
            more = _getdents(fd)
            if not more:
                break
            names += [name for name in more if name not in (".", "..")]
        self._listings[fd] = names[count:]
        return names[:count]

    def rewinddir(self, fd: Fd) -> None:
        os.lseek(fd, 0, os.SEEK_SET)
        self._listings[fd] = []

    def closedir(self, fd: Fd) -> None:
        del self._listings[fd]
        os.close(fd)

    # -- attributes

    def stat(self, path: str) -> Stat:
        return _stat(os.stat(self.path(path)))

    def lstat(self, path: str) -> Stat:
        return _stat(os.lstat(self.path(path)))

    def access(self, path: str, mask: int) -> bool:
        os.stat(self.path(path))  # os.access calls everything False that it cannot reach
        return os.access(self.path(path), mask, effective_ids=True)

    def truncate(self, path: str, size: int) -> None:
        os.truncate(self.path(path), size)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self.path(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.chown(self.path(path), uid, gid)

    def lchown(self, path: str, uid: int, gid: int) -> None:
        os.lchown(self.path(path), uid, gid)

    def utime(self, path: str, times_ns: tuple[int, int] | None) -> None:
        if times_ns is None:
            os.utime(self.path(path))
        else:
            os.utime(self.path(path), ns=times_ns)

    # -- names

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        os.mkdir(self.path(path), mode)

    def mknod(self, path: str, mode: int, rdev: int = 0) -> None:
        os.mknod(self.path(path), mode, rdev)

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, self.path(path))

    def readlink(self, path: str) -> str:
        return os.readlink(self.path(path))

    def link(self, source: str, path: str) -> None:
        os.link(self.path(source), self.path(path), follow_symlinks=False)

    def unlink(self, path: str) -> None:
        os.unlink(self.path(path))

    def rmdir(self, path: str) -> None:
        os.rmdir(self.path(path))

    def rename(self, source: str, path: str, flags: int = 0) -> None:
        old, new = os.fsencode(self.path(source)), os.fsencode(self.path(path))
        _check(_libc.renameat2(_AT_FDCWD, old, _AT_FDCWD, new, flags))

    # -- extended attributes

    def getxattr(self, path: str, name: str) -> bytes:
        return os.getxattr(self.path(path), name, follow_symlinks=False)

    def setxattr(self, path: str, name: str, value: bytes, flags: int = 0) -> None:
        os.setxattr(self.path(path), name, value, flags, follow_symlinks=False)

    def listxattr(self, path: str) -> list[str]:
        return os.listxattr(self.path(path), follow_symlinks=False)

    def removexattr(self, path: str, name: str) -> None:
        os.removexattr(self.path(path), name, follow_symlinks=False)

    def statvfs(self) -> os.statvfs_result:
        return os.statvfs(self._base)


def _become(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Make this thread act as a user; root stays its real user, so that it can come back."""
    setresuid, setresgid, setgroups = _SYSCALLS[platform.machine()]
    # Whoever comes back needs root's effective id before the groups can be changed.
    _check(_libc.syscall(setresuid, -1, 0, -1))
    _check(_libc.syscall(setgroups, len(groups), (ctypes.c_uint32 * len(groups))(*groups)))
    _check(_libc.syscall(setresgid, -1, gid, -1))
    _check(_libc.syscall(setresuid, -1, uid, -1))


def _getdents(fd: int) -> list[str]:
    """The names of one getdents64(2), empty at the end of the directory."""
    buffer = ctypes.create_string_buffer(_DIRENT_BUFFER_BYTES)
    filled = _check(_libc.getdents64(fd, buffer, _DIRENT_BUFFER_BYTES))
    names, at = [], 0
    while at < filled:
        _ino, _offset, length, _type = struct.unpack_from("=QqHB", buffer, at)
        names.append(os.fsdecode(buffer.raw[at + 19 : at + length].split(b"\0", 1)[0]))
        at += length
    return names


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _stat(found: os.stat_result) -> Stat:
    return Stat(
        found.st_ino,
        found.st_mode,
        found.st_nlink,
        found.st_uid,
        found.st_gid,
        found.st_rdev,
        found.st_size,
        found.st_atime_ns,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )
