"""Metadata and content."""

from __future__ import annotations

import contextlib
import hashlib

from b2fs.core.types import ETag, ObjectInfo, VersionId
from b2fs.errors import CorruptBody, InvalidRange, InvalidRequest, PreconditionFailed
from b2fs.store.s3.answers import Response
from b2fs.store.s3.base import S3Base, check_is_answer
from b2fs.store.s3.hashing import hashed
from b2fs.store.s3.headers import cut_range, info_of, is_md5
from b2fs.store.s3.wire import Call

#: Whole objects up to this size are checked against an ETag that has the form of an MD5.
VERIFY_BYTES = 1 << 20
#: What a GET to the end of an object is taken to bring, as long as nothing is known; a guess.
UNKNOWN_BODY_BYTES = 8 << 20
#: Ranges from this size on are worth a thread each.
BULK_BYTES = 512 << 10
#: How often a body is fetched that arrives complete by the connection's lights but is not what was asked for.
BODY_ATTEMPTS = 3


class Reads(S3Base):
    """HEAD and GET."""

    async def head(self, key: str, *, version_id: VersionId | None = None) -> ObjectInfo:
        path = self._paths.key(key, versionId=version_id)
        response = await self.calls.call(Call("HeadObject", "HEAD", path, has_body=False))
        check_is_answer("HeadObject", response)
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
        check_is_answer("GetObject", response)
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


async def _checked_body(info: ObjectInfo, response: Response, start: int, end: int | None) -> bytes | memoryview:
    """Serve a body only if it is the range that was asked for, complete, and unharmed as far as can be told."""
    body = cut_range(response, start, end, info.size)
    if len(body) == info.size and 0 < info.size <= VERIFY_BYTES and _tells_md5(info.ref.etag, response):
        digest = await hashed(lambda: hashlib.md5(body, usedforsecurity=False).hexdigest(), len(body))
        if digest != info.ref.etag:
            raise CorruptBody(f"{info.key!r} arrived with the MD5 {digest} instead of {info.ref.etag}")
    return body


def _tells_md5(etag: str, response: Response) -> bool:
    """Whether the ETag is the body's MD5; of objects encrypted with KMS or customers' keys it only looks like one."""
    managed = response.headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
    return is_md5(etag) and not managed and "x-amz-server-side-encryption-customer-algorithm" not in response.headers
