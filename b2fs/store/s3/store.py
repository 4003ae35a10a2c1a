"""S3Store: the ObjectStore protocol spoken to an S3-compatible server.

Each method builds a Call, sends it through the Caller and turns the answer into values.  What a server cannot do is in
`capabilities`, found out on entering; a method whose capability is missing raises Unsupported before sending.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TypeVar

import trio

from b2fs.core.types import (
    Capabilities,
    ETag,
    ListPage,
    ObjectInfo,
    ObjectRef,
    PartInfo,
    UploadId,
    UploadInfo,
    VersionId,
    VersionPage,
)
from b2fs.errors import (
    AccessDenied,
    CorruptBody,
    InvalidRange,
    InvalidRequest,
    Locked,
    NoSuchUpload,
    NotFound,
    PreconditionFailed,
    StoreError,
    Unsupported,
)
from b2fs.store.protocol import Body
from b2fs.store.s3 import xmlio
from b2fs.store.s3.caller import Caller, History
from b2fs.store.s3.config import S3Config
from b2fs.store.s3.credentials import Signer
from b2fs.store.s3.entry import check_bucket, knock
from b2fs.store.s3.faults import Response, error_of_item
from b2fs.store.s3.gate import Gate
from b2fs.store.s3.probe import EVERYTHING
from b2fs.store.s3.proof import Proof, Task, find_out
from b2fs.store.s3.transport import HASH_INLINE_BYTES, Transport
from b2fs.store.s3.wire import (
    Call,
    Paths,
    copy_source,
    cut_range,
    date_ns,
    info_of,
    is_md5,
    md5_base64,
    metadata_headers,
    multipart_etag,
)

T = TypeVar("T")

#: Answers above this are parsed in a worker thread (1,000 rows are about 300 KB and some milliseconds).
PARSE_INLINE_BYTES = 32 << 10
#: Whole objects up to this size are checked against an ETag that has the form of an MD5.
VERIFY_BYTES = 1 << 20
#: What a GET to the end of an object is taken to bring, as long as nothing is known; a guess.
UNKNOWN_BODY_BYTES = 8 << 20
#: Ranges from this size on are worth a thread each.
BULK_BYTES = 512 << 10
#: How often a body is fetched that arrives complete by the connection's lights but is not what was asked for.
BODY_ATTEMPTS = 3
MAX_DELETE_TARGETS = 1000


class S3Store:
    """A bucket of an S3-compatible server.  See ObjectStore for what the methods promise."""

    def __init__(self, config: S3Config, capabilities: Capabilities | None = None) -> None:
        """capabilities, if given, are known for certain: the server is not tried out then."""
        self._config = config
        self._paths = Paths(config.bucket, virtual=config.addressing == "virtual")
        self.gate = Gate(config.max_connections, config.max_buffered_bytes)
        self._known = capabilities
        self._proof = Proof(capabilities or Capabilities(), None)
        self._transport: Transport | None = None
        self._calls: Caller | None = None
        self._bulk_delete = True
        self._closing = contextlib.AsyncExitStack()

    # ---- lifetime ----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> S3Store:
        try:
            behind = await self._open()
        except BaseException:
            self._close()
            raise
        self._closing.callback(self._close)
        background = await self._closing.enter_async_context(trio.open_nursery())
        self._closing.callback(background.cancel_scope.cancel)
        for task in behind:
            background.start_soon(task)
        return self

    async def _open(self) -> Sequence[Task]:
        """Connect, check that the bucket can be used, and find out what the server can do; what is left to do."""
        signer = Signer(self._config)
        await signer.prepare()
        self._transport = Transport(self._config, signer)
        self._calls = Caller(self._transport, self.gate, signer, self._config.retry)
        await knock(self._config)
        if self._known is not None:
            await check_bucket(self, self._config)
            return ()
        self._proof, behind = await find_out(self, self._config)
        return behind

    def without_limits(self) -> S3Store:
        """The same bucket on the same connections, with no call forbidden: for trying the server out."""
        twin = S3Store(self._config, EVERYTHING)
        twin._calls = self._calls
        return twin

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._closing.aclose()

    def _close(self) -> None:
        transport, self._transport, self._calls = self._transport, None, None
        if transport is not None:
            transport.close()

    @property
    def capabilities(self) -> Capabilities:
        return self._proof.capabilities

    @property
    def identity(self) -> str:
        return self._config.identity

    @property
    def calls(self) -> Caller:
        """The caller, for the probe and the status."""
        if self._calls is None:
            raise StoreError("the store is not open")
        return self._calls

    # ---- listings ----------------------------------------------------------------------------------------------

    async def list_objects(
        self,
        prefix: str,
        *,
        delimiter: str | None = None,
        start_after: str | None = None,
        token: str | None = None,
        max_keys: int = 1000,
    ) -> ListPage:
        path = self._paths.bucket(
            list_type=2,
            prefix=prefix or None,
            delimiter=delimiter,
            start_after=start_after,
            continuation_token=token,
            max_keys=max_keys,
            encoding_type="url",
        )
        response = await self.calls.call(Call("ListObjectsV2", "GET", path, expected_bytes=max_keys * 512))
        page = await _parse(xmlio.parse_objects, response.body)
        _check_goes_on(page.next_token, token)
        return page

    async def list_versions(
        self,
        prefix: str,
        *,
        delimiter: str | None = None,
        key_marker: str | None = None,
        version_marker: str | None = None,
        max_keys: int = 1000,
    ) -> VersionPage:
        self._need(self.capabilities.versioning, "version listings")
        path = self._paths.bucket(
            versions="",
            prefix=prefix or None,
            delimiter=delimiter,
            key_marker=key_marker,
            version_id_marker=version_marker,
            max_keys=max_keys,
            encoding_type="url",
        )
        response = await self.calls.call(Call("ListObjectVersions", "GET", path, expected_bytes=max_keys * 1024))
        page = await _parse(xmlio.parse_versions, response.body)
        _check_goes_on((page.next_key_marker, page.next_version_marker), (key_marker, version_marker))
        return page

    # ---- reading -----------------------------------------------------------------------------------------------

    async def head(self, key: str, *, version_id: VersionId | None = None) -> ObjectInfo:
        path = self._paths.key(key, versionId=version_id)
        response = await self.calls.call(Call("HeadObject", "HEAD", path, has_body=False))
        return info_of(key, response)

    async def get(
        self,
        key: str,
        *,
        version_id: VersionId | None = None,
        start: int = 0,
        end: int | None = None,
        if_match: ETag | None = None,
    ) -> tuple[ObjectInfo, bytes | memoryview]:
        if end is not None and end <= start:
            raise InvalidRequest(f"the range [{start}, {end}) is empty")
        headers = [("If-Match", f'"{if_match}"')] if if_match is not None else []
        if start or end is not None:
            headers.append(("Range", f"bytes={start}-{'' if end is None else end - 1}"))
        expected = UNKNOWN_BODY_BYTES if end is None else end - start
        path = self._paths.key(key, versionId=version_id)
        bulk = end is not None and expected >= BULK_BYTES
        call = Call("GetObject", "GET", path, tuple(headers), b"", expected, bulk=bulk)
        for _ in range(BODY_ATTEMPTS - 1):
            with contextlib.suppress(CorruptBody):
                return await self._get_once(key, call, version_id, start, end, if_match)
        return await self._get_once(key, call, version_id, start, end, if_match)

    async def _get_once(
        self, key: str, call: Call, version_id: VersionId | None, start: int, end: int | None, if_match: ETag | None
    ) -> tuple[ObjectInfo, bytes | memoryview]:
        """One complete answer, checked; CorruptBody may pass when it is fetched again."""
        try:
            response = await self.calls.call(call)
        except InvalidRange:
            if start:
                raise
            return await self._get_empty(key, version_id)
        info = info_of(key, response)
        if if_match is not None and info.ref.etag != if_match:
            # Only a server without conditional reads comes here; answer and ETag belong together all the same.
            raise PreconditionFailed(f"{key!r} has the ETag {info.ref.etag}")
        return info, await _checked_body(info, response, start, end)

    async def _get_empty(self, key: str, version_id: VersionId | None) -> tuple[ObjectInfo, bytes]:
        """Settle a range from 0 that was refused: right for an empty object, which has no byte 0 to begin with."""
        info = await self.head(key, version_id=version_id)
        if info.size:
            raise CorruptBody("the server refuses a range that the object has")
        return info, b""

    # ---- writing -----------------------------------------------------------------------------------------------

    async def put(
        self,
        key: str,
        body: Body,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
        if_match: ETag | None = None,
        if_none_match: bool = False,
    ) -> ObjectInfo:
        headers = metadata_headers(metadata, content_type)
        conditional = if_match is not None or if_none_match
        if conditional or key.endswith("/"):  # on some servers what ends in a slash carries no attributes
            await self._proof.confirm()
        if conditional:
            self._need(self.capabilities.conditional_put, "conditional writes")
        if if_match is not None:
            headers.append(("If-Match", f'"{if_match}"'))
        if if_none_match:
            headers.append(("If-None-Match", "*"))
        size = memoryview(body).nbytes
        md5 = await _hashed(lambda: md5_base64(body), size)
        headers.append(("Content-MD5", md5))
        history = History()
        try:
            response = await self.calls.call(
                Call("PutObject", "PUT", self._paths.key(key), tuple(headers), body), history
            )
        except PreconditionFailed as refusal:
            if not history.repeated:
                raise
            return await self._made_before(refusal, key, ETag(base64.b64decode(md5).hex()))
        return self._written(key, response, ETag(""), size, metadata, content_type)

    async def copy(
        self,
        source: ObjectRef,
        key: str,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> ObjectInfo:
        await self._proof.confirm()
        self._need(self.capabilities.copy, "copying")
        if source.version_id is not None:
            self._need(self.capabilities.copy_from_version, "copying from a version")
        headers = copy_source(self._config.bucket, source)
        if metadata is not None or content_type is not None:
            headers += [("x-amz-metadata-directive", "REPLACE"), *metadata_headers(metadata, content_type)]
        response = await self.calls.call(
            Call(
                "CopyObject",
                "PUT",
                self._paths.key(key),
                tuple(headers),
                copied_bytes=source.size,
                errors_in_body=True,
            )
        )
        etag = xmlio.parse_made_etag(response.body)
        return self._written(key, response, etag, source.size, metadata, content_type)

    async def _made_before(
        self, refusal: StoreError, key: str, etag: ETag, upload_id: UploadId | None = None
    ) -> ObjectInfo:
        """The version that an earlier attempt of the same call made, whose answer was lost; else raise the refusal.

        On B2 an upload's ID is the ID of the version that it becomes.
        """
        with contextlib.suppress(NotFound):
            info = await self.head(key)
            if (etag and info.ref.etag == etag) or (upload_id is not None and str(info.ref.version_id) == upload_id):
                return info
        raise refusal

    def _written(
        self,
        key: str,
        response: Response,
        etag: ETag,
        size: int,
        metadata: Mapping[str, str] | None,
        content_type: str | None,
    ) -> ObjectInfo:
        """What is known of a version that this answer says was made."""
        headers = response.headers
        ref = ObjectRef(
            key,
            xmlio.stable_version(headers.get("x-amz-version-id")),
            etag or xmlio.unquote_etag(headers.get("etag", "")),
            size,
        )
        return ObjectInfo(ref, date_ns(headers, "date"), dict(metadata) if metadata is not None else None, content_type)

    # ---- removing ----------------------------------------------------------------------------------------------

    async def hide(self, key: str) -> VersionId | None:
        try:
            response = await self.calls.call(Call("DeleteObject", "DELETE", self._paths.key(key)))
        except NotFound:
            return None  # some servers say so, which is no error here
        if not self.capabilities.versioning:
            return None
        return xmlio.stable_version(response.headers.get("x-amz-version-id"))

    async def delete_version(self, key: str, version_id: VersionId) -> None:
        self._need(self.capabilities.versioning, "removing a version")
        path = self._paths.key(key, versionId=version_id)
        with contextlib.suppress(NotFound):
            try:
                await self.calls.call(Call("DeleteObject", "DELETE", path))
            except AccessDenied as error:
                await self._raise_locked(path, error)
                raise

    async def _raise_locked(self, path: str, error: AccessDenied) -> None:
        """Raise Locked if a refused removal has that reason: the code is the same as for missing rights."""
        try:
            response = await self.calls.call(Call("HeadObject", "HEAD", path, has_body=False))
        except StoreError:
            return  # nothing learnt; the caller raises the first error
        headers = response.headers
        held = headers.get("x-amz-object-lock-legal-hold") == "ON"
        until = headers.get("x-amz-object-lock-retain-until-date", "")
        if held or xmlio.parse_time_ns(until) > time.time_ns():
            raise Locked("Object Lock forbids removing this version" + (f" until {until}" if until else "")) from error

    async def delete_many(self, targets: Sequence[tuple[str, VersionId | None]]) -> list[VersionId | StoreError | None]:
        if len(targets) > MAX_DELETE_TARGETS:
            raise InvalidRequest(f"at most {MAX_DELETE_TARGETS} targets in one call")
        if any(version is not None for _, version in targets):
            self._need(self.capabilities.versioning, "removing a version")
        if not targets:
            return []
        if self._bulk_delete and all(xmlio.in_xml(key) for key, _ in targets) and len(set(targets)) == len(targets):
            try:
                return await self._delete_bulk(targets)
            except Unsupported:
                self._bulk_delete = False
        return await self._delete_singly(targets)

    async def _delete_bulk(
        self, targets: Sequence[tuple[str, VersionId | None]]
    ) -> list[VersionId | StoreError | None]:
        body = xmlio.delete_body(targets)
        headers = (("Content-MD5", md5_base64(body)), ("Content-Type", "application/xml"))
        path = self._paths.bucket(delete="")
        response = await self.calls.call(
            Call("DeleteObjects", "POST", path, headers, body, expected_bytes=512 * len(targets), errors_in_body=True)
        )
        deleted, refused = await _parse(xmlio.parse_deleted, response.body)
        results: dict[tuple[str, str | None], VersionId | StoreError | None] = {}
        for row in deleted:
            marker = xmlio.stable_version(row.get("DeleteMarkerVersionId"))
            results[row.get("Key", ""), row.get("VersionId") or None] = marker
        for row in refused:
            error = error_of_item(row.get("Code", ""), row.get("Message", ""))
            gone = isinstance(error, NotFound)
            results[row.get("Key", ""), row.get("VersionId") or None] = None if gone else error
        missing = StoreError("the server did not say what became of this key")
        answer: list[VersionId | StoreError | None] = []
        for key, version in targets:
            # Some servers leave out the version they were given, others name the one that a marker got.
            result = results.get((key, version), results.get((key, None), missing))
            answer.append(None if version is not None and isinstance(result, str) else result)
        return answer

    async def _delete_singly(
        self, targets: Sequence[tuple[str, VersionId | None]]
    ) -> list[VersionId | StoreError | None]:
        results: list[VersionId | StoreError | None] = [None] * len(targets)

        async def one(index: int, key: str, version: VersionId | None) -> None:
            try:
                if version is None:
                    results[index] = await self.hide(key)
                else:
                    await self.delete_version(key, version)
            except StoreError as error:
                results[index] = error

        async with trio.open_nursery() as nursery:
            for index, (key, version) in enumerate(targets):
                nursery.start_soon(one, index, key, version)
        return results

    # ---- multipart ---------------------------------------------------------------------------------------------

    async def create_upload(
        self, key: str, *, metadata: Mapping[str, str] | None = None, content_type: str | None = None
    ) -> UploadId:
        headers = tuple(metadata_headers(metadata, content_type))
        response = await self.calls.call(
            Call("CreateMultipartUpload", "POST", self._paths.key(key, uploads=""), headers, errors_in_body=True)
        )
        upload_id = xmlio.parse_result(response.body).get("UploadId", "")
        if not upload_id:
            raise CorruptBody("the server started an upload without naming it")
        return UploadId(upload_id)

    async def upload_part(self, key: str, upload_id: UploadId, number: int, body: Body) -> PartInfo:
        size = memoryview(body).nbytes
        headers = (("Content-MD5", await _hashed(lambda: md5_base64(body), size)),)
        path = self._paths.key(key, partNumber=number, uploadId=upload_id)
        response = await self.calls.call(Call("UploadPart", "PUT", path, headers, body))
        return PartInfo(number, xmlio.unquote_etag(response.headers.get("etag", "")), size)

    async def copy_part(
        self, key: str, upload_id: UploadId, number: int, source: ObjectRef, start: int, end: int
    ) -> PartInfo:
        await self._proof.confirm()
        self._need(self.capabilities.part_copy, "copying parts")
        if source.version_id is not None:
            self._need(self.capabilities.copy_from_version, "copying from a version")
        if not 0 <= start < end <= source.size:
            raise InvalidRange(f"[{start}, {end}) is no range of an object of {source.size} bytes")
        headers = copy_source(self._config.bucket, source)
        headers.append(("x-amz-copy-source-range", f"bytes={start}-{end - 1}"))
        path = self._paths.key(key, partNumber=number, uploadId=upload_id)
        response = await self.calls.call(
            Call("UploadPartCopy", "PUT", path, tuple(headers), copied_bytes=end - start, errors_in_body=True)
        )
        return PartInfo(number, xmlio.parse_made_etag(response.body), end - start)

    async def complete_upload(self, key: str, upload_id: UploadId, parts: Sequence[PartInfo]) -> ObjectInfo:
        body = xmlio.complete_body(parts)
        size = sum(part.size for part in parts)
        path = self._paths.key(key, uploadId=upload_id)
        content_type = ("Content-Type", "application/xml")
        call = Call("CompleteMultipartUpload", "POST", path, (content_type,), body, errors_in_body=True)
        history = History()
        try:
            response = await self.calls.call(call, history)
            etag = xmlio.parse_made_etag(response.body)
        except (NoSuchUpload, CorruptBody) as unclear:
            if isinstance(unclear, NoSuchUpload) and not history.repeated:
                raise
            return await self._made_before(unclear, key, multipart_etag([part.etag for part in parts]), upload_id)
        info = self._written(key, response, etag, size, None, None)
        if info.ref.version_id is None:
            # Without a version ID the ETag names the content, and some servers answer another one here than later.
            return await self.head(key)
        return info

    async def abort_upload(self, key: str, upload_id: UploadId) -> None:
        path = self._paths.key(key, uploadId=upload_id)
        with contextlib.suppress(NotFound):
            await self.calls.call(Call("AbortMultipartUpload", "DELETE", path))

    async def list_uploads(self, prefix: str) -> list[UploadInfo]:
        uploads: list[UploadInfo] = []
        key_marker: str | None = None
        id_marker: str | None = None
        while True:
            path = self._paths.bucket(
                uploads="",
                prefix=prefix or None,
                key_marker=key_marker,
                upload_id_marker=id_marker,
                encoding_type="url",
            )
            response = await self.calls.call(Call("ListMultipartUploads", "GET", path, expected_bytes=512 << 10))
            page, *following = await _parse(xmlio.parse_uploads, response.body)
            uploads += page
            _check_goes_on(following, [key_marker, id_marker])
            key_marker, id_marker = following
            if key_marker is None:
                return uploads

    async def list_parts(self, key: str, upload_id: UploadId) -> list[PartInfo]:
        parts: list[PartInfo] = []
        marker: str | None = None
        while True:
            path = self._paths.key(key, uploadId=upload_id, part_number_marker=marker)
            response = await self.calls.call(Call("ListParts", "GET", path, expected_bytes=256 << 10))
            page, following = await _parse(xmlio.parse_parts, response.body)
            parts += page
            _check_goes_on(following, marker)
            marker = following
            if marker is None:
                return parts

    # ---- helpers -----------------------------------------------------------------------------------------------

    def _need(self, available: bool, what: str) -> None:
        if not available:
            raise Unsupported(f"{self._config.hostname} does not offer {what}")


def _check_goes_on(following: object, now: object) -> None:
    """Raise CorruptBody for a page that names itself as the next one; both are None, or all None, without one."""
    if following == now and following not in (None, (None, None), [None, None]):
        raise CorruptBody("the listing goes in a circle")


async def _checked_body(info: ObjectInfo, response: Response, start: int, end: int | None) -> bytes | memoryview:
    """Serve a body only if it is the range that was asked for, complete, and unharmed as far as can be told."""
    body = cut_range(response, start, end, info.size)
    if len(body) == info.size and 0 < info.size <= VERIFY_BYTES and is_md5(info.ref.etag):
        digest = await _hashed(lambda: hashlib.md5(body, usedforsecurity=False).hexdigest(), len(body))
        if digest != info.ref.etag:
            raise CorruptBody(f"{info.key!r} arrived with the MD5 {digest} instead of {info.ref.etag}")
    return body


async def _parse(parse: Callable[[bytes], T], body: bytes) -> T:
    """Parse an answer, away from the trio thread when it is large."""
    if len(body) <= PARSE_INLINE_BYTES:
        return parse(body)
    return await trio.to_thread.run_sync(parse, body)


async def _hashed(compute: Callable[[], str], size: int) -> str:
    """A hash over `size` bytes, away from the trio thread when that is worth it."""
    if size <= HASH_INLINE_BYTES:
        return compute()
    return await trio.to_thread.run_sync(compute)
