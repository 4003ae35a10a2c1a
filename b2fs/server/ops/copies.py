"""Copies: CopyObject, and the sources of copied parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from b2fs.errors import NotFound
from b2fs.server.auth import checksums
from b2fs.server.ops import conditions, encryption, headers, partsums
from b2fs.server.ops.access import may_read
from b2fs.server.ops.call import Call, Reply
from b2fs.server.ops.encryption import CustomerKey
from b2fs.server.ops.objects import choose_encryption
from b2fs.server.ops.readers import VersionStream
from b2fs.server.ops.translate import missing_version
from b2fs.server.ops.uploads import MAX_PUT_BYTES
from b2fs.server.wire.errors import S3Error
from b2fs.server.wire.parse import split_copy_source
from b2fs.store.embedded.content import ContentReader
from b2fs.store.embedded.rows import Attributes, BucketRow, LockSpec, VersionRow


def open_source(call: Call) -> tuple[BucketRow, VersionRow, ContentReader]:
    """The version that x-amz-copy-source names, opened; all checks of a source are done.

    Raises NoSuchBucket, NoSuchKey, NoSuchVersion, AccessDenied, PreconditionFailed, InvalidRequest.
    """
    bucket_name, name, version_id = split_copy_source(call.request.headers["x-amz-copy-source"])
    bucket = call.engine.bucket(bucket_name)
    expected = call.params.get("ExpectedSourceBucketOwner", bucket.owner)
    if expected != bucket.owner or not may_read(bucket, call.key, name):
        raise S3Error("AccessDenied")
    try:
        row, reader = call.engine.open(bucket.id, name, version_id)
    except NotFound as error:
        found = missing_version(error, version_id)
        if found.code == "MethodNotAllowed":
            raise S3Error(
                "InvalidRequest",
                "The source of a copy request may not specifically refer to a delete marker by version id.",
            ) from error
        raise found from error
    try:
        attributes = row.attributes
        encryption.check_key(
            attributes.encryption, attributes.extra, encryption.customer_key(call.params, "CopySource")
        )
        wanted = conditions.from_headers(call.request.headers, "x-amz-copy-source-")
        conditions.check(wanted, row.etag, row.modified_ms, for_copy=True)
    except BaseException:
        reader.close()
        raise
    return bucket, row, reader


def _copy_directive(call: Call) -> bool:
    """Whether the copy gets new metadata.  There are no tags that could be copied or replaced.

    Raises InvalidArgument.
    """
    for name in ("Metadata", "Tagging"):
        if call.params.get(f"{name}Directive", "COPY") not in ("COPY", "REPLACE"):
            raise S3Error("InvalidArgument", f"Unknown {name.lower()} directive.")
    return bool(call.params.get("MetadataDirective") == "REPLACE")


def _check_self_copy(call: Call, source_bucket: BucketRow, row: VersionRow, *, changes: bool) -> None:
    same = source_bucket.id == call.bucket.id and row.key == call.name and row.is_latest
    if same and not changes:
        raise S3Error(
            "InvalidRequest",
            "This copy request is illegal because it is trying to copy an object to itself without changing the "
            "object's metadata, storage class, website redirect location or encryption attributes.",
        )


def _sums(call: Call, source: VersionRow, reader: ContentReader) -> dict[str, str]:
    """The checksum that the request asks for, or else those of the source, as a version keeps them.

    Raises InvalidRequest.
    """
    kept = {name: text for name, text in source.attributes.extra.items() if name.startswith(partsums.SUM)}
    asked = call.params.get("ChecksumAlgorithm")
    if asked is None:
        return kept
    name = str(asked).lower()
    if name not in checksums.NAMES:
        raise S3Error("InvalidRequest", "Checksum algorithm provided is unsupported.")
    text = kept.get(partsums.SUM + name)
    if text is None or partsums.kind_of(text) != partsums.FULL:
        source_key = encryption.customer_key(call.params, "CopySource")
        stream = VersionStream(source, reader, 0, source.size, source_key)
        text = checksums.text_of(name, iter(stream.read, b""))
    return {partsums.SUM + name: text}


def copy_object(call: Call) -> Reply:
    """Make a new version from another one.

    Bytes move only where encryption with customer keys asks for it, and are read for a checksum that the source lacks.
    """
    headers.refuse_conditions(call)
    headers.check_upload_headers(call)
    lock = headers.lock_spec(call)
    replaces = _copy_directive(call)
    source_bucket, source, reader = open_source(call)
    with reader:
        if source.size > MAX_PUT_BYTES:
            raise S3Error("InvalidRequest", "The specified copy source is larger than the maximum allowable size for a "
                "copy source: 5000000000")  # fmt: skip
        chosen, customer, extra = choose_encryption(call)
        asks_encryption = encryption.managed(call.params) is not None or customer is not None
        named = "versionId=" in call.request.headers["x-amz-copy-source"]
        _check_self_copy(call, source_bucket, source, changes=replaces or asks_encryption or named)
        old = source.attributes
        extra |= _sums(call, source, reader)
        if replaces:
            attributes = headers.attributes_of(call, chosen, extra)
        else:
            attributes = replace(old, encryption=chosen, extra=extra)
        row = _copy_bytes(call, source_bucket, source, reader, attributes, customer, lock)
    result = {"ETag": f'"{row.etag}"', "LastModified": row.modified_ms // 1000 * 1000}
    shown = result | partsums.version_values(attributes.extra)
    values: dict[str, Any] = {"CopyObjectResult": shown, "VersionId": row.version_id}
    values["CopySourceVersionId"] = source.version_id
    return Reply(values | headers.encryption_values(attributes.encryption))


def _copy_bytes(
    call: Call,
    source_bucket: BucketRow,
    source: VersionRow,
    reader: ContentReader,
    attributes: Attributes,
    customer: CustomerKey | None,
    lock: LockSpec,
) -> VersionRow:
    source_key = encryption.customer_key(call.params, "CopySource")
    engine = call.engine
    if source_key is None and customer is None:
        return engine.copy(
            source_bucket.id, source.key, source.version_id, call.bucket.id, call.name, attributes=attributes, lock=lock
        )
    stream = VersionStream(source, reader, 0, source.size, source_key)
    with engine.writer() as writer:
        cipher = None
        if customer is not None:
            cipher = encryption.stream_cipher(customer.key, bytes.fromhex(attributes.extra[encryption.NONCE]))
        while piece := stream.read():
            writer.write(cipher.update(piece) if cipher is not None else piece)
        return engine.put(call.bucket.id, call.name, writer, attributes, lock=lock)
