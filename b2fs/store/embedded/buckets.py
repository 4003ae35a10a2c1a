"""The table of buckets."""

from __future__ import annotations

import dataclasses
import secrets
import sqlite3
from typing import Any, Final

from b2fs.errors import NoSuchBucket
from b2fs.store.embedded.content import release
from b2fs.store.embedded.database import Transaction
from b2fs.store.embedded.errors import BucketChanged, BucketExists, BucketNotEmpty, InvalidLock, LockNotEnabled
from b2fs.store.embedded.rows import (
    UNSET,
    Acl,
    BucketChanges,
    BucketRow,
    BucketSpec,
    DefaultRetention,
    RetentionMode,
)

_SELECT: Final = (
    "SELECT id, bucket_id, name, owner, region, created_ms, revision, acl, cors_json, lifecycle_json, info_json,"
    " default_encryption, lock_enabled, retention_mode, retention_days, retention_years, replication_json,"
    " notifications_json FROM buckets"
)


def _from_sql(row: tuple[Any, ...]) -> BucketRow:
    mode, days, years, replication, notifications = row[13:]
    return BucketRow(
        id=row[0],
        bucket_id=row[1],
        name=row[2],
        owner=row[3],
        region=row[4],
        created_ms=row[5],
        revision=row[6],
        acl=Acl(row[7]),
        cors_json=row[8],
        lifecycle_json=row[9],
        info_json=row[10],
        default_encryption=row[11],
        lock_enabled=bool(row[12]),
        default_retention=DefaultRetention(RetentionMode(mode), days, years) if mode else None,
        replication_json=replication,
        notifications_json=notifications,
    )


def _find(connection: sqlite3.Connection, column: str, value: int | str) -> BucketRow:
    row = connection.execute(f"{_SELECT} WHERE {column} = ?", (value,)).fetchone()
    if row is None:
        raise NoSuchBucket("the bucket does not exist" if column == "id" else f"the bucket {value!r} does not exist")
    return _from_sql(row)


def by_name(connection: sqlite3.Connection, name: str) -> BucketRow:
    """Raises NoSuchBucket."""
    return _find(connection, "name", name)


def by_bucket_id(connection: sqlite3.Connection, bucket_id: str) -> BucketRow:
    """Raises NoSuchBucket."""
    return _find(connection, "bucket_id", bucket_id)


def by_id(connection: sqlite3.Connection, bucket: int) -> BucketRow:
    """Raises NoSuchBucket."""
    return _find(connection, "id", bucket)


def in_transaction(transaction: Transaction, bucket: int) -> BucketRow:
    """by_id, read once a transaction."""
    row: BucketRow | None = transaction.buckets.get(bucket)
    if row is None:
        row = transaction.buckets[bucket] = by_id(transaction.connection, bucket)
    return row


def all_of(connection: sqlite3.Connection, owner: str | None) -> list[BucketRow]:
    """By name; of one account, or all."""
    if owner is None:
        rows = connection.execute(f"{_SELECT} ORDER BY name")
    else:
        rows = connection.execute(f"{_SELECT} WHERE owner = ? ORDER BY name", (owner,))
    return [_from_sql(row) for row in rows]


def create(transaction: Transaction, spec: BucketSpec) -> BucketRow:
    """Raises BucketExists."""
    taken = transaction.connection.execute("SELECT owner FROM buckets WHERE name = ?", (spec.name,)).fetchone()
    if taken is not None:
        raise BucketExists(spec.name, taken[0])
    if spec.default_retention is not None and not spec.lock_enabled:
        raise LockNotEnabled("a default retention needs Object Lock")
    row = BucketRow(
        id=transaction.new_id(),
        bucket_id=secrets.token_hex(12),
        name=spec.name,
        owner=spec.owner,
        region=spec.region,
        created_ms=transaction.now_ms,
        revision=1,
        acl=spec.acl,
        cors_json=spec.cors_json,
        lifecycle_json=spec.lifecycle_json,
        info_json=spec.info_json,
        default_encryption=spec.default_encryption,
        lock_enabled=spec.lock_enabled,
        default_retention=spec.default_retention,
        replication_json=spec.replication_json,
        notifications_json=None,
    )
    _store(transaction, row)
    return row


def update(transaction: Transaction, bucket: int, changes: BucketChanges, if_revision: int | None) -> BucketRow:
    """Raises NoSuchBucket, BucketChanged, InvalidLock."""
    old = by_id(transaction.connection, bucket)
    if if_revision is not None and if_revision != old.revision:
        raise BucketChanged(f"the bucket is at revision {old.revision}, not {if_revision}")
    wanted = {
        field.name: value
        for field in dataclasses.fields(changes)
        if (value := getattr(changes, field.name)) is not UNSET
    }
    new = dataclasses.replace(old, revision=old.revision + 1, **wanted)
    if old.lock_enabled and not new.lock_enabled:
        raise InvalidLock("Object Lock cannot be disabled")
    if new.default_retention is not None and not new.lock_enabled:
        raise LockNotEnabled("a default retention needs Object Lock")
    _store(transaction, new)
    return new


def delete(transaction: Transaction, bucket: int) -> None:
    """Raises NoSuchBucket, BucketNotEmpty."""
    connection = transaction.connection
    by_id(connection, bucket)
    if connection.execute("SELECT 1 FROM versions WHERE bucket = ? LIMIT 1", (bucket,)).fetchone():
        raise BucketNotEmpty("the bucket is not empty; hidden and older versions count too")
    uploads = [fid for (fid,) in connection.execute("SELECT fid FROM uploads WHERE bucket = ?", (bucket,))]
    for fid in uploads:
        rows = connection.execute("DELETE FROM parts WHERE upload = ? RETURNING content", (fid,)).fetchall()
        connection.execute("DELETE FROM uploads WHERE fid = ?", (fid,))
        for (content,) in rows:
            release(transaction, content)
    connection.execute("DELETE FROM buckets WHERE id = ?", (bucket,))
    transaction.buckets.pop(bucket, None)


def _store(transaction: Transaction, row: BucketRow) -> None:
    retention = row.default_retention
    values = (
        *(row.id, row.bucket_id, row.name, row.owner, row.region, row.created_ms, row.revision, row.acl.value),
        *(row.cors_json, row.lifecycle_json, row.info_json, row.default_encryption, row.lock_enabled),
        *((retention.mode.value, retention.days, retention.years) if retention else (None, None, None)),
        *(row.replication_json, row.notifications_json),
    )
    transaction.connection.execute(
        "INSERT OR REPLACE INTO buckets (id, bucket_id, name, owner, region, created_ms, revision, acl, cors_json,"
        " lifecycle_json, info_json, default_encryption, lock_enabled, retention_mode, retention_days, retention_years,"
        " replication_json, notifications_json)"
        f" VALUES ({', '.join('?' * len(values))})",
        values,
    )
    transaction.buckets.pop(row.id, None)
