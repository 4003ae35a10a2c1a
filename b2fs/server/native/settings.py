"""Encryption, retention and file info as the native API writes them, in JSON and in headers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from b2fs.server.native.context import NativeCall
from b2fs.server.native.errors import NativeError, bad_request
from b2fs.server.ops.encryption import CustomerKey, check_key, customer_key, new_secrets
from b2fs.server.wire.errors import S3Error
from b2fs.store.embedded.rows import Attributes, BucketRow, Encryption, LockSpec, Retention, RetentionMode

_MAX_INFO = 10
_INFO_PREFIX = "x-bz-info-"


def customer_from_json(setting: Mapping[str, Any] | None) -> CustomerKey | None:
    """The SSE-C key of a JSON setting; None for other modes.  Raises S3Error InvalidArgument."""
    if setting is None or setting.get("mode") != "SSE-C":
        return None
    return customer_key(
        {
            "SSECustomerAlgorithm": setting.get("algorithm"),
            "SSECustomerKey": setting.get("customerKey"),
            "SSECustomerKeyMD5": setting.get("customerKeyMd5"),
        }
    )


def customer_from_headers(headers: Mapping[str, str]) -> CustomerKey | None:
    """The SSE-C key of an upload or download.  Raises S3Error InvalidArgument."""
    prefix = "x-bz-server-side-encryption-customer-"
    return customer_key(
        {
            "SSECustomerAlgorithm": headers.get(f"{prefix}algorithm"),
            "SSECustomerKey": headers.get(f"{prefix}key"),
            "SSECustomerKeyMD5": headers.get(f"{prefix}key-md5"),
        }
    )


def check_source_key(attributes: Attributes, customer: CustomerKey | None) -> None:
    """Raise bad_request where a version needs a customer's key and none is given, access_denied for a wrong one."""
    try:
        check_key(attributes.encryption, attributes.extra, customer)
    except S3Error as error:
        encrypted = attributes.encryption is not None and attributes.encryption.customer_key_md5 is not None
        if customer is None or not encrypted:
            raise bad_request(str(error)) from error
        raise NativeError(403, "access_denied", str(error)) from error


def chosen_encryption(
    bucket: BucketRow, customer: CustomerKey | None, managed: bool
) -> tuple[Encryption | None, dict[str, str]]:
    """How a new version is encrypted, and what to keep for decrypting it."""
    if customer is not None:
        return customer.encryption, new_secrets(customer)
    if managed or bucket.default_encryption is not None:
        return Encryption(), {}
    return None, {}


def is_managed(setting: Mapping[str, Any] | None) -> bool:
    """Whether a JSON setting asks for SSE-B2.  Raises bad_request for unknown modes."""
    mode = setting.get("mode") if setting is not None else None
    if mode not in (None, "none", "SSE-B2", "SSE-C"):
        raise bad_request(f"unknown serverSideEncryption mode: {mode}")
    return mode == "SSE-B2"


def retention_from(mode: Any, until_ms: Any) -> Retention | None:
    """A retention; None where it is to be removed.  Raises bad_request."""
    if mode in (None, "none"):
        return None
    if mode not in ("governance", "compliance") or not isinstance(until_ms, int):
        raise bad_request("invalid file retention")
    return Retention(RetentionMode(mode.upper()), until_ms)


def lock_from_json(call: NativeCall, bucket: BucketRow) -> LockSpec:
    """fileRetention and legalHold of a request."""
    setting = call.mapping("fileRetention")
    retention = retention_from(setting.get("mode"), setting.get("retainUntilTimestamp")) if setting else None
    hold = call.optional_text("legalHold")
    return _checked_lock(call, bucket, retention, hold)


def lock_from_headers(call: NativeCall, bucket: BucketRow, headers: Mapping[str, str]) -> LockSpec:
    """The Object Lock headers of an upload."""
    until = headers.get("x-bz-file-retention-retain-until-timestamp", "")
    retention = retention_from(headers.get("x-bz-file-retention-mode"), int(until) if until.isdigit() else None)
    return _checked_lock(call, bucket, retention, headers.get("x-bz-file-legal-hold"))


def _checked_lock(call: NativeCall, bucket: BucketRow, retention: Retention | None, hold: str | None) -> LockSpec:
    if retention is not None:
        call.require("writeFileRetentions", bucket.bucket_id)
    if hold is not None:
        call.require("writeFileLegalHolds", bucket.bucket_id)
        if hold not in ("on", "off"):
            raise bad_request("legalHold must be on or off")
    return LockSpec(retention, None if hold is None else hold == "on")


def info_from_json(info: Any) -> dict[str, str]:
    """fileInfo of a request.  Raises bad_request."""
    if info is None:
        return {}
    if not isinstance(info, dict) or not all(isinstance(value, str) for value in info.values()):
        raise bad_request("fileInfo must be an object of strings")
    if len(info) > _MAX_INFO + 5:
        raise bad_request("too many entries in fileInfo")
    return info


def info_from_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The X-Bz-Info- headers of an upload, decoded."""
    start = len(_INFO_PREFIX)
    return info_from_json(
        {name[start:]: unquote(value) for name, value in headers.items() if name.startswith(_INFO_PREFIX)}
    )


def uploaded_ms_of(value: Any) -> int | None:
    """When the uploader says that a file was uploaded; None where it does not.  Raises bad_request."""
    if value is None:
        return None
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16 else value
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= time.time() * 1000:
        raise bad_request("the custom upload timestamp must be a time in milliseconds that is not in the future")
    return number


def query_json(params: Mapping[str, str]) -> dict[str, Any]:
    """A GET's query as the JSON that a POST would carry."""
    return {name: json.loads(value) if value in ("true", "false") else value for name, value in params.items()}
