"""What all calls of the engine stand on: the open directory, bodies on their way in, contents on their way out."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar

from b2fs.store.disk import sync_directory
from b2fs.store.embedded import versions
from b2fs.store.embedded.content import (
    Body,
    ContentFiles,
    ContentWriter,
    Extent,
    load_extents,
)
from b2fs.store.embedded.database import Database, Transaction
from b2fs.store.embedded.errors import DamagedStore, EntityTooLarge
from b2fs.store.embedded.rows import (
    VersionRow,
)

T = TypeVar("T")

#: How often a read starts anew when its version is removed between looking it up and opening it.
_READ_ATTEMPTS: Final = 3
_HASHER_THREADS: Final = 4


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Where a store lives and how it behaves.

    hazard_seed: order versions of one key by (whole second, pseudo-random number), as B2 does, instead of by arrival.
    durable: False skips every sync; for tests and throw-away stores.
    inline_max: largest body, in bytes, that is kept inside the database.
    part_md5_max: a copied part up to this size gets its real MD5 as ETag; a larger one an ETag made from the MD5 and
    range of its source, so that copying it does not read it.
    """

    directory: str
    hazard_seed: int | None = None
    durable: bool = True
    inline_max: int = 32 << 10
    min_part_bytes: int = 5_000_000
    max_parts: int = 10_000
    max_put_bytes: int = 5_000_000_000
    max_object_bytes: int = 10_000_000_000_000
    part_md5_max: int = 64 << 20
    busy_timeout_s: float = 30.0


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _make_directory(path: str, *, durable: bool) -> None:
    """Make a directory and what is missing above it; durable: so that a power cut leaves it there."""
    missing = []
    above = path
    while not os.path.isdir(above):
        missing.append(above)
        above = os.path.dirname(above)
    os.makedirs(path, mode=0o700, exist_ok=True)
    if durable:
        for made in missing:
            sync_directory(os.path.dirname(made))


class EngineBase:
    """An open store, without its calls; see Engine."""

    def __init__(self, config: EngineConfig, *, clock_ms: Callable[[], int] = _now_ms) -> None:
        """Open or create the directory (0700).  Raises DamagedStore, and OSError of the filesystem."""
        self.config = config
        #: Grows with each change of a bucket that this process made, when the change is on the disk.
        self.bucket_changes = 0
        self.directory = os.path.abspath(config.directory)
        _make_directory(self.directory, durable=config.durable)
        self._files = ContentFiles(self.directory, durable=config.durable)
        if config.durable:
            sync_directory(self.directory)
        self._hashers = ThreadPoolExecutor(_HASHER_THREADS, "b2fs-md5")
        self._database = Database(
            os.path.join(self.directory, "store.db"),
            durable=config.durable,
            busy_timeout_s=config.busy_timeout_s,
            clock_ms=clock_ms,
            sync_directory=self._files.sync_incoming,
            remove_files=self._files.remove,
            sync_removed=self._files.sync_removed,
        )
        try:
            self._recover()
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _recover(self) -> None:
        """Finish what a crash interrupted: bodies that were not in place yet, files that were not removed yet."""

        def is_known(name: str) -> bool:
            with self._database.reader() as connection:
                row = connection.execute("SELECT 1 FROM contents WHERE file = ?", (name,)).fetchone()
            return row is not None

        self._files.recover(is_known)
        with self._database.reader() as connection:
            trash = [name for (name,) in connection.execute("SELECT file FROM trash")]
        if trash:
            self._files.remove(trash)
            self._files.sync_removed(trash)
            rows = [(name,) for name in trash]
            self._database.run(lambda t: t.connection.executemany("DELETE FROM trash WHERE file = ?", rows))

    def close(self) -> None:
        """Finish what was submitted and let go of the directory.  Idempotent."""
        self._database.close()
        self._hashers.shutdown()

    def writer(self) -> ContentWriter:
        """A place for a streamed body: write(chunk)..., then give it to put or put_part, or discard().

        Counts size and MD5 while writing (`.size`, `.md5_hex`), holds at most one small chunk in memory.  A writer
        that is neither used nor discarded leaves nothing behind once it is closed; it is a context manager.
        """
        return ContentWriter(self._files, inline_max=self.config.inline_max, durable=self.config.durable)

    def query(self, ask: Callable[[sqlite3.Connection], T]) -> T:
        """Run ask with a connection for reading; for tables that a front door adds (see schema.MIGRATIONS)."""
        with self._database.reader() as connection:
            return ask(connection)

    def transact(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Run change inside a committed transaction; it shares the transaction with others, so it must be short."""
        return self._database.run(lambda t: change(t.connection))

    def _sealed(self, body: Body | ContentWriter) -> ContentWriter:
        """The body, on the disk.  Raises EntityTooLarge."""
        size = body.size if isinstance(body, ContentWriter) else len(body)
        if size > self.config.max_put_bytes:
            if isinstance(body, ContentWriter):
                body.discard()
            raise EntityTooLarge(f"a body of {size} bytes, {self.config.max_put_bytes} are allowed")
        writer = body if isinstance(body, ContentWriter) else self.writer()
        try:
            if isinstance(body, ContentWriter):
                writer.seal()
            else:
                writer.write_whole(body, self._hashers)
        except BaseException:
            writer.discard()
            raise
        return writer

    def _submit_with(self, writer: ContentWriter, change: Callable[[Transaction], T]) -> Future[T]:
        """Submit a change that uses up a writer, whatever comes of it."""

        def guarded(transaction: Transaction) -> T:
            try:
                return change(transaction)
            except BaseException:
                writer.discard()  # before the caller hears of it, unlike the callback below
                raise

        try:
            future = self._database.submit(guarded)
        except BaseException:
            writer.discard()
            raise
        if writer.has_file:
            # For a transaction that fails as a whole.
            future.add_done_callback(lambda _: writer.discard())
        return future

    def _opened(
        self,
        bucket: int,
        key: str,
        version_id: str | None,
        use: Callable[[VersionRow, list[Extent]], T],
    ) -> T:
        """use(row, extents) of a version, again when the version was removed or replaced before its files were open."""
        for _ in range(_READ_ATTEMPTS):
            try:
                with self._database.reader() as connection:
                    row = versions.find_visible(connection, bucket, key, version_id)
                    extents = load_extents(connection, row.content)
                return use(row, extents)
            except (LookupError, FileNotFoundError):
                continue
        raise DamagedStore(f"the store has lost the content of {key!r}")
