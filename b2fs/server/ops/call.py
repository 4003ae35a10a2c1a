"""What a handler gets and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from b2fs.server.auth.keys import ApplicationKey, KeyRing
from b2fs.server.auth.sigv4 import Verified
from b2fs.server.bucketcache import BucketCache
from b2fs.server.wire.errors import S3Error
from b2fs.server.wire.parse import Params
from b2fs.server.wire.request import Request
from b2fs.server.wire.route import Target
from b2fs.store.embedded.engine import Engine
from b2fs.store.embedded.rows import BucketRow


class Stream(Protocol):
    """A body that is read piece by piece, from worker threads; size is the number of bytes it gives."""

    size: int

    def read(self) -> bytes:
        """The next bytes; b"" at the end."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: output members by name, and what does not come from the model."""

    values: Mapping[str, Any] = field(default_factory=dict)
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    stream: Stream | bytes | None = None


@dataclass(frozen=True, slots=True)
class Home:
    """What all calls of one server share."""

    engine: Engine
    keys: KeyRing
    buckets: BucketCache
    region: str
    domains: tuple[str, ...] = ()
    #: Buckets that one account may have.
    max_buckets: int = 100
    #: Whether x-amz-checksum headers are refused, as B2 did until July 2025.
    refuses_checksums: bool = False


@dataclass(slots=True)
class Call:
    """One authorised call.  key is None for anonymous ones."""

    home: Home
    request: Request
    target: Target
    params: Params
    verified: Verified | None
    _bucket: BucketRow | None = None

    @property
    def engine(self) -> Engine:
        return self.home.engine

    @property
    def key(self) -> ApplicationKey | None:
        return self.verified.key if self.verified is not None else None

    @property
    def bucket(self) -> BucketRow:
        """The bucket that the path names; access to it has been checked."""
        assert self._bucket is not None
        return self._bucket

    def enter(self, bucket: BucketRow) -> None:
        """Note the bucket after its access check."""
        self._bucket = bucket

    @property
    def name(self) -> str:
        """The key that the path names."""
        return self.target.key

    @property
    def version_id(self) -> str | None:
        """The version that the query names.  Raises InvalidArgument for an empty one."""
        text: str | None = self.params.get("VersionId")
        if text == "":
            raise S3Error("InvalidArgument", "Version id cannot be the empty string")
        return text

    def can(self, capability: str) -> bool:
        """Whether the caller's key has a capability for this bucket."""
        return self.key is not None and self.key.allows(capability, self.bucket.bucket_id)

    def require(self, capability: str) -> None:
        """Raises AccessDenied where the key lacks a capability that depends on the request's details."""
        if not self.can(capability):
            raise S3Error("AccessDenied", "not entitled")

    def owner(self) -> dict[str, str]:
        """The bucket's owner in the form of ACLs and listings."""
        account = self.home.keys.account(self.bucket.owner)
        return {"ID": self.bucket.owner, "DisplayName": account.name if account is not None else ""}
