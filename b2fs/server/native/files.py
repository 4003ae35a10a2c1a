"""Files of the native API: listing, hiding, deleting, copying, locking."""

from __future__ import annotations

from typing import Any

from b2fs.errors import Locked, NotFound
from b2fs.server.native.context import Json, NativeCall
from b2fs.server.native.errors import NativeError, bad_request
from b2fs.server.native.names import just_before
from b2fs.server.native.settings import (
    check_source_key,
    chosen_encryption,
    customer_from_json,
    info_from_json,
    is_managed,
    lock_from_json,
    retention_from,
)
from b2fs.server.native.shapes import SHA1, attributes_from, file_json, folder_json
from b2fs.server.native.tokens import Purpose
from b2fs.server.ops import encryption
from b2fs.server.ops.conditions import parse_range
from b2fs.server.ops.parts import SIZES
from b2fs.server.ops.readers import VersionStream
from b2fs.store.embedded.errors import IsHideMarker
from b2fs.store.embedded.rows import Attributes, BucketRow, VersionRow

_MAX_PAGE = 10_000
_MAX_AUTHORIZATION_S = 604_800


def _merge(call: NativeCall, bucket: BucketRow, rows: list[VersionRow], prefixes: list[str]) -> list[Json]:
    """Files and folders in name order; a folder stands where its first name would."""
    found = [(row.key, file_json(call.key, bucket, row)) for row in rows]
    found += [(prefix, folder_json(bucket, prefix)) for prefix in prefixes]
    # Sorting is stable, so the versions of one name keep their order.
    return [shown for _, shown in sorted(found, key=lambda item: item[0])]


def list_file_names(call: NativeCall) -> Json:
    """Current files from startFileName on."""
    prefix = call.optional_text("prefix") or ""
    bucket = call.bucket("listFiles", prefix)
    count = call.number("maxFileCount", 100, most=_MAX_PAGE)
    page = call.engine.list_objects(
        bucket.id,
        prefix,
        delimiter=call.optional_text("delimiter") or None,
        start_after=just_before(call.optional_text("startFileName") or ""),
        max_keys=count + 1,
    )
    found = _merge(call, bucket, page.rows, page.prefixes)
    return {"files": found[:count], "nextFileName": found[count]["fileName"] if len(found) > count else None}


def list_file_versions(call: NativeCall) -> Json:
    """All versions from startFileName (and startFileId) on."""
    prefix = call.optional_text("prefix") or ""
    bucket = call.bucket("listFiles", prefix)
    count = call.number("maxFileCount", 100, most=_MAX_PAGE)
    start, start_id = call.optional_text("startFileName") or "", call.optional_text("startFileId")
    first: list[VersionRow] = []
    if start_id:
        row = call.engine.find_version(start_id)
        if row.key != start:
            raise bad_request("startFileId is no version of startFileName")
        first = [row]
    page = call.engine.list_versions(
        bucket.id,
        prefix,
        delimiter=call.optional_text("delimiter") or None,
        key_marker=start if first else just_before(start),
        version_marker=start_id or None,
        max_keys=count + 1,
    )
    found = _merge(call, bucket, first + page.rows, page.prefixes)
    following = found[count] if len(found) > count else None
    return {
        "files": found[:count],
        "nextFileName": following["fileName"] if following else None,
        "nextFileId": following["fileId"] if following else None,
    }


def get_file_info(call: NativeCall) -> Json:
    """One version by its ID."""
    bucket, row = call.version_of(call.text("fileId"), "readFiles")
    return file_json(call.key, bucket, row)


def hide_file(call: NativeCall) -> Json:
    """Add a hide marker to a file that is there."""
    name = call.text("fileName")
    bucket = call.bucket("writeFiles", name)
    try:
        call.engine.head(bucket.id, name)
    except IsHideMarker as error:
        raise NativeError(400, "already_hidden", f"File already hidden: {name}") from error
    except NotFound as error:
        raise NativeError(400, "no_such_file", f"File not present: {name}") from error
    return file_json(call.key, bucket, call.engine.hide(bucket.id, name))


def delete_file_version(call: NativeCall) -> Json:
    """Remove one version for good."""
    name, file_id = call.text("fileName"), call.text("fileId")
    try:
        row = call.engine.find_version(file_id)
    except NotFound as error:
        raise NativeError(400, "file_not_present", f"file_not_present: {name} {file_id}") from error
    bucket = call.bucket_of(row.bucket_id, "deleteFiles", name)
    if row.key != name:
        raise NativeError(400, "file_not_present", f"file_not_present: {name} {file_id}")
    bypass = call.flag("bypassGovernance")
    if bypass:
        call.require("bypassGovernance", bucket.bucket_id)
    try:
        call.engine.delete_version(bucket.id, name, file_id, bypass_governance=bypass)
    except Locked as error:
        raise NativeError(401, "access_denied", "Access Denied") from error
    return {"fileId": file_id, "fileName": name}


def _not_writable() -> NativeError:
    return NativeError(403, "access_denied", "the key may not write the lock of this file")


def _lockable(call: NativeCall, capability: str) -> tuple[BucketRow, VersionRow]:
    """The version whose lock is to be changed.  A key that may not is denied access here, not unauthorized."""
    try:
        return call.version_of(call.text("fileId"), capability)
    except NativeError as error:
        raise (_not_writable() if error.code == "unauthorized" else error) from error


def update_retention(call: NativeCall) -> Json:
    """Set, prolong, shorten or remove a version's retention."""
    bucket, row = _lockable(call, "writeFileRetentions")
    setting = call.mapping("fileRetention") or {}
    retention = retention_from(setting.get("mode"), setting.get("retainUntilTimestamp"))
    bypass = call.flag("bypassGovernance")
    if bypass and not call.key.allows("bypassGovernance", bucket.bucket_id):
        raise _not_writable()
    call.engine.set_retention(bucket.id, row.key, row.version_id, retention, bypass_governance=bypass)
    return {"fileId": row.version_id, "fileName": row.key, "fileRetention": dict(setting)}


def update_legal_hold(call: NativeCall) -> Json:
    """Switch a version's legal hold."""
    bucket, row = _lockable(call, "writeFileLegalHolds")
    hold = call.text("legalHold")
    if hold not in ("on", "off"):
        raise bad_request("legalHold must be on or off")
    call.engine.set_legal_hold(bucket.id, row.key, row.version_id, hold == "on")
    return {"fileId": row.version_id, "fileName": row.key, "legalHold": hold}


def get_download_authorization(call: NativeCall) -> Json:
    """A token for the files below a prefix."""
    prefix = call.text("fileNamePrefix")
    bucket = call.bucket("shareFiles", prefix)
    seconds = call.number("validDurationInSeconds", most=_MAX_AUTHORIZATION_S)
    token = call.tokens.issue(Purpose.DOWNLOAD, call.key, bucket_id=bucket.bucket_id, name=prefix, seconds=seconds)
    return {"authorizationToken": token, "bucketId": bucket.bucket_id, "fileNamePrefix": prefix}


def _destination(call: NativeCall, source_bucket: BucketRow, name: str) -> BucketRow:
    bucket_id = call.optional_text("destinationBucketId") or source_bucket.bucket_id
    return call.bucket_of(bucket_id, "writeFiles", name)


def _copied_attributes(call: NativeCall, source: VersionRow, chosen: Any, extra: dict[str, str]) -> Attributes:
    old = source.attributes
    kept = (
        {name: value for name, value in old.extra.items() if name in (SHA1, SIZES)} if "range" not in call.body else {}
    )
    directive = call.optional_text("metadataDirective") or "COPY"
    if directive == "REPLACE":
        info = info_from_json(call.body.get("fileInfo"))
        return attributes_from(call.text("contentType"), info, chosen, {**kept, **extra})
    if directive != "COPY" or call.body.get("fileInfo") is not None:
        raise bad_request("metadataDirective must be COPY without fileInfo, or REPLACE")
    return Attributes(old.headers, old.metadata, chosen, {**kept, **extra})


def copy_file(call: NativeCall) -> Json:
    """Make a new version from another one, or from a range of it."""
    source_bucket, source = call.version_of(call.text("sourceFileId"), "readFiles")
    name = call.text("fileName")
    bucket = _destination(call, source_bucket, name)
    source_key = customer_from_json(call.mapping("sourceServerSideEncryption"))
    check_source_key(source.attributes, source_key)
    setting = call.mapping("destinationServerSideEncryption")
    customer = customer_from_json(setting)
    chosen, extra = chosen_encryption(bucket, customer, is_managed(setting))
    attributes = _copied_attributes(call, source, chosen, extra)
    lock = lock_from_json(call, bucket)
    span = parse_range(call.optional_text("range"), source.size)
    engine = call.engine
    if span is None and source_key is None and customer is None:
        row = engine.copy(
            source_bucket.id, source.key, source.version_id, bucket.id, name, attributes=attributes, lock=lock
        )
        return file_json(call.key, bucket, row)
    start, end = span or (0, source.size)
    _, reader = engine.open(source_bucket.id, source.key, source.version_id)
    with reader, engine.writer() as writer:
        stream = VersionStream(source, reader, start, end, source_key)
        cipher = None
        if customer is not None:
            cipher = encryption.stream_cipher(customer.key, bytes.fromhex(extra[encryption.NONCE]))
        while piece := stream.read():
            writer.write(cipher.update(piece) if cipher is not None else piece)
        row = engine.put(bucket.id, name, writer, attributes, lock=lock)
    return file_json(call.key, bucket, row)
