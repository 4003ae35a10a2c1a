"""ForwardingStore: an ObjectStore around another one, with one place to step in.

Meant to be subclassed: `around` sees every call with what is known about it, and decides whether, when and how the
inner store is asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

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
from b2fs.errors import StoreError
from b2fs.store.protocol import Body, ObjectStore

T = TypeVar("T")


class Method(Enum):
    """The calls of an ObjectStore."""

    LIST_OBJECTS = "list_objects"
    LIST_VERSIONS = "list_versions"
    HEAD = "head"
    GET = "get"
    PUT = "put"
    COPY = "copy"
    HIDE = "hide"
    DELETE_VERSION = "delete_version"
    DELETE_MANY = "delete_many"
    CREATE_UPLOAD = "create_upload"
    UPLOAD_PART = "upload_part"
    COPY_PART = "copy_part"
    COMPLETE_UPLOAD = "complete_upload"
    ABORT_UPLOAD = "abort_upload"
    LIST_UPLOADS = "list_uploads"
    LIST_PARTS = "list_parts"


#: Calls that bring content into the bucket.
UPLOADS = frozenset(
    {
        Method.PUT,
        Method.COPY,
        Method.CREATE_UPLOAD,
        Method.UPLOAD_PART,
        Method.COPY_PART,
        Method.COMPLETE_UPLOAD,
    }
)
#: Calls that change what the bucket shows.
CHANGES = UPLOADS | {Method.HIDE, Method.DELETE_VERSION, Method.DELETE_MANY, Method.ABORT_UPLOAD}


class StoreCall(NamedTuple):
    """One call: key is the prefix for listings and "" for delete_many; bytes_up is the size of the body."""

    method: Method
    key: str
    bytes_up: int = 0


class ForwardingStore:
    """See ObjectStore; entering and leaving pass through too."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner

    async def around(self, call: StoreCall, ask: Callable[[], Awaitable[T]]) -> T:
        """Make the call; ask() makes it on the inner store, and may be called more than once or not at all."""
        return await ask()

    async def __aenter__(self) -> ObjectStore:
        await self.inner.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.inner.__aexit__(kind, value, trace)

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    async def wait_known(self) -> None:
        await self.inner.wait_known()

    def watch_lost(self, lost: Callable[[str], None]) -> None:
        self.inner.watch_lost(lost)

    @property
    def identity(self) -> str:
        return self.inner.identity

    async def list_objects(
        self,
        prefix: str,
        *,
        delimiter: str | None = None,
        start_after: str | None = None,
        token: str | None = None,
        max_keys: int = 1000,
    ) -> ListPage:
        options: dict[str, Any] = {"delimiter": delimiter, "start_after": start_after, "token": token}
        return await self.around(
            StoreCall(Method.LIST_OBJECTS, prefix),
            lambda: self.inner.list_objects(prefix, max_keys=max_keys, **options),
        )

    async def list_versions(
        self,
        prefix: str,
        *,
        delimiter: str | None = None,
        key_marker: str | None = None,
        version_marker: str | None = None,
        max_keys: int = 1000,
    ) -> VersionPage:
        markers: dict[str, Any] = {"key_marker": key_marker, "version_marker": version_marker}
        return await self.around(
            StoreCall(Method.LIST_VERSIONS, prefix),
            lambda: self.inner.list_versions(prefix, delimiter=delimiter, max_keys=max_keys, **markers),
        )

    async def head(self, key: str, *, version_id: VersionId | None = None) -> ObjectInfo:
        return await self.around(StoreCall(Method.HEAD, key), lambda: self.inner.head(key, version_id=version_id))

    async def get(
        self,
        key: str,
        *,
        version_id: VersionId | None = None,
        start: int = 0,
        end: int | None = None,
        if_match: ETag | None = None,
    ) -> tuple[ObjectInfo, bytes | memoryview]:
        return await self.around(
            StoreCall(Method.GET, key),
            lambda: self.inner.get(key, version_id=version_id, start=start, end=end, if_match=if_match),
        )

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
        conditions: dict[str, Any] = {"if_match": if_match, "if_none_match": if_none_match}
        return await self.around(
            StoreCall(Method.PUT, key, len(body)),
            lambda: self.inner.put(key, body, metadata=metadata, content_type=content_type, **conditions),
        )

    async def copy(
        self,
        source: ObjectRef,
        key: str,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> ObjectInfo:
        return await self.around(
            StoreCall(Method.COPY, key),
            lambda: self.inner.copy(source, key, metadata=metadata, content_type=content_type),
        )

    async def hide(self, key: str) -> VersionId | None:
        return await self.around(StoreCall(Method.HIDE, key), lambda: self.inner.hide(key))

    async def delete_version(self, key: str, version_id: VersionId) -> None:
        await self.around(StoreCall(Method.DELETE_VERSION, key), lambda: self.inner.delete_version(key, version_id))

    async def delete_many(self, targets: Sequence[tuple[str, VersionId | None]]) -> list[VersionId | StoreError | None]:
        return await self.around(StoreCall(Method.DELETE_MANY, ""), lambda: self.inner.delete_many(targets))

    async def create_upload(
        self, key: str, *, metadata: Mapping[str, str] | None = None, content_type: str | None = None
    ) -> UploadId:
        return await self.around(
            StoreCall(Method.CREATE_UPLOAD, key),
            lambda: self.inner.create_upload(key, metadata=metadata, content_type=content_type),
        )

    async def upload_part(self, key: str, upload_id: UploadId, number: int, body: Body) -> PartInfo:
        return await self.around(
            StoreCall(Method.UPLOAD_PART, key, len(body)),
            lambda: self.inner.upload_part(key, upload_id, number, body),
        )

    async def copy_part(
        self, key: str, upload_id: UploadId, number: int, source: ObjectRef, start: int, end: int
    ) -> PartInfo:
        return await self.around(
            StoreCall(Method.COPY_PART, key),
            lambda: self.inner.copy_part(key, upload_id, number, source, start, end),
        )

    async def complete_upload(self, key: str, upload_id: UploadId, parts: Sequence[PartInfo]) -> ObjectInfo:
        return await self.around(
            StoreCall(Method.COMPLETE_UPLOAD, key), lambda: self.inner.complete_upload(key, upload_id, parts)
        )

    async def abort_upload(self, key: str, upload_id: UploadId) -> None:
        await self.around(StoreCall(Method.ABORT_UPLOAD, key), lambda: self.inner.abort_upload(key, upload_id))

    async def list_uploads(self, prefix: str) -> list[UploadInfo]:
        return await self.around(StoreCall(Method.LIST_UPLOADS, prefix), lambda: self.inner.list_uploads(prefix))

    async def list_parts(self, key: str, upload_id: UploadId) -> list[PartInfo]:
        return await self.around(StoreCall(Method.LIST_PARTS, key), lambda: self.inner.list_parts(key, upload_id))


def bytes_down(answer: object) -> int:
    """The size of the body that an answer carries."""
    match answer:
        case (_, bytes() | memoryview() as body):
            return len(body)
        case _:
            return 0
