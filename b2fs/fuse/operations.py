"""The request handlers: one method per operation, each a translation and nothing else.

INVARIANT: a handler raises FUSEError or Cancelled and nothing else; anything else would end the whole mount.

One EntryAttributes serves all answers.  That is safe because pyfuse3 copies it into the reply before any other task
can run: there is no checkpoint between the return of a handler and the reply, nor inside readdir_reply.
"""

from __future__ import annotations

import errno
import functools
import logging
import stat
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Sequence
from types import coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3

from b2fs.core.nodes import Attr, Caller, DirEntry, HandleId, InodeId, OpenFile
from b2fs.errors import B2fsError, FsError, errno_of
from b2fs.fuse.config import FuseConfig
from b2fs.fuse.convert import KernelCaller, changes_of, fill_entry, statvfs_of
from b2fs.fuse.turns import going_on
from b2fs.vfs.api import FileSystem

log = logging.getLogger(__name__)

_CALLERS_KEPT = 256
#: What stands before the core's entries in every directory.
_DOTS = (b".", b"..")

P = ParamSpec("P")
R = TypeVar("R")
Handler = Callable[Concatenate["Shell", P], Coroutine[Any, Any, R]]


def handler(method: Handler[P, R]) -> Handler[P, R]:
    """Turn what the core raises into FUSEError; what nobody foresaw becomes EIO and a traceback in the log.

    Most requests are answered without waiting for anything; of others `_waits` is told with their first step.
    """
    operation = getattr(method, "__name__", repr(method))

    @functools.wraps(method)
    @coroutine
    def guarded(self: Shell, /, *args: P.args, **kwargs: P.kwargs) -> Generator[Any, Any, R]:
        work = method(self, *args, **kwargs)
        try:
            try:
                trap = work.send(None)
            except StopIteration as done:
                answer: R = done.value
                return answer
            self._waits()
            return (yield from going_on(work, trap))
        except FsError as error:
            raise pyfuse3.FUSEError(_replyable(error.code)) from error
        except pyfuse3.FUSEError:
            raise
        except Exception as error:
            raise pyfuse3.FUSEError(_errno_logged(operation, error)) from error

    return guarded


def _errno_logged(operation: str, error: Exception) -> int:
    """The errno of an error that is not the filesystem's own."""
    cause: Exception = error
    while isinstance(cause, ExceptionGroup):  # parallel work failed: the first failure speaks for all
        cause = cause.exceptions[0]
    if not isinstance(cause, B2fsError):
        log.error("%s failed in a way that nobody foresaw", operation, exc_info=error)
    return _replyable(errno_of(cause))


def _replyable(code: int) -> int:
    """ENOSYS would make the kernel never ask for this operation again."""
    return errno.EOPNOTSUPP if code == errno.ENOSYS else code


class Shell(pyfuse3.Operations):
    """A FileSystem as pyfuse3 wants it."""

    # Lookups of '.' and '..' come only from NFS servers that export the mount; the core has no such names.
    supports_dot_lookup = False

    def __init__(self, fs: FileSystem, config: FuseConfig, waits: Callable[[], None] = lambda: None) -> None:
        """waits is called when the answer to a request has to wait for something."""
        super().__init__()
        self._fs = fs
        self._waits = waits
        self._direct_io = config.direct_io
        self.enable_writeback_cache = config.writeback_cache
        self.enable_acl = config.acl
        self._xattrs = config.xattrs
        self._callers: dict[tuple[int, int, int, int], KernelCaller] = {}
        self._entry = pyfuse3.EntryAttributes()
        self._missing = pyfuse3.EntryAttributes()

    def _caller(self, ctx: pyfuse3.RequestContext) -> Caller:
        """Who asks.  Programs make many requests in a row, so the callers of the latest are kept."""
        key = (ctx.uid, ctx.gid, ctx.pid, ctx.umask)
        caller = self._callers.get(key)
        if caller is None:
            if len(self._callers) >= _CALLERS_KEPT:
                self._callers.clear()
            caller = self._callers[key] = KernelCaller(*key)
        return caller

    def _answer(self, attr: Attr) -> pyfuse3.EntryAttributes:
        fill_entry(self._entry, attr)
        return self._entry

    def _opened(self, opened: OpenFile) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=opened.handle, direct_io=self._direct_io, keep_cache=opened.keep_cache)

    # -- names and attributes

    @handler
    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        try:
            return self._answer(await self._fs.lookup(InodeId(parent_inode), name, self._caller(ctx)))
        except FsError as error:
            if error.code != errno.ENOENT or error.ttl_s <= 0:
                raise
            self._missing.entry_timeout = error.ttl_s  # inode 0: the kernel remembers that there is none
            return self._missing

    # pyfuse3 takes a plain function as well; it is told nothing, so there is nobody to hear of an error.
    def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:  # type: ignore[override]  # see above
        try:
            self._fs.forget([(InodeId(ino), count) for ino, count in inode_list])
        except Exception:
            log.exception("forget failed in a way that nobody foresaw")

    @handler
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._answer(await self._fs.getattr(InodeId(inode)))

    @handler
    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        handle = None if fh is None else HandleId(fh)
        return self._answer(await self._fs.setattr(InodeId(inode), changes_of(attr, fields), handle, self._caller(ctx)))

    @handler
    async def access(self, inode: int, mode: int, ctx: pyfuse3.RequestContext) -> bool:
        return await self._fs.access(InodeId(inode), mode, self._caller(ctx))

    @handler
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        return statvfs_of(await self._fs.statfs())

    # -- making and removing names; the kernel has applied the umask

    @handler
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._answer(await self._fs.mknod(InodeId(parent_inode), name, mode, rdev, self._caller(ctx)))

    @handler
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._answer(await self._fs.mkdir(InodeId(parent_inode), name, mode, self._caller(ctx)))

    @handler
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._answer(await self._fs.symlink(InodeId(parent_inode), name, target, self._caller(ctx)))

    @handler
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        return await self._fs.readlink(InodeId(inode))

    @handler
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._answer(await self._fs.link(InodeId(inode), InodeId(new_parent_inode), new_name, self._caller(ctx)))

    @handler
    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._fs.unlink(InodeId(parent_inode), name, self._caller(ctx))

    @handler
    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._fs.rmdir(InodeId(parent_inode), name, self._caller(ctx))

    @handler
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        await self._fs.rename(
            InodeId(parent_inode_old), name_old, InodeId(parent_inode_new), name_new, flags, self._caller(ctx)
        )

    # -- files

    @handler
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        opened, attr = await self._fs.create(InodeId(parent_inode), name, mode, flags, self._caller(ctx))
        return self._opened(opened), self._answer(attr)

    @handler
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        return self._opened(await self._fs.open(InodeId(inode), flags, self._caller(ctx)))

    @handler
    async def read(self, fh: int, off: int, size: int) -> bytes | memoryview:  # type: ignore[override]  # any buffer
        return await self._fs.read(HandleId(fh), off, size)

    @handler
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self._fs.write(HandleId(fh), off, buf)

    @handler
    async def flush(self, fh: int) -> None:
        await self._fs.flush(HandleId(fh))

    @handler
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._fs.fsync(HandleId(fh), datasync)

    @handler
    async def release(self, fh: int) -> None:
        await self._fs.release(HandleId(fh))

    # -- directories

    @handler
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        return await self._fs.opendir(InodeId(inode), self._caller(ctx))

    @handler
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        if start_id < len(_DOTS) and not self._reply_dots(HandleId(fh), start_id, token):
            return
        entries = self._fs.readdir(HandleId(fh), max(0, start_id - len(_DOTS)))
        try:
            await self._reply_entries(entries, token)
        finally:
            close = getattr(entries, "aclose", None)
            if close is not None:  # a generator that stopped half-way must not be left to the garbage collector
                await close()

    def _reply_dots(self, handle: HandleId, start_id: int, token: pyfuse3.ReaddirToken) -> bool:
        """Reply the directory and its parent; False if they did not fit.  The kernel counts no reference for these."""
        inodes = self._fs.dots(handle)
        for number in range(start_id, len(_DOTS)):
            fill_entry(self._entry, Attr(inodes[number], stat.S_IFDIR))
            if not pyfuse3.readdir_reply(token, _DOTS[number], self._entry, number + 1):
                return False
        return True

    async def _reply_entries(self, entries: AsyncIterator[DirEntry], token: pyfuse3.ReaddirToken) -> None:
        held: list[InodeId] = []
        entry, reply, hold = self._entry, pyfuse3.readdir_reply, self._fs.hold
        try:
            async for name, attr, cookie in entries:
                fill_entry(entry, attr)
                if not reply(token, name, entry, cookie + len(_DOTS)):
                    return
                hold(attr.ino)
                held.append(attr.ino)
        except BaseException:
            self._fs.forget([(ino, 1) for ino in held])  # the kernel gets an error and none of these entries
            raise

    @handler
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._fs.fsyncdir(HandleId(fh), datasync)

    @handler
    async def releasedir(self, fh: int) -> None:
        await self._fs.releasedir(HandleId(fh))

    # -- extended attributes; pyfuse3 answers questions for the size, and XATTR_CREATE and XATTR_REPLACE, itself

    def _check_xattrs(self) -> None:
        if not self._xattrs:
            raise pyfuse3.FUSEError(errno.ENOSYS)  # the kernel never asks again

    @handler
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        self._check_xattrs()
        return await self._fs.getxattr(InodeId(inode), name, self._caller(ctx))

    @handler
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._check_xattrs()
        await self._fs.setxattr(InodeId(inode), name, value, 0, self._caller(ctx))

    @handler
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        self._check_xattrs()
        return await self._fs.listxattr(InodeId(inode), self._caller(ctx))

    @handler
    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._check_xattrs()
        await self._fs.removexattr(InodeId(inode), name, self._caller(ctx))
