"""Transaction classes: which calls cost what (Backblaze's price list), and caps on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from b2fs.server.wire.errors import S3Error

_CLASS_A: Final = frozenset(
    {
        "AbortMultipartUpload",
        "CompleteMultipartUpload",
        "CreateMultipartUpload",
        "DeleteBucket",
        "DeleteBucketCors",
        "DeleteBucketEncryption",
        "DeleteObject",
        "DeleteObjects",
        "PutObject",
        "PutObjectLegalHold",
        "PutObjectLockConfiguration",
        "PutObjectRetention",
        "UploadPart",
        "b2_cancel_large_file",
        "b2_delete_bucket",
        "b2_delete_file_version",
        "b2_delete_key",
        "b2_finish_large_file",
        "b2_get_upload_part_url",
        "b2_get_upload_url",
        "b2_hide_file",
        "b2_start_large_file",
        "b2_update_file_legal_hold",
        "b2_update_file_retention",
        "b2_upload_file",
        "b2_upload_part",
    }
)
_CLASS_B: Final = frozenset(
    {
        "GetObject",
        "GetObjectLegalHold",
        "GetObjectLockConfiguration",
        "GetObjectRetention",
        "HeadObject",
        "b2_download_file_by_id",
        "b2_download_file_by_name",
        "b2_get_file_info",
    }
)


def transaction_class(operation: str) -> str:
    """`A`, `B` or `C`; `-` for what is no call."""
    if operation in ("-", "OPTIONS"):
        return "-"
    if operation in _CLASS_A:
        return "A"
    return "B" if operation in _CLASS_B else "C"


_MESSAGES: Final[Mapping[str, str]] = {
    "B": "Cannot download file, download bandwidth or transaction (Class B) cap exceeded. See the Caps & Alerts page "
    "to increase your cap.",
    "C": "Transaction cap exceeded, Class C. See the Caps & Alerts page to increase your cap.",
    "download": "Cannot download file, download bandwidth or transaction (Class B) cap exceeded. See the Caps & Alerts "
    "page to increase your cap.",
    "storage": "Cannot upload files, storage cap exceeded. See the Caps & Alerts page to increase your cap.",
}


def cap_exceeded(kind: str) -> S3Error:
    """The refusal for a cap of this kind: B, C, download or storage."""
    return S3Error("AccessDenied", _MESSAGES[kind])


class Caps:
    """Daily caps: transactions of class B and C, downloaded bytes, and stored bytes in all.

    limits: by `class-b`, `class-c`, `download`, `storage`; days begin at 00:00 UTC.
    """

    def __init__(
        self, limits: Mapping[str, int], stored_bytes: Callable[[], int], clock_s: Callable[[], float] = time.time
    ) -> None:
        self._limits = limits
        self._stored_bytes = stored_bytes
        self._clock_s = clock_s
        self._day = 0
        self._used: dict[str, int] = {}

    def charge(self, operation: str, upload_bytes: int) -> None:
        """Count a call before it is made.  Raises AccessDenied with the cap's message."""
        if not self._limits:
            return
        day = int(self._clock_s()) // 86_400
        if day != self._day:
            self._day, self._used = day, {}
        kind = transaction_class(operation)
        if kind in ("B", "C"):
            self._spend(f"class-{kind.lower()}", kind)
        limit = self._limits.get("download")
        if kind == "B" and limit is not None and self._used.get("download", 0) >= limit:
            raise cap_exceeded("download")
        limit = self._limits.get("storage")
        if upload_bytes and limit is not None and self._stored_bytes() + upload_bytes > limit:
            raise cap_exceeded("storage")

    def downloaded(self, size: int) -> None:
        """Count the bytes of an answer."""
        if "download" in self._limits:
            self._used["download"] = self._used.get("download", 0) + size

    def _spend(self, name: str, kind: str) -> None:
        limit = self._limits.get(name)
        if limit is None:
            return
        used = self._used.get(name, 0)
        if used >= limit:
            raise cap_exceeded(kind)
        self._used[name] = used + 1
