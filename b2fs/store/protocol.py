"""ObjectStore: the one door to a bucket, in B2's terms.

A store object is bound to one bucket.  All calls are safe to make concurrently, are cancellable at any await, and
raise the children of StoreError.  A store makes its own bounded retries for faults that pass; what is raised as
RetryableError has been tried again already.  Keys are str; the caller has checked nothing, the server decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Protocol

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

Body = bytes | bytearray | memoryview


class ObjectStore(Protocol):
    """A bucket.  Use as an async context manager: entering checks that the bucket can be reached.

    Entering raises NoSuchBucket, AccessDenied, BadCredentials or Unavailable with a sentence for the user.
    """

    async def __aenter__(self) -> ObjectStore: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def capabilities(self) -> Capabilities:
        """What the store can do; but for `versioning` worth going by only when `wait_known` has returned."""
        ...

    async def wait_known(self) -> None:
        """Return when `capabilities` are known; without a checkpoint if they are already.

        Raises Unavailable if they cannot be found out now.
        """
        ...

    def watch_lost(self, lost: Callable[[str], None]) -> None:
        """From now on lost(key) is called for each attempt at changing a key whose answer was lost.

        The server may have carried it out, or do so later, whatever becomes of the call.
        """
        ...

    @property
    def identity(self) -> str:
        """Endpoint and bucket in one text without secrets: the same for every mount of this bucket."""
        ...

    async def list_objects(
        self,
        prefix: str,
        *,
        delimiter: str | None = None,
        start_after: str | None = None,
        token: str | None = None,
        max_keys: int = 1000,
    ) -> ListPage:
        """Current objects whose keys start with prefix, in UTF-8 key order, at most 1,000 a page."""
        ...

    async def list_versions(
        self,
        prefix: str,
        *,
        delimiter: str | None = None,
        key_marker: str | None = None,
        version_marker: str | None = None,
        max_keys: int = 1000,
    ) -> VersionPage:
        """All versions and hide markers, by key, newest first.  Unsupported without versioning."""
        ...

    async def head(self, key: str, *, version_id: VersionId | None = None) -> ObjectInfo:
        """Metadata of the current or the named version.  NotFound for a missing or hidden key."""
        ...

    async def get(
        self,
        key: str,
        *,
        version_id: VersionId | None = None,
        start: int = 0,
        end: int | None = None,
        if_match: ETag | None = None,
    ) -> tuple[ObjectInfo, bytes | memoryview]:
        """The bytes [start, min(end, size)) and what the answer says of the version; info.size is the whole size.

        Large bodies come as views of memory that is used again when the last view is gone.

        end=None reads to the end of the object.  The body is complete or the call fails (CorruptBody, Unavailable).
        Raises InvalidRange when start >= size > 0, or start > 0 == size; an empty object read from 0 is b"".
        Raises PreconditionFailed when if_match differs, NotFound when the key or version is gone.
        """
        ...

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
        """Make a new version holding body; body must not change until the call returns.

        The conditions raise PreconditionFailed, and Unsupported where capabilities.conditional_put is False.
        """
        ...

    async def copy(
        self,
        source: ObjectRef,
        key: str,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> ObjectInfo:
        """Make a new version of key from source, up to max_put_bytes, without moving bytes through here.

        The source is its version ID where it has one, else the current object with a matching ETag.
        metadata=None keeps the source's metadata and content type, otherwise both are replaced.
        Raises NotFound or PreconditionFailed when the source is no longer that content.
        """
        ...

    async def hide(self, key: str) -> VersionId | None:
        """Make key absent: a hide marker whose version ID is returned; without versioning the object is removed.

        Hiding a key that does not exist is not an error.
        """
        ...

    async def delete_version(self, key: str, version_id: VersionId) -> None:
        """Remove one version for good.  A version that is already gone is not an error.  Raises Locked."""
        ...

    async def delete_many(self, targets: Sequence[tuple[str, VersionId | None]]) -> list[VersionId | StoreError | None]:
        """Hide (version None) or remove up to 1,000 targets in one call.

        The answer has one item per target, in order: the hide marker's version ID, None for a removed version (or
        without versioning), or the error of that target.
        """
        ...

    async def create_upload(
        self, key: str, *, metadata: Mapping[str, str] | None = None, content_type: str | None = None
    ) -> UploadId:
        """Start a multipart upload."""
        ...

    async def upload_part(self, key: str, upload_id: UploadId, number: int, body: Body) -> PartInfo:
        """Upload part `number` (1..max_parts), replacing an earlier one of that number.  Raises NoSuchUpload."""
        ...

    async def copy_part(
        self, key: str, upload_id: UploadId, number: int, source: ObjectRef, start: int, end: int
    ) -> PartInfo:
        """Make a part from the bytes [start, end) of source, server-side."""
        ...

    async def complete_upload(self, key: str, upload_id: UploadId, parts: Sequence[PartInfo]) -> ObjectInfo:
        """Make the parts, in ascending number, one new version.  Raises NoSuchUpload, InvalidRequest."""
        ...

    async def abort_upload(self, key: str, upload_id: UploadId) -> None:
        """Drop an upload and its parts.  One that is already gone is not an error."""
        ...

    async def list_uploads(self, prefix: str) -> list[UploadInfo]:
        """All unfinished multipart uploads of keys under prefix."""
        ...

    async def list_parts(self, key: str, upload_id: UploadId) -> list[PartInfo]:
        """The parts that an unfinished upload holds, by number.  Raises NoSuchUpload."""
        ...
