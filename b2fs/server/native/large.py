"""Large files of the native API: the same multipart uploads as on the S3 side."""

from __future__ import annotations

import secrets
from typing import Final

from b2fs.server.native.context import Json, NativeCall
from b2fs.server.native.errors import NativeError, bad_request
from b2fs.server.native.settings import (
    check_source_key,
    chosen_encryption,
    customer_from_json,
    info_from_json,
    is_managed,
    lock_from_json,
    uploaded_ms_of,
)
from b2fs.server.native.shapes import SHA1, attributes_from, file_json, upload_json
from b2fs.server.native.tokens import Purpose
from b2fs.server.ops import encryption
from b2fs.server.ops.conditions import parse_range
from b2fs.server.ops.multipart import PART_NONCE, describe_parts
from b2fs.server.ops.readers import VersionStream
from b2fs.store.embedded.rows import BucketRow, PartClaim, PartRow, UploadRow
from b2fs.store.embedded.versionid import parse_version_id

_MIN_PARTS: Final = 2
#: Entry of an upload's `extra`: when the uploader says that the file was uploaded.
UPLOADED: Final = "uploaded_ms"


def find_upload(call: NativeCall, file_id: str, capability: str = "writeFiles") -> tuple[BucketRow, UploadRow]:
    """An unfinished large file of the caller.  Raises bad_request."""
    parsed = parse_version_id(file_id)
    if parsed is None:
        raise bad_request(f"invalid fileId: {file_id}")
    bucket = call.bucket_of(parsed.bucket_id, capability)
    upload = call.engine.upload(bucket.id, None, file_id)
    call.require(capability, bucket.bucket_id, upload.key)
    return bucket, upload


def start_large_file(call: NativeCall) -> Json:
    """Begin; the file's ID is that of the version to be."""
    name = call.text("fileName")
    bucket = call.bucket("writeFiles", name)
    setting = call.mapping("serverSideEncryption")
    customer = customer_from_json(setting)
    chosen, extra = chosen_encryption(bucket, customer, is_managed(setting))
    info = info_from_json(call.body.get("fileInfo"))
    if "large_file_sha1" in info:
        extra = {**extra, SHA1: info["large_file_sha1"]}
    # The second spelling is that of Backblaze's own library.
    given = call.body.get("customUploadTimestamp", call.body.get("custom_upload_timestamp"))
    uploaded_ms = uploaded_ms_of(given)
    if uploaded_ms is not None:
        extra = {**extra, UPLOADED: str(uploaded_ms)}
    attributes = attributes_from(call.text("contentType"), info, chosen, extra)
    row = call.engine.create_upload(bucket.id, name, attributes, lock=lock_from_json(call, bucket))
    return upload_json(call.key, bucket, row)


def part_json(call: NativeCall, upload: UploadRow, part: PartRow) -> Json:
    """A part that was uploaded or copied."""
    return {
        "fileId": upload.upload_id,
        "partNumber": part.number,
        "contentLength": part.size,
        "contentSha1": part.extra.get(SHA1),
        "contentMd5": part.etag if PART_NONCE not in part.extra else None,
        "uploadTimestamp": part.modified_ms,
    }


def list_parts(call: NativeCall) -> Json:
    """Parts from startPartNumber on."""
    bucket, upload = find_upload(call, call.text("fileId"))
    start = call.number("startPartNumber", 1, most=10_000)
    count = call.number("maxPartCount", 100, most=1000)
    rows = call.engine.list_parts(bucket.id, None, upload.upload_id, after=start - 1, max_parts=count + 1)
    return {
        "parts": [part_json(call, upload, row) for row in rows[:count]],
        "nextPartNumber": rows[count].number if len(rows) > count else None,
    }


def list_unfinished(call: NativeCall) -> Json:
    """Large files that were started and neither finished nor cancelled."""
    prefix = call.optional_text("namePrefix") or ""
    bucket = call.bucket("listFiles", prefix)
    count = call.number("maxFileCount", 100, most=100)
    start_id = call.optional_text("startFileId")
    first: list[UploadRow] = []
    if start_id:
        first = [find_upload(call, start_id, "listFiles")[1]]
    page = call.engine.list_uploads(
        bucket.id,
        prefix,
        key_marker=first[0].key if first else None,
        upload_marker=start_id or None,
        max_uploads=count + 1,
    )
    rows = first + page.rows
    return {
        "files": [upload_json(call.key, bucket, row) for row in rows[:count]],
        "nextFileId": rows[count].upload_id if len(rows) > count else None,
    }


def finish_large_file(call: NativeCall) -> Json:
    """Make the parts one version; the SHA-1s prove that they are the ones that were meant."""
    bucket, upload = find_upload(call, call.text("fileId"))
    digests = call.body.get("partSha1Array")
    if not isinstance(digests, list) or not digests:
        raise bad_request("partSha1Array must be a list that is not empty")
    if len(digests) < _MIN_PARTS:
        raise bad_request(f"large files must have at least {_MIN_PARTS} parts")
    parts = call.engine.list_parts(bucket.id, None, upload.upload_id)
    by_number = {part.number: part for part in parts}
    for number, digest in enumerate(digests, 1):
        part = by_number.get(number)
        if part is None:
            raise NativeError(400, "missing_part", f"part number {number} has not been uploaded")
        known = part.extra.get(SHA1)
        if known is not None and known != digest:
            raise NativeError(400, "part_sha1_mismatch", f"sha1 for part {number} does not match")
    if len(parts) > len(digests):
        raise bad_request("partSha1Array does not name all parts")
    claims = [PartClaim(number) for number in range(1, len(digests) + 1)]
    uploaded = upload.attributes.extra.get(UPLOADED)
    row = call.engine.complete_upload(
        bucket.id,
        None,
        upload.upload_id,
        claims,
        describe=describe_parts,
        uploaded_ms=int(uploaded) if uploaded is not None else None,
    )
    return file_json(call.key, bucket, row)


def cancel_large_file(call: NativeCall) -> Json:
    """Drop the parts."""
    bucket, upload = find_upload(call, call.text("fileId"))
    call.engine.abort_upload(bucket.id, None, upload.upload_id)
    return {
        "accountId": bucket.owner,
        "bucketId": bucket.bucket_id,
        "fileId": upload.upload_id,
        "fileName": upload.key,
    }


def copy_part(call: NativeCall) -> Json:
    """Make a part from a version or a range of it."""
    source_bucket, source = call.version_of(call.text("sourceFileId"), "readFiles")
    bucket, upload = find_upload(call, call.text("largeFileId"))
    number = call.number("partNumber", most=10_000)
    source_key = customer_from_json(call.mapping("sourceServerSideEncryption"))
    check_source_key(source.attributes, source_key)
    customer = customer_from_json(call.mapping("destinationServerSideEncryption"))
    encryption.check_key(upload.attributes.encryption, upload.attributes.extra, customer)
    start, end = parse_range(call.optional_text("range"), source.size) or (0, source.size)
    engine = call.engine
    if source_key is None and customer is None:
        part = engine.copy_part(
            bucket.id, None, upload.upload_id, number, source_bucket.id, source.key, source.version_id, start, end
        )
        return part_json(call, upload, part)
    _, reader = engine.open(source_bucket.id, source.key, source.version_id)
    nonce = secrets.token_bytes(16)
    cipher = encryption.stream_cipher(customer.key, nonce) if customer is not None else None
    with reader, engine.writer() as writer:
        stream = VersionStream(source, reader, start, end, source_key)
        while piece := stream.read():
            writer.write(cipher.update(piece) if cipher is not None else piece)
        extra = {PART_NONCE: nonce.hex()} if customer is not None else None
        part = engine.put_part(bucket.id, None, upload.upload_id, number, writer, extra=extra)
    return part_json(call, upload, part)


def get_upload_url(call: NativeCall) -> Json:
    """Where to upload files of a bucket, for 24 hours."""
    bucket = call.bucket("writeFiles")
    token = call.tokens.issue(Purpose.UPLOAD, call.key, bucket_id=bucket.bucket_id)
    url = f"{call.base_url}/b2api/v{call.version}/b2_upload_file/{bucket.bucket_id}/{secrets.token_hex(8)}"
    return {"authorizationToken": token, "bucketId": bucket.bucket_id, "uploadUrl": url}


def get_upload_part_url(call: NativeCall) -> Json:
    """Where to upload parts of a large file, for 24 hours."""
    bucket, upload = find_upload(call, call.text("fileId"))
    token = call.tokens.issue(Purpose.PART, call.key, bucket_id=bucket.bucket_id, name=upload.upload_id)
    url = f"{call.base_url}/b2api/v{call.version}/b2_upload_part/{upload.upload_id}/{secrets.token_hex(8)}"
    return {"authorizationToken": token, "fileId": upload.upload_id, "uploadUrl": url}
