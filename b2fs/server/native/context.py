"""What a native call gets: the caller's key, the JSON of the request, and typed access to both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from b2fs.server.auth.keys import ApplicationKey
from b2fs.server.native.errors import NativeError, bad_request
from b2fs.server.native.tokens import Tokens
from b2fs.server.ops.call import Home
from b2fs.store.embedded.engine import Engine
from b2fs.store.embedded.rows import BucketRow, VersionRow

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class NativeCall:
    """One authorised call.  base_url is the server as the client sees it."""

    home: Home
    tokens: Tokens
    key: ApplicationKey
    body: Mapping[str, Any]
    base_url: str
    version: int

    @property
    def engine(self) -> Engine:
        return self.home.engine

    def require(self, capability: str, bucket_id: str | None = None, file_name: str | None = None) -> None:
        """Raises unauthorized where the key may not do this."""
        if not self.key.allows(capability, bucket_id, file_name):
            # Backblaze's library adds what the key may do.
            raise NativeError(401, "unauthorized", "unauthorized")

    def text(self, name: str) -> str:
        """A text that must be there."""
        value = self.body.get(name)
        if not isinstance(value, str):
            raise bad_request(f"required field {name} is missing" if value is None else f"{name} is not a string")
        return value

    def optional_text(self, name: str) -> str | None:
        value = self.body.get(name)
        if value is not None and not isinstance(value, str):
            raise bad_request(f"{name} is not a string")
        return value

    def number(self, name: str, default: int | None = None, *, least: int = 1, most: int = 1 << 62) -> int:
        """A number in [least, most]."""
        value = self.body.get(name)
        if value is None:
            value = default
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value)  # from a query string
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise bad_request(f"{name} must be a number from {least} to {most}")
        return value

    def flag(self, name: str) -> bool:
        return self.body.get(name) is True

    def mapping(self, name: str) -> Mapping[str, Any] | None:
        value = self.body.get(name)
        if value is not None and not isinstance(value, dict):
            raise bad_request(f"{name} is not an object")
        return value

    def bucket(self, capability: str, file_name: str | None = None, field: str = "bucketId") -> BucketRow:
        """The caller's bucket of this ID, checked.  Raises bad_bucket_id, unauthorized."""
        return self.bucket_of(self.text(field), capability, file_name)

    def bucket_of(self, bucket_id: str, capability: str, file_name: str | None = None) -> BucketRow:
        row = self.engine.bucket_by_id(bucket_id)
        if row.owner != self.key.account.id:
            raise NativeError(400, "bad_bucket_id", f"Bucket {bucket_id} does not exist")
        self.require(capability, bucket_id, file_name)
        return row

    def version_of(self, file_id: str, capability: str) -> tuple[BucketRow, VersionRow]:
        """The version of this ID in a bucket of the caller.  Raises not_found, unauthorized."""
        row = self.engine.find_version(file_id)
        return self.bucket_of(row.bucket_id, capability, row.key), row


Handler = Callable[[NativeCall], Json]
