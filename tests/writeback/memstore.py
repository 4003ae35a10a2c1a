"""MemStore: an ObjectStore whose bucket is a value in memory, without threads, so that trio's clock may jump.

It passes the contract suite.  A bucket can be copied at any moment (what a crash would have left), remembers every
content that a key ever showed, and with a hazard seed orders versions of one second as B2 does: by chance.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

import trio

from b2fs.core.content import CONTENT_HEADERS
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
    VersionInfo,
    VersionPage,
)
from b2fs.errors import (
    InvalidRange,
    InvalidRequest,
    NoSuchBucket,
    NoSuchUpload,
    NotFound,
    PreconditionFailed,
    StoreError,
    Unsupported,
)
from b2fs.store.protocol import Body

_NS = 1_000_000_000
_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Version:
    """A content, or (body None) a hide marker.  order: what decides which version of a key is the latest."""

    key: str
    id: VersionId
    order: tuple[float, float, int]
    body: bytes | None
    etag: ETag
    modified_ns: int
    metadata: Mapping[str, str] = field(default_factory=dict)
    content_type: str = _TYPE

    @property
    def ref(self) -> ObjectRef:
        return ObjectRef(self.key, self.id, self.etag, len(self.body or b""))

    @property
    def info(self) -> ObjectInfo:
        return ObjectInfo(self.ref, self.modified_ns, self.metadata, self.content_type)


@dataclass(slots=True)
class _Upload:
    key: str
    started_ns: int
    metadata: Mapping[str, str]
    content_type: str
    parts: dict[int, tuple[PartInfo, bytes]] = field(default_factory=dict)


class MemBucket:
    """The state.  `shown` has, for every key, each content (None: absent) that it showed, in order."""

    def __init__(self, *, hazard_seed: int | None = None, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._hazard = None if hazard_seed is None else random.Random(hazard_seed)
        self._numbers = itertools.count(1)
        #: The versions of each key, the latest last.
        self.versions: dict[str, list[Version]] = {}
        self.uploads: dict[UploadId, _Upload] = {}
        self.shown: dict[str, list[bytes | None]] = {}

    def copy(self) -> MemBucket:
        """The same bucket as of now, with a life of its own."""
        twin = MemBucket(clock=self.clock)
        number = next(self._numbers)
        self._numbers, twin._numbers = itertools.count(number), itertools.count(number)
        if self._hazard is not None:
            twin._hazard = random.Random()
            twin._hazard.setstate(self._hazard.getstate())
        twin.versions = {key: list(versions) for key, versions in self.versions.items()}
        twin.uploads = {i: replace(upload, parts=dict(upload.parts)) for i, upload in self.uploads.items()}
        twin.shown = {key: list(shown) for key, shown in self.shown.items()}
        return twin

    # -- what it shows

    def latest(self, key: str) -> Version | None:
        """The visible version of a key."""
        versions = self.versions.get(key)
        return versions[-1] if versions and versions[-1].body is not None else None

    def contents(self) -> dict[str, bytes]:
        """Every visible key and its content, without what b2fs keeps for itself."""
        found = {key: self.latest(key) for key in sorted(self.versions) if not key.startswith(".b2fs/")}
        return {key: version.body or b"" for key, version in found.items() if version is not None}

    def hidden(self) -> list[str]:
        """Keys that have a hide marker anywhere among their versions."""
        return [key for key, versions in self.versions.items() if any(v.body is None for v in versions)]

    def held(self) -> set[str]:
        """Keys that have any version or marker, without what b2fs keeps for itself."""
        return {key for key in self.versions if not key.startswith(".b2fs/")}

    # -- changes, all of them in one step

    def new_id(self) -> VersionId:
        return VersionId(f"4_mem_u{next(self._numbers):014d}")

    def add(
        self,
        key: str,
        body: bytes | None,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
        *,
        etag: str | None = None,
        version_id: VersionId | None = None,
    ) -> Version:
        """A new version, placed by arrival, or with a hazard seed anywhere within its second."""
        now = self.clock()
        number = next(self._numbers)
        order = (now, 0.0, number) if self._hazard is None else (float(int(now)), self._hazard.random(), number)
        version = Version(
            key,
            version_id or VersionId(f"4_mem_u{number:014d}"),
            order,
            body,
            ETag(etag or hashlib.md5(body or b"", usedforsecurity=False).hexdigest()),
            int(now) * _NS,
            {name if name in CONTENT_HEADERS else name.lower(): value for name, value in (metadata or {}).items()},
            content_type or _TYPE,
        )
        versions = self.versions.setdefault(key, [])
        versions.append(version)
        if self._hazard is not None:
            versions.sort(key=lambda v: v.order)
        self._note(key)
        return version

    def remove(self, key: str, version_id: VersionId) -> None:
        left = [version for version in self.versions.get(key, ()) if version.id != version_id]
        if left:
            self.versions[key] = left
        else:
            self.versions.pop(key, None)
        self._note(key)

    def keep_only(self, version: Version) -> None:
        """What a bucket without versions keeps of a key; nothing at all of a removed one."""
        self.versions[version.key] = [version]
        if version.body is None:
            del self.versions[version.key]

    def take_path(self, version: Version) -> None:
        """Where `a` and `a/` are one, as SeaweedFS has it: no directory takes the place of a file."""
        key = version.key
        twin = self.latest(key[:-1] if key.endswith("/") else key + "/")
        if twin is None:
            return
        if key.endswith("/") and version.body is not None:
            self.remove(key, version.id)
            raise StoreError("Existing Object is a file")
        if version.body is not None or not twin.body:
            del self.versions[twin.key]
            self._note(twin.key)

    def _note(self, key: str) -> None:
        version = self.latest(key)
        body = version.body if version is not None else None
        shown = self.shown.setdefault(key, [])
        if not shown or shown[-1] != body:
            shown.append(body)


class MemStore:
    """See the module.  bucket None: the bucket does not exist."""

    def __init__(self, bucket: MemBucket | None, capabilities: Capabilities | None = None) -> None:
        self._given = bucket
        self._capabilities = capabilities or Capabilities(conditional_put=True)

    async def __aenter__(self) -> MemStore:
        await trio.lowlevel.checkpoint()
        if self._given is None:
            raise NoSuchBucket("the bucket does not exist")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is open."""

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def wait_known(self) -> None:
        """They are known from the start."""

    def watch_lost(self, lost: Callable[[str], None]) -> None:
        """No answer is lost."""

    @property
    def identity(self) -> str:
        return f"mem://{id(self._given)}"

    async def _enter(self) -> MemBucket:
        """Every call begins with a checkpoint and goes on without one, so it is one step."""
        await trio.lowlevel.checkpoint()
        assert self._given is not None
        return self._given

    # -- listings

    async def list_objects(
        self,
        prefix: str,
        *,
        delimiter: str | None = None,
        start_after: str | None = None,
        token: str | None = None,
        max_keys: int = 1000,
    ) -> ListPage:
        bucket = await self._enter()
        after = token if token is not None else start_after
        objects: list[ObjectInfo] = []
        prefixes: list[str] = []
        last = ""
        for key in sorted(bucket.versions, key=str.encode):
            version = bucket.latest(key)
            if version is None or not key.startswith(prefix) or (after is not None and key <= after):
                continue
            rolled = _rolled(key, prefix, delimiter)
            if rolled is not None and (rolled in prefixes or (after is not None and rolled <= after[: len(rolled)])):
                continue
            if len(objects) + len(prefixes) == max_keys:
                return ListPage(tuple(objects), tuple(prefixes), last)
            last = key if rolled is None else rolled + "\U0010ffff"
            if rolled is None:
                # As S3's, it tells no version IDs.
                ref = version.ref._replace(version_id=None)
                objects.append(version.info._replace(ref=ref, metadata=None, content_type=None))
            else:
                prefixes.append(rolled)
        return ListPage(tuple(objects), tuple(prefixes), None)

    async def list_versions(
        self,
        prefix: str,
        *,
        delimiter: str | None = None,
        key_marker: str | None = None,
        version_marker: str | None = None,
        max_keys: int = 1000,
    ) -> VersionPage:
        bucket = await self._enter()
        found: list[VersionInfo] = []
        prefixes: list[str] = []
        for key in sorted(bucket.versions, key=str.encode):
            if not key.startswith(prefix) or (key_marker is not None and key < key_marker):
                continue
            if key == key_marker and version_marker is None:
                continue
            rolled = _rolled(key, prefix, delimiter)
            if rolled is not None:
                if rolled not in prefixes:
                    prefixes.append(rolled)
                continue
            newest_first = bucket.versions[key][::-1]
            skip = key == key_marker
            for version in newest_first:
                if skip:
                    skip = version.id != version_marker
                    continue
                if len(found) == max_keys:
                    end = found[-1].ref
                    return VersionPage(tuple(found), tuple(prefixes), end.key, end.version_id)
                latest = version is newest_first[0]
                found.append(VersionInfo(version.ref, version.modified_ns, latest, version.body is None))
        return VersionPage(tuple(found), tuple(prefixes), None, None)

    # -- reading

    def _find(self, bucket: MemBucket, key: str, version_id: VersionId | None) -> Version:
        if version_id is None:
            version = bucket.latest(key)
        else:
            version = next((v for v in bucket.versions.get(key, ()) if v.id == version_id), None)
        if version is None or version.body is None:
            raise NotFound(f"{key}: no such object or version")
        return version

    async def head(self, key: str, *, version_id: VersionId | None = None) -> ObjectInfo:
        return self._told(self._find(await self._enter(), key, version_id))

    async def get(
        self,
        key: str,
        *,
        version_id: VersionId | None = None,
        start: int = 0,
        end: int | None = None,
        if_match: ETag | None = None,
    ) -> tuple[ObjectInfo, bytes]:
        version = self._find(await self._enter(), key, version_id)
        assert version.body is not None
        if if_match is not None and version.etag != if_match:
            raise PreconditionFailed(f"{key} is another version")
        if start and start >= len(version.body):
            raise InvalidRange(f"{key} has no byte {start}")
        return self._told(version), version.body[start:end]

    # -- writing

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
        bucket = await self._enter()
        if (if_match is not None or if_none_match) and not self._capabilities.conditional_put:
            raise Unsupported("PUT has no conditions here")
        current = bucket.latest(key)
        if if_none_match and current is not None:
            raise PreconditionFailed(f"{key} exists")
        if if_match is not None and (current is None or current.etag != if_match):
            raise PreconditionFailed(f"{key} is another version")
        if key.endswith("/") and not body and not self._capabilities.marker_metadata:
            metadata = None
        return self._made(bucket, bucket.add(key, bytes(body), metadata, content_type))

    async def copy(
        self,
        source: ObjectRef,
        key: str,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> ObjectInfo:
        bucket = await self._enter()
        found = self._source(bucket, source)
        if metadata is None:
            metadata, content_type = found.metadata, found.content_type
        return self._made(bucket, bucket.add(key, found.body, metadata, content_type, etag=found.etag))

    def _source(self, bucket: MemBucket, source: ObjectRef) -> Version:
        found = self._find(bucket, source.key, source.version_id)
        if source.version_id is None and found.etag != source.etag:
            raise PreconditionFailed(f"{source.key} is another version")
        return found

    async def hide(self, key: str) -> VersionId | None:
        return self._hide(await self._enter(), key)

    def _hide(self, bucket: MemBucket, key: str) -> VersionId | None:
        return self._made(bucket, bucket.add(key, None)).ref.version_id

    def _made(self, bucket: MemBucket, version: Version) -> ObjectInfo:
        """What the store tells of a new version or marker; without versioning it takes the place of what was there."""
        if self._capabilities.keys_are_paths:
            bucket.take_path(version)
        if self._capabilities.versioning:
            return version.info
        bucket.keep_only(version)
        return self._told(version)

    def _told(self, version: Version) -> ObjectInfo:
        if self._capabilities.versioning:
            return version.info
        return version.info._replace(ref=version.ref._replace(version_id=None))

    async def delete_version(self, key: str, version_id: VersionId) -> None:
        (await self._enter()).remove(key, version_id)

    async def delete_many(self, targets: Sequence[tuple[str, VersionId | None]]) -> list[VersionId | StoreError | None]:
        bucket = await self._enter()
        answers: list[VersionId | StoreError | None] = []
        for key, version_id in targets:
            if version_id is None:
                answers.append(self._hide(bucket, key))
            else:
                bucket.remove(key, version_id)
                answers.append(None)
        return answers

    # -- multipart uploads

    async def create_upload(
        self, key: str, *, metadata: Mapping[str, str] | None = None, content_type: str | None = None
    ) -> UploadId:
        bucket = await self._enter()
        upload_id = UploadId(bucket.new_id())
        bucket.uploads[upload_id] = _Upload(key, int(bucket.clock()) * _NS, metadata or {}, content_type or _TYPE)
        return upload_id

    def _upload(self, bucket: MemBucket, key: str, upload_id: UploadId) -> _Upload:
        upload = bucket.uploads.get(upload_id)
        if upload is None or upload.key != key:
            raise NoSuchUpload(f"{key}: no such upload")
        return upload

    async def upload_part(self, key: str, upload_id: UploadId, number: int, body: Body) -> PartInfo:
        return self._add_part(await self._enter(), key, upload_id, number, bytes(body))

    async def copy_part(
        self, key: str, upload_id: UploadId, number: int, source: ObjectRef, start: int, end: int
    ) -> PartInfo:
        bucket = await self._enter()
        body = self._source(bucket, source).body or b""
        return self._add_part(bucket, key, upload_id, number, body[start:end])

    def _add_part(self, bucket: MemBucket, key: str, upload_id: UploadId, number: int, body: bytes) -> PartInfo:
        upload = self._upload(bucket, key, upload_id)
        if not 1 <= number <= self._capabilities.max_parts:
            raise InvalidRequest(f"there is no part {number}")
        part = PartInfo(number, ETag(hashlib.md5(body, usedforsecurity=False).hexdigest()), len(body))
        upload.parts[number] = (part, body)
        return part

    async def complete_upload(self, key: str, upload_id: UploadId, parts: Sequence[PartInfo]) -> ObjectInfo:
        bucket = await self._enter()
        upload = self._upload(bucket, key, upload_id)
        chosen = [upload.parts.get(part.number) for part in parts]
        bodies: list[bytes] = []
        for part, found in zip(parts, chosen, strict=True):
            if found is None or found[0].etag != part.etag:
                raise InvalidRequest(f"part {part.number} is not as told")
            bodies.append(found[1])
        if not parts or any(len(body) < self._capabilities.min_part_bytes for body in bodies[:-1]):
            raise InvalidRequest("a part is too small")
        del bucket.uploads[upload_id]
        sums = b"".join(bytes.fromhex(part.etag) for part in parts)
        etag = f"{hashlib.md5(sums, usedforsecurity=False).hexdigest()}-{len(parts)}"
        body = b"".join(bodies)
        made = bucket.add(key, body, upload.metadata, upload.content_type, etag=etag, version_id=VersionId(upload_id))
        return self._made(bucket, made)

    async def abort_upload(self, key: str, upload_id: UploadId) -> None:
        (await self._enter()).uploads.pop(upload_id, None)

    async def list_uploads(self, prefix: str) -> list[UploadInfo]:
        bucket = await self._enter()
        uploads = [UploadInfo(u.key, upload_id, u.started_ns) for upload_id, u in bucket.uploads.items()]
        return [upload for upload in uploads if upload.key.startswith(prefix)]

    async def list_parts(self, key: str, upload_id: UploadId) -> list[PartInfo]:
        upload = self._upload(await self._enter(), key, upload_id)
        return [upload.parts[number][0] for number in sorted(upload.parts)]


def _rolled(key: str, prefix: str, delimiter: str | None) -> str | None:
    """The common prefix that stands for this key in a listing."""
    if delimiter is None:
        return None
    cut = key.find(delimiter, len(prefix))
    return key[: cut + len(delimiter)] if cut >= 0 else None
