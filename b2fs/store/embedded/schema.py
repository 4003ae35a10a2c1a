"""The tables of a store, and how an older database becomes the newest.

MIGRATIONS[n] takes a database from PRAGMA user_version n to n + 1.  A released migration never changes; a front door
that needs tables of its own (accounts, keys) appends one.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from b2fs.store.embedded.errors import DamagedStore

#: PRAGMA application_id: "B2fs".
APPLICATION_ID: Final = 0x42326673

KIND_INLINE: Final = 0
KIND_FILE: Final = 1
KIND_COMPOSED: Final = 2

_FIRST: Final = (
    """CREATE TABLE sequence (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
        next_id INTEGER NOT NULL
    )""",
    "INSERT INTO sequence VALUES (1, 1)",
    """CREATE TABLE buckets (
        id INTEGER PRIMARY KEY,
        bucket_id TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL UNIQUE,
        owner TEXT NOT NULL,
        region TEXT NOT NULL,
        created_ms INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        acl TEXT NOT NULL,
        cors_json TEXT,
        lifecycle_json TEXT,
        info_json TEXT,
        default_encryption TEXT,
        lock_enabled INTEGER NOT NULL,
        retention_mode TEXT,
        retention_days INTEGER,
        retention_years INTEGER
    )""",
    # Bodies, immutable.  kind 0: in data; 1: in the file named; 2: put together from extents of kinds 0 and 1.
    """CREATE TABLE contents (
        id INTEGER PRIMARY KEY,
        kind INTEGER NOT NULL,
        size INTEGER NOT NULL,
        md5 TEXT NOT NULL,
        file TEXT,
        data BLOB
    )""",
    "CREATE UNIQUE INDEX contents_by_file ON contents (file) WHERE file IS NOT NULL",
    """CREATE TABLE extents (
        content INTEGER NOT NULL,
        position INTEGER NOT NULL,
        source INTEGER NOT NULL,
        start INTEGER NOT NULL,
        length INTEGER NOT NULL,
        PRIMARY KEY (content, position)
    ) WITHOUT ROWID""",
    "CREATE INDEX extents_by_source ON extents (source)",
    # The version with the highest ord of its key is the latest.
    """CREATE TABLE versions (
        fid INTEGER PRIMARY KEY,
        bucket INTEGER NOT NULL,
        key TEXT NOT NULL,
        ord INTEGER NOT NULL,
        size INTEGER NOT NULL,
        etag TEXT NOT NULL,
        modified_ms INTEGER NOT NULL,
        created_ms INTEGER NOT NULL,
        is_latest INTEGER NOT NULL,
        is_hide_marker INTEGER NOT NULL,
        content INTEGER NOT NULL,
        attributes_json TEXT NOT NULL,
        retention_mode TEXT,
        retention_until_ms INTEGER,
        legal_hold INTEGER
    )""",
    "CREATE UNIQUE INDEX versions_by_key ON versions (bucket, key, ord DESC)",
    "CREATE UNIQUE INDEX versions_current ON versions (bucket, key) WHERE is_latest = 1 AND is_hide_marker = 0",
    "CREATE INDEX versions_by_content ON versions (content) WHERE content > 0",
    """CREATE TABLE uploads (
        fid INTEGER PRIMARY KEY,
        bucket INTEGER NOT NULL,
        key TEXT NOT NULL,
        started_ms INTEGER NOT NULL,
        attributes_json TEXT NOT NULL,
        retention_mode TEXT,
        retention_until_ms INTEGER,
        legal_hold INTEGER
    )""",
    "CREATE UNIQUE INDEX uploads_by_key ON uploads (bucket, key, fid)",
    """CREATE TABLE parts (
        upload INTEGER NOT NULL,
        number INTEGER NOT NULL,
        size INTEGER NOT NULL,
        etag TEXT NOT NULL,
        modified_ms INTEGER NOT NULL,
        content INTEGER NOT NULL,
        extra_json TEXT NOT NULL,
        PRIMARY KEY (upload, number)
    ) WITHOUT ROWID""",
    "CREATE INDEX parts_by_content ON parts (content) WHERE content > 0",
    # Content files whose rows are gone and that still have to be removed.
    "CREATE TABLE trash (file TEXT PRIMARY KEY) WITHOUT ROWID",
)

#: Settings of the native API that are kept and shown.
_BUCKET_SETTINGS: Final = (
    "ALTER TABLE buckets ADD COLUMN replication_json TEXT",
    "ALTER TABLE buckets ADD COLUMN notifications_json TEXT",
)

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (_FIRST, _BUCKET_SETTINGS)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the database to the newest version, in one transaction.

    Raises DamagedStore for a database that is something else or comes from a newer b2fs.
    """
    if _version(connection) == len(MIGRATIONS) and _is_ours(connection):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have migrated while we waited for the lock.
        current = _version(connection)
        if current > len(MIGRATIONS):
            raise DamagedStore(f"the store is of version {current}, this b2fs knows up to {len(MIGRATIONS)}")
        if not _is_ours(connection) and not _is_empty(connection):
            raise DamagedStore("the database belongs to another program")
        for statements in MIGRATIONS[current:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _is_ours(connection: sqlite3.Connection) -> bool:
    return int(connection.execute("PRAGMA application_id").fetchone()[0]) == APPLICATION_ID


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None
