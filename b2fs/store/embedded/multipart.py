"""Multipart uploads: parts are contents of their own, and completion refers to them without moving a byte."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from b2fs.core.types import ETag
from b2fs.errors import NoSuchUpload, NotFound
from b2fs.store.embedded import buckets, versions
from b2fs.store.embedded.content import compose, load_extents, release
from b2fs.store.embedded.database import Transaction
from b2fs.store.embedded.errors import EntityTooLarge, EntityTooSmall, InvalidPart, InvalidPartOrder, LockNotEnabled
from b2fs.store.embedded.names import check_metadata
from b2fs.store.embedded.rows import Attributes, LockSpec, PartClaim, PartRow, UploadRow, VersionRow
from b2fs.store.embedded.versionid import parse_version_id

#: Tells from the chosen parts what to add to the `extra` of the version.
Describe = Callable[[Sequence[PartRow]], Mapping[str, str]]

_UPLOAD: Final = (
    "SELECT u.fid, b.bucket_id, u.key, u.started_ms, u.attributes_json, u.retention_mode, u.retention_until_ms,"
    " u.legal_hold FROM uploads u JOIN buckets b ON b.id = u.bucket WHERE u.fid = ? AND u.bucket = ?"
)
_PARTS: Final = "SELECT number, size, etag, modified_ms, content, extra_json FROM parts WHERE upload = ? AND number > ?"


@dataclass(frozen=True, slots=True)
class Limits:
    """What an assembled object must keep to, in bytes."""

    min_part_bytes: int
    max_object_bytes: int


def create(transaction: Transaction, bucket: int, key: str, attributes: Attributes, lock: LockSpec) -> UploadRow:
    """Raises NoSuchBucket, InvalidLock, MetadataTooLarge."""
    home = buckets.in_transaction(transaction, bucket)
    if not home.lock_enabled and (lock.retention is not None or lock.legal_hold):
        raise LockNotEnabled("Object Lock is not enabled for this bucket")
    encrypted = attributes.encryption is not None or home.default_encryption is not None
    check_metadata(attributes.metadata, reduced=home.lock_enabled or encrypted)
    row = UploadRow(
        fid=transaction.new_id(),
        bucket_id=home.bucket_id,
        key=key,
        started_ms=transaction.now_ms,
        attributes_json=attributes.to_json(),
        retention_mode=lock.retention.mode.value if lock.retention else None,
        retention_until_ms=lock.retention.until_ms if lock.retention else None,
        legal_hold=None if lock.legal_hold is None else int(lock.legal_hold),
    )
    transaction.connection.execute(
        "INSERT INTO uploads (fid, key, started_ms, attributes_json, retention_mode, retention_until_ms, legal_hold,"
        " bucket) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (row[0], *row[2:], bucket),
    )
    return row


def find(connection: sqlite3.Connection, bucket: int, key: str | None, upload_id: str) -> UploadRow:
    """Raises NoSuchUpload."""
    parsed = parse_version_id(upload_id)
    if parsed is not None:
        found = connection.execute(_UPLOAD, (parsed.fid, bucket)).fetchone()
        if found is not None:
            row = UploadRow._make(found)
            if row.upload_id == upload_id and key in (None, row.key):
                return row
    raise NoSuchUpload(f"there is no unfinished upload {upload_id!r}" + ("" if key is None else f" of {key!r}"))


def parts(connection: sqlite3.Connection, upload: UploadRow, after: int, limit: int) -> list[PartRow]:
    """The parts with numbers above `after`, ascending."""
    rows = connection.execute(f"{_PARTS} ORDER BY number LIMIT ?", (upload.fid, after, limit))
    return [PartRow._make(row) for row in rows]


def put_part(transaction: Transaction, upload: UploadRow, part: PartRow) -> None:
    """Keep a part whose content row exists; an earlier one of its number is dropped."""
    connection = transaction.connection
    old = connection.execute(
        "SELECT content FROM parts WHERE upload = ? AND number = ?", (upload.fid, part.number)
    ).fetchone()
    connection.execute("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?, ?)", (upload.fid, *part))
    if old is not None and old[0] != part.content:
        release(transaction, old[0])


def new_part(
    transaction: Transaction, number: int, size: int, etag: str, content: int, extra: Mapping[str, str] | None
) -> PartRow:
    """The row of a part that was received now."""
    return PartRow(number, size, ETag(etag), transaction.now_ms, content, json.dumps(dict(extra or {})))


def complete(
    transaction: Transaction,
    bucket: int,
    key: str | None,
    upload_id: str,
    claims: Sequence[PartClaim],
    *,
    etag: str | None,
    describe: Describe | None,
    limits: Limits,
    hazard_seed: int | None,
    uploaded_ms: int | None,
) -> VersionRow:
    """See Engine.complete_upload."""
    connection = transaction.connection
    try:
        upload = find(connection, bucket, key, upload_id)
    except NoSuchUpload:
        done = _completed(connection, upload_id, key)
        if done is None:
            raise
        return done
    chosen = _choose(parts(connection, upload, 0, -1), claims, limits)
    extents = [extent for part in chosen for extent in load_extents(connection, part.content)]
    new = versions.NewVersion(
        key=upload.key,
        size=sum(part.size for part in chosen),
        etag=etag or combined_etag([part.etag for part in chosen]),
        content=compose(transaction, extents),
        attributes=_described(upload.attributes, describe(chosen)) if describe is not None else upload.attributes,
        lock=upload.lock,
        fid=upload.fid,
        created_ms=upload.started_ms,
        uploaded_ms=uploaded_ms,
    )
    version = versions.add(transaction, bucket, new, hazard_seed)
    remove(transaction, upload)
    return version


def _described(attributes: Attributes, extra: Mapping[str, str]) -> Attributes:
    return replace(attributes, extra={**attributes.extra, **extra})


def combined_etag(etags: Sequence[str]) -> str:
    """The ETag of an assembled object: the MD5 of its parts' MD5s, and their number."""
    joined = hashlib.md5(b"".join(bytes.fromhex(etag) for etag in etags), usedforsecurity=False)
    return f"{joined.hexdigest()}-{len(etags)}"


def remove(transaction: Transaction, upload: UploadRow) -> None:
    """Forget an upload; contents that only its parts referred to go with it."""
    connection = transaction.connection
    rows = connection.execute("DELETE FROM parts WHERE upload = ? RETURNING content", (upload.fid,)).fetchall()
    connection.execute("DELETE FROM uploads WHERE fid = ?", (upload.fid,))
    for (content,) in rows:
        release(transaction, content)


def _completed(connection: sqlite3.Connection, upload_id: str, key: str | None) -> VersionRow | None:
    """The version that an earlier completion made: the answer to a repeated call whose first answer was lost."""
    try:
        row = versions.find_anywhere(connection, upload_id)
    except NotFound:
        return None
    if row.is_hide_marker or "-" not in row.etag or key not in (None, row.key):
        return None
    return row


def _choose(uploaded: Sequence[PartRow], claims: Sequence[PartClaim], limits: Limits) -> list[PartRow]:
    """The parts that make up the object.  Raises InvalidPart, InvalidPartOrder, EntityTooSmall, EntityTooLarge."""
    by_number = {part.number: part for part in uploaded}
    if not claims:
        raise InvalidPart("completion names no part")
    chosen = []
    before = 0
    for claim in claims:
        if claim.number <= before:
            raise InvalidPartOrder("the parts are not in ascending order")
        before = claim.number
        part = by_number.get(claim.number)
        if part is None or claim.etag not in (None, part.etag):
            raise InvalidPart(f"part {claim.number} was not uploaded, or is another one")
        chosen.append(part)
    for part in chosen[:-1]:
        if part.size < limits.min_part_bytes:
            raise EntityTooSmall(part.number, part.size, limits.min_part_bytes)
    if sum(part.size for part in chosen) > limits.max_object_bytes:
        raise EntityTooLarge("the object would be larger than the largest allowed")
    return chosen
