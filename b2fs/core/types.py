"""What stores are asked and answer, in values that cross layer borders.

Sizes and offsets are bytes, ranges are half-open `[start, end)`, times are nanoseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, NewType

VersionId = NewType("VersionId", str)
ETag = NewType("ETag", str)  # without the quotes of the wire
UploadId = NewType("UploadId", str)


class ObjectRef(NamedTuple):
    """One immutable content in the bucket.

    version_id is None on servers without versioning, and while only a listing has been seen (listings carry no
    version IDs); the ETag then takes its place and every use must be conditional on it.
    """

    key: str
    version_id: VersionId | None
    etag: ETag
    size: int

    @property
    def content_id(self) -> str:
        """A text that names this content for ever: usable as a cache key."""
        return self.version_id or f"{self.key}\0{self.etag}\0{self.size}"

    def is_version(self, other: ObjectRef) -> bool:
        """Whether both are one version of a key; by content where one of them tells no version ID."""
        if self.version_id is not None and other.version_id is not None:
            return self.version_id == other.version_id
        return self.etag == other.etag and self.size == other.size


class ObjectInfo(NamedTuple):
    """What a HEAD, GET, PUT or listing tells of one version of an object.

    metadata is None where the call does not carry it (listings); names are lower-case, without `x-amz-meta-`, but for
    those of content.CONTENT_HEADERS, which stand among them.
    modified_ns has whole seconds on B2.
    """

    ref: ObjectRef
    modified_ns: int
    metadata: Mapping[str, str] | None = None
    content_type: str | None = None

    @property
    def key(self) -> str:
        return self.ref.key

    @property
    def size(self) -> int:
        return self.ref.size


class VersionInfo(NamedTuple):
    """One row of a version listing: a version or a hide marker."""

    ref: ObjectRef
    modified_ns: int
    is_latest: bool
    is_hide_marker: bool


class ListPage(NamedTuple):
    """One page of a listing: objects and common prefixes in key order; next_token is None at the end."""

    objects: tuple[ObjectInfo, ...]
    prefixes: tuple[str, ...]
    next_token: str | None


class VersionPage(NamedTuple):
    """One page of a version listing: by key, newest first; both markers are None at the end."""

    versions: tuple[VersionInfo, ...]
    prefixes: tuple[str, ...]
    next_key_marker: str | None
    next_version_marker: str | None


class UploadInfo(NamedTuple):
    """A multipart upload that was started and neither completed nor aborted."""

    key: str
    upload_id: UploadId
    started_ns: int


class PartInfo(NamedTuple):
    """An uploaded part: number from 1."""

    number: int
    etag: ETag
    size: int


class Capabilities(NamedTuple):
    """What a store can do, found out by probing, never guessed from its name."""

    versioning: bool = True
    #: GET and HEAD honour If-Match.
    conditional_get: bool = True
    #: PUT honours If-Match / If-None-Match (B2 answers 501).
    conditional_put: bool = False
    copy: bool = True
    #: CopyObject accepts a source version ID.
    copy_from_version: bool = True
    #: UploadPartCopy works and copies the right bytes.
    part_copy: bool = True
    #: User metadata on keys that end in '/' is kept (SeaweedFS drops it).
    marker_metadata: bool = True
    #: What is stored below a directory makes a folder, listed until the directory's own key is removed, whether that
    #: was ever stored or not (SeaweedFS).
    folders: bool = False
    #: Largest single PUT or CopyObject.
    max_put_bytes: int = 5_000_000_000
    min_part_bytes: int = 5 << 20
    max_part_bytes: int = 5 << 30
    max_parts: int = 10_000
    max_object_bytes: int = 10_000_000_000_000

    @property
    def keys_are_paths(self) -> bool:
        """Whether `a` and `a/` are one thing in the bucket (SeaweedFS, unless it keeps versions).

        A file that is stored takes the directory's place, a directory that of a file is refused, and to remove the
        directory's key removes an empty file.
        """
        return self.folders and not self.versioning
