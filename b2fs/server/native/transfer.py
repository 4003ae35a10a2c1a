"""Bodies of the native API: uploads of files and parts, downloads by ID and by name."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import quote, unquote

import trio
from cryptography.hazmat.primitives.ciphers import CipherContext

from b2fs.errors import NotFound
from b2fs.server.auth.checksums import Checksum
from b2fs.server.native.context import Json, NativeCall
from b2fs.server.native.errors import NativeError, bad_request
from b2fs.server.native.large import find_upload, part_json
from b2fs.server.native.settings import (
    check_source_key,
    chosen_encryption,
    customer_from_headers,
    info_from_headers,
    lock_from_headers,
    uploaded_ms_of,
)
from b2fs.server.native.shapes import SHA1, attributes_from, file_json, info_of, replication_status
from b2fs.server.native.tokens import Token
from b2fs.server.ops import conditions, encryption
from b2fs.server.ops.objects import store_version
from b2fs.server.ops.readers import VersionStream
from b2fs.server.ops.uploads import MAX_PART_BYTES, MAX_PUT_BYTES, Received, receive_body
from b2fs.server.service import Answer
from b2fs.server.wire.errors import S3Error
from b2fs.server.wire.request import Body, PiecewiseBody, Request
from b2fs.server.wire.times import http_date
from b2fs.store.embedded.engine import Engine
from b2fs.store.embedded.rows import BucketRow, VersionRow, readable

_DIGEST_CHARS: Final = 40
#: Parameters of a download that replace headers of the answer.
_OVERRIDES: Final = {
    "b2CacheControl": "cache-control",
    "b2ContentDisposition": "content-disposition",
    "b2ContentEncoding": "content-encoding",
    "b2ContentLanguage": "content-language",
    "b2ContentType": "content-type",
    "b2Expires": "expires",
}


class _DigestAtEnd(PiecewiseBody):
    """A body whose last 40 bytes are the hexadecimal SHA-1 of what stands before."""

    def __init__(self, body: Body, checksum: Checksum) -> None:
        super().__init__()
        self._body = body
        self._checksum = checksum
        self._held = b""

    async def receive(self) -> bytes:
        while data := await self._body.receive():
            data = self._held + data
            self._held = data[-_DIGEST_CHARS:]
            if len(data) > _DIGEST_CHARS:
                return data[:-_DIGEST_CHARS]
        try:
            self._checksum.declare_digest(bytes.fromhex(self._held.decode("ascii")))
        except ValueError as error:
            raise bad_request("the body does not end with a SHA-1") from error
        return b""


async def _receive(request: Request, engine: Engine, limit: int, cipher: CipherContext | None) -> tuple[Received, str]:
    """The body, checked against its SHA-1, and that SHA-1 in hex."""
    declared = request.headers.get("x-bz-content-sha1")
    if declared is None:
        raise bad_request("Missing header: X-Bz-Content-Sha1")
    checksum = Checksum("sha1")
    if declared == "hex_digits_at_end":
        length = request.content_length
        if length is None or length < _DIGEST_CHARS:
            raise bad_request("the body is shorter than its SHA-1")
        headers = {**request.headers, "content-length": str(length - _DIGEST_CHARS)}
        request = replace(request, headers=headers, body=_DigestAtEnd(request.body, checksum))
    elif declared == "do_not_verify" or declared.startswith("unverified:"):
        checksum.declare_digest(None)
    else:
        try:
            checksum.declare_digest(bytes.fromhex(declared))
        except ValueError as error:
            raise bad_request("X-Bz-Content-Sha1 is no SHA-1") from error
    try:
        received = await receive_body(request, None, engine, limit=limit, cipher=cipher, checksums=[checksum])
    except S3Error as error:
        if error.code == "BadDigest":
            raise bad_request("Checksum did not match data received") from error
        raise
    return received, checksum.hex


async def upload_file(call: NativeCall, token: Token, request: Request) -> Json:
    """b2_upload_file."""
    headers = request.headers
    name = unquote(headers.get("x-bz-file-name", ""))
    bucket = call.bucket_of(token.bucket_id, "writeFiles", name)
    customer = customer_from_headers(headers)
    chosen, extra = chosen_encryption(bucket, customer, "x-bz-server-side-encryption" in headers)
    lock = lock_from_headers(call, bucket, headers)
    uploaded_ms = uploaded_ms_of(headers.get("x-bz-custom-upload-timestamp"))
    cipher = None
    if customer is not None:
        cipher = encryption.stream_cipher(customer.key, bytes.fromhex(extra[encryption.NONCE]))
    received, sha1 = await _receive(request, call.engine, MAX_PUT_BYTES, cipher)
    content_type = headers.get("content-type", "b2/x-auto")
    attributes = attributes_from(content_type, info_from_headers(headers), chosen, {**extra, SHA1: sha1})
    row = await store_version(call.engine, bucket.id, name, received.body, attributes, lock, uploaded_ms)
    return file_json(call.key, bucket, row)


async def upload_part(call: NativeCall, token: Token, request: Request) -> Json:
    """b2_upload_part."""
    bucket, upload = find_upload(call, token.name)
    number_text = request.headers.get("x-bz-part-number", "")
    if not number_text.isdigit() or not 1 <= int(number_text) <= 10_000:
        raise bad_request("X-Bz-Part-Number must be a number from 1 to 10000")
    customer = customer_from_headers(request.headers)
    encryption.check_key(upload.attributes.encryption, upload.attributes.extra, customer)
    nonce = secrets.token_bytes(16)
    cipher = encryption.stream_cipher(customer.key, nonce) if customer is not None else None
    received, sha1 = await _receive(request, call.engine, MAX_PART_BYTES, cipher)
    extra = {SHA1: sha1} | ({"nonce": nonce.hex()} if customer is not None else {})
    part = await trio.to_thread.run_sync(
        lambda: call.engine.put_part(bucket.id, None, upload.upload_id, int(number_text), received.body, extra=extra)
    )
    return part_json(call, upload, part)


# --- downloads


def _headers(bucket: BucketRow, row: VersionRow, params: Mapping[str, str]) -> list[tuple[str, str]]:
    attributes = row.attributes
    found = [
        ("x-bz-file-name", quote(row.key, safe="/-_.~!$'()*;=:@")),
        ("x-bz-file-id", row.version_id),
        ("x-bz-content-sha1", attributes.extra.get(SHA1) or "none"),
        ("x-bz-upload-timestamp", str(row.modified_ms)),
        ("accept-ranges", "bytes"),
        ("last-modified", http_date(row.modified_ms // 1000)),
    ]
    shown = {"content-type": attributes.headers.content_type or "application/octet-stream"}
    for name, value in info_of(attributes).items():
        if name.startswith("b2-"):
            shown[name.removeprefix("b2-")] = value
        else:
            found.append((f"x-bz-info-{name}", quote(readable(value), safe="/-_.~!$'()*;=:@")))
    for field in (
        "Content-Disposition",
        "Content-Language",
        "Expires",
        "Cache-Control",
        "Content-Encoding",
        "Content-Type",
    ):
        param = "b2" + field.replace("-", "")
        if param in params:
            shown[field.lower()] = params[param]
    if attributes.encryption is not None:
        if attributes.encryption.customer_key_md5 is None:
            found.append(("x-bz-server-side-encryption", attributes.encryption.algorithm))
        else:
            found.append(("x-bz-server-side-encryption-customer-algorithm", attributes.encryption.algorithm))
            found.append(("x-bz-server-side-encryption-customer-key-md5", attributes.encryption.customer_key_md5))
    retention = row.retention
    if retention is not None:
        found.append(("x-bz-file-retention-mode", retention.mode.value.lower()))
        found.append(("x-bz-file-retention-retain-until-timestamp", str(retention.until_ms)))
    if row.legal_hold is not None:
        found.append(("x-bz-file-legal-hold", "on" if row.legal_hold else "off"))
    replication = replication_status(bucket, row)
    if replication is not None:
        found.append(("x-bz-replication-status", replication))
    return [*found, *shown.items()]


def download(engine: Engine, bucket: BucketRow, name: str, file_id: str | None, request: Request) -> Answer:
    """A version, whole or a range; access has been checked."""
    customer = customer_from_headers(request.headers)
    try:
        row, reader = engine.open(bucket.id, name, file_id)
    except NotFound as error:
        raise NativeError(404, "not_found", f"File with such name does not exist: {name}") from error
    try:
        check_source_key(row.attributes, customer)
        span = conditions.parse_range(request.headers.get("range"), row.size)
        found = _headers(bucket, row, request.params)
    except BaseException:
        reader.close()
        raise
    start, end = span or (0, row.size)
    if span is not None:
        found.append(("content-range", f"bytes {start}-{end - 1}/{row.size}"))
    found.append(("content-length", str(end - start)))
    stream = VersionStream(row, reader, start, end, customer)
    return Answer(206 if span is not None else 200, found, stream)
