"""Engine: many versioned buckets in one directory.

One SQLite database holds all that is known, small bodies included; larger bodies are files beside it.  The engine is
synchronous and thread-safe: call it from worker threads.  The `_nowait` twins return a future that the committing
thread completes; they do no disk I/O themselves when the body is small, so an event loop may call them directly.

No authoritative state is kept in memory, so several processes may open one directory at the same time.

INVARIANT: what a call has returned is on the disk (EngineConfig.durable): content is synced before the transaction
that names it, and the transaction is synced before the call returns.  A crash leaves no half-made version.
INVARIANT: contents are immutable and shared: a copy, a part and an assembled upload refer to bytes, and move none.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Final, TypeVar

from b2fs.errors import InvalidRange, InvalidRequest, PreconditionFailed
from b2fs.store.embedded import buckets, listing, multipart, versions
from b2fs.store.embedded.content import (
    Body,
    ContentFiles,
    ContentReader,
    ContentWriter,
    Extent,
    compose,
    cut,
    load_extents,
)
from b2fs.store.embedded.database import Database, Transaction, sync_directory
from b2fs.store.embedded.errors import DamagedStore, EntityTooLarge
from b2fs.store.embedded.fsck import Fsck
from b2fs.store.embedded.names import check_bucket_name, check_key
from b2fs.store.embedded.rows import (
    NO_ATTRIBUTES,
    NO_LOCK,
    Attributes,
    BucketChanges,
    BucketRow,
    BucketSpec,
    Deleted,
    FsckReport,
    Listing,
    LockSpec,
    PartClaim,
    PartRow,
    Retention,
    UploadListing,
    UploadRow,
    VersionListing,
    VersionRow,
)

T = TypeVar("T")

#: How often a read starts anew when its version is removed between looking it up and opening it.
_READ_ATTEMPTS: Final = 3
_HASHER_THREADS: Final = 4
_COPY_CHUNK: Final = 4 << 20


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


class Engine:
    """An open store; close it, or use it as a context manager.

    Buckets are named by BucketRow.id in all calls below `Buckets`; a bucket that was deleted meanwhile raises
    NoSuchBucket.  version_id None means the current version; then a missing key raises NotFound and a hidden one
    IsHideMarker (a NotFound).  A text that is no version ID of this key is NotFound too.
    """

    def __init__(self, config: EngineConfig, *, clock_ms: Callable[[], int] = _now_ms) -> None:
        """Open or create the directory (0700).  Raises DamagedStore, and OSError of the filesystem."""
        self.config = config
        self.directory = os.path.abspath(config.directory)
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
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
        )
        try:
            self._recover()
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Engine:
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
            rows = [(name,) for name in trash]
            self._database.run(lambda t: t.connection.executemany("DELETE FROM trash WHERE file = ?", rows))

    def close(self) -> None:
        """Finish what was submitted and let go of the directory.  Idempotent."""
        self._database.close()
        self._hashers.shutdown()

    # --- Buckets

    def create_bucket(self, spec: BucketSpec, *, strict_name: bool = True) -> BucketRow:
        """Make a bucket.  Raises BucketExists, InvalidBucketName (by B2's rules; strict_name=False: any sane name)."""
        check_bucket_name(spec.name, strict=strict_name)
        return self._database.run(lambda t: buckets.create(t, spec))

    def bucket(self, name: str) -> BucketRow:
        """The bucket of this name.  Raises NoSuchBucket."""
        return self.query(lambda connection: buckets.by_name(connection, name))

    def bucket_by_id(self, bucket_id: str) -> BucketRow:
        """The bucket of these 24 hex digits.  Raises NoSuchBucket."""
        return self.query(lambda connection: buckets.by_bucket_id(connection, bucket_id))

    def list_buckets(self, owner: str | None = None) -> list[BucketRow]:
        """All buckets, or those of one account, by name."""
        return self.query(lambda connection: buckets.all_of(connection, owner))

    def update_bucket(self, bucket: int, changes: BucketChanges, *, if_revision: int | None = None) -> BucketRow:
        """Change settings; the revision goes up by one.  Raises NoSuchBucket, BucketChanged, InvalidLock."""
        return self._database.run(lambda t: buckets.update(t, bucket, changes, if_revision))

    def delete_bucket(self, bucket: int) -> None:
        """Remove an empty bucket with its unfinished uploads.  Raises NoSuchBucket, BucketNotEmpty."""
        self._database.run(lambda t: buckets.delete(t, bucket))

    # --- Objects

    def writer(self) -> ContentWriter:
        """A place for a streamed body: write(chunk)..., then give it to put or put_part, or discard().

        Counts size and MD5 while writing (`.size`, `.md5_hex`), holds at most one small chunk in memory.  A writer
        that is neither used nor discarded leaves nothing behind once it is closed; it is a context manager.
        """
        return ContentWriter(self._files, inline_max=self.config.inline_max, durable=self.config.durable)

    def put(
        self,
        bucket: int,
        key: str,
        body: Body | ContentWriter,
        attributes: Attributes = NO_ATTRIBUTES,
        *,
        lock: LockSpec = NO_LOCK,
        size: int | None = None,
        etag: str | None = None,
        if_match: str | None = None,
        if_none_match: bool = False,
    ) -> VersionRow:
        """Make a new version.  size and etag override what is counted, for a front door that encrypts.

        Raises InvalidKey, KeyTooLong, InvalidLock, PreconditionFailed, EntityTooLarge, NoSuchBucket.
        """
        return self.put_nowait(
            bucket,
            key,
            body,
            attributes,
            lock=lock,
            size=size,
            etag=etag,
            if_match=if_match,
            if_none_match=if_none_match,
        ).result()

    def put_nowait(
        self,
        bucket: int,
        key: str,
        body: Body | ContentWriter,
        attributes: Attributes = NO_ATTRIBUTES,
        *,
        lock: LockSpec = NO_LOCK,
        size: int | None = None,
        etag: str | None = None,
        if_match: str | None = None,
        if_none_match: bool = False,
    ) -> Future[VersionRow]:
        """put without waiting: the caller must not change body before the future is done.

        A body above inline_max is written and synced here, by the caller's thread, before the future is returned.
        """
        check_key(key)
        writer = self._sealed(body)

        def change(transaction: Transaction) -> VersionRow:
            versions.check_match(transaction, bucket, key, if_match, if_none_match)
            new = versions.NewVersion(
                key=key,
                size=writer.size if size is None else size,
                etag=etag or writer.md5_hex,
                content=writer.add_row(transaction),
                attributes=attributes,
                lock=lock,
            )
            return versions.add(transaction, bucket, new, self.config.hazard_seed)

        return self._submit_with(writer, change)

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
        try:
            future = self._database.submit(change)
        except BaseException:
            writer.discard()
            raise
        if writer.has_file:
            future.add_done_callback(lambda _: writer.discard())
        return future

    def head(self, bucket: int, key: str, version_id: str | None = None) -> VersionRow:
        """One version.  Raises NotFound, IsHideMarker, NoSuchBucket."""
        with self._database.reader() as connection:
            return versions.find_visible(connection, bucket, key, version_id)

    def find_version(self, version_id: str) -> VersionRow:
        """A version or hide marker by its ID alone.  Raises NotFound."""
        return self.query(lambda connection: versions.find_anywhere(connection, version_id))

    def open(self, bucket: int, key: str, version_id: str | None = None) -> tuple[VersionRow, ContentReader]:
        """One version and a reader of its stored bytes, which a removal meanwhile does not disturb.

        reader.read_at(offset, length) -> bytes, reader.segments(start, end) -> list of Segment(inline bytes, or file
        descriptor with offset, and length) for sendfile; close the reader.
        """
        return self._opened(bucket, key, version_id, lambda row, extents: (row, ContentReader(self._files, extents)))

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

    def read(
        self,
        bucket: int,
        key: str,
        version_id: str | None = None,
        start: int = 0,
        end: int | None = None,
        *,
        if_match: str | None = None,
    ) -> tuple[VersionRow, bytes]:
        """The stored bytes [start, min(end, size)).

        Raises NotFound, IsHideMarker, InvalidRange (start >= size > 0, or start > 0 == size), PreconditionFailed.
        """
        return self._opened(
            bucket, key, version_id, lambda row, extents: self._read_range(row, extents, start, end, if_match)
        )

    def read_inline(
        self,
        bucket: int,
        key: str,
        version_id: str | None = None,
        start: int = 0,
        end: int | None = None,
        *,
        if_match: str | None = None,
    ) -> tuple[VersionRow, bytes] | None:
        """read, if the body is inside the database; None if it is in files, which only a worker thread should read."""

        def use(row: VersionRow, extents: list[Extent]) -> tuple[VersionRow, bytes] | None:
            if any(extent.file is not None for extent in extents):
                return None
            return self._read_range(row, extents, start, end, if_match)

        return self._opened(bucket, key, version_id, use)

    def _read_range(
        self, row: VersionRow, extents: list[Extent], start: int, end: int | None, if_match: str | None
    ) -> tuple[VersionRow, bytes]:
        if if_match is not None and row.etag != if_match:
            raise PreconditionFailed(f"{row.key!r} is another version than expected")
        size = sum(extent.length for extent in extents)
        if start < 0 or (start > 0 and start >= size):
            raise InvalidRange(f"{row.key!r} has {size} bytes, the range starts at {start}")
        with ContentReader(self._files, cut(extents, start, size if end is None else end)) as reader:
            return row, reader.read_at(0, reader.size)

    def copy(
        self,
        source_bucket: int,
        source_key: str,
        source_version: str | None,
        bucket: int,
        key: str,
        *,
        attributes: Attributes | None = None,
        lock: LockSpec = NO_LOCK,
        if_match: str | None = None,
    ) -> VersionRow:
        """Make a new version with the content of another, without moving bytes; attributes None keeps the source's.

        if_match is the source's ETag.  Raises NotFound, PreconditionFailed and what put raises.
        """
        return self.copy_nowait(
            source_bucket,
            source_key,
            source_version,
            bucket,
            key,
            attributes=attributes,
            lock=lock,
            if_match=if_match,
        ).result()

    def copy_nowait(
        self,
        source_bucket: int,
        source_key: str,
        source_version: str | None,
        bucket: int,
        key: str,
        *,
        attributes: Attributes | None = None,
        lock: LockSpec = NO_LOCK,
        if_match: str | None = None,
    ) -> Future[VersionRow]:
        """copy without waiting."""
        check_key(key)

        def change(transaction: Transaction) -> VersionRow:
            source = versions.find_visible(transaction.connection, source_bucket, source_key, source_version)
            if if_match is not None and source.etag != if_match:
                raise PreconditionFailed(f"{source_key!r} is another version than expected")
            if source.size > self.config.max_put_bytes:
                raise EntityTooLarge(f"{source_key!r} is too large for one copy; use parts")
            new = versions.NewVersion(
                key=key,
                size=source.size,
                etag=source.etag,
                content=source.content,
                attributes=source.attributes if attributes is None else attributes,
                lock=lock,
            )
            return versions.add(transaction, bucket, new, self.config.hazard_seed)

        return self._database.submit(change)

    def hide(self, bucket: int, key: str) -> VersionRow:
        """Make a hide marker, also for a key that does not exist."""
        return self.hide_nowait(bucket, key).result()

    def hide_nowait(self, bucket: int, key: str) -> Future[VersionRow]:
        """hide without waiting."""
        check_key(key)
        marker = versions.NewVersion(key=key, size=0, etag="", content=0, attributes=NO_ATTRIBUTES, is_hide_marker=True)
        return self._database.submit(lambda t: versions.add(t, bucket, marker, self.config.hazard_seed))

    def delete_version(self, bucket: int, key: str, version_id: str, *, bypass_governance: bool = False) -> Deleted:
        """Remove one version or hide marker for good; one that is gone is no error.  Raises Locked."""
        return self.delete_version_nowait(bucket, key, version_id, bypass_governance=bypass_governance).result()

    def delete_version_nowait(
        self, bucket: int, key: str, version_id: str, *, bypass_governance: bool = False
    ) -> Future[Deleted]:
        """delete_version without waiting."""
        return self._database.submit(
            lambda t: versions.remove(t, bucket, key, version_id, bypass_governance=bypass_governance)
        )

    def set_retention(
        self,
        bucket: int,
        key: str,
        version_id: str | None,
        retention: Retention | None,
        *,
        bypass_governance: bool = False,
    ) -> None:
        """Set or (None) remove the retention of a version.

        COMPLIANCE may only be prolonged; GOVERNANCE is loosened with bypass_governance only: Locked otherwise.
        Raises NotFound, InvalidLock where the bucket has no Object Lock or until_ms is in the past.
        """
        self._database.run(
            lambda t: versions.set_retention(t, bucket, key, version_id, retention, bypass_governance=bypass_governance)
        )

    def set_legal_hold(self, bucket: int, key: str, version_id: str | None, hold: bool) -> None:
        """Switch the legal hold.  Raises NotFound, InvalidLock where the bucket has no Object Lock."""
        self._database.run(lambda t: versions.set_legal_hold(t, bucket, key, version_id, hold))

    # --- Listings

    def list_objects(
        self,
        bucket: int,
        prefix: str = "",
        *,
        delimiter: str | None = None,
        start_after: str | None = None,
        token: str | None = None,
        max_keys: int = 1000,
    ) -> Listing:
        """Current, unhidden versions in key order; keys and common prefixes count against max_keys together.

        start_after is any text; token comes from the page before and wins.  Raises InvalidRequest for a bad token.
        """
        with self._database.reader() as connection:
            return listing.list_objects(connection, bucket, prefix, delimiter, start_after, token, max_keys)

    def list_versions(
        self,
        bucket: int,
        prefix: str = "",
        *,
        delimiter: str | None = None,
        key_marker: str | None = None,
        version_marker: str | None = None,
        max_keys: int = 1000,
    ) -> VersionListing:
        """All versions and hide markers behind the markers (exclusive), by key, newest first.

        key_marker alone continues behind all versions of that key.
        """
        with self._database.reader() as connection:
            return listing.list_versions(connection, bucket, prefix, delimiter, key_marker, version_marker, max_keys)

    # --- Multipart uploads; upload_id may be given with key None where only the ID is known

    def create_upload(
        self, bucket: int, key: str, attributes: Attributes = NO_ATTRIBUTES, *, lock: LockSpec = NO_LOCK
    ) -> UploadRow:
        """Start an upload.  Raises what put raises."""
        check_key(key)
        return self._database.run(lambda t: multipart.create(t, bucket, key, attributes, lock))

    def upload(self, bucket: int, key: str | None, upload_id: str) -> UploadRow:
        """An unfinished upload.  Raises NoSuchUpload."""
        return self.query(lambda connection: multipart.find(connection, bucket, key, upload_id))

    def put_part(
        self,
        bucket: int,
        key: str | None,
        upload_id: str,
        number: int,
        body: Body | ContentWriter,
        *,
        size: int | None = None,
        etag: str | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> PartRow:
        """Keep a part, replacing one of the same number.  Raises NoSuchUpload, InvalidRequest for a bad number."""
        self._check_part_number(number)
        writer = self._sealed(body)

        def change(transaction: Transaction) -> PartRow:
            upload = multipart.find(transaction.connection, bucket, key, upload_id)
            part = multipart.new_part(
                transaction,
                number,
                writer.size if size is None else size,
                etag or writer.md5_hex,
                writer.add_row(transaction),
                extra,
            )
            multipart.put_part(transaction, upload, part)
            return part

        return self._submit_with(writer, change).result()

    def _check_part_number(self, number: int) -> None:
        if not 1 <= number <= self.config.max_parts:
            raise InvalidRequest(f"part numbers go from 1 to {self.config.max_parts}, not {number}")

    def copy_part(
        self,
        bucket: int,
        key: str | None,
        upload_id: str,
        number: int,
        source_bucket: int,
        source_key: str,
        source_version: str | None,
        start: int,
        end: int | None,
        *,
        if_match: str | None = None,
    ) -> PartRow:
        """Make a part of the bytes [start, end) of a version (end None: its size), without moving them.

        Raises NoSuchUpload, NotFound, PreconditionFailed, InvalidRange when the range is not inside the source.
        """
        self._check_part_number(number)
        self.upload(bucket, key, upload_id)

        def look(row: VersionRow, extents: list[Extent]) -> tuple[str, str]:
            if if_match is not None and row.etag != if_match:
                raise PreconditionFailed(f"{source_key!r} is another version than expected")
            stop = row.size if end is None else end
            if not 0 <= start <= stop <= row.size or (start == stop and row.size > 0):
                raise InvalidRange(f"{source_key!r} has {row.size} bytes, not the range {start} to {stop}")
            return row.version_id, self._etag_of_range(row, cut(extents, start, stop), start, stop)

        pinned, etag = self._opened(source_bucket, source_key, source_version, look)

        def change(transaction: Transaction) -> PartRow:
            connection = transaction.connection
            upload = multipart.find(connection, bucket, key, upload_id)
            source = versions.find_visible(connection, source_bucket, source_key, pinned)
            stop = source.size if end is None else end
            content = compose(transaction, cut(load_extents(connection, source.content), start, stop))
            part = multipart.new_part(transaction, number, stop - start, etag, content, None)
            multipart.put_part(transaction, upload, part)
            return part

        return self._database.run(change)

    def _etag_of_range(self, row: VersionRow, extents: list[Extent], start: int, end: int) -> str:
        """The MD5 of a range, or for a long one a text of the same form that is made without reading it."""
        digest = hashlib.md5(usedforsecurity=False)
        if end - start > self.config.part_md5_max:
            digest.update(f"{row.version_id} {start} {end}".encode())
            return digest.hexdigest()
        with ContentReader(self._files, extents) as reader:
            for offset in range(0, reader.size, _COPY_CHUNK):
                digest.update(reader.read_at(offset, _COPY_CHUNK))
        return digest.hexdigest()

    def complete_upload(
        self, bucket: int, key: str | None, upload_id: str, claims: Sequence[PartClaim], *, etag: str | None = None
    ) -> VersionRow:
        """Make the parts one version, whose ID is the upload's.  Completing again answers the version that was made.

        Raises NoSuchUpload, InvalidPart, InvalidPartOrder, EntityTooSmall, EntityTooLarge.
        """
        limits = multipart.Limits(self.config.min_part_bytes, self.config.max_object_bytes)
        return self._database.run(
            lambda t: multipart.complete(
                t,
                bucket,
                key,
                upload_id,
                claims,
                etag=etag,
                limits=limits,
                hazard_seed=self.config.hazard_seed,
            )
        )

    def abort_upload(self, bucket: int, key: str | None, upload_id: str) -> None:
        """Drop an upload and its parts.  Raises NoSuchUpload."""
        self._database.run(lambda t: multipart.remove(t, multipart.find(t.connection, bucket, key, upload_id)))

    def list_uploads(
        self,
        bucket: int,
        prefix: str = "",
        *,
        delimiter: str | None = None,
        key_marker: str | None = None,
        upload_marker: str | None = None,
        max_uploads: int = 1000,
    ) -> UploadListing:
        """Unfinished uploads by key, then oldest first; the markers work as in list_versions."""
        with self._database.reader() as connection:
            return listing.list_uploads(connection, bucket, prefix, delimiter, key_marker, upload_marker, max_uploads)

    def list_parts(
        self, bucket: int, key: str | None, upload_id: str, *, after: int = 0, max_parts: int = 10_000
    ) -> list[PartRow]:
        """Parts with numbers above `after`, ascending.  Raises NoSuchUpload."""
        with self._database.reader() as connection:
            upload = multipart.find(connection, bucket, key, upload_id)
            return multipart.parts(connection, upload, after, max_parts)

    # --- The store as a whole

    def query(self, ask: Callable[[sqlite3.Connection], T]) -> T:
        """Run ask with a connection for reading; for tables that a front door adds (see schema.MIGRATIONS)."""
        with self._database.reader() as connection:
            return ask(connection)

    def transact(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Run change inside a committed transaction; it shares the transaction with others, so it must be short."""
        return self._database.run(lambda t: change(t.connection))

    def fsck(self, repair: bool = False) -> FsckReport:
        """Check every row against its content and every file against its row; with repair, set right what can be."""
        return Fsck(self._database, self._files, repair=repair).run()
