"""Pages of objects, versions and uploads.

All three are the same walk: rows in key order from a lower bound, where keys that share the text up to the delimiter
become one common prefix.  The walk does not read through a common prefix of many keys: after a few it seeks behind it,
so a directory costs the same whether it holds ten files or a million.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from b2fs.errors import InvalidRequest
from b2fs.store.embedded import buckets
from b2fs.store.embedded.names import successor
from b2fs.store.embedded.rows import Listing, UploadListing, UploadRow, VersionListing, VersionRow
from b2fs.store.embedded.versionid import parse_version_id
from b2fs.store.embedded.versions import COLUMNS

#: Rows of one common prefix that are read before seeking behind it: a seek costs about as much as these.
_READ_BEFORE_SEEK: Final = 8
_KEY: Final = 2  # the key's place in a row of versions and of uploads

Row = tuple[Any, ...]
Bound = str | bytes
Seek = Callable[[Bound], Iterator[Row]]


@dataclass(frozen=True, slots=True)
class _Page:
    """What a walk found; last is its last row or common prefix, more whether anything follows."""

    rows: list[Row]
    prefixes: list[str]
    last: Row | str | None
    more: bool


def list_objects(
    connection: sqlite3.Connection,
    bucket: int,
    prefix: str,
    delimiter: str | None,
    start_after: str | None,
    token: str | None,
    max_keys: int,
) -> Listing:
    """See Engine.list_objects."""
    bucket_id = buckets.by_id(connection, bucket).bucket_id
    end = successor(prefix)

    def seek(low: Bound) -> Iterator[Row]:
        return connection.execute(
            f"SELECT {COLUMNS} FROM versions INDEXED BY versions_current WHERE bucket = ? AND key >= ? AND key < ?"
            " AND is_latest = 1 AND is_hide_marker = 0 ORDER BY key",
            (bucket_id, bucket, low, end),
        )

    low: Bound = prefix
    if token is not None:
        low = _decode_token(token)
    elif start_after is not None:
        low = _behind(start_after, prefix, delimiter)
    page = _walk(seek, _later(low, prefix), None, prefix, delimiter, max_keys)
    next_token = None
    if page.more and page.last is not None:
        next_token = _encode_token(successor(page.last) if isinstance(page.last, str) else page.last[_KEY] + "\0")
    return Listing([VersionRow._make(row) for row in page.rows], page.prefixes, next_token)


def list_versions(
    connection: sqlite3.Connection,
    bucket: int,
    prefix: str,
    delimiter: str | None,
    key_marker: str | None,
    version_marker: str | None,
    max_keys: int,
) -> VersionListing:
    """See Engine.list_versions."""
    bucket_id = buckets.by_id(connection, bucket).bucket_id
    end = successor(prefix)

    def seek(low: Bound) -> Iterator[Row]:
        return connection.execute(
            f"SELECT {COLUMNS} FROM versions INDEXED BY versions_by_key"
            " WHERE bucket = ? AND key >= ? AND key < ? ORDER BY key, ord DESC",
            (bucket_id, bucket, low, end),
        )

    def rest_of_key(key: str, version_id: str) -> Iterator[Row]:
        return connection.execute(
            f"SELECT {COLUMNS} FROM versions WHERE bucket = ? AND key = ? AND ord < ? ORDER BY ord DESC",
            (bucket_id, bucket, key, _ord_of(connection, version_id)),
        )

    low: Bound = prefix
    rest = None
    if key_marker is not None:
        low = _behind(key_marker, prefix, delimiter)
        if version_marker and key_marker.startswith(prefix) and isinstance(low, str) and low == key_marker + "\0":
            rest = rest_of_key(key_marker, version_marker)
    page = _walk(seek, _later(low, prefix), rest, prefix, delimiter, max_keys)
    rows = [VersionRow._make(row) for row in page.rows]
    if not page.more or page.last is None:
        return VersionListing(rows, page.prefixes, None, None)
    if isinstance(page.last, str):
        return VersionListing(rows, page.prefixes, page.last, None)
    return VersionListing(rows, page.prefixes, rows[-1].key, rows[-1].version_id)


def list_uploads(
    connection: sqlite3.Connection,
    bucket: int,
    prefix: str,
    delimiter: str | None,
    key_marker: str | None,
    upload_marker: str | None,
    max_uploads: int,
) -> UploadListing:
    """See Engine.list_uploads."""
    bucket_id = buckets.by_id(connection, bucket).bucket_id
    end = successor(prefix)
    columns = "fid, ?, key, started_ms, attributes_json, retention_mode, retention_until_ms, legal_hold"

    def seek(low: Bound) -> Iterator[Row]:
        return connection.execute(
            f"SELECT {columns} FROM uploads WHERE bucket = ? AND key >= ? AND key < ? ORDER BY key, fid",
            (bucket_id, bucket, low, end),
        )

    def rest_of_key(key: str, upload_id: str) -> Iterator[Row]:
        parsed = parse_version_id(upload_id)
        return connection.execute(
            f"SELECT {columns} FROM uploads WHERE bucket = ? AND key = ? AND fid > ? ORDER BY fid",
            (bucket_id, bucket, key, parsed.fid if parsed else 0),
        )

    low: Bound = prefix
    rest = None
    if key_marker is not None:
        low = _behind(key_marker, prefix, delimiter)
        if upload_marker and key_marker.startswith(prefix) and isinstance(low, str) and low == key_marker + "\0":
            rest = rest_of_key(key_marker, upload_marker)
    page = _walk(seek, _later(low, prefix), rest, prefix, delimiter, max_uploads)
    rows = [UploadRow._make(row) for row in page.rows]
    if not page.more or page.last is None:
        return UploadListing(rows, page.prefixes, None, None)
    if isinstance(page.last, str):
        return UploadListing(rows, page.prefixes, page.last, None)
    return UploadListing(rows, page.prefixes, rows[-1].key, rows[-1].upload_id)


def _walk(seek: Seek, low: Bound, first: Iterator[Row] | None, prefix: str, delimiter: str | None, limit: int) -> _Page:
    """Up to limit rows and common prefixes, from the rows of first and then from the key low on."""
    rows = seek(low)
    if first is not None:
        rows = itertools.chain(first, rows)
    if limit <= 0:
        return _Page([], [], None, False)
    if not delimiter:
        found = list(itertools.islice(rows, limit + 1))
        more = len(found) > limit
        del found[limit:]
        return _Page(found, [], found[-1] if found else None, more)
    return _walk_rolled_up(seek, rows, len(prefix), delimiter, limit)


def _walk_rolled_up(seek: Seek, rows: Iterator[Row], skip: int, delimiter: str, limit: int) -> _Page:
    found: list[Row] = []
    prefixes: list[str] = []
    last: Row | str | None = None
    repeats = 0
    row = next(rows, None)
    while row is not None:
        key: str = row[_KEY]
        if isinstance(last, str) and key.startswith(last):
            repeats += 1
            if repeats == _READ_BEFORE_SEEK:
                rows = seek(successor(last))
            row = next(rows, None)
            continue
        if len(found) + len(prefixes) == limit:
            return _Page(found, prefixes, last, True)
        cut = key.find(delimiter, skip)
        if cut < 0:
            found.append(row)
            last = row
        else:
            last = key[: cut + len(delimiter)]
            prefixes.append(last)
            repeats = 0
        row = next(rows, None)
    return _Page(found, prefixes, last, False)


def _behind(marker: str, prefix: str, delimiter: str | None) -> Bound:
    """Where a listing continues that ended with marker: behind the key, or behind all keys of a common prefix."""
    if delimiter and marker.startswith(prefix):
        cut = marker.find(delimiter, len(prefix))
        if cut >= 0 and cut + len(delimiter) == len(marker):
            return successor(marker)
    return marker + "\0"


def _later(low: Bound, prefix: str) -> Bound:
    if isinstance(low, bytes):
        return low
    return max(low, prefix)


def _ord_of(connection: sqlite3.Connection, version_id: str) -> int:
    """The place of a version; of one that is gone, the time when it was made."""
    parsed = parse_version_id(version_id)
    if parsed is None:
        raise InvalidRequest(f"{version_id!r} is no version ID")
    row = connection.execute("SELECT ord FROM versions WHERE fid = ?", (parsed.fid,)).fetchone()
    return int(row[0]) if row is not None else parsed.created_ms * 1000


def _encode_token(low: Bound) -> str:
    text = low if isinstance(low, str) else ""
    return base64.urlsafe_b64encode(text.encode()).decode()


def _decode_token(token: str) -> Bound:
    """The lower bound that a page gave; an empty one means that nothing can follow."""
    try:
        text = base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError, ValueError) as error:
        raise InvalidRequest("the continuation token is not one of ours") from error
    return text or b""
