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

from typing import TypeVar

from b2fs.store.embedded import buckets
from b2fs.store.embedded.base import EngineConfig
from b2fs.store.embedded.database import Change
from b2fs.store.embedded.fsck import Fsck
from b2fs.store.embedded.names import check_bucket_name
from b2fs.store.embedded.objects import ObjectCalls
from b2fs.store.embedded.rows import (
    BucketChanges,
    BucketRow,
    BucketSpec,
    FsckReport,
)
from b2fs.store.embedded.uploads import UploadCalls

T = TypeVar("T")

__all__ = ["Engine", "EngineConfig"]


class Engine(ObjectCalls, UploadCalls):
    """An open store; close it, or use it as a context manager.

    Buckets are named by BucketRow.id in all calls on objects and uploads; a bucket that was deleted meanwhile raises
    NoSuchBucket.  version_id None means the current version; then a missing key raises NotFound and a hidden one
    IsHideMarker (a NotFound).  A text that is no version ID of this key is NotFound too.
    """

    def create_bucket(self, spec: BucketSpec, *, strict_name: bool = True) -> BucketRow:
        """Make a bucket.  Raises BucketExists, InvalidBucketName (by B2's rules; strict_name=False: any sane name)."""
        check_bucket_name(spec.name, strict=strict_name)
        return self._change_buckets(lambda t: buckets.create(t, spec))

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
        return self._change_buckets(lambda t: buckets.update(t, bucket, changes, if_revision))

    def delete_bucket(self, bucket: int) -> None:
        """Remove an empty bucket with its unfinished uploads.  Raises NoSuchBucket, BucketNotEmpty."""
        self._change_buckets(lambda t: buckets.delete(t, bucket))

    def _change_buckets(self, change: Change[T]) -> T:
        try:
            return self._database.run(change)
        finally:
            self.bucket_changes += 1

    def fsck(self, repair: bool = False) -> FsckReport:
        """Check every row against its content and every file against its row; with repair, set right what can be."""
        return Fsck(self._database, self._files, repair=repair).run()
