"""Versions that are made of parts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from b2fs.core.types import ObjectInfo, ObjectRef, PartInfo, UploadId, UploadInfo
from b2fs.errors import CorruptBody, InvalidRange, NoSuchUpload, NotFound
from b2fs.store.protocol import Body
from b2fs.store.s3 import xmlio
from b2fs.store.s3.base import check_goes_on, check_is_answer, parse
from b2fs.store.s3.hashing import hashed
from b2fs.store.s3.headers import multipart_etag
from b2fs.store.s3.wire import Call, copy_source, md5_base64, metadata_headers
from b2fs.store.s3.writes import Writes


@contextlib.contextmanager
def _of_an_upload() -> Iterator[None]:
    """What is not found can only be the upload; Ceph says NoSuchKey for one that was aborted."""
    try:
        yield
    except NoSuchUpload:
        raise
    except NotFound as error:
        raise NoSuchUpload(str(error)) from error


class Multipart(Writes):
    """The calls of multipart uploads; without them, those of Writes."""

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
        headers = (("Content-MD5", await hashed(lambda: md5_base64(body), size)),)
        path = self._paths.key(key, partNumber=number, uploadId=upload_id)
        with _of_an_upload():
            response = await self.calls.call(Call("UploadPart", "PUT", path, headers, body))
        check_is_answer("UploadPart", response)
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
        history = self._changes(key)
        try:
            with _of_an_upload():
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
            page, *following = await parse(xmlio.parse_uploads, response.body)
            uploads += page
            check_goes_on(following, [key_marker, id_marker])
            key_marker, id_marker = following
            if key_marker is None:
                return uploads

    async def list_parts(self, key: str, upload_id: UploadId) -> list[PartInfo]:
        parts: list[PartInfo] = []
        marker: str | None = None
        while True:
            path = self._paths.key(key, uploadId=upload_id, part_number_marker=marker)
            with _of_an_upload():
                response = await self.calls.call(Call("ListParts", "GET", path, expected_bytes=256 << 10))
            page, following = await parse(xmlio.parse_parts, response.body)
            parts += page
            check_goes_on(following, marker)
            marker = following
            if marker is None:
                return parts
