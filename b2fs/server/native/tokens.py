"""Authorization tokens and upload URLs: signed, so that any process that serves the store understands them.

A token names its purpose, its key, what it is limited to, and when it ends.  It dies with its key.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import secrets
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from b2fs.server.auth.keys import ApplicationKey, KeyRing
from b2fs.server.native.errors import NativeError
from b2fs.store.embedded.engine import Engine

DAY_S: Final = 86_400


class Purpose(Enum):
    """What a token is good for."""

    ACCOUNT = "account"
    UPLOAD = "upload"
    PART = "part"
    DOWNLOAD = "download"


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says.  bucket_id, name: the bucket and the file name prefix or large file that it is limited to."""

    purpose: Purpose
    key_id: str
    expires_s: int
    bucket_id: str = ""
    name: str = ""


def _signing_secret(engine: Engine) -> bytes:
    """The store's own secret, made at the first use."""

    def make(connection: sqlite3.Connection) -> str:
        connection.execute("CREATE TABLE IF NOT EXISTS server_settings (name TEXT PRIMARY KEY, value TEXT) STRICT")
        connection.execute("INSERT OR IGNORE INTO server_settings VALUES ('token_secret', ?)", (secrets.token_hex(32),))
        found: str = connection.execute("SELECT value FROM server_settings WHERE name = 'token_secret'").fetchone()[0]
        return found

    return bytes.fromhex(engine.transact(make))


class Tokens:
    """Makes and checks tokens."""

    def __init__(self, engine: Engine, keys: KeyRing, clock_s: Callable[[], float] = time.time) -> None:
        self._secret = _signing_secret(engine)
        self._keys = keys
        self._clock_s = clock_s

    def issue(
        self, purpose: Purpose, key: ApplicationKey, *, bucket_id: str = "", name: str = "", seconds: int = DAY_S
    ) -> str:
        """A new token."""
        end = int(self._clock_s()) + seconds
        if key.expires_ms is not None:
            end = min(end, key.expires_ms // 1000)
        body = json.dumps([purpose.value, key.key_id, end, bucket_id, name], separators=(",", ":")).encode()
        signature = hmac.digest(self._secret, body, "sha256")[:16]
        return "4_" + base64.urlsafe_b64encode(signature + body).decode().rstrip("=")

    def check(self, text: str, *purposes: Purpose) -> tuple[Token, ApplicationKey]:
        """A token's meaning and its key.  Raises NativeError bad_auth_token, expired_auth_token."""
        token = self._parse(text)
        key = self._keys.find(token.key_id)
        if token.purpose not in purposes or key is None:
            raise NativeError(401, "bad_auth_token", "Invalid authorization token")
        if token.expires_s <= self._clock_s():
            raise NativeError(401, "expired_auth_token", "Authorization token has expired")
        return token, key

    def _parse(self, text: str) -> Token:
        try:
            raw = base64.urlsafe_b64decode(text.removeprefix("4_") + "=" * (-len(text.removeprefix("4_")) % 4))
            signature, body = raw[:16], raw[16:]
            if not hmac.compare_digest(hmac.digest(self._secret, body, "sha256")[:16], signature):
                raise ValueError
            purpose, key_id, end, bucket_id, name = json.loads(body)
            return Token(Purpose(purpose), key_id, end, bucket_id, name)
        except (ValueError, binascii.Error) as error:
            raise NativeError(401, "bad_auth_token", "Invalid authorization token") from error
