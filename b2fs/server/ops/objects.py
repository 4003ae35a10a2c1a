"""Objects: put, get, head, delete."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import trio

from b2fs.errors import B2fsError, NotFound
from b2fs.server.ops import conditions, encryption, headers, partsums
from b2fs.server.ops.call import Call, Reply
from b2fs.server.ops.conditions import DeleteConditions
from b2fs.server.ops.encryption import CustomerKey
from b2fs.server.ops.parts import SIZES, part_range
from b2fs.server.ops.readers import VersionStream
from b2fs.server.ops.translate import as_s3_error, missing_version
from b2fs.server.ops.uploads import MAX_PUT_BYTES, receive_body, wait_future
from b2fs.server.wire.errors import S3Error
from b2fs.store.embedded.content import ContentWriter
from b2fs.store.embedded.engine import Engine
from b2fs.store.embedded.rows import Attributes, Encryption, LockSpec, VersionRow

MAX_DELETES: Final = 1000
#: Bodies that the engine keeps in its database: committing one does no disk I/O in the calling thread.
INLINE_BYTES: Final = 32 << 10


def choose_encryption(call: Call) -> tuple[Encryption | None, CustomerKey | None, dict[str, str]]:
    """How a new version is encrypted, the customer's key if any, and what to keep for decrypting."""
    managed = encryption.managed(call.params)
    customer = encryption.customer_key(call.params)
    if customer is not None:
        return customer.encryption, customer, encryption.new_secrets(customer)
    return managed or headers.default_encryption(call.bucket), None, {}


def version_values(row: VersionRow) -> dict[str, Any]:
    """What every answer that made or shows a version says."""
    return {"ETag": f'"{row.etag}"', "VersionId": row.version_id}


# --- PutObject


async def put_object(call: Call) -> Reply:
    """Make a new version from the request's body."""
    headers.refuse_conditions(call)
    headers.check_upload_headers(call)
    lock = headers.lock_spec(call)
    headers.require_digest_for_lock(call, lock)
    chosen, customer, extra = choose_encryption(call)
    attributes = headers.attributes_of(call, chosen, extra)
    md5 = headers.content_md5(call)
    cipher = None
    if customer is not None:
        cipher = encryption.stream_cipher(customer.key, bytes.fromhex(extra[encryption.NONCE]))
    received = await receive_body(call.request, call.verified, call.engine, limit=MAX_PUT_BYTES, md5=md5, cipher=cipher)
    if received.checksums:
        kept = {**extra, **{partsums.SUM + name: text for name, text in received.checksums}}
        attributes = replace(attributes, extra=kept)
    row = await store_version(call.engine, call.bucket.id, call.name, received.body, attributes, lock)
    values = version_values(row) | headers.encryption_values(row.attributes.encryption)
    return Reply(values | partsums.version_values(attributes.extra))


async def store_version(
    engine: Engine,
    bucket: int,
    name: str,
    body: bytes | ContentWriter,
    attributes: Attributes,
    lock: LockSpec,
    uploaded_ms: int | None = None,
) -> VersionRow:
    """Commit a received body.  uploaded_ms: see Engine.put.

    The ETag is made from the stored bytes: of a body that a customer's key encrypts, it tells nothing.
    """
    if isinstance(body, bytes) and len(body) <= INLINE_BYTES:
        return await wait_future(engine.put_nowait(bucket, name, body, attributes, lock=lock, uploaded_ms=uploaded_ms))
    # A larger body is synced by the thread that puts it, which must not be the event loop's.
    return await trio.to_thread.run_sync(
        lambda: engine.put(bucket, name, body, attributes, lock=lock, uploaded_ms=uploaded_ms)
    )


# --- GetObject, HeadObject


def _values(call: Call, row: VersionRow, attributes: Attributes) -> dict[str, Any]:
    values = (
        version_values(row)
        | {"AcceptRanges": "bytes", "LastModified": row.modified_ms // 1000 * 1000}
        | headers.encryption_values(attributes.encryption)
        | headers.lock_values(call, row)
    )
    whole = "range" not in call.request.headers and not ("PartNumber" in call.params and SIZES in attributes.extra)
    if call.params.get("ChecksumMode") == "ENABLED" and whole:
        values |= partsums.version_values(attributes.extra)
    return values


def _describe(call: Call, row: VersionRow) -> tuple[Reply, int, int, CustomerKey | None]:
    """The head of an answer to GET or HEAD, the range [start, end) of its body, and the key to decrypt it."""
    attributes = row.attributes
    headers.refuse_managed_encryption(call)
    request_headers = call.request.headers
    number = call.params.get("PartNumber")
    part = part_range(row, number) if number is not None else None
    customer = encryption.customer_key(call.params)
    encryption.check_key(attributes.encryption, attributes.extra, customer)
    conditions.check(conditions.from_headers(request_headers), row.etag, row.modified_ms)
    values = _values(call, row, attributes)
    shown = headers.object_headers(attributes, headers.header_overrides(call))
    if part is not None:
        if "range" in request_headers:
            raise S3Error("InvalidRequest", "Cannot specify both Range header and partNumber query parameter")
        values["PartsCount"] = part.count
        window: tuple[int, int] | None = (part.start, part.end)
    else:
        window = conditions.parse_range(request_headers.get("range"), row.size)
    start, end = window if window is not None else (0, row.size)
    values["ContentLength"] = end - start
    status = 200
    if window is not None and row.size:
        status = 206
        shown.append(("content-range", f"bytes {start}-{end - 1}/{row.size}"))
    return Reply(values, status, tuple(shown)), start, end, customer


def head_object(call: Call) -> Reply:
    """What GetObject would say, without the body."""
    version_id = call.version_id
    try:
        row = call.engine.head(call.bucket.id, call.name, version_id)
    except NotFound as error:
        raise missing_version(error, version_id) from error
    return _describe(call, row)[0]


def get_object(call: Call) -> Reply:
    """One version, whole, a range or a part."""
    version_id = call.version_id
    try:
        row, reader = call.engine.open(call.bucket.id, call.name, version_id)
    except NotFound as error:
        raise missing_version(error, version_id) from error
    try:
        reply, start, end, customer = _describe(call, row)
    except BaseException:
        reader.close()
        raise
    return replace(reply, stream=VersionStream(row, reader, start, end, customer))


# --- DeleteObject, DeleteObjects


def _bypass(call: Call) -> bool:
    """Whether governance retention is to be passed by.  Raises AccessDenied without the capability."""
    if not call.params.get("BypassGovernanceRetention"):
        return False
    call.require("bypassGovernance")
    return True


def _remove(
    call: Call, name: str, version_id: str | None, *, bypass: bool, expected: DeleteConditions
) -> dict[str, Any]:
    """Hide a name, or remove one version: the members that both answers show.  Raises PreconditionFailed."""
    check = expected.check if expected.any else None
    if version_id is None:
        marker = call.engine.hide(call.bucket.id, name, check=check)
        return {"DeleteMarker": True, "VersionId": marker.version_id}
    done = call.engine.delete_version(call.bucket.id, name, version_id, bypass_governance=bypass, check=check)
    values: dict[str, Any] = {"VersionId": version_id}
    if done.was_hide_marker:
        values["DeleteMarker"] = True
    return values


def delete_object(call: Call) -> Reply:
    """Hide the name, or remove the version that is named, if it is as expected."""
    expected = DeleteConditions.of(call.params, "IfMatch", "IfMatchLastModifiedTime", "IfMatchSize")
    return Reply(_remove(call, call.name, call.version_id, bypass=_bypass(call), expected=expected))


def delete_objects(call: Call) -> Reply:
    """Up to 1,000 removals, each with its own result."""
    order = call.params["Delete"]
    targets = order["Objects"]
    if not 1 <= len(targets) <= MAX_DELETES:
        raise S3Error("MalformedXML")
    bypass = _bypass(call)
    deleted, failed = [], []
    for target in targets:
        name, version_id = target["Key"], target.get("VersionId") or None
        expected = DeleteConditions.of(target, "ETag", "LastModifiedTime", "Size")
        try:
            deleted.append(_delete_one(call, name, version_id, bypass=bypass, expected=expected))
        except B2fsError as error:
            seen = as_s3_error(error)
            failed.append({"Key": name, "VersionId": version_id, "Code": seen.code, "Message": str(seen)})
    return Reply({"Deleted": [] if order.get("Quiet") else deleted, "Errors": failed})


def _delete_one(
    call: Call, name: str, version_id: str | None, *, bypass: bool, expected: DeleteConditions
) -> dict[str, Any]:
    capability = "writeFiles" if version_id is None else "deleteFiles"
    if call.key is None or not call.key.allows(capability, call.bucket.bucket_id, name):
        raise S3Error("AccessDenied", "not entitled")
    done = _remove(call, name, version_id, bypass=bypass, expected=expected)
    result: dict[str, Any] = {"Key": name, "VersionId": version_id}
    if done.get("DeleteMarker"):
        result |= {"DeleteMarker": True, "DeleteMarkerVersionId": done["VersionId"]}
    return result
