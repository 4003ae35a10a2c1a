"""The engine's calls on objects, their versions and their listings; see Engine."""

from __future__ import annotations

from concurrent.futures import Future

from b2fs.errors import InvalidRange, PreconditionFailed
from b2fs.store.embedded import listing, versions
from b2fs.store.embedded.base import EngineBase
from b2fs.store.embedded.content import (
    Body,
    ContentReader,
    ContentWriter,
    Extent,
    cut,
)
from b2fs.store.embedded.database import Transaction
from b2fs.store.embedded.errors import EntityTooLarge
from b2fs.store.embedded.names import check_key
from b2fs.store.embedded.rows import (
    NO_ATTRIBUTES,
    NO_LOCK,
    Attributes,
    Deleted,
    Listing,
    LockSpec,
    Retention,
    VersionCheck,
    VersionListing,
    VersionRow,
)


class ObjectCalls(EngineBase):
    """Objects and versions."""

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
        uploaded_ms: int | None = None,
    ) -> VersionRow:
        """Make a new version.  size and etag override what is counted, for a front door that encrypts.

        uploaded_ms is when the version counts as made, in place of now: that decides its place among the others.

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
            uploaded_ms=uploaded_ms,
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
        uploaded_ms: int | None = None,
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
                uploaded_ms=uploaded_ms,
            )
            return versions.add(transaction, bucket, new, self.config.hazard_seed)

        return self._submit_with(writer, change)

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

    def read(
        self,
        bucket: int,
        key: str,
        version_id: str | None = None,
        start: int = 0,
        end: int | None = None,
        *,
        if_match: str | None = None,
    ) -> tuple[VersionRow, bytes | memoryview]:
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
    ) -> tuple[VersionRow, bytes | memoryview] | None:
        """read, if the body is inside the database; None if it is in files, which only a worker thread should read."""

        def use(row: VersionRow, extents: list[Extent]) -> tuple[VersionRow, bytes | memoryview] | None:
            if any(extent.file is not None for extent in extents):
                return None
            return self._read_range(row, extents, start, end, if_match)

        return self._opened(bucket, key, version_id, use)

    def _read_range(
        self, row: VersionRow, extents: list[Extent], start: int, end: int | None, if_match: str | None
    ) -> tuple[VersionRow, bytes | memoryview]:
        if if_match is not None and row.etag != if_match:
            raise PreconditionFailed(f"{row.key!r} is another version than expected")
        size = sum(extent.length for extent in extents)
        if start < 0 or (start > 0 and start >= size):
            raise InvalidRange(f"{row.key!r} has {size} bytes, the range starts at {start}")
        with ContentReader(self._files, cut(extents, start, size if end is None else end)) as reader:
            return row, reader.view_at(0, reader.size)

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

    def hide(self, bucket: int, key: str, *, check: VersionCheck | None = None) -> VersionRow:
        """Make a hide marker, also for a key that does not exist.

        check is given the version that would be hidden, if there is one, and may raise to prevent it.
        """
        return self.hide_nowait(bucket, key, check=check).result()

    def hide_nowait(self, bucket: int, key: str, *, check: VersionCheck | None = None) -> Future[VersionRow]:
        """hide without waiting."""
        check_key(key)
        marker = versions.NewVersion(key=key, size=0, etag="", content=0, attributes=NO_ATTRIBUTES, is_hide_marker=True)

        def change(transaction: Transaction) -> VersionRow:
            versions.check_current(transaction, bucket, key, check)
            return versions.add(transaction, bucket, marker, self.config.hazard_seed)

        return self._database.submit(change)

    def delete_version(
        self,
        bucket: int,
        key: str,
        version_id: str,
        *,
        bypass_governance: bool = False,
        check: VersionCheck | None = None,
    ) -> Deleted:
        """Remove one version or hide marker for good; one that is gone is no error.  Raises Locked.

        check is given the version, if it is there, and may raise to prevent its removal.
        """
        return self.delete_version_nowait(
            bucket, key, version_id, bypass_governance=bypass_governance, check=check
        ).result()

    def delete_version_nowait(
        self,
        bucket: int,
        key: str,
        version_id: str,
        *,
        bypass_governance: bool = False,
        check: VersionCheck | None = None,
    ) -> Future[Deleted]:
        """delete_version without waiting."""
        return self._database.submit(
            lambda t: versions.remove(t, bucket, key, version_id, bypass_governance=bypass_governance, check=check)
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
