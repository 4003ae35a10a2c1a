"""The native API's errors: JSON with status, code and message."""

from __future__ import annotations

import json
from typing import Final

from b2fs import errors
from b2fs.server.wire.errors import S3Error
from b2fs.store.embedded import errors as embedded


class NativeError(errors.B2fsError):
    """A refusal in the native API's words."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    def to_json(self) -> bytes:
        return json.dumps({"status": self.status, "code": self.code, "message": str(self)}).encode()


def bad_request(message: str) -> NativeError:
    return NativeError(400, "bad_request", message)


#: First match wins, so children stand before their parents.
_TABLE: Final[tuple[tuple[type[errors.B2fsError], int, str], ...]] = (
    (errors.NoSuchUpload, 400, "bad_request"),
    (errors.NotFound, 404, "not_found"),
    (errors.NoSuchBucket, 400, "bad_bucket_id"),
    (embedded.BucketExists, 400, "duplicate_bucket_name"),
    (embedded.BucketNotEmpty, 400, "cannot_delete_non_empty_bucket"),
    (embedded.BucketChanged, 409, "conflict"),
    (embedded.LockNotEnabled, 400, "bucket_missing_file_lock"),
    (embedded.RetentionInPast, 400, "retain_until_timestamp_must_be_in_future"),
    (errors.InvalidRange, 416, "range_not_satisfiable"),
    (errors.CapExceeded, 403, "storage_cap_exceeded"),
    (errors.AccessDenied, 403, "access_denied"),
    (errors.SlowDown, 429, "too_many_requests"),
    (errors.RetryableError, 503, "service_unavailable"),
    (errors.StoreError, 400, "bad_request"),
)
#: Sentences that B2's own programs show, or look for.
_WORDS: Final = {
    "bucket_missing_file_lock": "The bucket is not file lock enabled",
    "retain_until_timestamp_must_be_in_future": "The retainUntilTimestamp must be in future",
}
_S3_CODES: Final = {
    "InvalidRange": "range_not_satisfiable",
    "AccessDenied": "access_denied",
    "NoSuchKey": "not_found",
    "NoSuchVersion": "not_found",
    "RequestTimeout": "request_timeout",
    "SlowDown": "too_many_requests",
    "InternalError": "internal_error",
    "ServiceUnavailable": "service_unavailable",
}


def as_native_error(error: errors.B2fsError) -> NativeError:
    """What the client sees of an error of the store, or of the parts that both doors share."""
    if isinstance(error, NativeError):
        return error
    if isinstance(error, S3Error):
        status = 429 if error.code == "SlowDown" else error.status
        return NativeError(status, _S3_CODES.get(error.code, "bad_request"), str(error))
    for kind, status, code in _TABLE:
        if isinstance(error, kind):
            return NativeError(status, code, _WORDS.get(code, str(error)))
    return NativeError(500, "internal_error", "internal error")
