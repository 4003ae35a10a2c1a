"""Database: the connections of one open store, and the thread that commits.

Readers take a connection from a pool; WAL lets them read while somebody writes.  All changes go through one thread
that runs what has queued up in one transaction and syncs once for all of it (group commit); each change has its own
savepoint, so one that is refused does not touch the others.

INVARIANT: a future is done only after the transaction of its change is committed or rolled back.
"""

from __future__ import annotations

import collections
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from b2fs.errors import CapExceeded, StoreError, Unavailable
from b2fs.store.embedded.errors import DamagedStore, InvalidKey
from b2fs.store.embedded.schema import migrate
from b2fs.store.sqlite import register_plain_types

T = TypeVar("T")

log = logging.getLogger(__name__)

#: A batch is cut here so that one waiting caller does not wait for thousands of others; a guess.
_BATCH_MAX: Final = 256
#: Removals of files are made durable, and their rows forgotten, when nothing was changed for so long, in seconds, or
#: when so many have gathered: there are 256 directories to sync.
_REST_S: Final = 1.0
_MOST_UNSYNCED: Final = 1 << 14
#: WAL pages before a checkpoint: 32 MiB, so that bursts of small bodies are not stopped often.
_CHECKPOINT_PAGES: Final = 8192


class Transaction:
    """What a change may use while it runs on the committing thread."""

    __slots__ = ("after_commit", "buckets", "connection", "next_id", "now_ms", "syncs_directory", "trash")

    def __init__(self, connection: sqlite3.Connection, now_ms: int, next_id: int) -> None:
        self.connection = connection
        self.now_ms = now_ms
        self.next_id = next_id
        #: Rows of buckets by id, read once a transaction; a change of a bucket removes its entry.
        self.buckets: dict[int, Any] = {}
        #: Set by a change that refers to a file made since the last transaction.
        self.syncs_directory = False
        #: Content files that nothing refers to any more, removed once that is committed.
        self.trash: list[str] = []
        self.after_commit: list[Callable[[], None]] = []

    def new_id(self) -> int:
        """A number that was never given before in this store."""
        number = self.next_id
        self.next_id += 1
        return number


Change = Callable[[Transaction], T]


class Database:
    """An open database file; see the module."""

    def __init__(
        self,
        path: str,
        *,
        durable: bool,
        busy_timeout_s: float,
        clock_ms: Callable[[], int],
        sync_directory: Callable[[], None],
        remove_files: Callable[[list[str]], None],
        sync_removed: Callable[[list[str]], None],
    ) -> None:
        """remove_files and sync_removed may raise StoreError: then the files are left to the next start."""
        self._path = path
        self._durable = durable
        self._busy_timeout_s = busy_timeout_s
        self._clock_ms = clock_ms
        self._sync_directory = sync_directory
        self._remove_files = remove_files
        self._sync_removed = sync_removed
        self._idle: collections.deque[sqlite3.Connection] = collections.deque()
        self._queue: queue.SimpleQueue[tuple[Change[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._closed = False
        #: Orders submit against close: nothing is queued behind the end mark.
        self._closing = threading.Lock()
        #: Files that were removed, which a power cut may undo; and those that stay removed, but have a row of trash.
        self._unsynced: list[str] = []
        self._removed: list[str] = []
        with _translated():
            self._writer = self._connect(writer=True)
        self._thread = threading.Thread(target=self._run, name="b2fs-commit", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Commit what was submitted, then close all connections.  Idempotent."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        self._close_idle()
        self._writer.close()

    @contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """A connection for reading.  Translates the database's errors into StoreError."""
        # One context manager and not two: this is on the way of every HEAD.
        try:
            try:
                connection = self._idle.pop()
            except IndexError:
                if self._closed:
                    raise Unavailable("the store is closed") from None
                connection = self._connect(writer=False)
            try:
                yield connection
            finally:
                self._idle.append(connection)
                if self._closed:
                    self._close_idle()
        except (sqlite3.Error, UnicodeEncodeError) as error:
            raise _translate(error) from error

    def submit(self, change: Change[T]) -> Future[T]:
        """Queue a change; the future holds its result or its error once that is on the disk."""
        future: Future[T] = Future()
        with self._closing:
            if self._closed:
                raise Unavailable("the store is closed")
            self._queue.put((change, future))
        return future

    def run(self, change: Change[T]) -> T:
        """submit and wait."""
        return self.submit(change).result()

    def _connect(self, *, writer: bool) -> sqlite3.Connection:
        register_plain_types()
        connection = sqlite3.connect(
            self._path,
            timeout=self._busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,  # a connection is used by one thread at a time
            cached_statements=256,
        )
        try:
            if writer:
                connection.execute("PRAGMA journal_mode = WAL")
                migrate(connection)
                connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
                connection.execute(f"PRAGMA journal_size_limit = {_CHECKPOINT_PAGES * 4096}")
                connection.execute("PRAGMA cache_size = -32768")
            else:
                connection.execute("PRAGMA query_only = 1")
                connection.execute("PRAGMA cache_size = -8192")
            connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'OFF'}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _close_idle(self) -> None:
        while True:
            try:
                self._idle.pop().close()
            except IndexError:
                return

    # --- The committing thread

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            outcomes, after = self._commit(batch)
            for (_, future), (result, error) in zip(batch, outcomes, strict=True):
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)
            for action in after:
                action()

    def _next_batch(self) -> list[tuple[Change[Any], Future[Any]]] | None:
        """Wait for a change and take what has queued up behind it; None at the end."""
        first = self._next()
        if first is None:
            return None
        batch = [first]
        while len(batch) < _BATCH_MAX:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if item is None:
                self._queue.put(None)
                break
            batch.append(item)
        # From here on a caller can no longer cancel.
        return [(change, future) for change, future in batch if future.set_running_or_notify_cancel()]

    def _next(self) -> tuple[Change[Any], Future[Any]] | None:
        """The next change; what can wait is done while there is none."""
        if self._unsynced:
            try:
                return self._queue.get(timeout=_REST_S)
            except queue.Empty:
                self._sync_trash()
        return self._queue.get()

    def _commit(
        self, batch: list[tuple[Change[Any], Future[Any]]]
    ) -> tuple[list[tuple[Any, BaseException | None]], list[Callable[[], None]]]:
        """Run a batch in one transaction: the outcome of each change, and what is left to do afterwards."""
        connection = self._writer
        try:
            with _translated():
                connection.execute("BEGIN IMMEDIATE")
                (next_id,) = connection.execute("SELECT next_id FROM sequence").fetchone()
                transaction = Transaction(connection, self._clock_ms(), next_id)
                outcomes = [self._attempt(transaction, change) for change, _ in batch]
                if transaction.next_id != next_id:
                    connection.execute("UPDATE sequence SET next_id = ?", (transaction.next_id,))
                self._keep_trash(transaction)
                if transaction.syncs_directory and self._durable:
                    self._sync_directory()
                connection.execute("COMMIT")
        # Every caller of the batch waits for its future: whatever went wrong, they must learn of it.
        except BaseException as error:  # noqa: BLE001
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            return [(None, error)] * len(batch), []
        for action in transaction.after_commit:
            action()
        if not transaction.trash:
            return outcomes, []
        return outcomes, [lambda: self._empty_trash(transaction.trash)]

    def _attempt(self, transaction: Transaction, change: Change[Any]) -> tuple[Any, BaseException | None]:
        """Run one change in a savepoint: (result, None) or (None, why it was undone)."""
        connection = transaction.connection
        actions, files = len(transaction.after_commit), len(transaction.trash)
        connection.execute("SAVEPOINT change")
        try:
            result = change(transaction)
        # Whatever a change raises belongs to its caller, who gets it through the future.
        except BaseException as error:
            if not connection.in_transaction:
                raise  # a full disk makes SQLite undo the whole transaction
            connection.execute("ROLLBACK TO change")
            connection.execute("RELEASE change")
            transaction.buckets.clear()
            del transaction.after_commit[actions:]
            del transaction.trash[files:]
            return None, _translate(error) if isinstance(error, sqlite3.Error | UnicodeEncodeError) else error
        connection.execute("RELEASE change")
        return result, None

    def _keep_trash(self, transaction: Transaction) -> None:
        """Note the files that have to go, so that a crash before that is no leak; forget those that are gone."""
        if transaction.trash:
            rows = [(name,) for name in transaction.trash]
            transaction.connection.executemany("INSERT OR IGNORE INTO trash VALUES (?)", rows)
        if self._removed:
            rows = [(name,) for name in self._removed]
            transaction.connection.executemany("DELETE FROM trash WHERE file = ?", rows)
            transaction.after_commit.append(self._removed.clear)

    def _empty_trash(self, files: list[str]) -> None:
        try:
            self._remove_files(files)
        except StoreError as error:
            log.warning("bodies that nobody needs are left to the next start: %s", error)
            return
        self._unsynced.extend(files)
        if len(self._unsynced) >= _MOST_UNSYNCED:
            self._sync_trash()

    def _sync_trash(self) -> None:
        """Have the rows of removed files forgotten: they stay removed."""
        files, self._unsynced = self._unsynced, []
        try:
            self._sync_removed(files)
        except StoreError as error:
            log.warning("bodies that nobody needs are left to the next start: %s", error)
            return
        self._removed.extend(files)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, UnicodeEncodeError) as error:
        raise _translate(error) from error


def _translate(error: sqlite3.Error | UnicodeEncodeError) -> StoreError:
    """The StoreError that stands for an error of SQLite, or for a text that it cannot store."""
    if isinstance(error, UnicodeEncodeError):
        return InvalidKey("the text is no UTF-8")
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if primary == sqlite3.SQLITE_FULL:
        return CapExceeded("the disk that holds the store is full")
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable("the store is busy with another process")
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_SCHEMA):
        return DamagedStore(f"the database of the store is damaged: {error}")
    return Unavailable(f"the database of the store failed: {error}")
