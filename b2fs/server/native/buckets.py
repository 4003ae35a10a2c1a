"""Buckets of the native API."""

from __future__ import annotations

import json
from typing import Any, Literal

from b2fs.server.native.bucketrules import replication_text
from b2fs.server.native.context import Json, NativeCall
from b2fs.server.native.errors import NativeError, bad_request
from b2fs.server.native.shapes import bucket_json
from b2fs.store.embedded.rows import (
    UNSET,
    Acl,
    BucketChanges,
    BucketRow,
    BucketSpec,
    DefaultRetention,
    RetentionMode,
    Unset,
)

_TYPES = {"allPrivate": Acl.PRIVATE, "allPublic": Acl.PUBLIC_READ}


def _acl(text: str) -> Acl:
    if text not in _TYPES:
        raise bad_request(f"unknown bucketType: {text}")
    return _TYPES[text]


def _own_account(call: NativeCall) -> str:
    account_id = call.text("accountId")
    if account_id != call.key.account.id:
        raise NativeError(401, "unauthorized", "the accountId is another account's")
    return account_id


def _default_encryption(call: NativeCall) -> str | None:
    setting = call.mapping("defaultServerSideEncryption") or {}
    mode = setting.get("mode")
    if mode == "SSE-B2":
        if setting.get("algorithm") != "AES256":
            raise bad_request("the only algorithm is AES256")
        return "AES256"
    if mode not in (None, "none"):
        raise bad_request(f"unknown default encryption mode: {mode}")
    return None


def default_retention(setting: Any) -> DefaultRetention | None:
    """A bucket's default retention from JSON.  Raises bad_request."""
    mode, period = setting.get("mode"), setting.get("period")
    if mode in (None, "none"):
        return None
    if mode not in ("governance", "compliance") or not isinstance(period, dict):
        raise bad_request("invalid defaultRetention")
    duration, unit = period.get("duration"), period.get("unit")
    if not isinstance(duration, int) or duration < 1 or unit not in ("days", "years"):
        raise bad_request("invalid period of defaultRetention")
    days, years = (duration, None) if unit == "days" else (None, duration)
    return DefaultRetention(RetentionMode(mode.upper()), days, years)


def _json_or_none(call: NativeCall, name: str) -> str | None:
    value = call.body.get(name)
    return json.dumps(value) if value else None


def _replication(call: NativeCall, bucket_id: str | None = None) -> str | Literal[Unset.UNSET] | None:
    """What a request says of replication.  Raises bad_request, unauthorized."""
    if "replicationConfiguration" not in call.body:
        return UNSET
    call.require("writeBucketReplications", bucket_id)
    return replication_text(call)


def create_bucket(call: NativeCall) -> Json:
    """Make a bucket."""
    owner = _own_account(call)
    call.require("writeBuckets")
    if len(call.engine.list_buckets(owner)) >= call.home.max_buckets:
        raise NativeError(400, "too_many_buckets", "the account has as many buckets as are allowed")
    replication = _replication(call)
    spec = BucketSpec(
        call.text("bucketName"),
        owner=owner,
        region=call.home.region,
        acl=_acl(call.text("bucketType")),
        cors_json=_json_or_none(call, "corsRules"),
        lifecycle_json=_json_or_none(call, "lifecycleRules"),
        info_json=_json_or_none(call, "bucketInfo"),
        default_encryption=_default_encryption(call),
        lock_enabled=call.flag("fileLockEnabled"),
        replication_json=None if replication is UNSET else replication,
    )
    return bucket_json(call.key, call.engine.create_bucket(spec))


def _may_list(call: NativeCall, row: BucketRow, asked_name: str | None) -> bool:
    if call.key.allows("listBuckets", row.bucket_id):
        return True
    return asked_name is None and call.key.allows("listAllBucketNames")


def list_buckets(call: NativeCall) -> Json:
    """The account's buckets, narrowed by ID, name or type; a restricted key sees its own only."""
    _own_account(call)
    bucket_id, name = call.optional_text("bucketId"), call.optional_text("bucketName")
    rows = [
        row
        for row in call.engine.list_buckets(call.key.account.id)
        if (bucket_id is None or row.bucket_id == bucket_id) and (name is None or row.name == name)
    ]
    if call.key.bucket_ids is not None and bucket_id is None and name is None:
        rows = [row for row in rows if row.bucket_id in call.key.bucket_ids]
    if not all(_may_list(call, row, name) for row in rows) or "listBuckets" not in call.key.capabilities:
        raise NativeError(401, "unauthorized", "the key may not list these buckets")
    types = call.body.get("bucketTypes")
    shown = [bucket_json(call.key, row) for row in rows]
    if isinstance(types, list) and "all" not in types:
        shown = [bucket for bucket in shown if bucket["bucketType"] in types]
    return {"buckets": shown}


def update_bucket(call: NativeCall) -> Json:
    """Change settings; ifRevisionIs guards against somebody else's change."""
    _own_account(call)
    row = call.bucket("writeBuckets")
    body = call.body
    if body.get("fileLockEnabled") is False and row.lock_enabled:
        raise NativeError(400, "file_lock_conflict", "Object Lock cannot be disabled")
    changes = BucketChanges(
        acl=_acl(call.text("bucketType")) if body.get("bucketType") is not None else UNSET,
        cors_json=_json_or_none(call, "corsRules") if "corsRules" in body else UNSET,
        lifecycle_json=_json_or_none(call, "lifecycleRules") if "lifecycleRules" in body else UNSET,
        info_json=_json_or_none(call, "bucketInfo") if "bucketInfo" in body else UNSET,
        default_encryption=_default_encryption(call) if body.get("defaultServerSideEncryption") else UNSET,
        lock_enabled=True if call.flag("fileLockEnabled") else UNSET,
        default_retention=default_retention(body["defaultRetention"]) if body.get("defaultRetention") else UNSET,
        replication_json=_replication(call, row.bucket_id),
    )
    revision = call.number("ifRevisionIs", least=0) if body.get("ifRevisionIs") is not None else None
    return bucket_json(call.key, call.engine.update_bucket(row.id, changes, if_revision=revision))


def delete_bucket(call: NativeCall) -> Json:
    """Remove an empty bucket."""
    _own_account(call)
    row = call.bucket("deleteBuckets")
    call.engine.delete_bucket(row.id)
    return bucket_json(call.key, row)
