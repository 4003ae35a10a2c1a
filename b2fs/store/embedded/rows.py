"""The values that go in and out of the embedded engine.

Times are milliseconds since the epoch (`_ms`), sizes are bytes, ETags and MD5s are lower-case hex without quotes.
A VersionRow comes straight from a database row and decodes its attributes only when they are asked for: listings
carry thousands of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

from b2fs.core.types import ETag, UploadId, VersionId
from b2fs.store.embedded.versionid import compose_version_id


class Acl(Enum):
    """Who may read the objects of a bucket without a key."""

    PRIVATE = "private"
    PUBLIC_READ = "public-read"


class RetentionMode(Enum):
    """GOVERNANCE may be bypassed with the capability for it, COMPLIANCE by nobody."""

    GOVERNANCE = "GOVERNANCE"
    COMPLIANCE = "COMPLIANCE"


@dataclass(frozen=True, slots=True)
class Retention:
    """No removal before until_ms."""

    mode: RetentionMode
    until_ms: int


@dataclass(frozen=True, slots=True)
class DefaultRetention:
    """What a new version of a bucket gets when the upload says nothing: exactly one of days and years is set."""

    mode: RetentionMode
    days: int | None = None
    years: int | None = None

    @property
    def duration_ms(self) -> int:
        """A year counts 365 days."""
        return ((self.days or 0) + 365 * (self.years or 0)) * 86_400_000


@dataclass(frozen=True, slots=True)
class Encryption:
    """How a version is encrypted: SSE-B2 (customer_key_md5 None) or SSE-C (base64 MD5 of the customer's key)."""

    algorithm: str = "AES256"
    customer_key_md5: str | None = None


@dataclass(frozen=True, slots=True)
class ContentHeaders:
    """The HTTP headers that a version keeps and gives back, as the client sent them."""

    content_type: str | None = None
    cache_control: str | None = None
    content_disposition: str | None = None
    content_encoding: str | None = None
    content_language: str | None = None
    expires: str | None = None


@dataclass(frozen=True, slots=True)
class Attributes:
    """Everything about a version that its uploader chooses.

    metadata: user metadata, names lower-case without prefix.  extra: texts that a front door wants back with the
    version (native SHA-1, file info, upload's own fields, nonces of SSE-C); the engine never looks at them.
    Of headers and metadata, bytes that are no UTF-8 stand as surrogates (the error handler surrogateescape); see
    readable.
    """

    headers: ContentHeaders = ContentHeaders()
    metadata: Mapping[str, str] = field(default_factory=dict)
    encryption: Encryption | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The stored form; only what is set."""
        parts: dict[str, object] = {}
        if self.metadata:
            parts["m"] = dict(self.metadata)
        headers = {name: value for name in _HEADER_NAMES if (value := getattr(self.headers, name)) is not None}
        if headers:
            parts["h"] = headers
        if self.encryption is not None:
            parts["e"] = [self.encryption.algorithm, self.encryption.customer_key_md5]
        if self.extra:
            parts["x"] = dict(self.extra)
        text = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
        if not text.isascii() and _ESCAPED_BYTE.search(text):
            return json.dumps(parts, separators=(",", ":"))  # UTF-8 has no form for surrogates, JSON has
        return text

    @staticmethod
    def from_json(text: str) -> Attributes:
        """The inverse of to_json."""
        parts = json.loads(text)
        encryption = parts.get("e")
        return Attributes(
            headers=ContentHeaders(**parts.get("h", {})),
            metadata=parts.get("m", {}),
            encryption=Encryption(*encryption) if encryption else None,
            extra=parts.get("x", {}),
        )


def readable(text: str) -> str:
    """A kept header or metadata as proper text: what is no UTF-8 is read as Latin-1, as HTTP once had it."""
    if text.isascii() or not _ESCAPED_BYTE.search(text):
        return text
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


_ESCAPED_BYTE: Final = re.compile("[\udc80-\udcff]")
_HEADER_NAMES: Final = tuple(ContentHeaders.__slots__)


@dataclass(frozen=True, slots=True)
class LockSpec:
    """Object Lock settings that come with an upload; None takes the bucket's default."""

    retention: Retention | None = None
    legal_hold: bool | None = None


NO_ATTRIBUTES: Final = Attributes()
NO_LOCK: Final = LockSpec()


class Unset(Enum):
    """Marks a field that a change leaves as it is."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True)
class BucketSpec:
    """A bucket to be made.  The texts ending in _json are kept as they are, for the front doors."""

    name: str
    owner: str = ""
    region: str = ""
    acl: Acl = Acl.PRIVATE
    cors_json: str | None = None
    lifecycle_json: str | None = None
    info_json: str | None = None
    default_encryption: str | None = None
    lock_enabled: bool = False
    default_retention: DefaultRetention | None = None
    replication_json: str | None = None


@dataclass(frozen=True, slots=True)
class BucketChanges:
    """What update_bucket changes; UNSET fields stay.  Object Lock can be enabled and never disabled again."""

    acl: Acl | Unset = UNSET
    cors_json: str | Unset | None = UNSET
    lifecycle_json: str | Unset | None = UNSET
    info_json: str | Unset | None = UNSET
    default_encryption: str | Unset | None = UNSET
    lock_enabled: bool | Unset = UNSET
    default_retention: DefaultRetention | Unset | None = UNSET
    replication_json: str | Unset | None = UNSET
    notifications_json: str | Unset | None = UNSET


@dataclass(frozen=True, slots=True)
class BucketRow:
    """A bucket.  id is the engine's handle for all other calls, bucket_id the 24 hex digits that users see."""

    id: int
    bucket_id: str
    name: str
    owner: str
    region: str
    created_ms: int
    revision: int
    acl: Acl
    cors_json: str | None
    lifecycle_json: str | None
    info_json: str | None
    default_encryption: str | None
    lock_enabled: bool
    default_retention: DefaultRetention | None
    replication_json: str | None
    notifications_json: str | None


class VersionRow(NamedTuple):
    """One version or hide marker, in the order of the columns that every query selects."""

    fid: int
    bucket_id: str
    key: str
    #: Logical size; differs from the stored one where a front door encrypts.
    size: int
    etag: ETag
    modified_ms: int
    created_ms: int
    is_latest: int
    is_hide_marker: int
    #: Row of `contents`; 0 for an empty body and for hide markers.
    content: int
    attributes_json: str
    retention_mode: str | None
    retention_until_ms: int | None
    legal_hold: int | None

    @property
    def version_id(self) -> VersionId:
        return compose_version_id(self.bucket_id, self.fid, self.created_ms)

    @property
    def attributes(self) -> Attributes:
        return Attributes.from_json(self.attributes_json)

    @property
    def retention(self) -> Retention | None:
        if self.retention_mode is None or self.retention_until_ms is None:
            return None
        return Retention(RetentionMode(self.retention_mode), self.retention_until_ms)


class UploadRow(NamedTuple):
    """An unfinished multipart upload."""

    fid: int
    bucket_id: str
    key: str
    started_ms: int
    attributes_json: str
    retention_mode: str | None
    retention_until_ms: int | None
    legal_hold: int | None

    @property
    def upload_id(self) -> UploadId:
        """Also the version ID that completion will give."""
        return UploadId(compose_version_id(self.bucket_id, self.fid, self.started_ms))

    @property
    def attributes(self) -> Attributes:
        return Attributes.from_json(self.attributes_json)

    @property
    def lock(self) -> LockSpec:
        retention = None
        if self.retention_mode is not None and self.retention_until_ms is not None:
            retention = Retention(RetentionMode(self.retention_mode), self.retention_until_ms)
        return LockSpec(retention, None if self.legal_hold is None else bool(self.legal_hold))


class PartRow(NamedTuple):
    """An uploaded part; extra_json is the front door's own (a SHA-1, a nonce)."""

    number: int
    size: int
    etag: ETag
    modified_ms: int
    content: int
    extra_json: str

    @property
    def extra(self) -> Mapping[str, str]:
        extra: dict[str, str] = json.loads(self.extra_json)
        return extra


@dataclass(frozen=True, slots=True)
class PartClaim:
    """A part as completion names it; etag None takes whatever was uploaded under the number."""

    number: int
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of current versions; next_token is None at the end."""

    rows: list[VersionRow]
    prefixes: list[str]
    next_token: str | None


@dataclass(frozen=True, slots=True)
class VersionListing:
    """A page of versions, by key, newest first; both markers are None at the end."""

    rows: list[VersionRow]
    prefixes: list[str]
    next_key_marker: str | None
    next_version_marker: str | None


@dataclass(frozen=True, slots=True)
class UploadListing:
    """A page of unfinished uploads, by key, then oldest first; both markers are None at the end."""

    rows: list[UploadRow]
    prefixes: list[str]
    next_key_marker: str | None
    next_upload_marker: str | None


#: Looks at a version that is about to be hidden or removed, and raises to prevent it.
VersionCheck = Callable[[VersionRow], None]


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a removal did: existed tells whether the version was there, was_hide_marker what it was."""

    existed: bool
    was_hide_marker: bool


@dataclass(frozen=True, slots=True)
class FsckProblem:
    """One finding: kind is a short word (missing, size, md5, orphan, temp, dangling, order), detail a sentence."""

    kind: str
    detail: str
    repaired: bool


@dataclass(frozen=True, slots=True)
class FsckReport:
    """What fsck looked at and found."""

    versions: int
    contents: int
    bytes_checked: int
    problems: list[FsckProblem]

    @property
    def clean(self) -> bool:
        return not self.problems
