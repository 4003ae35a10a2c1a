"""The JSON objects of the native API, from rows of the store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from b2fs.server.auth.keys import ApplicationKey
from b2fs.server.native.context import Json
from b2fs.store.embedded.rows import (
    Acl,
    Attributes,
    BucketRow,
    ContentHeaders,
    DefaultRetention,
    Encryption,
    Retention,
    UploadRow,
    VersionRow,
    readable,
)

SHA1: Final = "sha1"
#: File info entries that stand for headers of downloads.
_INFO_HEADERS: Final[Mapping[str, str]] = {
    "b2-content-disposition": "content_disposition",
    "b2-content-language": "content_language",
    "b2-expires": "expires",
    "b2-cache-control": "cache_control",
    "b2-content-encoding": "content_encoding",
}


def attributes_from(
    content_type: str, info: Mapping[str, str], encryption: Encryption | None, extra: Mapping[str, str]
) -> Attributes:
    """The attributes of a version from its file info."""
    lowered = {name.lower(): value for name, value in info.items()}
    fields = {_INFO_HEADERS[name]: value for name, value in lowered.items() if name in _INFO_HEADERS}
    metadata = {name: value for name, value in lowered.items() if name not in _INFO_HEADERS}
    kind = "application/octet-stream" if content_type == "b2/x-auto" else content_type
    return Attributes(ContentHeaders(content_type=kind, **fields), metadata, encryption, extra)


def info_of(attributes: Attributes) -> dict[str, str]:
    """File info of a version: its metadata, and the headers that have an info name."""
    info = dict(attributes.metadata)
    for name, field in _INFO_HEADERS.items():
        value = getattr(attributes.headers, field)
        if value is not None:
            info[name] = value
    return info


def encryption_json(encryption: Encryption | None) -> Json:
    if encryption is None:
        return {"algorithm": None, "mode": None}
    if encryption.customer_key_md5 is None:
        return {"algorithm": encryption.algorithm, "mode": "SSE-B2"}
    return {"algorithm": encryption.algorithm, "mode": "SSE-C"}


def _lock_json(key: ApplicationKey, bucket: BucketRow, retention: Retention | None, hold: bool | None) -> Json:
    may_retention = key.allows("readFileRetentions", bucket.bucket_id)
    may_hold = key.allows("readFileLegalHolds", bucket.bucket_id)
    value = {
        "mode": retention.mode.value.lower() if retention is not None else None,
        "retainUntilTimestamp": retention.until_ms if retention is not None else None,
    }
    shown = None if hold is None else "on" if hold else "off"
    return {
        "fileRetention": {"isClientAuthorizedToRead": may_retention, "value": value if may_retention else None},
        "legalHold": {"isClientAuthorizedToRead": may_hold, "value": shown if may_hold else None},
    }


def _customer_encrypted(row: VersionRow) -> bool:
    return row.attributes.encryption is not None and row.attributes.encryption.customer_key_md5 is not None


def replication_status(bucket: BucketRow, row: VersionRow) -> str | None:
    """ "pending" for a file that a rule of the bucket wants elsewhere: nothing is carried there.

    Whether the file is older than the rule is not looked at.  SSE-C content is not for replication.
    """
    if bucket.replication_json is None or row.is_hide_marker or _customer_encrypted(row):
        return None
    source = json.loads(bucket.replication_json)["asReplicationSource"]
    rules = source["replicationRules"] if source is not None else []
    wanted = any(rule["isEnabled"] and row.key.startswith(rule["fileNamePrefix"]) for rule in rules)
    return "pending" if wanted else None


def file_json(key: ApplicationKey, bucket: BucketRow, row: VersionRow) -> Json:
    """A version or hide marker."""
    common: Json = {
        "accountId": bucket.owner,
        "bucketId": bucket.bucket_id,
        "fileId": row.version_id,
        "fileName": row.key,
        "uploadTimestamp": row.modified_ms,
        "replicationStatus": replication_status(bucket, row),
    }
    if row.is_hide_marker:
        return common | {
            "action": "hide",
            "contentLength": 0,
            "size": 0,
            "contentMd5": None,
            "contentSha1": None,
            "contentType": "application/x-bz-hide-marker",
            "fileInfo": {},
            "serverSideEncryption": encryption_json(None),
        }
    attributes = row.attributes
    return (
        common
        | {
            "action": "upload",
            "contentLength": row.size,
            # The older name, which clients of the first versions read.
            "size": row.size,
            "contentMd5": None if "-" in row.etag or _customer_encrypted(row) else row.etag,
            "contentSha1": attributes.extra.get(SHA1),
            "contentType": readable(attributes.headers.content_type or "application/octet-stream"),
            "fileInfo": {name: readable(value) for name, value in info_of(attributes).items()},
            "serverSideEncryption": encryption_json(attributes.encryption),
        }
        | _lock_json(key, bucket, row.retention, None if row.legal_hold is None else bool(row.legal_hold))
    )


def folder_json(bucket: BucketRow, prefix: str) -> Json:
    """A common prefix in a listing."""
    return {
        "accountId": bucket.owner,
        "action": "folder",
        "bucketId": bucket.bucket_id,
        "contentLength": 0,
        "contentMd5": None,
        "contentSha1": None,
        "contentType": None,
        "fileId": None,
        "fileInfo": {},
        "fileName": prefix,
        "uploadTimestamp": 0,
    }


def upload_json(key: ApplicationKey, bucket: BucketRow, row: UploadRow) -> Json:
    """A large file that is not finished."""
    attributes, lock = row.attributes, row.lock
    return {
        "accountId": bucket.owner,
        "action": "start",
        "bucketId": bucket.bucket_id,
        "contentLength": 0,
        "contentMd5": None,
        "contentSha1": None,
        "contentType": readable(attributes.headers.content_type or "application/octet-stream"),
        "fileId": row.upload_id,
        "fileInfo": {name: readable(value) for name, value in info_of(attributes).items()},
        "fileName": row.key,
        "serverSideEncryption": encryption_json(attributes.encryption),
        "uploadTimestamp": row.started_ms,
        "replicationStatus": None,
    } | _lock_json(key, bucket, lock.retention, lock.legal_hold)


def _default_retention_json(default: DefaultRetention | None) -> Json:
    if default is None:
        return {"mode": None, "period": None}
    unit, duration = ("days", default.days) if default.days is not None else ("years", default.years)
    return {"mode": default.mode.value.lower(), "period": {"duration": duration, "unit": unit}}


def bucket_json(key: ApplicationKey, row: BucketRow) -> Json:
    """A bucket with the settings that the key may see."""

    def guarded(capability: str, value: Any) -> Json:
        may = key.allows(capability, row.bucket_id)
        return {"isClientAuthorizedToRead": may, "value": value if may else None}

    encryption: Json = {"algorithm": row.default_encryption, "mode": "SSE-B2" if row.default_encryption else None}
    if row.default_encryption is None:
        encryption["mode"] = "none"
    return {
        "accountId": row.owner,
        "bucketId": row.bucket_id,
        "bucketName": row.name,
        "bucketType": "allPublic" if row.acl is Acl.PUBLIC_READ else "allPrivate",
        "bucketInfo": json.loads(row.info_json or "{}"),
        "corsRules": [
            {name: value for name, value in rule.items() if name != "s3Id"}
            for rule in json.loads(row.cors_json or "[]")
        ],
        "lifecycleRules": json.loads(row.lifecycle_json or "[]"),
        "defaultServerSideEncryption": guarded("readBucketEncryption", encryption),
        "fileLockConfiguration": guarded(
            "readBucketRetentions",
            {
                "isFileLockEnabled": row.lock_enabled,
                "defaultRetention": _default_retention_json(row.default_retention),
            },
        ),
        "replicationConfiguration": guarded(
            "readBucketReplications", json.loads(row.replication_json) if row.replication_json is not None else None
        ),
        "options": ["s3"],
        "revision": row.revision,
    }


def key_json(key: ApplicationKey, bucket_names: Mapping[str, str], version: int) -> Json:
    """A key without its secret; before version 4 it could have one bucket only."""
    shown: Json = {
        "accountId": key.account.id,
        "applicationKeyId": key.key_id,
        "capabilities": sorted(key.capabilities),
        "expirationTimestamp": key.expires_ms,
        "keyName": key.name,
        "namePrefix": key.name_prefix or None,
        "options": ["s3"],
    }
    buckets = sorted(key.bucket_ids) if key.bucket_ids is not None else None
    if version >= 4:
        shown["bucketIds"] = buckets
    else:
        shown["bucketId"] = buckets[0] if buckets else None
    return shown
