"""The engine's calls on multipart uploads; see Engine.

upload_id may be given with key None where only the ID is known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from b2fs.errors import InvalidRange, InvalidRequest, PreconditionFailed
from b2fs.store.embedded import listing, multipart, versions
from b2fs.store.embedded.base import EngineBase
from b2fs.store.embedded.content import (
    Body,
    ContentReader,
    ContentWriter,
    Extent,
    compose,
    cut,
    load_extents,
)
from b2fs.store.embedded.database import Transaction
from b2fs.store.embedded.names import check_key
from b2fs.store.embedded.rows import (
    NO_ATTRIBUTES,
    NO_LOCK,
    Attributes,
    LockSpec,
    PartClaim,
    PartRow,
    UploadListing,
    UploadRow,
    VersionRow,
)

_COPY_CHUNK: Final = 4 << 20


class UploadCalls(EngineBase):
    """Multipart uploads."""

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
        self,
        bucket: int,
        key: str | None,
        upload_id: str,
        claims: Sequence[PartClaim],
        *,
        etag: str | None = None,
        describe: multipart.Describe | None = None,
        uploaded_ms: int | None = None,
    ) -> VersionRow:
        """Make the parts one version, whose ID is the upload's.  Completing again answers the version that was made.

        describe tells from the parts that were chosen what the version's attributes get added to `extra`;
        uploaded_ms is as for put.
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
                describe=describe,
                limits=limits,
                hazard_seed=self.config.hazard_seed,
                uploaded_ms=uploaded_ms,
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
