"""Transfer: brings one inode's content and attributes under one key, by the cheapest call that does it.

Content that the bucket has already is copied there; small content is one PUT of a snapshot in memory; large content
goes up in parts, of which unchanged ones are copied from the base version.
"""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

import trio

from b2fs.cache.inode import Inode
from b2fs.cache.ledger import Ledger
from b2fs.cache.ledger_rows import UploadRow
from b2fs.cache.remote.links import LinkNames
from b2fs.cache.writeback.aborts import Aborts
from b2fs.cache.writeback.budget import ByteBudget
from b2fs.cache.writeback.claim import Claim, NameTaken
from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.cache.writeback.multipart import MultipartUpload
from b2fs.cache.writeback.pace import Pace
from b2fs.cache.writeback.plans import FixedPlan, Plan, PlanChanged, StreamPlan, UploadLost
from b2fs.cache.writeback.sources import Sources
from b2fs.cache.writeback.writer import Writer
from b2fs.core import attrs
from b2fs.core.extents import Extents
from b2fs.core.longkeys import PATH_NAME, encode_path, is_long
from b2fs.core.parts import plan_copy, plan_update
from b2fs.core.types import ObjectInfo, ObjectRef
from b2fs.errors import InvalidRequest, NoSuchUpload, NotFound, PreconditionFailed
from b2fs.store.disk import pread
from b2fs.store.protocol import Body, ObjectStore

#: Reads up to this size are done in place: a thread hop would cost more.
_INLINE_READ = 1 << 18
#: Local content up to this size is sent again rather than copied in the bucket: a PUT is free, a copy is not.
_RESEND_BYTES = 1 << 18
#: Names and values of all metadata together: B2 takes 7,000 bytes, 2,048 in buckets with encryption or Object Lock.
_METADATA_BYTES = 6_500
_SIDE_LEAF = ".attrs"


class Stored(NamedTuple):
    """What the bucket has confirmed: the version, and the inode's seq that it holds at least.

    late, of an upload in parts: what was written since and is not in the version.
    """

    info: ObjectInfo
    seq: int
    late: Extents | None = None


class BaseReader(Protocol):
    """Reads ranges of versions in the bucket."""

    async def fetch_range(self, ref: ObjectRef, start: int, end: int) -> bytes: ...


class Transfer:
    """See the module."""

    def __init__(
        self,
        store: ObjectStore,
        ledger: Ledger,
        reader: BaseReader,
        config: WriteBackConfig,
        side_prefix: str,
        links: LinkNames,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._reader = reader
        self._config = config
        self._side_prefix = side_prefix
        self._links = links
        self._budget = ByteBudget(config.memory_bytes)
        self.pace = Pace(config.busy_batch)
        self.aborts = Aborts(store, ledger, config)
        self.writer = Writer(ledger.writer_identity())
        self.sources = Sources(store, ledger, self.writer)
        #: Uploads in parts that are under way, or that another try is to go on with.
        self.uploads: set[MultipartUpload] = set()
        self.sent_bytes = 0
        #: Counts the bodies and parts that the server has acknowledged.
        self.acknowledged = 0

    # ---- one key ------------------------------------------------------------------------------------------------

    async def store(self, inode: Inode, key: str, claim: Claim | None = None) -> Stored:
        """Make key hold the inode as it is at some moment during the call.

        The answer's info carries the metadata that the object was given.  claim: nothing is known to be there.
        Raises NameTaken if it is not so, StoreError, OSError of the local disk.
        """
        seq = inode.seq
        upload, content = inode.upload, inode.content
        if content is not None and content.away and (upload is None or upload.key != key):
            raise UploadLost(f"{key}: some of it is only in an unfinished upload under another name")
        if upload is not None and not upload.away and not self._needs_parts(inode):
            self.forget(upload)  # the file was cut short since it was begun, say
        info = await self._bring(inode, key, claim)
        upload = inode.upload
        if upload is None:
            return Stored(info, seq)
        # What was begun while the file was being written carries the attributes of that time.
        inode.upload = None
        self.uploads.discard(upload)
        upload.completed()
        return Stored(info, min(seq, upload.seq), upload.late)

    def _needs_parts(self, inode: Inode) -> bool:
        content = inode.content
        changed = content is not None and inode.base_content_seq != inode.content_seq
        return changed and content is not None and content.size > self._config.put_max_bytes

    async def _bring(self, inode: Inode, key: str, claim: Claim | None) -> ObjectInfo:
        if inode.is_dir:
            return await self._store_directory(inode, key)
        await self._name_link(inode, key)
        metadata = self.metadata(inode) if inode.attrs_known else None
        content = inode.content
        if content is None or (inode.base_content_seq == inode.content_seq and content.size > _RESEND_BYTES):
            if inode.base is not None:
                return await self._copy(inode, inode.base, key, metadata, claim)
            return await self._put(key, inode.target or b"", metadata or {}, self._content_type(inode, key), claim)
        assert metadata is not None
        if content.size <= self._config.put_max_bytes and not content.away:
            async with self._budget.share(content.size):
                body = await self.snapshot(inode)
                return await self._put(key, body, self.metadata(inode), self._content_type(inode, key), claim)
        return await self._multipart(inode, key, claim)

    async def _name_link(self, inode: Inode, key: str) -> None:
        """A hard-linked file: its other names must lead to this one, from the moment at which it is there."""
        identity = inode.link_id
        if not inode.attrs_known and inode.base is not None:
            identity = self._links.identity_of(inode.base.key)
        if identity is not None:
            await self._links.put(identity, key)

    def metadata(self, inode: Inode) -> dict[str, str]:
        """What the object carries: the attributes, and what others had put there."""
        return {**attrs.kept(inode.foreign_metadata, inode.mtime_ns), **attrs.encode(inode.posix())}

    def fits(self, inode: Inode, keys: Iterable[str]) -> bool:
        """Whether an object under each of the keys can carry the inode's attributes."""
        paths = max((len(PATH_NAME) + len(encode_path(key)) for key in keys if is_long(key)), default=0)
        return paths + sum(len(name) + len(value) for name, value in self.metadata(inode).items()) <= _METADATA_BYTES

    def _content_type(self, inode: Inode, key: str) -> str:
        return inode.content_type or mimetypes.guess_type(key)[0] or attrs.DEFAULT_TYPE

    async def _put(
        self, key: str, body: Body, metadata: Mapping[str, str], content_type: str, claim: Claim | None = None
    ) -> ObjectInfo:
        signed = self.writer.sign(key, metadata)
        first = claim is not None and claim.asks and self._store.capabilities.conditional_put
        if claim is not None and claim.failed:
            await claim.look(self._store)
        try:
            info = await self._store.put(key, body, metadata=signed, content_type=content_type, if_none_match=first)
        except PreconditionFailed as error:
            if not first:
                raise
            raise NameTaken(f"{key}: {error}") from error
        if claim is not None:
            claim.proved = first
        self._count(len(body))
        return info._replace(metadata=metadata, content_type=content_type)

    def _count(self, size: int) -> None:
        """A body of this size was acknowledged."""
        self.sent_bytes += size
        self.acknowledged += 1

    async def wait_server_known(self) -> None:
        """Return when it is known what the server can do, which every plan rests on.  Raises Unavailable."""
        await self._store.wait_known()

    # ---- directories --------------------------------------------------------------------------------------------

    async def _store_directory(self, inode: Inode, key: str) -> ObjectInfo:
        """The marker object; where the server keeps no metadata on it, a side object carries the attributes."""
        metadata = self.metadata(inode)
        if not self._store.capabilities.marker_metadata or not key:
            await self._put(self.side_key(key), b"", metadata, attrs.DIRECTORY_TYPE)
        if not key:
            return await self._store.head(self.side_key(key))
        if inode.base is not None and inode.base.size:
            return await self._store_marker_content(inode, inode.base, key, metadata)
        return await self._put(key, b"", metadata, attrs.DIRECTORY_TYPE)

    async def _store_marker_content(
        self, inode: Inode, base: ObjectRef, key: str, metadata: Mapping[str, str]
    ) -> ObjectInfo:
        """Another program has put content into the directory's own object: it stays there, or moves along."""
        if self._store.capabilities.marker_metadata:
            return await self._copy_from(inode, base, key, metadata)
        if base.key == key:
            return await self._store.head(key)
        return await self._resend(inode, base, key)

    def side_key(self, directory_key: str) -> str:
        """Where a directory's attributes are kept when its marker cannot carry them.

        A leaf below a copy of the path, so that no key is both an object and a directory to programs that copy the
        bucket; components that look like the leaf get another dot.
        """
        if not directory_key:
            return f"{self._side_prefix}root"
        components = directory_key.removesuffix("/").split("/")
        path = "/".join(f"{c}." if c.startswith(_SIDE_LEAF) else c for c in components)
        return f"{self._side_prefix}dirs/{path}/{_SIDE_LEAF}"

    def side_keys(self, key: str) -> list[str]:
        """Keys that go away with this one."""
        if key.endswith("/"):
            return [] if self._store.capabilities.marker_metadata else [self.side_key(key)]
        return self._links.removed(key)

    # ---- copies -------------------------------------------------------------------------------------------------

    async def _copy(
        self, inode: Inode, source: ObjectRef, key: str, metadata: Mapping[str, str] | None, claim: Claim | None
    ) -> ObjectInfo:
        try:
            return await self._copy_from(inode, source, key, metadata, claim)
        except (NotFound, PreconditionFailed):
            if source.version_id is not None:
                raise
            # Only a listing had named the source, and it was replaced or removed since.
            return await self._copy_from(inode, await self.sources.find(inode), key, metadata, claim)

    async def _copy_from(
        self,
        inode: Inode,
        source: ObjectRef,
        key: str,
        metadata: Mapping[str, str] | None,
        claim: Claim | None = None,
    ) -> ObjectInfo:
        caps = self._store.capabilities
        if not caps.copy or (source.size > caps.max_put_bytes and not caps.part_copy):
            return await self._resend(inode, source, key, claim)
        if source.size > caps.max_put_bytes:
            return await self._copy_parts(inode, source, key, claim)
        if metadata is None:
            return await self._store.copy(source, key)
        content_type = self._content_type(inode, key)
        signed = self.writer.sign(key, metadata)
        info = await self._store.copy(source, key, metadata=signed, content_type=content_type)
        return info._replace(metadata=metadata, content_type=content_type)

    async def _copy_parts(self, inode: Inode, source: ObjectRef, key: str, claim: Claim | None) -> ObjectInfo:
        info = await self._store.head(source.key, version_id=source.version_id)
        metadata = self.metadata(inode) if inode.attrs_known else dict(info.metadata or {})
        upload = self._upload(inode, key, FixedPlan(plan_copy(source.size)))
        return await self._run(upload, metadata, info.content_type, claim)

    async def _resend(self, inode: Inode, source: ObjectRef, key: str, claim: Claim | None = None) -> ObjectInfo:
        """For servers that cannot copy: through here, range by range."""
        info = await self._store.head(source.key, version_id=source.version_id)
        metadata = self.metadata(inode) if inode.attrs_known else dict(info.metadata or {})
        content_type = info.content_type or attrs.DEFAULT_TYPE
        if source.size <= self._config.put_max_bytes:
            async with self._budget.share(source.size):
                body = await self._reader.fetch_range(source, 0, source.size) if source.size else b""
                return await self._put(key, body, metadata, content_type, claim)
        return await self._run(self._upload(inode, key, StreamPlan()), metadata, content_type, claim)

    # ---- parts --------------------------------------------------------------------------------------------------

    async def _multipart(self, inode: Inode, key: str, claim: Claim | None) -> ObjectInfo:
        upload = inode.upload
        if upload is not None and upload.key == key:
            # Most of it went up while the file was being written, or before the last failure.
            return await self._finish(upload, claim)
        upload = self._upload(inode, key, self._plan(inode))
        return await self._run(upload, self.metadata(inode), self._content_type(inode, key), claim)

    def _plan(self, inode: Inode) -> Plan:
        content = inode.content
        assert content is not None
        if content.complete or not self._store.capabilities.part_copy:
            return StreamPlan()
        return FixedPlan(plan_update(content.size, content.base_limit, content.changed_ranges()))

    def _upload(self, inode: Inode, key: str, plan: Plan) -> MultipartUpload:
        """A new upload, which the inode's writers know from now on: its plan is as old as this moment."""
        if inode.upload is not None:
            self.forget(inode.upload)
        upload = inode.upload = MultipartUpload(
            self._store,
            self._ledger,
            self._budget,
            (self.read, self._count),
            inode,
            key,
            plan,
            self._config.parts_in_flight,
        )
        self.uploads.add(upload)
        return upload

    async def stream(self, inode: Inode, key: str) -> MultipartUpload:
        """An upload of a file that is still growing, the one that was begun before if there is one; `store` ends it."""
        upload = inode.upload
        if upload is None or upload.key != key or not upload.lasting:
            upload = self._upload(inode, key, StreamPlan())
            await self._start(upload, self.metadata(inode), self._content_type(inode, key))
        return upload

    async def send_full(self, upload: MultipartUpload, size: int) -> bool:
        """As MultipartUpload.send_full; whether there is anything more to send."""
        try:
            await upload.send_full(size)
        except NoSuchUpload as error:
            await self._vanished(upload, error)
            return False
        return True

    def resume(self, inode: Inode, row: UploadRow) -> None:
        """Go on with an upload that an earlier mount began for this inode."""
        upload = self._upload(inode, row.key, StreamPlan())
        upload.resume(row)

    def owed(self, key: str) -> Inode | None:
        """The inode of which some bytes are only in an upload under this key, which is to be completed before all."""
        for upload in self.uploads:
            if upload.key == key and upload.owed:
                return upload.inode
        return None

    def forget(self, upload: MultipartUpload) -> None:
        """Nobody wants what an upload brings, or it must begin anew; the journal has it until it is aborted."""
        self.uploads.discard(upload)
        if upload.inode.upload is upload:
            upload.inode.upload = None
        if upload.upload_id is not None:
            self.aborts.add(upload.upload_id, upload.key)

    async def _run(
        self, upload: MultipartUpload, metadata: Mapping[str, str], content_type: str | None, claim: Claim | None
    ) -> ObjectInfo:
        await self._start(upload, metadata, content_type)
        return await self._finish(upload, claim)

    async def _start(self, upload: MultipartUpload, metadata: Mapping[str, str], content_type: str | None) -> None:
        try:
            await upload.start(self.writer.sign(upload.key, metadata), content_type)
        except BaseException:
            self.forget(upload)
            raise

    async def _finish(self, upload: MultipartUpload, claim: Claim | None) -> ObjectInfo:
        """The object of an upload, whose `completed` is to follow without an await.

        After a failure another try, or another mount, goes on with it where that is possible.
        """
        upload.claim = claim
        try:
            info = await upload.finish()
        except NoSuchUpload as error:
            info = await self._vanished(upload, error)
        except InvalidRequest:
            # The server has other parts than it told us: all anew, unless some bytes are only there.
            if not upload.away:
                self.forget(upload)
                raise
            upload.mistrust()
            info = await upload.finish()
        except BaseException:
            if not upload.lasting:
                self.forget(upload)
            raise
        return info._replace(metadata=upload.metadata, content_type=upload.content_type)

    async def _vanished(self, upload: MultipartUpload, error: NoSuchUpload) -> ObjectInfo:
        """The server does not know an upload: it was completed, or somebody dropped it.

        Raises PlanChanged when the content goes up anew, UploadLost when it cannot, since some of it was only there.
        """
        if upload.away:
            info = await upload.find_completed()
            if info is not None:
                return info
            if not await upload.rescue():
                upload.lost = True
                raise UploadLost(
                    f"{upload.key}: the server has dropped the unfinished upload that alone held a part of this file; "
                    "what is still here is kept, but not stored"
                ) from error
        self.forget(upload)
        raise PlanChanged("the server has dropped the upload, it begins anew") from error

    # ---- bytes --------------------------------------------------------------------------------------------------

    async def snapshot(self, inode: Inode) -> Body:
        """The whole content as it was at one moment."""
        while True:
            content = inode.content
            if content is None:
                return b"" if inode.base is None else await self._reader.fetch_range(inode.base, 0, inode.base.size)
            seq, size = inode.content_seq, content.size
            body = await self.read(inode, 0, size)
            if inode.content_seq == seq:
                return body
            if content.complete:
                # It is being written without a pause: reading in place cannot be interrupted by a write.
                return content.read_local(0, content.size)

    async def read(self, inode: Inode, start: int, end: int) -> Body:
        """Bytes [start, end) of an inode, local or from its base."""
        content = inode.content
        if content is None:
            return await self._reader.fetch_range(inode.base, start, end) if inode.base is not None else b""
        if content.away.overlaps(start, end):
            raise UploadLost("bytes that are only in an unfinished upload cannot be sent again")
        gaps = content.missing(start, end)
        if not gaps:
            if end - start <= _INLINE_READ:
                return content.read_local(start, end)
            body = await trio.to_thread.run_sync(_read_file, content.path(), start, end)
            # What is the base's may be dropped here at any moment.
            return body if not content.missing(start, end) else await self.read(inode, start, end)
        base = inode.base
        assert base is not None
        fetched = [(a, await self._reader.fetch_range(base, a, b)) for a, b in gaps]
        if content.missing(start, end) != gaps:
            return await self.read(inode, start, end)
        patched = bytearray(content.read_local(start, end))
        for at, data in fetched:
            patched[at - start : at - start + len(data)] = data
        return bytes(patched)


def _read_file(path: str, start: int, end: int) -> bytes | memoryview:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return pread(fd, end - start, start)
    finally:
        os.close(fd)
