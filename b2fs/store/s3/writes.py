"""Versions that are made in one call."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Mapping

from b2fs.core.types import ETag, ObjectInfo, ObjectRef, UploadId
from b2fs.errors import NotFound, PreconditionFailed, StoreError
from b2fs.store.protocol import Body
from b2fs.store.s3 import xmlio
from b2fs.store.s3.answers import Response
from b2fs.store.s3.base import check_is_answer
from b2fs.store.s3.hashing import hashed
from b2fs.store.s3.headers import date_ns
from b2fs.store.s3.reads import Reads
from b2fs.store.s3.wire import Call, copy_source, md5_base64, metadata_headers


class Writes(Reads):
    """PUT and copy."""

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
        md5 = await hashed(lambda: md5_base64(body), size)
        headers.append(("Content-MD5", md5))
        history = self._changes(key)
        try:
            response = await self.calls.call(
                Call("PutObject", "PUT", self._paths.key(key), tuple(headers), body), history
            )
        except PreconditionFailed as refusal:
            if not history.repeated:
                raise
            return await self._made_before(refusal, key, ETag(base64.b64decode(md5).hex()))
        check_is_answer("PutObject", response)
        return self._written(key, response, ETag(""), size, metadata, content_type)

    async def copy(
        self, source: ObjectRef, key: str, *, metadata: Mapping[str, str] | None = None, content_type: str | None = None
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
                "CopyObject", "PUT", self._paths.key(key), tuple(headers), copied_bytes=source.size, errors_in_body=True
            ),
            self._changes(key),
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
