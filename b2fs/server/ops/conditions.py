"""Conditional requests and ranges, as pure decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from b2fs.server.wire.errors import S3Error
from b2fs.server.wire.times import http_date, parse_time
from b2fs.store.embedded.rows import VersionRow


@dataclass(frozen=True, slots=True)
class Conditions:
    """The four conditions, as texts of the wire; None where the request has none."""

    if_match: str | None = None
    if_none_match: str | None = None
    if_modified_since: str | None = None
    if_unmodified_since: str | None = None


def from_headers(headers: Mapping[str, str], prefix: str = "") -> Conditions:
    """The conditions of a request; prefix `x-amz-copy-source-` reads those of a copy."""
    names = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
    return Conditions(*(headers.get(prefix + name) for name in names))


def _lists(text: str, etag: str) -> bool:
    """Whether an If-Match list names the ETag; weak ones and quotes count as the text inside."""
    for item in text.split(","):
        stripped = item.strip()
        if stripped == "*" or stripped.removeprefix("W/").strip('"') == etag:
            return True
    return False


def _time(text: str | None) -> int | None:
    """Seconds of a date; None for a missing or unreadable one, which HTTP says to ignore."""
    if text is None:
        return None
    try:
        return parse_time(text) // 1000
    except ValueError:
        return None


def check(conditions: Conditions, etag: str, modified_ms: int, *, for_copy: bool = False) -> None:
    """Raise PreconditionFailed or NotModified; a copy knows no NotModified.

    If-Match outranks If-Unmodified-Since, and If-None-Match outranks If-Modified-Since (RFC 9110, 13.2.2).
    """
    modified_s = modified_ms // 1000
    unmodified_since = _time(conditions.if_unmodified_since)
    if conditions.if_match is not None:
        if not _lists(conditions.if_match, etag):
            raise S3Error("PreconditionFailed")
    elif unmodified_since is not None and modified_s > unmodified_since:
        raise S3Error("PreconditionFailed")
    modified_since = _time(conditions.if_modified_since)
    if conditions.if_none_match is not None:
        unchanged = _lists(conditions.if_none_match, etag)
    else:
        unchanged = modified_since is not None and modified_s <= modified_since
    if not unchanged:
        return
    if for_copy:
        raise S3Error("PreconditionFailed")
    raise S3Error("NotModified", headers={"etag": f'"{etag}"', "last-modified": http_date(modified_s)})


@dataclass(frozen=True, slots=True)
class DeleteConditions:
    """What a version must be like to be hidden or removed; None where the request does not say."""

    etag: str | None = None
    modified_ms: int | None = None
    size: int | None = None

    @staticmethod
    def of(params: Mapping[str, Any], etag: str, modified: str, size: str) -> DeleteConditions:
        """The conditions among the members of a request, under these names."""
        return DeleteConditions(params.get(etag), params.get(modified), params.get(size))

    @property
    def any(self) -> bool:
        return self != DeleteConditions()

    def check(self, row: VersionRow) -> None:
        """Raise PreconditionFailed unless the version is as expected."""
        other = (
            (self.etag is not None and not _lists(self.etag, row.etag))
            or (self.modified_ms is not None and self.modified_ms // 1000 != row.modified_ms // 1000)
            or (self.size is not None and self.size != row.size)
        )
        if other:
            raise S3Error("PreconditionFailed")


def parse_range(text: str | None, size: int) -> tuple[int, int] | None:
    """The bytes [start, end) that a Range header asks for; None for the whole (no, several or malformed ranges).

    Raises InvalidRange when nothing of it lies inside.
    """
    if text is None or not text.startswith("bytes="):
        return None
    first, dash, last = text[6:].partition("-")
    if not dash or "," in last or not _is_number(first, empty=True) or not _is_number(last, empty=True):
        return None
    if not first:
        if not last:
            return None
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= end:
        raise S3Error("InvalidRange", headers={"content-range": f"bytes */{size}"})
    return start, end


def _is_number(text: str, *, empty: bool) -> bool:
    return (empty and not text) or (text.isascii() and text.isdigit() and len(text) < 20)


def parse_copy_range(text: str, size: int) -> tuple[int, int]:
    """The bytes [start, end) of an x-amz-copy-source-range.  Raises InvalidArgument, InvalidRange."""
    first, dash, last = text.removeprefix("bytes=").partition("-")
    well_formed = (
        text.startswith("bytes=") and dash and _is_number(first, empty=False) and _is_number(last, empty=False)
    )
    if not well_formed or int(last) < int(first):
        raise S3Error(
            "InvalidArgument",
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the "
            "zero-based offsets of the first and last bytes to copy",
        )
    if int(last) >= size:
        raise S3Error("InvalidRange", "The x-amz-copy-source-range is not valid for the size of the source")
    return int(first), int(last) + 1
