"""ByteCache: diskcache, narrowed to bytes with checksums and to access times written in batches.

This is the only module that knows diskcache's inside (its version is bounded in setup.cfg for that reason).
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import diskcache

_RAW, _BINARY = 1, 2  # diskcache's modes: value in the row, value in a file
Buffer = bytes | memoryview


def checksum(key: str, data: Buffer) -> int:
    """CRC-32 over key and content: an intact value under a wrong key does not pass either."""
    return zlib.crc32(data, zlib.crc32(key.encode("ascii")))


class BytesDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Stores bytes-like values under ASCII keys, and nothing else.

    Small values live in their row with the checksum in front; larger ones in a file, with the checksum in the row.
    diskcache's own Disk would unpickle what it finds, and writes a value line by line.
    """

    def put(self, key: object) -> tuple[str, bool]:
        if not isinstance(key, str):
            raise TypeError("keys are str")
        return key, True

    def get(self, key: object, raw: object) -> str:
        if not raw or not isinstance(key, str):
            raise sqlite3.DatabaseError("a key in the index is not plain text")
        return key

    def store(self, value: Buffer, read: bool, key: Any = None) -> tuple[int, int, str | None, bytes | int]:
        if read or not isinstance(value, bytes | memoryview):
            raise TypeError("values are bytes")
        crc = checksum(key, value)
        if len(value) < self.min_file_size:
            return 0, _RAW, None, crc.to_bytes(4, "big") + value
        name, path = self.filename(key, value)
        _write_file(path, value)
        return len(value), _BINARY, name, crc

    def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> tuple[int | None, Buffer]:
        """Return (checksum that was kept, content); the checksum is None if the row is not one of ours.

        Raises OSError, which diskcache takes for a miss, if the file is gone.
        """
        if mode == _RAW and isinstance(value, bytes):
            return int.from_bytes(value[:4], "big"), value[4:]
        if mode == _BINARY and isinstance(value, int) and filename is not None:
            return value, _read_file(os.path.join(self._directory, filename))
        return None, b""


class ByteCache(diskcache.Cache):  # type: ignore[misc]  # diskcache has no types
    """A diskcache.Cache of bytes; `get` answers (checksum, content), see BytesDisk.fetch.

    Entries leave in the order of their store time; `touch_all` moves what was read to the end of that queue.
    """

    def __init__(self, directory: str, *, size_bytes: int, inline_bytes: int) -> None:
        self._connections: weakref.WeakSet[_Connection] = weakref.WeakSet()
        super().__init__(
            directory,
            disk=BytesDisk,
            eviction_policy="least-recently-stored",
            size_limit=size_bytes,
            cull_limit=0,  # culling by the owner: ten rows a put may be far less than the put brought
            disk_min_file_size=inline_bytes,
            statistics=0,
            tag_index=1,
        )

    @property
    def _con(self) -> sqlite3.Connection:
        """This thread's connection.  diskcache's own can only be closed by its thread, so it would leak."""
        held: _Connection | None = getattr(self._local, "held", None)
        if held is None:
            held = self._local.held = _Connection(os.path.join(self._directory, diskcache.core.DBNAME), self._timeout)
            self._connections.add(held)
            for key, value in self._settings(held.sqlite):
                if key.startswith("sqlite_"):
                    self.reset(key, value, update=False)
        return held.sqlite

    @staticmethod
    def _settings(connection: sqlite3.Connection) -> list[tuple[str, Any]]:
        try:
            return connection.execute("SELECT key, value FROM Settings").fetchall()
        except sqlite3.OperationalError:
            return []  # a new database, without tables yet

    def close(self) -> None:
        """Close the connections of all threads; none of them may be using theirs."""
        for held in list(self._connections):
            held.close()
        self._local = threading.local()

    def touch_all(self, touched: Mapping[str, float]) -> None:
        """Set the times at which these keys were last used, in one transaction."""
        with self._transact(retry=True) as (sql, _):
            for key, used_at in touched.items():
                sql("UPDATE Cache SET store_time = ? WHERE key = ? AND raw = 1", (used_at, key))

    def keys_from(self, first: str, stop: str) -> Iterator[str]:
        """Yield the keys of [first, stop) in order."""
        rows = self._sql("SELECT key FROM Cache WHERE key >= ? AND key < ? AND raw = 1 ORDER BY key", (first, stop))
        for (key,) in rows:
            yield key

    def file_names(self) -> set[str]:
        """Return the names, relative to the directory, of all files that rows own."""
        return {name for (name,) in self._sql("SELECT filename FROM Cache WHERE filename IS NOT NULL")}


class _Connection:
    """A thread's connection, closed when the thread ends or the cache is closed, whichever comes first."""

    def __init__(self, path: str, timeout_s: float) -> None:
        self.sqlite = sqlite3.connect(path, timeout=timeout_s, isolation_level=None, check_same_thread=False)

    def close(self) -> None:
        self.sqlite.close()

    __del__ = close


def _write_file(path: str, data: Buffer) -> None:
    """Write a new file in as few calls as the kernel allows, or leave none."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(file)


def _read_file(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, os.fstat(file).st_size)
    finally:
        os.close(file)
