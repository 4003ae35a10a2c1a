"""The store's errors in S3's words.  Types decide, never texts."""

from __future__ import annotations

from typing import Final

from b2fs import errors
from b2fs.server.wire.errors import S3Error
from b2fs.store.embedded import errors as embedded
from b2fs.store.embedded.versionid import parse_version_id

#: First match wins, so children stand before their parents.  None keeps the code's own message.
_TABLE: Final[tuple[tuple[type[errors.B2fsError], str, str | None], ...]] = (
    (errors.NoSuchUpload, "NoSuchUpload", None),
    (errors.NotFound, "NoSuchKey", None),
    (errors.NoSuchBucket, "NoSuchBucket", None),
    (embedded.BucketNotEmpty, "BucketNotEmpty", None),
    (embedded.InvalidBucketName, "InvalidBucketName", None),
    (embedded.KeyTooLong, "KeyTooLongError", None),
    (embedded.MetadataTooLarge, "MetadataTooLarge", None),
    (embedded.EntityTooSmall, "EntityTooSmall", None),
    (embedded.EntityTooLarge, "EntityTooLarge", None),
    (embedded.InvalidPart, "InvalidPart", None),
    (embedded.InvalidPartOrder, "InvalidPartOrder", None),
    (errors.PreconditionFailed, "PreconditionFailed", None),
    (errors.InvalidRange, "InvalidRange", None),
    (errors.CapExceeded, "AccessDenied", "Cannot upload files, storage cap exceeded. See the Caps & Alerts page to "
        "increase your cap."),
    (errors.AccessDenied, "AccessDenied", None),
    (errors.SlowDown, "SlowDown", None),
    (errors.RetryableError, "ServiceUnavailable", None),
)  # fmt: skip


def as_s3_error(error: errors.B2fsError) -> S3Error:
    """What the client sees of an error of the store."""
    if isinstance(error, S3Error):
        return error
    for kind, code, message in _TABLE:
        if isinstance(error, kind):
            return S3Error(code, message)
    if isinstance(error, embedded.InvalidLock):
        return S3Error("InvalidRequest", _sentence(error))
    if isinstance(error, errors.InvalidRequest):
        return S3Error("InvalidArgument", _sentence(error))
    return S3Error("InternalError")


def _sentence(error: errors.B2fsError) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]


def missing_version(error: errors.NotFound, version_id: str | None) -> S3Error:
    """The answer to a read of a version that is not there, or is a hide marker."""
    if isinstance(error, embedded.IsHideMarker):
        headers = {"x-amz-delete-marker": "true", "x-amz-version-id": error.version_id}
        if error.named:
            return S3Error("MethodNotAllowed", headers=headers | {"allow": "DELETE"})
        return S3Error("NoSuchKey", headers=headers)
    if version_id is None:
        return S3Error("NoSuchKey")
    if parse_version_id(version_id) is None:
        return S3Error("InvalidArgument", "Invalid version id specified")
    return S3Error("NoSuchVersion")
