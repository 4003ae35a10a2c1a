"""Accounts and application keys: what they are, what they may do, and where they are kept.

Keys live in the store's own database (in a directory of mode 0700), because Signature V4 needs the secret itself.
Several processes may serve one store, so nothing is cached longer than CACHE_S.
"""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from b2fs.errors import ConfigError
from b2fs.server.wire.errors import S3Error
from b2fs.store.embedded.engine import Engine

#: All that a key can be given, in B2's words.
CAPABILITIES: Final = (
    "listKeys",
    "writeKeys",
    "deleteKeys",
    "listBuckets",
    "listAllBucketNames",
    "readBuckets",
    "writeBuckets",
    "deleteBuckets",
    "readBucketEncryption",
    "writeBucketEncryption",
    "readBucketRetentions",
    "writeBucketRetentions",
    "readFileRetentions",
    "writeFileRetentions",
    "readFileLegalHolds",
    "writeFileLegalHolds",
    "readBucketReplications",
    "writeBucketReplications",
    "bypassGovernance",
    "listFiles",
    "readFiles",
    "shareFiles",
    "writeFiles",
    "deleteFiles",
    "readBucketNotifications",
    "writeBucketNotifications",
    "readBucketLogging",
    "writeBucketLogging",
)
MASTER_ID: Final = re.compile(r"[0-9a-f]{12}", re.ASCII)
KEY_ID: Final = re.compile(r"[0-9a-f]{25}", re.ASCII)
CACHE_S: Final = 1.0

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS server_accounts (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE IF NOT EXISTS server_keys (
    key_id TEXT PRIMARY KEY,
    account TEXT NOT NULL REFERENCES server_accounts (id),
    name TEXT NOT NULL,
    secret TEXT NOT NULL,
    settings TEXT NOT NULL
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Account:
    """An owner of buckets: id is 12 hex digits and also the ID of its master key."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ApplicationKey:
    """A key.  bucket_ids None means all buckets of the account; expires_ms None means for ever."""

    key_id: str
    secret: str
    account: Account
    name: str = ""
    capabilities: frozenset[str] = frozenset(CAPABILITIES)
    bucket_ids: frozenset[str] | None = None
    name_prefix: str = ""
    expires_ms: int | None = None

    def allows(self, capability: str, bucket_id: str | None = None, file_name: str | None = None) -> bool:
        """Whether the key may do this, to this bucket and this name (None: no particular one)."""
        if capability not in self.capabilities:
            return False
        if self.bucket_ids is not None and bucket_id is not None and bucket_id not in self.bucket_ids:
            return False
        return file_name is None or file_name.startswith(self.name_prefix)

    @property
    def is_master(self) -> bool:
        return self.key_id == self.account.id


class KeySource(Protocol):
    """What signature checking needs to know."""

    def s3_key(self, key_id: str) -> ApplicationKey:
        """The key of this ID, for the S3 side.  Raises S3Error InvalidAccessKeyId."""
        ...


def _settings(key: ApplicationKey) -> str:
    return json.dumps(
        {
            "capabilities": sorted(key.capabilities),
            "buckets": None if key.bucket_ids is None else sorted(key.bucket_ids),
            "prefix": key.name_prefix,
            "expires_ms": key.expires_ms,
        }
    )


def _key(row: tuple[str, str, str, str, str, str]) -> ApplicationKey:
    key_id, secret, name, settings, account_id, account_name = row
    parts = json.loads(settings)
    buckets = parts["buckets"]
    return ApplicationKey(
        key_id,
        secret,
        Account(account_id, account_name),
        name,
        frozenset(parts["capabilities"]),
        None if buckets is None else frozenset(buckets),
        parts["prefix"],
        parts["expires_ms"],
    )


_SELECT: Final = """SELECT k.key_id, k.secret, k.name, k.settings, a.id, a.name
    FROM server_keys k JOIN server_accounts a ON a.id = k.account"""


class KeyRing:
    """The accounts and keys of one store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cache: dict[str, tuple[float, ApplicationKey]] = {}

        def make(connection: sqlite3.Connection) -> None:
            for statement in _SCHEMA.split(";\n"):
                if statement.strip():
                    connection.execute(statement)

        known = engine.query(
            lambda c: c.execute(
                "SELECT count(*) FROM sqlite_master WHERE name LIKE 'server\\_%' ESCAPE '\\'"
            ).fetchone()
        )
        if known[0] < 2:
            engine.transact(make)

    # --- accounts

    def accounts(self) -> list[Account]:
        rows = self._engine.query(lambda c: c.execute("SELECT id, name FROM server_accounts ORDER BY name").fetchall())
        return [Account(*row) for row in rows]

    def account(self, account_id: str) -> Account | None:
        return next((account for account in self.accounts() if account.id == account_id), None)

    def ensure_account(self, name: str) -> Account:
        """The account of this name, made with a master key if it is new."""
        found = next((account for account in self.accounts() if account.name == name), None)
        if found is not None:
            return found
        account = Account(secrets.token_hex(6), name)
        master = ApplicationKey(account.id, secrets.token_urlsafe(30), account, "Master Application Key")

        def make(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO server_accounts VALUES (?, ?)", (account.id, account.name))
            _insert(connection, master)

        self._engine.transact(make)
        return account

    # --- keys

    def all_keys(self, account_id: str | None = None) -> list[ApplicationKey]:
        """All keys by ID, master keys too."""
        rows = self._engine.query(lambda c: c.execute(f"{_SELECT} ORDER BY k.key_id").fetchall())
        found = [_key(row) for row in rows]
        return [key for key in found if account_id is None or key.account.id == account_id]

    def find(self, key_id: str) -> ApplicationKey | None:
        """The key of this ID, expired ones too; at most CACHE_S old."""
        cached = self._cache.get(key_id)
        now = time.monotonic()
        if cached is not None and cached[0] > now:
            return cached[1]
        row = self._engine.query(lambda c: c.execute(f"{_SELECT} WHERE k.key_id = ?", (key_id,)).fetchone())
        if row is None:
            self._cache.pop(key_id, None)
            return None
        if len(self._cache) > 10_000:
            self._cache.clear()
        key = _key(row)
        self._cache[key_id] = (now + CACHE_S, key)
        return key

    def s3_key(self, key_id: str) -> ApplicationKey:
        """The key for the S3 side: no master keys, no expired ones.  Raises S3Error InvalidAccessKeyId."""
        if MASTER_ID.fullmatch(key_id):
            raise S3Error("InvalidAccessKeyId")
        key = self.find(key_id)
        if key is None and not KEY_ID.fullmatch(key_id):
            raise S3Error("InvalidAccessKeyId")
        if key is None or (key.expires_ms is not None and key.expires_ms <= time.time() * 1000):
            raise S3Error("InvalidAccessKeyId", f"The key '{key_id}' is not valid")
        return key

    def create(self, draft: ApplicationKey) -> ApplicationKey:
        """Keep a new key; an empty key_id or secret is made up in B2's form.

        Raises ConfigError when the ID is taken by another account or is in the form of a master key.
        """
        key_id = (
            draft.key_id or f"0{secrets.randbelow(10)}{secrets.randbelow(10)}{draft.account.id}{secrets.token_hex(5)}"
        )
        if MASTER_ID.fullmatch(key_id):
            raise ConfigError(f"{key_id} has the form of a master key's ID (12 hex digits), which S3 never accepts")
        key = replace(draft, key_id=key_id, secret=draft.secret or f"K{secrets.token_urlsafe(22)}")
        existing = self.find(key_id)
        if existing is not None and existing.account != key.account:
            raise ConfigError(f"the key ID {key_id} belongs to the account {existing.account.name}")
        self._engine.transact(lambda connection: _insert(connection, key))
        self._cache.pop(key_id, None)
        return key

    def delete(self, key_id: str) -> None:
        """Forget a key; requests signed with it are refused from now on (other processes: after CACHE_S)."""
        self._engine.transact(lambda c: c.execute("DELETE FROM server_keys WHERE key_id = ?", (key_id,)))
        self._cache.pop(key_id, None)


def _insert(connection: sqlite3.Connection, key: ApplicationKey) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO server_keys VALUES (?, ?, ?, ?, ?)",
        (key.key_id, key.account.id, key.name, key.secret, _settings(key)),
    )


def missing_capabilities(names: Iterable[str]) -> list[str]:
    """The names that are no capabilities."""
    return [name for name in names if name not in CAPABILITIES]
