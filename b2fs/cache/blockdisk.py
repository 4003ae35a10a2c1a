"""ByteCache: diskcache, narrowed to bytes with checksums and to access times written in batches.

This is the only module that knows diskcache's inside (its version is bounded in setup.cfg for that reason).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any

import diskcache

from b2fs.store.disk import pread

_RAW, _BINARY = 1, 2  # diskcache's modes: value in the row, value in a file
Buffer = bytes | memoryview
#: One write(2).  ext4 takes pages as large as it fills, and large ones are dear.  Measured in CPU per GiB: 1.5 to 2.3 s
#: with 8 MiB in one call, 0.3 to 1 with 1 MiB (by the state of memory), 0.3 to 0.4 with 64 to 256 KiB, 1 with 4.
_WRITE_BYTES = 256 << 10
#: What each thread's connection keeps of the index, in pages of 4 KiB.  diskcache's 32 MiB for each of many threads
#: filled up with small values; more than the upper levels of the index helps nobody, the system caches the file.
_INDEX_PAGES = 512

_HEADER = struct.Struct(">QI")  # length of the value, length of a chunk; a CRC-32C for each chunk follows


class Entry:
    """A value that was found: read it, or a part of it, with `read`."""

    __slots__ = ("_data", "_path", "_sums")

    def __init__(self, sums: bytes, data: bytes | None, path: str) -> None:
        self._sums = sums
        self._data = data  # None: in the file at path
        self._path = path

    def read(self, key: str, start: int, end: int) -> tuple[int, Buffer] | None:
        """Return the chunks that share bytes with [start, end), as (position, bytes); None if they are damaged.

        Raises FileNotFoundError if the file is gone.
        """
        if len(self._sums) < _HEADER.size:
            return None
        length, chunk = _HEADER.unpack_from(self._sums)
        low, high = start - start % max(1, chunk), min(length, end + -end % max(1, chunk))
        data: Buffer = _read_file(self._path, length, low, high) if self._data is None else self._data[low:high]
        first = _HEADER.size + low // max(1, chunk) * 4
        expected = self._sums[first : first + -(-(high - low) // max(1, chunk)) * 4]
        if len(data) != max(0, high - low) or _checksums(key, low, data, max(1, chunk)) != expected:
            return None
        return low, data


def _checksums(key: str, start: int, data: Buffer, chunk: int) -> bytes:
    """CRC-32C of every chunk, over key, position and content: a chunk in a wrong place does not pass either."""
    crc32c = _crc32c()
    seed, view = crc32c(key.encode("ascii"), 0), memoryview(data)
    return b"".join(
        crc32c(view[low : low + chunk], seed ^ ((start + low) & 0xFFFFFFFF)).to_bytes(4, "big")
        for low in range(0, len(view), chunk)
    )


@cache
def _crc32c() -> Callable[[Buffer, int], int]:
    """A CRC in hardware: 0.05 s/GiB, where zlib's CRC-32 takes 0.45.

    That of the AWS runtime is no quicker, and takes 40 to 60 ms of CPU to load; this takes 5 to 15.
    It keeps the GIL: a chunk takes 7 us, and who gives it away waits for it up to the switch interval, 0.2 ms.
    """
    from crc32c import crc32c

    return partial(crc32c, gil_release_mode=0)


class BytesDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Stores bytes-like values under ASCII keys, and nothing else.

    Small values live in their row with the checksums in front; larger ones in a file, with the checksums in the row.
    diskcache's own Disk would unpickle what it finds, and writes a value line by line.
    """

    def __init__(self, directory: str, *, chunk_bytes: int, **settings: Any) -> None:
        super().__init__(directory, **settings)
        self._chunk_bytes = chunk_bytes

    def put(self, key: object) -> tuple[str, bool]:
        if not isinstance(key, str):
            raise TypeError("keys are str")
        return key, True

    def get(self, key: object, raw: object) -> str:
        if not raw or not isinstance(key, str):
            raise sqlite3.DatabaseError("a key in the index is not plain text")
        return key

    def filename(self, key: str = "", value: object = None) -> tuple[str, str]:
        """A new name for the value's file, relative and absolute: the files of one content share a directory.

        diskcache's own names make two directories for nearly every file, which cost more than small files do.
        """
        name = f"{key[:2]}/{os.urandom(15).hex()}.val"
        return name, os.path.join(self._directory, name)

    def store(self, value: Buffer, read: bool, key: Any = None) -> tuple[int, int, str | None, bytes]:
        if read or not isinstance(value, bytes | memoryview):
            raise TypeError("values are bytes")
        chunk = self._chunk_bytes
        header = _HEADER.pack(len(value), chunk)
        if len(value) < self.min_file_size:
            return 0, _RAW, None, b"".join((header, _checksums(key, 0, value, chunk), value))
        name, path = self.filename(key, value)
        # Each stretch is summed and written while the processor's cache has it: a seventh of the CPU of both.
        step = max(chunk, _WRITE_BYTES - _WRITE_BYTES % chunk)
        sums = [header]
        with _new_file(path) as file:
            for start in range(0, len(value), step):
                part = memoryview(value)[start : start + step]
                sums.append(_checksums(key, start, part, chunk))
                _write_all(file, part)
        return len(value), _BINARY, name, b"".join(sums)

    def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> Entry:
        """Return what the row holds or names; nothing is believed before Entry.read has checked it."""
        if not isinstance(value, bytes):
            return Entry(b"", b"", "")
        if mode == _RAW and len(value) >= _HEADER.size:
            length, chunk = _HEADER.unpack_from(value)
            body = _HEADER.size + 4 * -(-length // max(1, chunk))
            return Entry(value[:body], value[body:], "")
        if mode == _BINARY and filename is not None:
            return Entry(value, None, os.path.join(self._directory, filename))
        return Entry(b"", b"", "")


class ByteCache(diskcache.Cache):  # type: ignore[misc]  # diskcache has no types
    """A diskcache.Cache of bytes; `get` answers an Entry.

    Entries leave in the order of their store time; `touch_all` moves what was read to the end of that queue.
    """

    def __init__(self, directory: str, *, size_bytes: int, inline_bytes: int, chunk_bytes: int) -> None:
        self._connections: weakref.WeakSet[_Connection] = weakref.WeakSet()
        super().__init__(
            directory,
            disk=BytesDisk,
            eviction_policy="least-recently-stored",
            size_limit=size_bytes,
            cull_limit=0,  # culling by the owner: ten rows a put may be far less than the put brought
            disk_min_file_size=inline_bytes,
            disk_chunk_bytes=chunk_bytes,
            statistics=0,
            tag_index=1,
            # A file that is cut, or a disk that cannot be read, ends a process that has mapped it.
            sqlite_mmap_size=0,
            sqlite_cache_size=_INDEX_PAGES,
        )

    @property
    def _con(self) -> sqlite3.Connection:
        """This thread's connection.  diskcache's own can only be closed by its thread, so it would leak."""
        held: _Connection | None = getattr(self._local, "held", None)
        if held is None:
            path = os.path.join(self._directory, diskcache.core.DBNAME)
            held = self._local.held = _Connection(
                sqlite3.connect(path, timeout=self._timeout, isolation_level=None, check_same_thread=False)
            )
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

    def make_room(self, limit: int) -> None:
        """Remove what was not used for longest until no more than `limit` bytes are held, and no more than that.

        diskcache's own `cull` removes ten at a time, which may be a whole small cache of large entries.
        """
        while (excess := self.volume() - limit) > 0:
            with self._transact(retry=True) as (sql, cleanup):
                rows = sql("SELECT rowid, filename, size FROM Cache ORDER BY store_time LIMIT 10").fetchall()
                for rowid, filename, size in rows:
                    sql("DELETE FROM Cache WHERE rowid = ?", (rowid,))
                    cleanup(filename)
                    excess -= size
                    if excess <= 0:
                        break
            if not rows:
                return

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

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.sqlite = connection

    def close(self) -> None:
        self.sqlite.close()

    __del__ = close


@contextlib.contextmanager
def _new_file(path: str) -> Iterator[int]:
    """A new file to write to, which is gone if that fails."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        file = os.open(path, flags, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        file = os.open(path, flags, 0o600)
    try:
        yield file
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(file)


def _write_all(file: int, data: memoryview) -> None:
    while data:
        data = data[os.write(file, data) :]


def _read_file(path: str, length: int, start: int, end: int) -> Buffer:
    """Return [start, end) of a file that must have this length; b"" if it has another."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return pread(file, end - start, start) if os.fstat(file).st_size == length and start < end else b""
    finally:
        os.close(file)
