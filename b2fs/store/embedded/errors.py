"""What the embedded engine refuses, beyond the errors that every store knows.

Each class stands for one error code of the S3 and native APIs, so that a server maps types and never texts.
"""

from __future__ import annotations

from b2fs.errors import InvalidRequest, NotFound, StoreError


class IsHideMarker(NotFound):
    """The current version, or the version that was named, is a hide marker.

    version_id names the marker; named is True when the caller asked for exactly this version.
    """

    def __init__(self, key: str, version_id: str, *, named: bool) -> None:
        super().__init__(f"{key!r} is hidden")
        self.version_id = version_id
        self.named = named


class BucketExists(InvalidRequest):
    """A bucket of this name exists already; owner is the account that has it."""

    def __init__(self, name: str, owner: str) -> None:
        super().__init__(f"the bucket {name!r} exists already")
        self.owner = owner


class BucketNotEmpty(InvalidRequest):
    """A bucket that still holds versions cannot be deleted."""


class BucketChanged(InvalidRequest):
    """The bucket is at another revision than the caller believed."""


class InvalidBucketName(InvalidRequest):
    """The name breaks B2's rules for bucket names."""


class InvalidKey(InvalidRequest):
    """The key is empty, not UTF-8 or has control characters."""


class KeyTooLong(InvalidKey):
    """The key has more than 1,024 bytes."""


class MetadataTooLarge(InvalidRequest):
    """Names and values of the user metadata are over the limit together."""


class InvalidLock(InvalidRequest):
    """Object Lock is not enabled for this bucket, or the change would loosen what may only be tightened."""


class LockNotEnabled(InvalidLock):
    """The bucket was made without Object Lock."""


class RetentionInPast(InvalidLock):
    """A retention must end in the future."""


class EntityTooSmall(InvalidRequest):
    """A part other than the last is under the smallest part size; number names it."""

    def __init__(self, number: int, size: int, least: int) -> None:
        super().__init__(f"part {number} has {size} bytes, the least is {least}")
        self.number = number
        self.size = size
        self.least = least


class EntityTooLarge(InvalidRequest):
    """A body or an assembled object is over the largest size."""


class InvalidPart(InvalidRequest):
    """A part that completion names was not uploaded, or has another ETag."""


class InvalidPartOrder(InvalidRequest):
    """The parts that completion names are not in ascending order."""


class DamagedStore(StoreError):
    """The directory is not a store, is from a newer b2fs, or has lost a content file."""
