"""Authorisation and keys."""

from __future__ import annotations

import time
from typing import Any

from b2fs.server.auth.keys import ApplicationKey, missing_capabilities
from b2fs.server.native.context import Json, NativeCall
from b2fs.server.native.errors import NativeError, bad_request
from b2fs.server.native.shapes import key_json
from b2fs.server.native.tokens import Purpose

RECOMMENDED_PART_BYTES = 100_000_000
_MAX_KEY_SECONDS = 86_400_000


def _bucket_names(call: NativeCall) -> dict[str, str]:
    return {row.bucket_id: row.name for row in call.engine.list_buckets(call.key.account.id)}


def authorize_account(call: NativeCall) -> Json:
    """A token for 24 hours, and where everything is, in the form of the version that was asked."""
    key, names = call.key, _bucket_names(call)
    restricted = [{"id": bucket, "name": names.get(bucket)} for bucket in sorted(key.bucket_ids or ())]
    allowed: Json = {"capabilities": sorted(key.capabilities), "namePrefix": key.name_prefix or None}
    single: Json = {
        "bucketId": restricted[0]["id"] if restricted else None,
        "bucketName": restricted[0]["name"] if restricted else None,
    }
    place: Json = {
        "absoluteMinimumPartSize": call.engine.config.min_part_bytes,
        "apiUrl": call.base_url,
        "downloadUrl": call.base_url,
        "recommendedPartSize": RECOMMENDED_PART_BYTES,
        "s3ApiUrl": call.base_url,
    }
    answer: Json = {
        "accountId": key.account.id,
        "authorizationToken": call.tokens.issue(Purpose.ACCOUNT, key),
        "applicationKeyExpirationTimestamp": key.expires_ms,
    }
    if call.version >= 4:
        allowed["buckets"] = restricted if key.bucket_ids is not None else None
        answer["apiInfo"] = {"storageApi": place | {"infoType": "storageApi", "allowed": allowed}}
    elif call.version == 3:
        answer["apiInfo"] = {"storageApi": place | {"infoType": "storageApi"} | allowed | single}
    else:
        answer |= place | {"allowed": allowed | single}
    return answer


def _requested_buckets(call: NativeCall) -> frozenset[str] | None:
    ids: Any = call.body.get("bucketIds")
    if ids is None and call.body.get("bucketId") is not None:
        ids = [call.text("bucketId")]
    if ids is None:
        return None
    if not isinstance(ids, list) or not ids or not all(isinstance(item, str) for item in ids):
        raise bad_request("bucketIds must be a list of bucket IDs")
    known = _bucket_names(call)
    for bucket_id in ids:
        if bucket_id not in known:
            raise NativeError(400, "bad_bucket_id", f"Bucket {bucket_id} does not exist")
    return frozenset(ids)


def create_key(call: NativeCall) -> Json:
    """A new key, whose secret this answer alone shows."""
    call.require("writeKeys")
    capabilities = call.body.get("capabilities")
    if not isinstance(capabilities, list) or not capabilities:
        raise bad_request("capabilities must be a list that is not empty")
    if unknown := missing_capabilities(map(str, capabilities)):
        raise bad_request(f"unknown capabilities: {', '.join(unknown)}")
    if not set(capabilities) <= call.key.capabilities:
        raise NativeError(401, "unauthorized", "a key cannot give capabilities that it does not have")
    expires_ms = None
    if call.body.get("validDurationInSeconds") is not None:
        seconds = call.number("validDurationInSeconds", most=_MAX_KEY_SECONDS - 1)
        expires_ms = int(time.time() + seconds) * 1000
    draft = ApplicationKey(
        "",
        "",
        call.key.account,
        call.text("keyName"),
        frozenset(capabilities),
        _requested_buckets(call),
        call.optional_text("namePrefix") or "",
        expires_ms,
    )
    key = call.home.keys.create(draft)
    return key_json(key, _bucket_names(call), call.version) | {"applicationKey": key.secret}


def list_keys(call: NativeCall) -> Json:
    """The account's keys by ID, but for the master key."""
    call.require("listKeys")
    count = call.number("maxKeyCount", 100, most=10_000)
    start = call.optional_text("startApplicationKeyId") or ""
    found = [key for key in call.home.keys.all_keys(call.key.account.id) if not key.is_master and key.key_id >= start]
    names = _bucket_names(call)
    return {
        "keys": [key_json(key, names, call.version) for key in found[:count]],
        "nextApplicationKeyId": found[count].key_id if len(found) > count else None,
    }


def delete_key(call: NativeCall) -> Json:
    """Forget a key; its tokens die with it."""
    call.require("deleteKeys")
    key = call.home.keys.find(call.text("applicationKeyId"))
    if key is None or key.account.id != call.key.account.id or key.is_master:
        raise bad_request("applicationKeyId not found")
    call.home.keys.delete(key.key_id)
    return key_json(key, _bucket_names(call), call.version)
