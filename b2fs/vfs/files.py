"""Files: reading, writing and truncating regular files, and what happens to their local bytes.

A clean file reads from its base version.  The first change makes its content local (`localize`): all of a small file,
nothing of a large one, whose unchanged ranges stay in the bucket.  When a file is clean again and no writer is left,
its local bytes go into the block cache.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os

import trio

from b2fs.cache.content import LocalContent
from b2fs.cache.inode import Inode
from b2fs.cache.reader import Stream
from b2fs.core.types import ObjectRef
from b2fs.errors import FsError, NotFound, PreconditionFailed, StoreError
from b2fs.vfs.clock import now_ns
from b2fs.vfs.core import Core
from b2fs.vfs.handles import FileHandle
from b2fs.vfs.namespace import Namespace
from b2fs.vfs.siblings import Siblings

log = logging.getLogger(__name__)

#: Every store takes objects of this size.
_ALWAYS_FITS = 1 << 30
#: Files up to this size become local as a whole with their first change.
_WHOLE_BYTES = 4 << 20
#: A file that is changed in at most this size is kept in the block cache after its upload.
_KEEP_BYTES = 64 << 20
_RETIRE_BATCH = 64
#: Filling the cache waits this long for programs and uploads to pause, in seconds, unless so many files wait for it.
_RETIRE_PATIENCE_S = 30.0
#: How long they are to have paused, in seconds: what is removed or written again by then need not be kept.
_RETIRE_REST_S = 1.0
_RETIRE_MOST = 10_000
#: How soon filling the cache is tried again when the journal could not be written.
_RETIRE_AGAIN_S = 1.0

#: A version, the file that holds its bytes, and whether to keep them.
_Job = tuple[ObjectRef, str, bool]


class Files:
    """See the module."""

    def __init__(self, core: Core, names: Namespace) -> None:
        self._core = core
        self._names = names
        self._siblings = Siblings(core)
        self._retired: list[Inode] = []
        self._retire_wake = trio.Event()
        self._low = trio.Event()
        core.files.on_low = lambda: self._low.set()

    # ---- reading ------------------------------------------------------------------------------------------------

    async def read(self, handle: FileHandle, offset: int, length: int) -> bytes | memoryview:
        inode = handle.inode
        end = min(offset + length, inode.size)
        if offset >= end:
            return b""
        if not handle.flags & os.O_NOATIME:
            inode.accessed(now_ns)
        content = inode.content
        if content is None:
            return await self._read_base(handle, offset, end)
        if content.away.overlaps(offset, end):
            await self._core.engine.waiting.recalled(inode)
            return await self.read(handle, offset, length)
        if not content.missing(offset, end):
            return content.view_local(offset, end)
        return await self._read_mixed(handle, content, offset, end)

    async def _read_base(self, handle: FileHandle, start: int, end: int) -> bytes | memoryview:
        stream = self._stream(handle)
        if stream is None:
            return bytes(end - start)
        data = stream.read_nowait(start, end)
        if data is not None:
            return data
        try:
            data = await stream.read(start, end)
        except (NotFound, PreconditionFailed) as error:
            if handle.inode.base is not stream.ref or await self._find_base(handle.inode, stream.ref):
                # It was stored anew while we asked, and what we want is in the new version; or only a listing had
                # shown it, and now its version ID is known.
                return await self.read(handle, start, end - start)
            self._names.distrust(handle.inode)
            raise FsError(errno.ESTALE, f"{stream.ref.key}: the version that was opened is gone") from error

        if not handle.inode.attrs_known and stream.info is not None:
            self._names.told(handle.inode, stream.info)
        return data

    async def _find_base(self, inode: Inode, base: ObjectRef) -> bool:
        """Whether a base that is not the current version any more has another name now: its version ID."""
        if base.version_id is not None:
            return False
        try:
            found = await self._core.remote.find_version(base, inode.base_modified_ns)
        except NotFound:
            return False
        if inode.base is base:
            inode.base = found
        return True

    async def _read_mixed(self, handle: FileHandle, content: LocalContent, start: int, end: int) -> bytes:
        """Some bytes are local and some are the base's."""
        fetched: list[tuple[int, bytes | memoryview]] = []
        missing = content.missing(start, end)
        for a, b in missing:
            fetched.append((a, await self._read_base(handle, a, b)))
        if handle.inode.content is not content or any(gap not in missing for gap in content.missing(start, end)):
            # It was stored meanwhile, and what the base has was dropped here.
            return bytes(await self.read(handle, start, end - start))
        body = bytearray(end - start)
        local = content.read_local(start, end)
        body[: len(local)] = local
        for at, data in fetched:
            for a, b in content.missing(at, at + len(data)):
                body[a - start : b - start] = memoryview(data)[a - at : b - at]
        return bytes(body)

    def _stream(self, handle: FileHandle) -> Stream | None:
        """The handle's stream over the inode's present base; None for an empty base."""
        base = handle.inode.base
        if base is None:
            return None
        if handle.stream_ref is not base:
            hint = self._siblings.opened(handle.inode) if handle.stream is None and not handle.writes else None
            handle.close_stream()
            handle.stream, handle.stream_ref = self._core.reader.open(base, hint=hint), base
        return handle.stream

    # ---- writing ------------------------------------------------------------------------------------------------

    async def write(self, handle: FileHandle, offset: int, data: bytes | memoryview) -> int:
        core, inode = self._core, handle.inode
        if not data:
            return 0
        if inode.detached:
            self._check_reachable(inode)
        if handle.flags & os.O_APPEND:
            offset = inode.size
        end = offset + len(data)
        if end > _ALWAYS_FITS and end > core.store.capabilities.max_object_bytes:
            raise FsError(errno.EFBIG)
        if not core.room.take_nowait(len(data)):
            await core.room.take(inode, len(data))
        fresh = inode.content is None
        content = inode.content
        if content is None or not _is_whole(inode, content):
            content = await self._here(inode, offset, end)
        if handle.flags & os.O_APPEND:
            offset, end = inode.size, inode.size + len(data)
        start, before = min(offset, content.size), content.size
        if end > before:
            core.usage.check((end - before) * len(inode.links), 0)
        journal = content.write(offset, data) or inode.pending < len(inode.links) or (fresh and inode.base is not None)
        inode.size = content.size
        if inode.size != before:
            core.usage.resized(inode, before)
        inode.mtime_ns = inode.ctime_ns = now_ns()
        if inode.mode & 0o6000 or inode.xattrs:
            journal = core.drop_privileges(inode, handle.caller) or journal
        handle.wrote = True
        if inode.upload is not None:
            inode.upload.touched(start, end)
        if journal:
            core.touch(inode, content=True)
            core.ledger.commit()
        else:
            inode.seq += 1
            inode.content_changed()
            inode.changed_at = core.engine.pace.foreground()
        if inode.upload is None and content.size >= core.config.writeback.stream_bytes:
            core.engine.grown(inode)
        return len(data)

    def _check_reachable(self, inode: Inode) -> None:
        """Raises FsError(ESTALE) for a file whose directory somebody else has removed: writes would be lost."""
        if inode.detached and not inode.links:
            raise FsError(errno.ESTALE, "somebody else has removed it")

    async def truncate(self, inode: Inode, size: int) -> None:
        """Cut or extend to size bytes; the caller commits."""
        self._check_reachable(inode)
        if size > self._core.store.capabilities.max_object_bytes:
            raise FsError(errno.EFBIG)
        self._core.usage.check((size - inode.size) * len(inode.links), 0)
        if size > inode.size:
            await self._core.room.take(inode, 0)
        if inode.content is None and (size == 0 or inode.base is None):
            inode.content = LocalContent(self._core.files, inode.ino)
            inode.content.truncate_file(0)
        content = inode.content or await self.localize(inode)
        if size:
            # If it is cut, a part of what stays may be only in the middle of what was sent.
            content = await self._here(inode, 0, size if size < content.away.end else 0)
        before = inode.size
        content.truncate(size)
        inode.size = size
        self._core.usage.resized(inode, before)
        if inode.upload is not None:
            inode.upload.touched(min(before, size), max(before, size))
        inode.mtime_ns = inode.ctime_ns = now_ns()
        self._core.touch(inode, content=True)

    async def _here(self, inode: Inode, start: int, end: int) -> LocalContent:
        """The inode's local content, of which the bytes [start, end) may be changed.

        None of them is only in an unfinished upload.  And what the bucket has is on the disk as well: after a power cut
        the local file stands for the whole content, and what was not changed must not be lost with what was.
        """
        while True:
            content = inode.content or await self.localize(inode)
            if content.away.overlaps(start, end):
                await self._core.engine.waiting.recalled(inode)
            elif inode.base is not None and inode.base.size and inode.base_content_seq == inode.content_seq:
                if content.synced_seq == inode.content_seq:
                    return content
                await self._core.engine.local.content(inode)
            else:
                return content

    async def localize(self, inode: Inode) -> LocalContent:
        """The inode's local content, made from its base if there is none yet.

        No lock: whoever finds the content in place after waiting uses it.
        """
        while inode.content is None:
            base = inode.base
            if base is None:
                inode.content = LocalContent(self._core.files, inode.ino)
            elif base.size == 0:
                inode.content = LocalContent(self._core.files, inode.ino)
                inode.content.truncate_file(0)
            elif base.size > _WHOLE_BYTES:
                inode.content = LocalContent.over_base(self._core.files, inode.ino, base.size)
            else:
                data = await self._fetch_whole(inode, base)
                if data is not None and inode.content is None and inode.base is base:
                    content = LocalContent(self._core.files, inode.ino)
                    content.truncate_file(0)
                    content.write(0, data)
                    inode.content = content
        return inode.content

    async def localize_whole(self, inode: Inode) -> None:
        """All bytes local: the bucket is about to lose the version that they come from (servers without versions)."""
        content = await self.localize(inode)
        if content.away:
            await self._core.engine.waiting.recalled(inode)
            content = await self.localize(inode)
        step = 8 << 20
        for start in range(0, content.base_limit, step):
            for a, b in content.missing(start, start + step):
                base = inode.base
                assert base is not None
                content.fill(a, await self._core.reader.fetch_range(base, a, b))
        content.claim_held()
        await self._core.engine.local.content(inode)
        if inode.links and inode.pending:
            self._core.ledger.save_inode(inode)

    async def _fetch_whole(self, inode: Inode, base: ObjectRef) -> bytes | None:
        """All bytes of the base; None if the inode has another base by now."""
        try:
            return await self._core.reader.fetch_range(base, 0, base.size)
        except (NotFound, PreconditionFailed) as error:
            if inode.base is not base or await self._find_base(inode, base):
                return None
            self._names.distrust(inode)
            raise FsError(errno.ESTALE, f"{base.key}: the version that was opened is gone") from error

    # ---- durability ---------------------------------------------------------------------------------------------

    async def sync(self, handle: FileHandle) -> None:
        """fsync: return when the content is durable at the mount's level, or say why it is not."""
        self.report(handle)
        inode = handle.inode
        if not inode.links:
            return
        engine = self._core.engine
        if self._core.config.fsync_level != "local":
            try:
                await engine.waiting.stored(inode)
            except StoreError:
                handle.error = None  # this call tells it
                raise
        # What the journal and the local file would bring back after a power cut must not be older than what is stored.
        if inode.pending:
            await engine.local.content(inode)
        if inode.pending:
            self._core.ledger.save_inode(inode)  # a row that says that there is a local file, and what it is worth
        await engine.local.journal()

    async def sync_names(self, directory: Inode) -> None:
        """fsync of a directory."""
        if self._core.config.fsync_level != "local" and self._core.has_name(directory):
            await self._core.engine.waiting.names(directory.prefix)
        await self._core.engine.local.journal()

    def report(self, handle: FileHandle) -> None:
        """Raise a failed upload that this handle has not been told of, once."""
        error, handle.error = handle.error, None
        if error is not None:
            raise error

    # ---- after the upload ---------------------------------------------------------------------------------------

    def retire(self, inode: Inode) -> None:
        """The inode is clean and nobody writes to it: its local bytes may become cache."""
        if inode.content is not None and not inode.pending and not inode.writers:
            self._retired.append(inode)
            self._retire_wake.set()

    async def run(self) -> None:
        """Move retired contents into the block cache, in batches, until cancelled."""
        while True:
            await self._retire_wake.wait()
            self._retire_wake = trio.Event()
            rest_s = _RETIRE_REST_S
            while self._retired:
                many = len(self._retired) >= _RETIRE_MOST or self._core.room.short
                await self._core.engine.wait_calm(0.0 if many else _RETIRE_PATIENCE_S, rest_s)
                rest_s = 0.0
                batch, self._retired = self._retired[:_RETIRE_BATCH], self._retired[_RETIRE_BATCH:]
                # Else a power cut could bring back rows whose local files are gone.
                with contextlib.suppress(OSError):  # _take_content meets it, too
                    await self._core.engine.local.journal()
                jobs, kept = self._take_contents(batch)
                if kept:
                    self._retired += kept
                    await trio.sleep(_RETIRE_AGAIN_S)
                await trio.to_thread.run_sync(self._keep, jobs)

    async def stock(self) -> None:
        """Have files for local bytes ready while programs make new ones, until cancelled."""
        while True:
            await self._low.wait()
            self._low = trio.Event()
            await trio.to_thread.run_sync(self._core.files.stock)

    def _take_contents(self, batch: list[Inode]) -> tuple[list[_Job], list[Inode]]:
        """_take_content of each; and the inodes that keep theirs, as the journal cannot be written now."""
        jobs: list[_Job] = []
        kept: list[Inode] = []
        for inode in batch:
            try:
                job = self._take_content(inode)
            except OSError as error:
                log.info("local bytes stay for the time being: %s", error)
                kept.append(inode)
                continue
            if job is not None:
                jobs.append(job)
        return jobs, kept

    def _take_content(self, inode: Inode) -> _Job | None:
        """Part a clean inode from its local bytes; (version, file, whether to keep it).

        The file gets another name at once, so nobody writes to it while it is copied into the cache.
        """
        content, base = inode.content, inode.base
        if content is None or base is None or not self._is_retirable(inode):
            return None
        keep = content.complete and 0 < content.size <= _KEEP_BYTES
        path = self._core.files.retire(inode.ino)
        inode.content = None
        self._core.drop_if_unused(inode)
        return base, path, keep

    @staticmethod
    def _is_retirable(inode: Inode) -> bool:
        clean = not inode.pending and not inode.writers and inode.base_content_seq == inode.content_seq
        return inode.content is not None and inode.base is not None and clean

    def _keep(self, jobs: list[_Job]) -> None:
        for ref, path, keep in jobs:
            try:
                if keep:
                    self._core.blocks.put_whole(ref, path)
                os.unlink(path)
            except OSError as error:
                log.info("not kept in the cache: %s", error)


def _is_whole(inode: Inode, content: LocalContent) -> bool:
    """Whether any byte may be changed at once (see Files._here): all are here, and the bucket has none of them."""
    return inode.base is None and not content.away
