"""The table of versions: order, visibility, removal and Object Lock.

INVARIANT: of the versions of a key exactly the one with the highest ord has is_latest.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, replace
from typing import Final

from b2fs.core.types import ETag
from b2fs.errors import Locked, NoSuchBucket, NotFound, PreconditionFailed
from b2fs.store.embedded import buckets
from b2fs.store.embedded.content import release
from b2fs.store.embedded.database import Transaction
from b2fs.store.embedded.errors import IsHideMarker, LockNotEnabled, RetentionInPast
from b2fs.store.embedded.names import check_metadata
from b2fs.store.embedded.rows import (
    NO_LOCK,
    Attributes,
    BucketRow,
    Deleted,
    Encryption,
    LockSpec,
    Retention,
    RetentionMode,
    VersionCheck,
    VersionRow,
)
from b2fs.store.embedded.versionid import parse_version_id, scatter

#: The columns of VersionRow; the first parameter of a query that selects them is the bucket's ID text.
COLUMNS: Final = (
    "fid, ?, key, size, etag, modified_ms, created_ms, is_latest, is_hide_marker, content, attributes_json,"
    " retention_mode, retention_until_ms, legal_hold"
)
_ALL_COLUMNS: Final = COLUMNS.replace("?", "(SELECT bucket_id FROM buckets WHERE id = bucket)")
_CURRENT: Final = f"SELECT {_ALL_COLUMNS} FROM versions WHERE bucket = ? AND key = ? ORDER BY ord DESC LIMIT 1"
_BY_FID: Final = f"SELECT {_ALL_COLUMNS}, bucket FROM versions WHERE fid = ?"


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version that is about to be made.

    fid and created_ms are given where an upload chose them before; uploaded_ms where the uploader says when it was.
    """

    key: str
    size: int
    etag: str
    content: int
    attributes: Attributes
    lock: LockSpec = NO_LOCK
    is_hide_marker: bool = False
    fid: int | None = None
    created_ms: int | None = None
    uploaded_ms: int | None = None


def find(connection: sqlite3.Connection, bucket: int, key: str, version_id: str | None) -> VersionRow:
    """The named or the current version, hide markers included.  Raises NotFound, NoSuchBucket."""
    if version_id is None:
        row = connection.execute(_CURRENT, (bucket, key)).fetchone()
        if row is not None:
            return VersionRow._make(row)
    else:
        found = _by_version_id(connection, version_id)
        if found is not None and found[0].key == key and found[1] == bucket:
            return found[0]
    if connection.execute("SELECT 1 FROM buckets WHERE id = ?", (bucket,)).fetchone() is None:
        raise NoSuchBucket("the bucket does not exist")
    raise NotFound(f"{key!r} does not exist" if version_id is None else f"{key!r} has no version {version_id!r}")


def find_visible(connection: sqlite3.Connection, bucket: int, key: str, version_id: str | None) -> VersionRow:
    """find, for content: a hide marker raises IsHideMarker."""
    row = find(connection, bucket, key, version_id)
    if row.is_hide_marker:
        raise IsHideMarker(key, row.version_id, named=version_id is not None)
    return row


def find_anywhere(connection: sqlite3.Connection, version_id: str) -> VersionRow:
    """A version by its ID alone.  Raises NotFound."""
    found = _by_version_id(connection, version_id)
    if found is None:
        raise NotFound(f"there is no version {version_id!r}")
    return found[0]


def _by_version_id(connection: sqlite3.Connection, version_id: str) -> tuple[VersionRow, int] | None:
    parsed = parse_version_id(version_id)
    if parsed is None:
        return None
    found = connection.execute(_BY_FID, (parsed.fid,)).fetchone()
    if found is None:
        return None
    *columns, bucket = found
    row = VersionRow._make(columns)
    return (row, bucket) if (row.bucket_id, row.created_ms) == (parsed.bucket_id, parsed.created_ms) else None


def add(transaction: Transaction, bucket: int, new: NewVersion, hazard_seed: int | None) -> VersionRow:
    """Insert a version.  Raises NoSuchBucket, InvalidLock, MetadataTooLarge."""
    home = buckets.in_transaction(transaction, bucket)
    attributes = _with_defaults(home, new)
    lock = _lock_of(transaction, home, new)
    fid = transaction.new_id() if new.fid is None else new.fid
    created_ms = transaction.now_ms if new.created_ms is None else new.created_ms
    ord_, is_latest = _place(transaction, bucket, new, fid, hazard_seed)
    retention = (lock.retention.mode.value, lock.retention.until_ms) if lock.retention else (None, None)
    row = VersionRow(
        fid=fid,
        bucket_id=home.bucket_id,
        key=new.key,
        size=new.size,
        etag=ETag(new.etag),
        modified_ms=transaction.now_ms if new.uploaded_ms is None else new.uploaded_ms,
        created_ms=created_ms,
        is_latest=int(is_latest),
        is_hide_marker=int(new.is_hide_marker),
        content=new.content,
        attributes_json=attributes.to_json(),
        retention_mode=retention[0],
        retention_until_ms=retention[1],
        legal_hold=None if lock.legal_hold is None else int(lock.legal_hold),
    )
    transaction.connection.execute(
        "INSERT INTO versions (fid, key, size, etag, modified_ms, created_ms, is_latest, is_hide_marker, content,"
        " attributes_json, retention_mode, retention_until_ms, legal_hold, bucket, ord)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (row[0], *row[2:], bucket, ord_),
    )
    return row


def _with_defaults(home: BucketRow, new: NewVersion) -> Attributes:
    """The attributes with the bucket's default encryption; checks the size of the metadata."""
    attributes = new.attributes
    if attributes.encryption is None and home.default_encryption and not new.is_hide_marker:
        attributes = replace(attributes, encryption=Encryption(home.default_encryption))
    if attributes.metadata:
        check_metadata(attributes.metadata, reduced=home.lock_enabled or attributes.encryption is not None)
    return attributes


def _lock_of(transaction: Transaction, home: BucketRow, new: NewVersion) -> LockSpec:
    lock = new.lock
    if not home.lock_enabled:
        if lock.retention is not None or lock.legal_hold:
            raise LockNotEnabled("Object Lock is not enabled for this bucket")
        return NO_LOCK
    if lock.retention is not None and lock.retention.until_ms <= transaction.now_ms:
        raise RetentionInPast("the retention must end in the future")
    if lock.retention is None and home.default_retention is not None and not new.is_hide_marker:
        default = home.default_retention
        lock = replace(lock, retention=Retention(default.mode, transaction.now_ms + default.duration_ms))
    return lock


def _place(
    transaction: Transaction, bucket: int, new: NewVersion, fid: int, hazard_seed: int | None
) -> tuple[int, bool]:
    """Where a new version goes among those of its key: (ord, whether it is the latest).

    ord counts microseconds.  By arrival: behind all that are there.  With a hazard seed: at a pseudo-random place
    within the current second, so that of two versions in one second either may be the later one, as on B2.
    By the time that the uploader gave, where it gave one.
    """
    connection = transaction.connection
    key = new.key
    top = connection.execute(
        "SELECT ord, fid FROM versions WHERE bucket = ? AND key = ? ORDER BY ord DESC LIMIT 1", (bucket, key)
    ).fetchone()
    if new.uploaded_ms is not None:
        ord_ = new.uploaded_ms * 1000
        taken_at = "SELECT 1 FROM versions WHERE bucket = ? AND key = ? AND ord = ?"
        while connection.execute(taken_at, (bucket, key, ord_)).fetchone() is not None:
            ord_ += 1
    elif hazard_seed is None:
        ord_ = transaction.now_ms * 1000
        if top is not None:
            ord_ = max(ord_, top[0] + 1)
    else:
        second = transaction.now_ms // 1000 * 1_000_000
        ord_ = second + scatter(fid, hazard_seed) % 1_000_000
        taken = {
            value
            for (value,) in connection.execute(
                "SELECT ord FROM versions WHERE bucket = ? AND key = ? AND ord >= ? AND ord < ?",
                (bucket, key, second, second + 1_000_000),
            )
        }
        while ord_ in taken:
            ord_ = second + (ord_ + 1 - second) % 1_000_000
    if top is not None and ord_ < top[0]:
        return ord_, False
    if top is not None:
        connection.execute("UPDATE versions SET is_latest = 0 WHERE fid = ?", (top[1],))
    return ord_, True


def check_match(transaction: Transaction, bucket: int, key: str, if_match: str | None, if_none_match: bool) -> None:
    """Raise PreconditionFailed (NotFound for if_match on nothing) unless the current version is as expected."""
    if if_match is None and not if_none_match:
        return
    try:
        row = find_visible(transaction.connection, bucket, key, None)
    except NotFound:
        if if_match is not None:
            raise PreconditionFailed(f"{key!r} does not exist") from None
        return
    if if_none_match or row.etag != if_match:
        raise PreconditionFailed(f"{key!r} is another version than expected")


def check_current(transaction: Transaction, bucket: int, key: str, check: VersionCheck | None) -> None:
    """Give the visible version of a key to check, which may raise; nothing where there is none."""
    if check is None:
        return
    try:
        row = find_visible(transaction.connection, bucket, key, None)
    except NotFound:
        return
    check(row)


def remove(
    transaction: Transaction,
    bucket: int,
    key: str,
    version_id: str,
    *,
    bypass_governance: bool,
    check: VersionCheck | None = None,
) -> Deleted:
    """Remove a version for good, unless check raises.  Raises Locked, NoSuchBucket."""
    connection = transaction.connection
    buckets.in_transaction(transaction, bucket)
    try:
        row = find(connection, bucket, key, version_id)
    except NotFound:
        return Deleted(existed=False, was_hide_marker=False)
    if check is not None:
        check(row)
    _check_unlocked(transaction, row, bypass_governance)
    erase(transaction, bucket, row)
    return Deleted(existed=True, was_hide_marker=bool(row.is_hide_marker))


def erase(transaction: Transaction, bucket: int, row: VersionRow) -> None:
    """Remove a version whatever its lock says, and make the one below it the latest."""
    connection = transaction.connection
    connection.execute("DELETE FROM versions WHERE fid = ?", (row.fid,))
    if row.is_latest:
        connection.execute(
            "UPDATE versions SET is_latest = 1 WHERE fid ="
            " (SELECT fid FROM versions WHERE bucket = ? AND key = ? ORDER BY ord DESC LIMIT 1)",
            (bucket, row.key),
        )
    release(transaction, row.content)


def _check_unlocked(transaction: Transaction, row: VersionRow, bypass_governance: bool) -> None:
    if row.legal_hold:
        raise Locked(f"{row.key!r} is under legal hold")
    retention = row.retention
    if retention is None or retention.until_ms <= transaction.now_ms:
        return
    if retention.mode is RetentionMode.COMPLIANCE or not bypass_governance:
        raise Locked(f"{row.key!r} is locked by its retention ({retention.mode.value})")


def set_retention(
    transaction: Transaction,
    bucket: int,
    key: str,
    version_id: str | None,
    retention: Retention | None,
    *,
    bypass_governance: bool,
) -> None:
    """Raises NotFound, Locked, InvalidLock."""
    row = _lockable(transaction, bucket, key, version_id)
    if retention is not None and retention.until_ms <= transaction.now_ms:
        raise RetentionInPast("the retention must end in the future")
    old = row.retention
    if old is not None and old.until_ms > transaction.now_ms and not _tightens(old, retention):
        may = old.mode is RetentionMode.GOVERNANCE and bypass_governance
        if not may:
            raise Locked(f"the retention of {key!r} may only be prolonged")
    transaction.connection.execute(
        "UPDATE versions SET retention_mode = ?, retention_until_ms = ? WHERE fid = ?",
        (retention.mode.value if retention else None, retention.until_ms if retention else None, row.fid),
    )


def _tightens(old: Retention, new: Retention | None) -> bool:
    if new is None or new.until_ms < old.until_ms:
        return False
    return new.mode is old.mode or new.mode is RetentionMode.COMPLIANCE


def set_legal_hold(transaction: Transaction, bucket: int, key: str, version_id: str | None, hold: bool) -> None:
    """Raises NotFound, InvalidLock."""
    row = _lockable(transaction, bucket, key, version_id)
    transaction.connection.execute("UPDATE versions SET legal_hold = ? WHERE fid = ?", (int(hold), row.fid))


def _lockable(transaction: Transaction, bucket: int, key: str, version_id: str | None) -> VersionRow:
    if not buckets.in_transaction(transaction, bucket).lock_enabled:
        raise LockNotEnabled("Object Lock is not enabled for this bucket")
    return find_visible(transaction.connection, bucket, key, version_id)
