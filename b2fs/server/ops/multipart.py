"""Multipart uploads."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import trio

from b2fs.errors import NoSuchUpload
from b2fs.server.ops import conditions, encryption, headers, partsums
from b2fs.server.ops.call import Call, Reply
from b2fs.server.ops.copies import open_source
from b2fs.server.ops.encryption import CustomerKey
from b2fs.server.ops.objects import choose_encryption, version_values
from b2fs.server.ops.parts import SIZES, encode_sizes
from b2fs.server.ops.readers import VersionStream
from b2fs.server.ops.uploads import MAX_PART_BYTES, receive_body
from b2fs.server.wire.errors import S3Error
from b2fs.server.wire.write import url_encode
from b2fs.store.embedded.rows import Encryption, PartClaim, PartRow, UploadRow

MAX_PARTS = 10_000
PART_NONCE = "nonce"


def create_upload(call: Call) -> Reply:
    """Start an upload; its ID is the version ID that completion will give."""
    headers.check_upload_headers(call)
    lock = headers.lock_spec(call)
    chosen, _, extra = choose_encryption(call)
    plan = partsums.Plan.of_params(call.params)
    attributes = headers.attributes_of(call, chosen, extra | (plan.extra if plan is not None else {}))
    row = call.engine.create_upload(call.bucket.id, call.name, attributes, lock=lock)
    values: dict[str, Any] = {"Bucket": call.bucket.name, "Key": call.name, "UploadId": row.upload_id}
    values |= plan.values if plan is not None else {}
    return Reply(values | headers.encryption_values(row.attributes.encryption))


def _part_number(call: Call) -> int:
    number: int = call.params["PartNumber"]
    if not 1 <= number <= MAX_PARTS:
        raise S3Error("InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
    return number


def _upload(call: Call) -> UploadRow:
    return call.engine.upload(call.bucket.id, call.name, call.params["UploadId"])


def _part_key(call: Call, upload: UploadRow) -> CustomerKey | None:
    """The customer's key of a part, which must be the upload's."""
    customer = encryption.customer_key(call.params)
    attributes = upload.attributes
    asked = attributes.encryption is not None and attributes.encryption.customer_key_md5 is not None
    if asked and customer is None:
        raise S3Error("InvalidRequest", "The multipart upload initiate requested encryption. Subsequent part requests "
            "must include the appropriate encryption parameters.")  # fmt: skip
    if customer is not None and not asked:
        raise S3Error("InvalidRequest", "The multipart upload initiate did not request encryption with this key.")
    encryption.check_key(attributes.encryption, attributes.extra, customer)
    return customer


async def upload_part(call: Call) -> Reply:
    """Keep the body as a part."""
    number = _part_number(call)
    upload = _upload(call)
    customer = _part_key(call, upload)
    md5 = headers.content_md5(call)
    nonce = secrets.token_bytes(16)
    cipher = encryption.stream_cipher(customer.key, nonce) if customer is not None else None
    plan = partsums.Plan.of_extra(upload.attributes.extra)
    sums = plan.checksums(call.request) if plan is not None else []
    received = await receive_body(
        call.request, call.verified, call.engine, limit=MAX_PART_BYTES, md5=md5, cipher=cipher, checksums=sums
    )
    extra = {PART_NONCE: nonce.hex()} if customer is not None else {}
    extra |= {partsums.SUM + name: text for name, text in received.checksums}
    etag = None
    if customer is not None:
        etag = encryption.part_etag(customer, upload.attributes.extra, received.md5)

    def keep() -> PartRow:
        return call.engine.put_part(
            call.bucket.id, call.name, upload.upload_id, number, received.body, etag=etag, extra=extra
        )

    part = await trio.to_thread.run_sync(keep)
    values: dict[str, Any] = {"ETag": f'"{part.etag}"'}
    shown = tuple((f"x-amz-checksum-{name}", text) for name, text in received.checksums)
    return Reply(values | headers.encryption_values(upload.attributes.encryption), headers=shown)


def upload_part_copy(call: Call) -> Reply:
    """Make a part from a range of a version."""
    number = _part_number(call)
    upload = _upload(call)
    customer = _part_key(call, upload)
    source_bucket, source, reader = open_source(call)
    with reader:
        text = call.params.get("CopySourceRange")
        start, end = conditions.parse_copy_range(text, source.size) if text is not None else (0, source.size)
        if end - start > MAX_PART_BYTES:
            raise S3Error("InvalidRequest", "The specified copy source is larger than the maximum allowable size for a "
                "copy source: 5368709120")  # fmt: skip
        source_key = encryption.customer_key(call.params, "CopySource")
        engine = call.engine
        if source_key is None and customer is None:
            part = engine.copy_part(
                call.bucket.id, call.name, upload.upload_id, number,
                source_bucket.id, source.key, source.version_id, start, end,
            )  # fmt: skip
        else:
            stream = VersionStream(source, reader, start, end, source_key)
            part = _encrypt_part(call, upload, number, stream, customer)
    result = {"ETag": f'"{part.etag}"', "LastModified": part.modified_ms}
    values: dict[str, Any] = {"CopyPartResult": result, "CopySourceVersionId": source.version_id}
    return Reply(values | headers.encryption_values(upload.attributes.encryption))


def _encrypt_part(
    call: Call, upload: UploadRow, number: int, stream: VersionStream, customer: CustomerKey | None
) -> PartRow:
    nonce = secrets.token_bytes(16)
    cipher = encryption.stream_cipher(customer.key, nonce) if customer is not None else None
    with call.engine.writer() as writer:
        while piece := stream.read():
            writer.write(cipher.update(piece) if cipher is not None else piece)
        extra = {PART_NONCE: nonce.hex()} if customer is not None else None
        return call.engine.put_part(call.bucket.id, call.name, upload.upload_id, number, writer, extra=extra)


def complete_upload(call: Call) -> Reply:
    """Make the named parts one version."""
    headers.refuse_conditions(call)
    given = (call.params.get("MultipartUpload") or {}).get("Parts") or []
    if not given or len(given) > MAX_PARTS or any("PartNumber" not in part or "ETag" not in part for part in given):
        raise S3Error("MalformedXML")
    claims = [PartClaim(part["PartNumber"], part["ETag"].strip().strip('"')) for part in given]
    upload_id = call.params["UploadId"]
    with contextlib.suppress(NoSuchUpload):  # completed before, perhaps: the engine knows
        _check_completion_key(call, _upload(call))
    summing = _Summing(call, given)
    row = call.engine.complete_upload(call.bucket.id, call.name, upload_id, claims, describe=summing.describe)
    host = call.request.headers.get("host", "")
    location = f"{call.request.scheme}://{host}/{call.bucket.name}/{url_encode(call.name)}"
    values = version_values(row) | {"Location": location, "Bucket": call.bucket.name, "Key": call.name}
    values |= partsums.version_values(row.attributes.extra)
    return Reply(
        values | headers.encryption_values(row.attributes.encryption),
        headers=_customer_headers(row.attributes.encryption),
    )


def _check_completion_key(call: Call, upload: UploadRow) -> None:
    """A completion may name the customer's key; S3 wants it for an upload with a checksum.  Raises InvalidRequest."""
    customer = encryption.customer_key(call.params)
    if customer is not None or partsums.Plan.of_extra(upload.attributes.extra) is not None:
        encryption.check_key(upload.attributes.encryption, upload.attributes.extra, customer)


def _customer_headers(chosen: Encryption | None) -> tuple[tuple[str, str], ...]:
    """What S3 answers to a completion beside the members that the model knows."""
    if chosen is None or chosen.customer_key_md5 is None:
        return ()
    prefix = "x-amz-server-side-encryption-customer-"
    return ((f"{prefix}algorithm", chosen.algorithm), (f"{prefix}key-md5", chosen.customer_key_md5))


def _check_size(params: Mapping[str, Any], size: int) -> None:
    """Hold the size that a completion may declare against the parts'.  Raises InvalidRequest."""
    declared = params.get("MpuObjectSize")
    if declared is not None and declared != size:
        raise S3Error(
            "InvalidRequest",
            f"The provided 'x-amz-mp-object-size' header value {declared} does not match what was computed: {size}",
        )


class _Summing:
    """Checks what a completion says of checksums, and makes the version's own."""

    def __init__(self, call: Call, given: Sequence[Mapping[str, Any]]) -> None:
        self._params = call.params
        self._given = given
        self._plan: partsums.Plan | None = None
        with contextlib.suppress(NoSuchUpload):  # completed before, perhaps: the engine knows
            self._plan = partsums.Plan.of_extra(_upload(call).attributes.extra)
        if self._plan is not None:
            partsums.check_form(self._plan.name, call.params)
            self._plan.check_claims(given)

    def describe(self, parts: Sequence[PartRow]) -> dict[str, str]:
        """What the version remembers.  Raises InvalidPart, BadDigest."""
        for claim, part in zip(self._given, parts, strict=True):
            partsums.check_part(claim, part)
        _check_size(self._params, sum(part.size for part in parts))
        described = describe_parts(parts)
        if self._plan is not None:
            text = self._plan.text(parts)
            partsums.check_whole(self._plan.name, self._params, text)
            if text is not None:
                described[partsums.SUM + self._plan.name] = text
        return described


def describe_parts(parts: Sequence[PartRow]) -> dict[str, str]:
    """What a finished upload must remember of its parts: where they end, and what decrypts them."""
    described = {SIZES: encode_sizes([part.size for part in parts])}
    nonces = [part.extra.get(PART_NONCE) for part in parts]
    if nonces[0] is not None:
        described[encryption.PLAN] = ",".join(nonce or "" for nonce in nonces)
    return described


def abort_upload(call: Call) -> Reply:
    """Drop the upload and its parts."""
    call.engine.abort_upload(call.bucket.id, call.name, call.params["UploadId"])
    return Reply()


def list_parts(call: Call) -> Reply:
    """The parts that were uploaded so far."""
    params = call.params
    limit, after = params.get("MaxParts", 1000), params.get("PartNumberMarker") or 0
    if limit < 0 or after < 0:
        raise S3Error("InvalidArgument", "Argument max-parts must be an integer between 0 and 2147483647")
    limit = min(limit, 1000)
    upload = _upload(call)
    rows = call.engine.list_parts(call.bucket.id, call.name, upload.upload_id, after=after, max_parts=limit + 1)
    shown = rows[:limit]
    owner = call.owner()
    plan = partsums.Plan.of_extra(upload.attributes.extra)
    return Reply(
        {
            "Bucket": call.bucket.name,
            "Key": call.name,
            "UploadId": upload.upload_id,
            "PartNumberMarker": after,
            "NextPartNumberMarker": shown[-1].number if shown else after,
            "MaxParts": limit,
            "IsTruncated": len(rows) > limit and limit > 0,
            "Parts": [_shown_part(part) for part in shown],
            "Initiator": owner,
            "Owner": owner,
            "StorageClass": "STANDARD",
            **(plan.values if plan is not None else {}),
        }
    )


def _shown_part(part: PartRow) -> dict[str, Any]:
    shown = {"PartNumber": part.number, "LastModified": part.modified_ms, "ETag": f'"{part.etag}"', "Size": part.size}
    return shown | partsums.part_values(part)
