"""DirectDriver: the suite's calls on a FileSystem object in this process, without a kernel.

It does what the kernel's path walk does: component by component, symbolic links followed, every reference given back.
The filesystem lives in a trio run of its own in a thread, so that its background tasks go on between calls.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio

from b2fs.core.nodes import Attr, Caller, DirEntry, HandleId, InodeId, SetAttr
from b2fs.errors import B2fsError, FsError, errno_of
from b2fs.vfs.api import FileSystem
from b2fs.vfs.clock import now_ns
from tests.vfs.driver import Driver, Fd, Stat
from tests.vfs.walk import Walk

T = TypeVar("T")


@dataclass(slots=True)
class _Open:
    """What the kernel keeps for a descriptor."""

    ino: InodeId
    handle: HandleId
    flags: int
    is_dir: bool
    cookie: int = 0


class DirectDriver(Driver):
    """The driver; `host` serves the filesystem, `call` runs one operation in it."""

    mounted = False

    def __init__(self, fs: FileSystem, token: trio.lowlevel.TrioToken) -> None:
        self.fs = fs
        self._token = token
        self._base = ""
        self._caller = Caller(umask=0o022)
        self._opens: dict[Fd, _Open] = {}
        self._next_fd = 100

    def enter(self, directory: str) -> None:
        self._base = directory

    def call(self, function: Callable[[Walk], Awaitable[T]]) -> T:
        """Run function in the filesystem's trio run; what it raises comes back as OSError."""

        async def run() -> T:
            walk = Walk(self.fs, self._caller, self._base)
            try:
                return await function(walk)
            finally:
                walk.done()

        try:
            return trio.from_thread.run(run, trio_token=self._token)
        except B2fsError as error:
            code = errno_of(error)
            raise OSError(code, os.strerror(code)) from error

    def post(self, function: Callable[[], object]) -> None:
        """Have function called in the filesystem's trio run."""
        self._token.run_sync_soon(function)

    @contextmanager
    def user(self, uid: int, gid: int | None = None, groups: Sequence[int] = ()) -> Iterator[None]:
        before = self._caller
        self._caller = before._replace(uid=uid, gid=uid if gid is None else gid, groups=frozenset(groups))
        try:
            yield
        finally:
            self._caller = before

    @contextmanager
    def umask(self, mask: int) -> Iterator[None]:
        before = self._caller
        self._caller = before._replace(umask=mask)
        try:
            yield
        finally:
            self._caller = self._caller._replace(umask=before.umask)

    # -- descriptors

    def open(self, path: str, flags: int, mode: int = 0o666) -> Fd:
        async def run(walk: Walk) -> Fd:
            if flags & os.O_CREAT:
                created = await self._create(walk, path, flags, mode)
                if created is not None:
                    return created
            attr = await walk.find(path, follow=not flags & os.O_NOFOLLOW)
            if flags & os.O_DIRECTORY and not stat.S_ISDIR(attr.mode):
                raise FsError(errno.ENOTDIR)
            if stat.S_ISDIR(attr.mode) and flags & (os.O_ACCMODE | os.O_CREAT) == os.O_RDONLY:
                return self._add(_Open(attr.ino, await walk.fs.opendir(attr.ino, walk.caller), flags, True))
            opened = await walk.fs.open(attr.ino, flags & ~os.O_EXCL, walk.caller)
            return self._add(_Open(attr.ino, opened.handle, flags, False))

        return self.call(run)

    async def _create(self, walk: Walk, path: str, flags: int, mode: int) -> Fd | None:
        """Make and open the file; None if the name is there and may be opened."""
        parent, name = await walk.parent(path)
        try:
            walk.hold(await walk.fs.lookup(parent, name, walk.caller))
        except FsError as error:
            if error.code != errno.ENOENT:
                raise
            opened, attr = await walk.fs.create(parent, name, mode & ~walk.caller.umask, flags, walk.caller)
            walk.hold(attr)
            return self._add(_Open(attr.ino, opened.handle, flags, False))
        if flags & os.O_EXCL:
            raise FsError(errno.EEXIST)
        return None

    def _add(self, opened: _Open) -> Fd:
        fd = Fd(self._next_fd)
        self._next_fd += 1
        self._opens[fd] = opened
        return fd

    def close(self, fd: Fd) -> None:
        opened = self._opens.pop(fd)

        async def run(walk: Walk) -> None:
            if opened.is_dir:
                await walk.fs.releasedir(opened.handle)
                return
            try:
                await walk.fs.flush(opened.handle)
            finally:
                await walk.fs.release(opened.handle)

        self.call(run)

    def pread(self, fd: Fd, length: int, offset: int) -> bytes:
        opened = self._opens[fd]

        async def run(walk: Walk) -> bytes:
            if opened.flags & os.O_ACCMODE == os.O_WRONLY:
                raise FsError(errno.EBADF)
            if opened.is_dir:
                raise FsError(errno.EISDIR)
            return bytes(await walk.fs.read(opened.handle, offset, length))

        return self.call(run)

    def pwrite(self, fd: Fd, data: bytes, offset: int) -> int:
        opened = self._opens[fd]

        async def run(walk: Walk) -> int:
            if opened.flags & os.O_ACCMODE == os.O_RDONLY:
                raise FsError(errno.EBADF)
            return await walk.fs.write(opened.handle, offset, data)

        return self.call(run)

    def write_on(self, fd: Fd, data: bytes) -> int:
        return self.pwrite(fd, data, self.fstat(fd).size)

    def fsync(self, fd: Fd) -> None:
        opened = self._opens[fd]

        async def run(walk: Walk) -> None:
            if opened.is_dir:
                await walk.fs.fsyncdir(opened.handle, False)
            else:
                await walk.fs.fsync(opened.handle, False)

        self.call(run)

    def fstat(self, fd: Fd) -> Stat:
        async def run(walk: Walk) -> Stat:
            return _stat(await walk.fs.getattr(self._opens[fd].ino))

        return self.call(run)

    def ftruncate(self, fd: Fd, size: int) -> None:
        opened = self._opens[fd]
        if size < 0 or opened.flags & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._fsetattr(fd, SetAttr(size=size))

    def fchmod(self, fd: Fd, mode: int) -> None:
        self._fsetattr(fd, SetAttr(mode=mode))

    def fchown(self, fd: Fd, uid: int, gid: int) -> None:
        self._fsetattr(fd, _owner(uid, gid))

    def _fsetattr(self, fd: Fd, changes: SetAttr) -> None:
        opened = self._opens[fd]

        async def run(walk: Walk) -> None:
            await walk.fs.setattr(opened.ino, changes, None if opened.is_dir else opened.handle, walk.caller)

        self.call(run)

    # -- directories

    def opendir(self, path: str) -> Fd:
        return self.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def readdir(self, fd: Fd, count: int) -> list[str]:
        opened = self._opens[fd]

        async def run(walk: Walk) -> list[str]:
            entries = [entry async for entry in _upto(count, walk.fs, opened)]
            if entries:
                opened.cookie = entries[-1].cookie
            return [os.fsdecode(entry.name) for entry in entries]

        return self.call(run)

    def rewinddir(self, fd: Fd) -> None:
        self._opens[fd].cookie = 0

    def closedir(self, fd: Fd) -> None:
        self.close(fd)

    # -- attributes

    def stat(self, path: str) -> Stat:
        return self._stat(path, follow=True)

    def lstat(self, path: str) -> Stat:
        return self._stat(path, follow=False)

    def _stat(self, path: str, *, follow: bool) -> Stat:
        async def run(walk: Walk) -> Stat:
            attr = await walk.find(path, follow=follow)
            return _stat(await walk.fs.getattr(attr.ino))

        return self.call(run)

    def access(self, path: str, mask: int) -> bool:
        async def run(walk: Walk) -> bool:
            attr = await walk.find(path)
            return await walk.fs.access(attr.ino, mask, walk.caller)

        return self.call(run)

    def truncate(self, path: str, size: int) -> None:
        if size < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._setattr(path, SetAttr(size=size))

    def chmod(self, path: str, mode: int) -> None:
        self._setattr(path, SetAttr(mode=mode))

    def chown(self, path: str, uid: int, gid: int) -> None:
        self._setattr(path, _owner(uid, gid))

    def lchown(self, path: str, uid: int, gid: int) -> None:
        self._setattr(path, _owner(uid, gid), follow=False)

    def utime(self, path: str, times_ns: tuple[int, int] | None) -> None:
        if times_ns is None:
            now = now_ns()
            self._setattr(path, SetAttr(atime_ns=now, mtime_ns=now, times_now=True))
        else:
            self._setattr(path, SetAttr(atime_ns=times_ns[0], mtime_ns=times_ns[1]))

    def _setattr(self, path: str, changes: SetAttr, *, follow: bool = True) -> None:
        async def run(walk: Walk) -> None:
            attr = await walk.find(path, follow=follow)
            await walk.fs.setattr(attr.ino, changes, None, walk.caller)

        self.call(run)

    # -- names

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        async def run(walk: Walk) -> None:
            parent, name = await walk.parent(path)
            bits = mode & ~walk.caller.umask & 0o1777  # set-id bits are not mkdir's to give
            walk.hold(await walk.fs.mkdir(parent, name, stat.S_IFDIR | bits, walk.caller))

        self.call(run)

    def mknod(self, path: str, mode: int, rdev: int = 0) -> None:
        async def run(walk: Walk) -> None:
            parent, name = await walk.parent(path)
            walk.hold(await walk.fs.mknod(parent, name, mode & ~walk.caller.umask, rdev, walk.caller))

        self.call(run)

    def symlink(self, target: str, path: str) -> None:
        async def run(walk: Walk) -> None:
            parent, name = await walk.parent(path)
            walk.hold(await walk.fs.symlink(parent, name, os.fsencode(target), walk.caller))

        self.call(run)

    def readlink(self, path: str) -> str:
        async def run(walk: Walk) -> str:
            attr = await walk.find(path, follow=False)
            return os.fsdecode(await walk.fs.readlink(attr.ino))

        return self.call(run)

    def link(self, source: str, path: str) -> None:
        async def run(walk: Walk) -> None:
            attr = await walk.find(source, follow=False)
            parent, name = await walk.parent(path)
            walk.hold(await walk.fs.link(attr.ino, parent, name, walk.caller))

        self.call(run)

    def unlink(self, path: str) -> None:
        async def run(walk: Walk) -> None:
            await walk.fs.unlink(*await walk.parent(path), walk.caller)

        self.call(run)

    def rmdir(self, path: str) -> None:
        async def run(walk: Walk) -> None:
            await walk.fs.rmdir(*await walk.parent(path), walk.caller)

        self.call(run)

    def rename(self, source: str, path: str, flags: int = 0) -> None:
        async def run(walk: Walk) -> None:
            await walk.fs.rename(*await walk.parent(source), *await walk.parent(path), flags, walk.caller)

        self.call(run)

    # -- extended attributes

    def getxattr(self, path: str, name: str) -> bytes:
        async def run(walk: Walk) -> bytes:
            attr = await walk.find(path, follow=False)
            return await walk.fs.getxattr(attr.ino, os.fsencode(name), walk.caller)

        return self.call(run)

    def setxattr(self, path: str, name: str, value: bytes, flags: int = 0) -> None:
        async def run(walk: Walk) -> None:
            attr = await walk.find(path, follow=False)
            await walk.fs.setxattr(attr.ino, os.fsencode(name), value, flags, walk.caller)

        self.call(run)

    def listxattr(self, path: str) -> list[str]:
        async def run(walk: Walk) -> list[str]:
            attr = await walk.find(path, follow=False)
            return [os.fsdecode(name) for name in await walk.fs.listxattr(attr.ino, walk.caller)]

        return self.call(run)

    def removexattr(self, path: str, name: str) -> None:
        async def run(walk: Walk) -> None:
            attr = await walk.find(path, follow=False)
            await walk.fs.removexattr(attr.ino, os.fsencode(name), walk.caller)

        self.call(run)

    def statvfs(self) -> os.statvfs_result:
        async def run(walk: Walk) -> os.statvfs_result:
            found = await walk.fs.statfs()
            blocks = (found.block_size, found.block_size, found.blocks, found.blocks_free, found.blocks_free)
            return os.statvfs_result((*blocks, found.files, found.files_free, found.files_free, 0, found.name_max))

        return self.call(run)


@contextmanager
def hosted(
    make: Callable[[], AbstractAsyncContextManager[FileSystem]], kind: type[DirectDriver] = DirectDriver
) -> Iterator[DirectDriver]:
    """A driver of the filesystem that make() opens, in a thread of its own until the context ends."""
    drivers: list[DirectDriver] = []
    started = threading.Event()
    stop = trio.Event()
    failures: list[BaseException] = []

    async def serve() -> None:
        async with make() as fs:
            drivers.append(kind(fs, trio.lowlevel.current_trio_token()))
            started.set()
            await stop.wait()

    def run() -> None:
        try:
            trio.run(serve)
        except BaseException as error:  # noqa: BLE001  # handed to the test, which raises it
            failures.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run, name="filesystem under test")
    thread.start()
    started.wait()
    try:
        if drivers:
            yield drivers[0]
    finally:
        if drivers and thread.is_alive():
            drivers[0].post(stop.set)
        thread.join()
    if failures:
        raise failures[0]


async def _upto(count: int, fs: FileSystem, opened: _Open) -> AsyncIterator[DirEntry]:
    entries = fs.readdir(opened.handle, opened.cookie)
    try:
        async for entry in entries:
            yield entry
            count -= 1
            if count == 0:
                return
    finally:
        close = getattr(entries, "aclose", None)
        if close is not None:
            await close()


def _owner(uid: int, gid: int) -> SetAttr:
    return SetAttr(uid=None if uid == -1 else uid, gid=None if gid == -1 else gid)


def _stat(attr: Attr) -> Stat:
    return Stat(
        attr.ino,
        attr.mode,
        attr.nlink,
        attr.uid,
        attr.gid,
        attr.rdev,
        attr.size,
        attr.atime_ns,
        attr.mtime_ns,
        attr.ctime_ns,
    )
