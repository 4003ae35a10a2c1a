"""fsck: does every row have its content, and every content its row?

Reads all bodies.  Safe beside running writers: a finding that a concurrent change explains is looked at again inside
the transaction that would repair it.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Final

from b2fs.store.embedded import versions
from b2fs.store.embedded.content import ContentFiles, release
from b2fs.store.embedded.database import Database, Transaction
from b2fs.store.embedded.rows import FsckProblem, FsckReport, VersionRow
from b2fs.store.embedded.schema import KIND_COMPOSED, KIND_FILE, KIND_INLINE
from b2fs.store.embedded.versions import COLUMNS

_CHUNK: Final = 4 << 20
_PAGE: Final = 500


class Fsck:
    """One run over a store."""

    def __init__(self, database: Database, files: ContentFiles, *, repair: bool) -> None:
        self._database = database
        self._files = files
        self._repair = repair
        self._problems: list[FsckProblem] = []
        self._contents = 0
        self._bytes = 0

    def run(self) -> FsckReport:
        """Check everything, files last: a repair of rows may free some."""
        self._check_database()
        self._check_contents()
        self._check_references()
        self._check_latest()
        self._check_unreferenced()
        self._check_files()
        with self._database.reader() as connection:
            (count,) = connection.execute("SELECT count(*) FROM versions").fetchone()
        return FsckReport(count, self._contents, self._bytes, self._problems)

    def _found(self, kind: str, detail: str, repair: Callable[[Transaction], Any] | None = None) -> None:
        repaired = self._repair and repair is not None
        if repaired and repair is not None:
            self._database.run(repair)
        self._problems.append(FsckProblem(kind, detail, repaired))

    def _check_database(self) -> None:
        with self._database.reader() as connection:
            lines = [line for (line,) in connection.execute("PRAGMA integrity_check(20)")]
        for line in lines:
            if line != "ok":
                self._found("database", line)

    def _check_contents(self) -> None:
        for content, kind, size, md5, file, data in self._pages("SELECT id, kind, size, md5, file, data FROM contents"):
            self._contents += 1
            if kind == KIND_INLINE:
                self._check_bytes(f"content {content}", size, md5, [data])
            elif kind == KIND_FILE:
                self._check_file(content, size, md5, file)
            elif kind == KIND_COMPOSED:
                self._check_composed(content, size)

    def _pages(self, select: str) -> Iterator[tuple[Any, ...]]:
        """All rows by id, in short reads: a long one would keep the write-ahead log from being reused."""
        last = 0
        while True:
            with self._database.reader() as connection:
                rows = connection.execute(f"{select} WHERE id > ? ORDER BY id LIMIT ?", (last, _PAGE)).fetchall()
            yield from rows
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]

    def _check_bytes(self, what: str, size: int, md5: str, chunks: Any) -> None:
        digest = hashlib.md5(usedforsecurity=False)
        seen = 0
        for chunk in chunks:
            digest.update(chunk)
            seen += len(chunk)
        self._bytes += seen
        if seen != size:
            self._found("size", f"{what} has {seen} bytes instead of {size}")
        elif digest.hexdigest() != md5:
            self._found("md5", f"{what} has other bytes than were written")

    def _check_file(self, content: int, size: int, md5: str, file: str) -> None:
        try:
            fd = self._files.open(file)
        except FileNotFoundError:
            if self._still_there(content):
                self._found("missing", f"content {content} has lost its file {file}", _Forget(content))
            return
        with closing(os.fdopen(fd, "rb", buffering=0)) as opened:
            self._check_bytes(f"content {content} ({file})", size, md5, iter(lambda: opened.read(_CHUNK), b""))

    def _still_there(self, content: int) -> bool:
        with self._database.reader() as connection:
            return connection.execute("SELECT 1 FROM contents WHERE id = ?", (content,)).fetchone() is not None

    def _check_composed(self, content: int, size: int) -> None:
        with self._database.reader() as connection:
            rows = connection.execute(
                "SELECT e.start, e.length, c.size FROM extents e LEFT JOIN contents c ON c.id = e.source"
                " WHERE e.content = ? ORDER BY e.position",
                (content,),
            ).fetchall()
        sound = all(have is not None and start + length <= have for start, length, have in rows)
        if (not sound or sum(row[1] for row in rows) != size) and self._still_there(content):
            self._found("missing", f"content {content} has lost some of its extents", _Forget(content))

    def _check_references(self) -> None:
        """Versions and parts whose content has no row."""
        for table, name in (("versions", "fid"), ("parts", "upload")):
            with self._database.reader() as connection:
                rows = connection.execute(
                    f"SELECT t.{name}, t.content FROM {table} t LEFT JOIN contents c ON c.id = t.content"
                    " WHERE t.content > 0 AND c.id IS NULL"
                ).fetchall()
            for owner, content in rows:
                self._found("missing", f"{table} row {owner} refers to no content", _Forget(content))

    def _check_latest(self) -> None:
        with self._database.reader() as connection:
            rows = connection.execute(
                "SELECT bucket, key FROM versions GROUP BY bucket, key"
                " HAVING sum(is_latest) <> 1 OR max(ord) <> max(CASE WHEN is_latest THEN ord END)"
            ).fetchall()
        for bucket, key in rows:
            self._found("order", f"{key!r} has a wrong mark of its latest version", _MarkLatest(bucket, key))

    def _check_unreferenced(self) -> None:
        with self._database.reader() as connection:
            rows = connection.execute(
                "SELECT id FROM contents WHERE id NOT IN (SELECT content FROM versions)"
                " AND id NOT IN (SELECT content FROM parts) AND id NOT IN (SELECT source FROM extents)"
            ).fetchall()
        for (content,) in rows:
            self._found("dangling", f"nothing refers to content {content}", _Release(content))

    def _check_files(self) -> None:
        for name in self._files.names():
            with self._database.reader() as connection:
                known = connection.execute(
                    "SELECT 1 FROM contents WHERE file = ? UNION ALL SELECT 1 FROM trash WHERE file = ?", (name, name)
                ).fetchone()
            # Files are put in place after their row is committed, so one without a row has no future.
            if known is None and os.path.exists(self._files.path(name)):
                self._found("orphan", f"nothing refers to the file {name}", _Discard(name))


class _Forget:
    """Remove the versions, parts and compositions that need a content which is lost."""

    def __init__(self, content: int) -> None:
        self._content = content

    def __call__(self, transaction: Transaction) -> None:
        connection = transaction.connection
        composed = connection.execute("SELECT DISTINCT content FROM extents WHERE source = ?", (self._content,))
        for (content,) in composed.fetchall():
            self._forget(transaction, content)
        self._forget(transaction, self._content)

    @staticmethod
    def _forget(transaction: Transaction, content: int) -> None:
        connection = transaction.connection
        for bucket, *row in _versions_with(connection, content):
            versions.erase(transaction, bucket, VersionRow._make(row))
        connection.execute("DELETE FROM parts WHERE content = ?", (content,))
        release(transaction, content)


def _versions_with(connection: sqlite3.Connection, content: int) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = connection.execute(
        f"SELECT bucket, {COLUMNS} FROM versions WHERE content = ?", ("", content)
    ).fetchall()
    return rows


class _MarkLatest:
    """Put the mark on the version with the highest ord."""

    def __init__(self, bucket: int, key: str) -> None:
        self._place = (bucket, key)

    def __call__(self, transaction: Transaction) -> None:
        connection = transaction.connection
        connection.execute("UPDATE versions SET is_latest = 0 WHERE bucket = ? AND key = ?", self._place)
        connection.execute(
            "UPDATE versions SET is_latest = 1 WHERE fid ="
            " (SELECT fid FROM versions WHERE bucket = ? AND key = ? ORDER BY ord DESC LIMIT 1)",
            self._place,
        )


class _Release:
    """Remove a content if it is still unreferenced."""

    def __init__(self, content: int) -> None:
        self._content = content

    def __call__(self, transaction: Transaction) -> None:
        release(transaction, self._content)


class _Discard:
    """Remove a file if it still has no row."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, transaction: Transaction) -> None:
        row = transaction.connection.execute("SELECT 1 FROM contents WHERE file = ?", (self._name,)).fetchone()
        if row is None:
            transaction.trash.append(self._name)
