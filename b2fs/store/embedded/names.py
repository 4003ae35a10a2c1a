"""What B2 allows as the name of a bucket, an object and its metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from b2fs.store.embedded.errors import InvalidBucketName, InvalidKey, KeyTooLong, MetadataTooLarge

_BUCKET_NAME: Final = re.compile(r"[A-Za-z0-9-]{6,63}", re.ASCII)
_LOOSE_BUCKET_NAME: Final = re.compile(r"[^/\x00-\x1f\x7f]{1,255}")
_FORBIDDEN_IN_KEYS: Final = re.compile(r"[\x00-\x1f\x7f]")

MAX_KEY_BYTES: Final = 1024
MAX_METADATA_BYTES: Final = 7000
#: With server-side encryption, and in buckets with Object Lock.
MAX_METADATA_BYTES_REDUCED: Final = 2048


def check_bucket_name(name: str, *, strict: bool = True) -> None:
    """Raise InvalidBucketName unless B2 would take the name; strict=False asks for a sane file name only."""
    if strict:
        if not _BUCKET_NAME.fullmatch(name) or name.lower().startswith("b2-"):
            raise InvalidBucketName(
                f"{name!r} is no bucket name: 6 to 63 letters, digits and hyphens, not starting with 'b2-'"
            )
    elif not _LOOSE_BUCKET_NAME.fullmatch(name) or name in (".", ".."):
        raise InvalidBucketName(f"{name!r} cannot be the name of a bucket")


def check_key(key: str) -> None:
    """Raise InvalidKey or KeyTooLong unless B2 would take the key."""
    if not key:
        raise InvalidKey("the key is empty")
    if _FORBIDDEN_IN_KEYS.search(key):
        raise InvalidKey(f"the key {key!r} has control characters")
    try:
        length = len(key) if key.isascii() else len(key.encode())
    except UnicodeEncodeError as error:
        raise InvalidKey(f"the key {key!r} is no UTF-8") from error
    if length > MAX_KEY_BYTES:
        raise KeyTooLong(f"the key has {length} bytes, {MAX_KEY_BYTES} are allowed")


def check_metadata(metadata: Mapping[str, str], *, reduced: bool) -> None:
    """Raise MetadataTooLarge when names and values together are over B2's limit."""
    # Surrogates stand for bytes that are no UTF-8, one each.
    size = sum(len(name.encode()) + len(value.encode("utf-8", "surrogateescape")) for name, value in metadata.items())
    limit = MAX_METADATA_BYTES_REDUCED if reduced else MAX_METADATA_BYTES
    if size > limit:
        raise MetadataTooLarge(f"the metadata has {size} bytes, {limit} are allowed")


def successor(prefix: str) -> str | bytes:
    """The least key that is greater than every key with this prefix.

    For SQL: where there is no such text the answer is an empty BLOB, which SQLite sorts behind all texts.
    """
    while prefix:
        point = ord(prefix[-1])
        if point < 0x10FFFF:
            # Surrogates are no characters; UTF-8 order is the order of code points.
            return prefix[:-1] + chr(0xE000 if point == 0xD7FF else point + 1)
        prefix = prefix[:-1]
    return b""
