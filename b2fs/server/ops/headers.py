"""The headers of objects: what an upload may carry, what an answer shows."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Any, Final

from b2fs.server.ops.call import Call
from b2fs.server.wire.errors import S3Error, unsupported_header
from b2fs.server.wire.parse import Params
from b2fs.server.wire.request import META
from b2fs.store.embedded.rows import (
    Acl,
    Attributes,
    BucketRow,
    ContentHeaders,
    Encryption,
    LockSpec,
    Retention,
    RetentionMode,
    VersionRow,
)

DEFAULT_TYPE: Final = "binary/octet-stream"

#: Headers whose features B2 does not have.
_GRANTS: Final = (
    "x-amz-grant-read",
    "x-amz-grant-write",
    "x-amz-grant-read-acp",
    "x-amz-grant-write-acp",
    "x-amz-grant-full-control",
)
_UNSUPPORTED: Final = ("x-amz-tagging", "x-amz-website-redirect-location", *_GRANTS)
_CHECKSUMS: Final = ("x-amz-checksum-", "x-amz-sdk-checksum-algorithm", "x-amz-trailer")
#: Conditions that S3 has for calls that write.
_WRITE_CONDITIONS: Final = ("if-match", "if-none-match")
#: Header, field of ContentHeaders, query parameter that replaces it in an answer.
_CONTENT_HEADERS: Final = (
    ("content-type", "content_type", "response-content-type"),
    ("cache-control", "cache_control", "response-cache-control"),
    ("content-disposition", "content_disposition", "response-content-disposition"),
    ("content-encoding", "content_encoding", "response-content-encoding"),
    ("content-language", "content_language", "response-content-language"),
    ("expires", "expires", "response-expires"),
)


def canned_acl(text: str) -> Acl:
    """The ACL of an x-amz-acl header.  Raises InvalidArgument for those that B2 does not have."""
    try:
        return Acl(text)
    except ValueError as error:
        raise S3Error("InvalidArgument", f"Unsupported value for canned acl '{text}'") from error


def _refuse(headers: Mapping[str, str], names: Iterable[str]) -> None:
    for name in names:
        if name in headers:
            raise unsupported_header(name)


def refuse_grants(headers: Mapping[str, str]) -> None:
    """B2 has canned ACLs only.  Raises InvalidArgument."""
    _refuse(headers, _GRANTS)


def refuse_checksums(headers: Mapping[str, str]) -> None:
    """Refuse what B2 refused until July 2025.  Raises InvalidArgument."""
    _refuse(headers, (name for name in headers if name.startswith(_CHECKSUMS)))


def check_upload_headers(call: Call) -> None:
    """Refuse what B2 refuses in PutObject, CopyObject and CreateMultipartUpload."""
    headers = call.request.headers
    _refuse(headers, _UNSUPPORTED)
    acl = headers.get("x-amz-acl")
    if acl is not None and canned_acl(acl) is not call.bucket.acl:
        raise S3Error("InvalidArgument", f"Unsupported value for canned acl '{acl}'")
    storage_class = headers.get("x-amz-storage-class", "STANDARD")
    if storage_class != "STANDARD":
        raise S3Error("InvalidArgument", f"Unsupported storage class '{storage_class}'")


def refuse_managed_encryption(call: Call) -> None:
    """A reader does not choose how an object is encrypted.  Raises InvalidArgument."""
    if "x-amz-server-side-encryption" in call.request.headers:
        raise S3Error("InvalidArgument", "x-amz-server-side-encryption header is not supported for this operation.")


def refuse_conditions(call: Call) -> None:
    """Refuse a conditional write, as B2 refuses a conditional PutObject: ignoring it could lose data."""
    if any(name in call.request.headers for name in _WRITE_CONDITIONS):
        raise S3Error("NotImplemented")


def content_headers(headers: Mapping[str, str]) -> ContentHeaders:
    """What an upload wants kept; `aws-chunked` is the transport's encoding and is not part of the content's."""
    values = {field: headers[name] for name, field, _ in _CONTENT_HEADERS if headers.get(name)}
    encoding = values.get("content_encoding")
    if encoding is not None:
        kept = [part.strip() for part in encoding.split(",") if part.strip().lower() != "aws-chunked"]
        values["content_encoding"] = ", ".join(kept)
        if not kept:
            del values["content_encoding"]
    return ContentHeaders(**values)


def user_metadata(params: Params) -> dict[str, str]:
    """The x-amz-meta- headers; the engine checks their size.  Raises InvalidArgument for reserved names."""
    metadata: dict[str, str] = params.get("Metadata") or {}
    for name in metadata:
        if name.startswith("b2-"):
            raise S3Error("InvalidArgument", f"The metadata name '{name}' is reserved")
    return metadata


def attributes_of(call: Call, encryption: Encryption | None, extra: Mapping[str, str]) -> Attributes:
    """The attributes that the request's headers give a new version."""
    return Attributes(content_headers(call.request.headers), user_metadata(call.params), encryption, extra)


def content_md5(call: Call) -> bytes | None:
    """The digest of a Content-MD5 header.  Raises InvalidDigest."""
    text = call.request.headers.get("content-md5")
    if text is None:
        return None
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise S3Error("InvalidDigest") from error
    if len(digest) != 16:
        raise S3Error("InvalidDigest")
    return digest


def lock_spec(call: Call) -> LockSpec:
    """The Object Lock headers of an upload.  Raises InvalidRequest, InvalidArgument, AccessDenied."""
    mode = call.params.get("ObjectLockMode")
    until = call.params.get("ObjectLockRetainUntilDate")
    hold = call.params.get("ObjectLockLegalHoldStatus")
    if mode is None and until is None and hold is None:
        return LockSpec()
    if not call.bucket.lock_enabled:
        raise S3Error("InvalidRequest", "Bucket is missing Object Lock Configuration")
    if (mode is None) != (until is None):
        raise S3Error(
            "InvalidArgument", "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied"
        )
    if mode not in (None, "GOVERNANCE", "COMPLIANCE"):
        raise S3Error("InvalidArgument", "Unknown wormMode directive.")
    if hold not in (None, "ON", "OFF"):
        raise S3Error("InvalidArgument", "Legal hold must be either of ON or OFF")
    if mode is not None:
        call.require("writeFileRetentions")
    if hold is not None:
        call.require("writeFileLegalHolds")
    retention = Retention(RetentionMode(mode), until) if mode is not None and until is not None else None
    return LockSpec(retention, None if hold is None else hold == "ON")


def require_digest_for_lock(call: Call, lock: LockSpec) -> None:
    """B2 wants the body of a locked upload covered by a digest."""
    if lock == LockSpec():
        return
    headers = call.request.headers
    if "content-md5" not in headers and not any(name.startswith("x-amz-checksum-") for name in headers):
        if "x-amz-trailer" in headers or "x-amz-sdk-checksum-algorithm" in headers:
            return
        raise S3Error(
            "InvalidRequest",
            "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock "
            "parameters",
        )


def encryption_values(encryption: Encryption | None) -> dict[str, Any]:
    """The output members that tell of a version's encryption."""
    if encryption is None:
        return {}
    if encryption.customer_key_md5 is None:
        return {"ServerSideEncryption": encryption.algorithm}
    return {"SSECustomerAlgorithm": encryption.algorithm, "SSECustomerKeyMD5": encryption.customer_key_md5}


def lock_values(call: Call, row: VersionRow) -> dict[str, Any]:
    """The output members of Object Lock, as far as the caller's key may see them."""
    values: dict[str, Any] = {}
    retention = row.retention
    if retention is not None and call.can("readFileRetentions"):
        values["ObjectLockMode"] = retention.mode.value
        values["ObjectLockRetainUntilDate"] = retention.until_ms
    if row.legal_hold is not None and call.can("readFileLegalHolds"):
        values["ObjectLockLegalHoldStatus"] = "ON" if row.legal_hold else "OFF"
    return values


def header_overrides(call: Call) -> dict[str, str]:
    """The response-* parameters; only for signed requests."""
    params = call.request.params
    found = {name: params[param] for name, _, param in _CONTENT_HEADERS if param in params}
    if found and call.key is None:
        raise S3Error("InvalidRequest", "Request specific response headers cannot be used for anonymous GET requests.")
    return found


def object_headers(attributes: Attributes, overrides: Mapping[str, str]) -> list[tuple[str, str]]:
    """The content headers and metadata of an answer."""
    headers: list[tuple[str, str]] = []
    for name, field, _ in _CONTENT_HEADERS:
        value = overrides.get(name) or getattr(attributes.headers, field)
        if value is None and name == "content-type":
            value = DEFAULT_TYPE
        if value is not None:
            headers.append((name, value))
    headers.extend((META + name, value) for name, value in attributes.metadata.items())
    return headers


def default_encryption(bucket: BucketRow) -> Encryption | None:
    """What an upload gets that says nothing about encryption."""
    return Encryption(bucket.default_encryption) if bucket.default_encryption else None
