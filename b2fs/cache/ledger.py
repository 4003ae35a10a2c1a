"""The ledger: what the bucket should hold and does not hold yet, durably, in SQLite.

`inode` has every dirty inode: its attributes, the base version that its unchanged bytes come from, and
which bytes are local.  `entry` has every key that differs: the inode whose content it should hold, or none if it should
be absent, and what the bucket held when that became so.  `upload` and `part` have our unfinished multipart uploads,
those too that are only to be aborted; a part that is marked `away` may be missing from the dirty file.  `writer` has
the identity of the cache directory.

An acknowledged change is committed before the reply, so kill -9 loses none (I1): the write-ahead log is in the page
cache then.  It survives a power cut once `sync` has returned.  Changes that acknowledge nothing (an upload that is
done) ride along with the next commit: losing one only repeats work.
All methods are quick and synchronous and belong to one thread; only `checkpoint` and `sync` may run in another.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from b2fs.cache.content import DirtyFiles
from b2fs.cache.inode import Inode
from b2fs.cache.ledger_rows import (
    EntryRow,
    PartRow,
    Remote,
    UploadRow,
    Write,
    entry_write,
    inode_write,
    load_inode,
    object_ref,
)
from b2fs.cache.machine import boot_id
from b2fs.core.nodes import InodeId
from b2fs.core.types import ETag, PartInfo, UploadId
from b2fs.store.disk import sync_directory
from b2fs.store.sqlite import register_plain_types

_SCHEMA_VERSION = 5
#: Format 1, from which every later one is made by steps.
_SCHEMA = """
CREATE TABLE inode(
    ino INTEGER PRIMARY KEY, mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL,
    rdev INTEGER NOT NULL, size INTEGER NOT NULL, atime_ns INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL, target BLOB, extra BLOB, attrs_known INTEGER NOT NULL,
    base_key TEXT, base_version TEXT, base_etag TEXT, base_size INTEGER, local BLOB
);
CREATE TABLE entry(
    key TEXT PRIMARY KEY, ino INTEGER, remote_known INTEGER NOT NULL, remote_version TEXT, remote_etag TEXT,
    remote_size INTEGER
) WITHOUT ROWID;
CREATE INDEX entry_ino ON entry(ino);
CREATE TABLE upload(
    ino INTEGER PRIMARY KEY, key TEXT NOT NULL, upload_id TEXT NOT NULL
);
CREATE TABLE part(
    ino INTEGER NOT NULL, number INTEGER NOT NULL, etag TEXT NOT NULL, size INTEGER NOT NULL,
    PRIMARY KEY(ino, number)
) WITHOUT ROWID;
"""
#: Uploads by their own ID: an inode may have one that goes on and others whose abort has failed.
_TO_2 = """
DROP INDEX entry_ino;
ALTER TABLE upload RENAME TO upload_1;
ALTER TABLE part RENAME TO part_1;
CREATE TABLE upload(upload_id TEXT PRIMARY KEY, key TEXT NOT NULL, ino INTEGER) WITHOUT ROWID;
CREATE TABLE part(
    upload_id TEXT NOT NULL, number INTEGER NOT NULL, etag TEXT NOT NULL, size INTEGER NOT NULL,
    away INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(upload_id, number)
) WITHOUT ROWID;
INSERT INTO upload SELECT upload_id, key, ino FROM upload_1;
INSERT INTO part(upload_id, number, etag, size)
    SELECT upload_1.upload_id, part_1.number, part_1.etag, part_1.size FROM part_1 JOIN upload_1 USING(ino);
DROP TABLE part_1;
DROP TABLE upload_1;
"""
#: What is put from here carries a digest that is made with this.
_TO_3 = "CREATE TABLE writer(identity BLOB NOT NULL); INSERT INTO writer VALUES(randomblob(16));"
#: The machine has not been started anew since: what is in the page cache is still there.
_TO_4 = "CREATE TABLE boot(id TEXT); INSERT INTO boot VALUES(NULL);"
#: From here on rows of inodes tell that a dirty file has no holes, those of new files by saying nothing of one.
_TO_5 = "UPDATE inode SET local = x'' WHERE local IS NULL AND base_key IS NULL AND mode & 61440 = 32768;"
_STEPS = (_SCHEMA, _TO_2, _TO_3, _TO_4, _TO_5)
#: A database with more free pages than this, and fewer others than that, is written anew.
_FREE_PAGES = 8 << 10
_FEW_PAGES = 2 << 10


class LedgerError(Exception):
    """The ledger is unusable: damaged, or written by a newer version."""


class Ledger:
    """See the module."""

    def __init__(self, path: str) -> None:
        self.path = path
        register_plain_types()
        self._db = sqlite3.connect(path, isolation_level=None, cached_statements=64)
        os.chmod(path, 0o600)
        # Small pages: a commit writes every page that it touches as a whole.  Counts for a new ledger only.
        for pragma in (
            "page_size=1024",
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "wal_autocheckpoint=0",
            "temp_store=MEMORY",
        ):
            self._db.execute(f"PRAGMA {pragma}")
        self._migrate()
        #: Commits, and how many of them a power cut would leave.  Of what was there before us nobody knows.
        self._commits, self._synced = 1, 0
        self._entered = False
        #: What was written since the last commit, in order; carried out by `commit`, and kept if the disk refuses it.
        self._unwritten: list[Write] = []
        #: Made once: a connection makes a cursor for each statement that it is given.
        self._cursor = self._db.cursor()
        #: Called when there is something to commit again.
        self.began: Callable[[], None] = lambda: None

    def _migrate(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > _SCHEMA_VERSION:
            raise LedgerError(f"{self.path} was written by a newer b2fs (format {version})")
        if version < _SCHEMA_VERSION:
            steps = "".join(_STEPS[version:])
            self._db.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version={_SCHEMA_VERSION}; COMMIT;")

    # ---- writing: `commit` acknowledges -------------------------------------------------------------------------

    def _write(self, *writes: Write) -> None:
        """Note changes.  Never fails: `commit` carries them out, and says so if that fails."""
        if not self._unwritten:
            self.began()
        self._unwritten += writes

    def commit(self) -> None:
        """Make every change so far survive kill -9.

        Raises OSError (ENOSPC, EIO) when the disk refuses; the changes are not forgotten, and go with a later commit.
        """
        if not self._unwritten:
            return
        try:
            self._carry_out(self._unwritten)
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
            raise OSError(errno.ENOSPC if full else errno.EIO, f"the journal cannot be written: {error}") from error
        self._commits += 1
        self._unwritten.clear()

    def _carry_out(self, writes: list[Write]) -> None:
        """All of it in one transaction."""
        execute = self._cursor.execute
        if len(writes) == 1:
            execute(*writes[0])  # a statement alone is a transaction
            return
        execute("BEGIN")
        for sql, row in writes:
            execute(sql, row)
        execute("COMMIT")

    @property
    def uncommitted(self) -> bool:
        return bool(self._unwritten)

    def save_inode(self, inode: Inode) -> None:
        self._write(inode_write(inode))

    def save_times(self, inode: Inode) -> None:
        """As save_inode, of an inode that has a row and of which nothing but mtime and ctime differs from that."""
        row = (inode.mtime_ns, inode.ctime_ns, inode.ino)
        self._write(("UPDATE inode SET mtime_ns=?, ctime_ns=? WHERE ino=?", row))

    def delete_inode(self, ino: InodeId) -> None:
        self._write(("DELETE FROM inode WHERE ino=?", (ino,)))

    def save_entry(self, key: str, ino: InodeId | None, remote: Remote) -> None:
        self._write(entry_write(key, ino, remote))

    def save_entries(self, rows: Iterable[EntryRow]) -> None:
        self._write(*(entry_write(r.key, r.ino, r.remote) for r in rows))

    def delete_entry(self, key: str) -> None:
        self._write(("DELETE FROM entry WHERE key=?", (key,)))

    # ---- multipart uploads --------------------------------------------------------------------------------------

    def save_upload(self, upload_id: UploadId, key: str, ino: InodeId) -> None:
        self._write(("INSERT OR REPLACE INTO upload VALUES(?,?,?)", (upload_id, key, ino)))

    def abandon_upload(self, upload_id: UploadId) -> None:
        """Nothing of it is wanted any more; the row stays until it is aborted."""
        self._write(("UPDATE upload SET ino=NULL WHERE upload_id=?", (upload_id,)))
        self._write(("DELETE FROM part WHERE upload_id=?", (upload_id,)))

    def delete_upload(self, upload_id: UploadId) -> None:
        """Forget an upload that is completed or aborted."""
        self._write(("DELETE FROM upload WHERE upload_id=?", (upload_id,)))
        self._write(("DELETE FROM part WHERE upload_id=?", (upload_id,)))

    def save_part(self, upload_id: UploadId, part: PartInfo) -> None:
        self._save_parts(upload_id, [part], away=False)

    def mark_away(self, upload_id: UploadId, parts: Iterable[PartInfo]) -> None:
        """From now on the bytes of these parts may be missing here."""
        self._save_parts(upload_id, parts, away=True)

    def _save_parts(self, upload_id: UploadId, parts: Iterable[PartInfo], *, away: bool) -> None:
        sql = "INSERT OR REPLACE INTO part VALUES(?,?,?,?,?)"
        self._write(*((sql, (upload_id, part.number, part.etag, part.size, away)) for part in parts))

    def delete_part(self, upload_id: UploadId, number: int) -> None:
        self._write(("DELETE FROM part WHERE upload_id=? AND number=?", (upload_id, number)))

    # ---- reading what is committed: at mount ------------------------------------------------------------------------

    def writer_identity(self) -> bytes:
        """Random bytes that are this ledger's for ever, and no other one's."""
        (identity,) = self._db.execute("SELECT identity FROM writer").fetchone()
        return bytes(identity)

    def load_inodes(self, files: DirtyFiles) -> Iterator[Inode]:
        """Every dirty inode with its content as the dirty file shows it; none whose content was lost in a power cut."""
        present = set(files.existing())
        started_anew = self._boot() not in (None, boot_id())
        for row in self._db.execute("SELECT * FROM inode"):
            if (inode := load_inode(row, files, present, started_anew=started_anew)) is not None:
                yield inode

    def taken_up(self) -> None:
        """What was left is taken up: note the present start of the machine."""
        if self._boot() != (now := boot_id()):
            self._write(("UPDATE boot SET id=?", (now,)))

    def _boot(self) -> str | None:
        (boot,) = self._db.execute("SELECT id FROM boot").fetchone()
        return boot if isinstance(boot, str) else None

    def load_entries(self) -> list[EntryRow]:
        rows = self._db.execute("SELECT * FROM entry ORDER BY key").fetchall()
        return [
            EntryRow(key, ino, Remote(bool(known), object_ref(key, version, etag, size)))
            for key, ino, known, version, etag, size in rows
        ]

    def load_uploads(self) -> list[UploadRow]:
        uploads = self._db.execute("SELECT upload_id, key, ino FROM upload ORDER BY upload_id").fetchall()
        return [UploadRow(upload_id, key, ino, self._load_parts(upload_id)) for upload_id, key, ino in uploads]

    def _load_parts(self, upload_id: UploadId) -> tuple[PartRow, ...]:
        rows = self._db.execute("SELECT number, etag, size, away FROM part WHERE upload_id=?", (upload_id,))
        return tuple(PartRow(number, ETag(etag), size, bool(away)) for number, etag, size, away in rows)

    # ---- durability and upkeep ----------------------------------------------------------------------------------

    @property
    def unsynced(self) -> bool:
        """Whether something may be committed that a power cut would take; also while a sync is under way."""
        return self._synced < self._commits

    def sync(self) -> None:
        """Make all committed changes survive a power cut.  May run in another thread.

        What is not in the log any more is in the database: a checkpoint syncs both.  Raises OSError.
        """
        commits = self._commits
        self._sync_log()
        if not self._entered:
            self._sync_directories()
            self._entered = True
        self._synced = max(self._synced, commits)

    def _sync_log(self) -> None:
        try:
            fd = os.open(self.path + "-wal", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # nothing was written since it was moved into the database
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _sync_directories(self) -> None:
        """The names that lead to the log and to the directory beside it; of those above, what may be opened."""
        directory = os.path.dirname(os.path.abspath(self.path))
        sync_directory(directory)
        while (directory := os.path.dirname(directory)) != os.path.dirname(directory):
            with suppress(PermissionError):
                sync_directory(directory)

    def wal_bytes(self) -> int:
        try:
            return os.stat(self.path + "-wal").st_size
        except FileNotFoundError:
            return 0

    def checkpoint(self, *, cut: bool = False) -> None:
        """Move committed changes from the log to the database.  May run in another thread.

        cut: empty the log too, which keeps writers waiting for that moment; otherwise it can grow while they are busy.
        A database that is nearly empty by now, but was large, gives its space back then.
        """
        db = sqlite3.connect(self.path, isolation_level=None)
        try:
            db.execute("PRAGMA wal_checkpoint(PASSIVE)")
            if cut:
                _shrink(db)
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            db.close()

    def close(self) -> None:
        try:
            self.commit()
        finally:
            self._db.close()


def _shrink(db: sqlite3.Connection) -> None:
    """Write a database anew that is mostly free pages: what is left is little, so writers wait for a moment only."""
    (free,), (pages,) = (db.execute(f"PRAGMA {name}").fetchone() for name in ("freelist_count", "page_count"))
    if free > _FREE_PAGES and pages - free < _FEW_PAGES:
        with suppress(sqlite3.OperationalError):  # somebody writes, or the disk is full: another time
            db.execute("VACUUM")
