"""The values that cross layer borders.

Sizes and offsets are bytes, ranges are half-open `[start, end)`, times are nanoseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, NewType

VersionId = NewType("VersionId", str)
ETag = NewType("ETag", str)  # without the quotes of the wire
UploadId = NewType("UploadId", str)
InodeId = NewType("InodeId", int)
HandleId = NewType("HandleId", int)


@dataclass(frozen=True, slots=True)
class ObjectRef:
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


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a HEAD, GET, PUT or listing tells of one version of an object.

    metadata is None where the call does not carry it (listings); names are lower-case, without `x-amz-meta-`.
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


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One row of a version listing: a version or a hide marker."""

    ref: ObjectRef
    modified_ns: int
    is_latest: bool
    is_hide_marker: bool


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of a listing: objects and common prefixes in key order; next_token is None at the end."""

    objects: tuple[ObjectInfo, ...]
    prefixes: tuple[str, ...]
    next_token: str | None


@dataclass(frozen=True, slots=True)
class VersionPage:
    """One page of a version listing: by key, newest first; both markers are None at the end."""

    versions: tuple[VersionInfo, ...]
    prefixes: tuple[str, ...]
    next_key_marker: str | None
    next_version_marker: str | None


@dataclass(frozen=True, slots=True)
class UploadInfo:
    """A multipart upload that was started and neither completed nor aborted."""

    key: str
    upload_id: UploadId
    started_ns: int


@dataclass(frozen=True, slots=True)
class PartInfo:
    """An uploaded part: number from 1."""

    number: int
    etag: ETag
    size: int


@dataclass(frozen=True, slots=True)
class Capabilities:
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
    #: Largest single PUT or CopyObject.
    max_put_bytes: int = 5_000_000_000
    min_part_bytes: int = 5 << 20
    max_part_bytes: int = 5 << 30
    max_parts: int = 10_000
    max_object_bytes: int = 10_000_000_000_000


@dataclass(slots=True)
class Attr:
    """What stat(2) shows of an inode; mode includes the file type."""

    ino: InodeId
    mode: int
    nlink: int = 1
    uid: int = 0
    gid: int = 0
    rdev: int = 0
    size: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    #: st_blocks, in units of 512 bytes.
    blocks: int = 0
    #: How long the kernel may trust these attributes and the name that led here, in seconds.
    ttl_s: float = 0.0


class SetAttr(NamedTuple):
    """The attributes that a setattr call changes; None leaves one as it is.  A tuple, as DirEntry is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    #: The times are the present, as utimensat(2) with NULL sets them: then write permission is enough.
    times_now: bool = False


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the ids of the calling process."""

    uid: int = 0
    gid: int = 0
    pid: int = 0
    umask: int = 0o022
    groups: frozenset[int] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class StatFs:
    """What statvfs(3) shows; sizes in units of block_size."""

    block_size: int
    blocks: int
    blocks_free: int
    files: int
    files_free: int
    name_max: int = 255


class DirEntry(NamedTuple):
    """One entry of readdir: the cookie continues the listing behind this entry.

    A tuple, since listings make them by the ten thousand: a third of the cost of a frozen dataclass.
    """

    name: bytes
    attr: Attr
    cookie: int


class OpenFile(NamedTuple):
    """The answer to open: keep_cache tells the kernel that its pages are still right.  A tuple, as DirEntry is."""

    handle: HandleId
    keep_cache: bool
