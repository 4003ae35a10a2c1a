"""Engine: many versioned buckets in one directory.

One SQLite database holds all that is known, small bodies included; larger bodies are files beside it.  The engine is
synchronous and thread-safe: call it from worker threads.  The `_nowait` twins return a future that the committing
thread completes; they do no disk I/O themselves when the body is small, so an event loop may call them directly.

No authoritative state is kept in memory, so several processes may open one directory at the same time.

INVARIANT: what a call has returned is on the disk (EngineConfig.durable): content is synced before the transaction
that names it, and the transaction is synced before the call returns.  A crash leaves no half-made version.
INVARIANT: contents are immutable and shared: a copy, a part and an assembled upload refer to bytes, they never move them.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from b2fs.core.types import ETag
from b2fs.store.embedded import buckets, fsck, listing, multipart, versions
from b2fs.store.embedded.content import ContentFiles, ContentReader, ContentWriter
from b2fs.store.embedded.database import Database
from b2fs.store.embedded.rows import (
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
Body = bytes | bytearray | memoryview


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

    def close(self) -> None:
        """Finish what was submitted and let go of the directory.  Idempotent."""

    # --- Buckets

    def create_bucket(self, spec: BucketSpec, *, strict_name: bool = True) -> BucketRow:
        """Make a bucket.  Raises BucketExists, InvalidBucketName (B2's rules, or with strict_name=False any sane name)."""

    def bucket(self, name: str) -> BucketRow:
        """The bucket of this name.  Raises NoSuchBucket."""

    def bucket_by_id(self, bucket_id: str) -> BucketRow:
        """The bucket of these 24 hex digits.  Raises NoSuchBucket."""

    def list_buckets(self, owner: str | None = None) -> list[BucketRow]:
        """All buckets, or those of one account, by name."""

    def update_bucket(self, bucket: int, changes: BucketChanges, *, if_revision: int | None = None) -> BucketRow:
        """Change settings; the revision goes up by one.  Raises NoSuchBucket, BucketChanged, InvalidLock."""

    def delete_bucket(self, bucket: int) -> None:
        """Remove an empty bucket with its unfinished uploads.  Raises NoSuchBucket, BucketNotEmpty."""

    # --- Objects

    def writer(self) -> ContentWriter:
        """A place for a streamed body: write(chunk)..., then give it to put or put_part, or discard().

        Counts size and MD5 while writing (`.size`, `.md5_hex`), holds at most one small chunk in memory.  A writer
        that is neither used nor discarded leaves nothing behind once it is closed; it is a context manager.
        """

    def put(
        self,
        bucket: int,
        key: str,
        body: Body | ContentWriter,
        attributes: Attributes = Attributes(),
        *,
        lock: LockSpec = LockSpec(),
        size: int | None = None,
        etag: str | None = None,
        if_match: str | None = None,
        if_none_match: bool = False,
    ) -> VersionRow:
        """Make a new version.  size and etag override what is counted, for a front door that encrypts.

        Raises InvalidKey, KeyTooLong, InvalidLock, PreconditionFailed, EntityTooLarge, NoSuchBucket.
        """

    def put_nowait(self, bucket: int, key: str, body: Body | ContentWriter, attributes: Attributes = Attributes(), *,
        lock: LockSpec = LockSpec(), size: int | None = None, etag: str | None = None, if_match: str | None = None,
        if_none_match: bool = False) -> Future[VersionRow]:
        """put without waiting: the caller must not change body before the future is done.

        A body above inline_max is written and synced here, by the caller's thread, before the future is returned.
        """

    def head(self, bucket: int, key: str, version_id: str | None = None) -> VersionRow:
        """One version.  Raises NotFound, IsHideMarker, NoSuchBucket."""

    def find_version(self, version_id: str) -> VersionRow:
        """A version or hide marker by its ID alone.  Raises NotFound."""

    def open(self, bucket: int, key: str, version_id: str | None = None) -> tuple[VersionRow, ContentReader]:
        """One version and a reader of its stored bytes, which a removal meanwhile does not disturb.

        reader.read_at(offset, length) -> bytes, reader.segments(start, end) -> list of Segment(inline bytes, or file
        descriptor with offset, and length) for sendfile; close the reader.
        """

    def read(self, bucket: int, key: str, version_id: str | None = None, start: int = 0, end: int | None = None, *,
        if_match: str | None = None) -> tuple[VersionRow, bytes]:
        """The stored bytes [start, min(end, size)).

        Raises NotFound, IsHideMarker, InvalidRange (start >= size > 0, or start > 0 == size), PreconditionFailed.
        """

    def copy(self, source_bucket: int, source_key: str, source_version: str | None, bucket: int, key: str, *,
        attributes: Attributes | None = None, lock: LockSpec = LockSpec(), if_match: str | None = None) -> VersionRow:
        """Make a new version with the content of another, without moving bytes; attributes None keeps the source's.

        if_match is the source's ETag.  Raises NotFound, PreconditionFailed and what put raises.
        """

    def hide(self, bucket: int, key: str) -> VersionRow:
        """Make a hide marker, also for a key that does not exist."""

    def delete_version(self, bucket: int, key: str, version_id: str, *, bypass_governance: bool = False) -> Deleted:
        """Remove one version or hide marker for good; one that is gone is no error.  Raises Locked."""

    def set_retention(self, bucket: int, key: str, version_id: str | None, retention: Retention | None, *,
        bypass_governance: bool = False) -> None:
        """Set or (None) remove the retention of a version.

        COMPLIANCE may only be prolonged; GOVERNANCE is loosened with bypass_governance only: Locked otherwise.
        Raises NotFound, InvalidLock where the bucket has no Object Lock or until_ms is in the past.
        """

    def set_legal_hold(self, bucket: int, key: str, version_id: str | None, hold: bool) -> None:
        """Switch the legal hold.  Raises NotFound, InvalidLock where the bucket has no Object Lock."""

    # --- Listings

    def list_objects(self, bucket: int, prefix: str = "", *, delimiter: str | None = None,
        start_after: str | None = None, token: str | None = None, max_keys: int = 1000) -> Listing:
        """Current, unhidden versions in key order; keys and common prefixes count against max_keys together.

        start_after is any text; token comes from the page before and wins.  Raises InvalidRequest for a bad token.
        """

    def list_versions(self, bucket: int, prefix: str = "", *, delimiter: str | None = None,
        key_marker: str | None = None, version_marker: str | None = None, max_keys: int = 1000) -> VersionListing:
        """All versions and hide markers behind the markers (exclusive), by key, newest first.

        key_marker alone continues behind all versions of that key.
        """

    # --- Multipart uploads; upload_id may be given with key None where only the ID is known

    def create_upload(self, bucket: int, key: str, attributes: Attributes = Attributes(), *,
        lock: LockSpec = LockSpec()) -> UploadRow:
        """Start an upload.  Raises what put raises."""

    def upload(self, bucket: int, key: str | None, upload_id: str) -> UploadRow:
        """An unfinished upload.  Raises NoSuchUpload."""

    def put_part(self, bucket: int, key: str | None, upload_id: str, number: int, body: Body | ContentWriter, *,
        size: int | None = None, etag: str | None = None, extra: Mapping[str, str] | None = None) -> PartRow:
        """Keep a part, replacing one of the same number.  Raises NoSuchUpload, InvalidRequest for a bad number."""

    def copy_part(self, bucket: int, key: str | None, upload_id: str, number: int, source_bucket: int,
        source_key: str, source_version: str | None, start: int, end: int | None, *, if_match: str | None = None) -> PartRow:
        """Make a part of the bytes [start, end) of a version (end None: its size), without moving them.

        Raises NoSuchUpload, NotFound, PreconditionFailed, InvalidRange when the range is not inside the source.
        """

    def complete_upload(self, bucket: int, key: str | None, upload_id: str, claims: Sequence[PartClaim], *,
        etag: str | None = None) -> VersionRow:
        """Make the parts one version, whose ID is the upload's.  Completing again answers the version that was made.

        Raises NoSuchUpload, InvalidPart, InvalidPartOrder, EntityTooSmall, EntityTooLarge.
        """

    def abort_upload(self, bucket: int, key: str | None, upload_id: str) -> None:
        """Drop an upload and its parts.  Raises NoSuchUpload."""

    def list_uploads(self, bucket: int, prefix: str = "", *, delimiter: str | None = None,
        key_marker: str | None = None, upload_marker: str | None = None, max_uploads: int = 1000) -> UploadListing:
        """Unfinished uploads by key, then oldest first; the markers work as in list_versions."""

    def list_parts(self, bucket: int, key: str | None, upload_id: str, *, after: int = 0,
        max_parts: int = 10_000) -> list[PartRow]:
        """Parts with numbers above `after`, ascending.  Raises NoSuchUpload."""

    # --- The store as a whole

    def query(self, ask: Callable[[sqlite3.Connection], T]) -> T:
        """Run ask with a connection for reading; for tables that a front door adds (see schema.MIGRATIONS)."""

    def transact(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Run change inside a committed transaction; it shares the transaction with others, so it must be short."""

    def fsck(self, repair: bool = False) -> FsckReport:
        """Check every row against its content and every file against its row; with repair, set right what can be."""
