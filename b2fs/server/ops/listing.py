"""Listings of objects, versions and uploads: paging, delimiters, encoding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from b2fs.errors import InvalidRequest
from b2fs.server.ops import partsums
from b2fs.server.ops.call import Call, Reply
from b2fs.server.wire.errors import S3Error
from b2fs.server.wire.parse import Params
from b2fs.server.wire.write import is_plain_xml, url_encode
from b2fs.store.embedded.rows import UploadRow, VersionRow
from b2fs.store.embedded.versionid import parse_version_id

MAX_PAGE = 1000


def _limit(params: Params, name: str) -> int:
    """The page size that a request asks for, at most 1,000."""
    wanted: int = params.get(name, MAX_PAGE)
    if wanted < 0:
        raise S3Error("InvalidArgument", f"Argument {name} must be an integer between 0 and 2147483647")
    return min(wanted, MAX_PAGE)


def _encoder(params: Params) -> Callable[[str], str]:
    kind = params.get("EncodingType")
    if kind is None:
        return str
    if kind != "url":
        raise S3Error("InvalidArgument", "Invalid Encoding Method specified in Request")
    return url_encode


def _frame(params: Params, call: Call, encode: Callable[[str], str]) -> dict[str, Any]:
    """The members that all listings repeat from the request."""
    values: dict[str, Any] = {"Prefix": encode(params.get("Prefix") or "")}
    if params.get("Delimiter"):
        values["Delimiter"] = encode(params["Delimiter"])
    if params.get("EncodingType"):
        values["EncodingType"] = params["EncodingType"]
    return values


def _prefixes(prefixes: Iterable[str], encode: Callable[[str], str]) -> list[dict[str, str]]:
    return [{"Prefix": encode(prefix)} for prefix in prefixes]


def _content(row: VersionRow, encode: Callable[[str], str], owner: dict[str, str] | None) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "Key": encode(row.key),
        "LastModified": row.modified_ms // 1000 * 1000,
        "ETag": f'"{row.etag}"',
        "Size": row.size,
        "StorageClass": "STANDARD",
    }
    if owner is not None:
        shown["Owner"] = owner
    if partsums.SUM in row.attributes_json:  # few have one, and reading the attributes of all takes its time
        shown |= partsums.listed_values(row.attributes.extra)
    return shown


def list_objects(call: Call) -> Reply:
    """Version 1: continued behind a marker, which is any text."""
    params = call.params
    limit, encode = _limit(params, "MaxKeys"), _encoder(params)
    marker, delimiter = params.get("Marker") or "", params.get("Delimiter") or None
    prefix = params.get("Prefix") or ""
    values = _frame(params, call, encode) | {
        # Clients of version 1 (botocore among them) decode all names of the answer but this one.
        "Prefix": prefix if is_plain_xml(prefix) else encode(prefix),
        "Name": call.bucket.name,
        "Marker": encode(marker),
        "MaxKeys": limit,
        "IsTruncated": False,
    }
    if limit == 0:
        return Reply(values)
    page = call.engine.list_objects(
        call.bucket.id, params.get("Prefix") or "", delimiter=delimiter, start_after=marker or None, max_keys=limit
    )
    owner = call.owner()
    values["Contents"] = [_content(row, encode, owner) for row in page.rows]
    values["CommonPrefixes"] = _prefixes(page.prefixes, encode)
    values["IsTruncated"] = page.next_token is not None
    if page.next_token is not None and delimiter is not None:
        # Without a delimiter the last key is the next marker, and S3 leaves it to the client to know that.
        last_key = page.rows[-1].key if page.rows else ""
        values["NextMarker"] = encode(max(last_key, page.prefixes[-1] if page.prefixes else ""))
    return Reply(values)


def list_objects_v2(call: Call) -> Reply:
    """Version 2: continued by an opaque token."""
    params = call.params
    limit, encode = _limit(params, "MaxKeys"), _encoder(params)
    token, start_after = params.get("ContinuationToken"), params.get("StartAfter")
    values = _frame(params, call, encode) | {
        "Name": call.bucket.name,
        "MaxKeys": limit,
        "KeyCount": 0,
        "IsTruncated": False,
        "ContinuationToken": token,
        "StartAfter": encode(start_after) if start_after is not None else None,
    }
    if limit == 0:
        return Reply(values)
    try:
        page = call.engine.list_objects(
            call.bucket.id,
            params.get("Prefix") or "",
            delimiter=params.get("Delimiter") or None,
            start_after=start_after or None,
            token=token or None,
            max_keys=limit,
        )
    except InvalidRequest as error:
        raise S3Error("InvalidArgument", "The continuation token provided is incorrect") from error
    owner = call.owner() if params.get("FetchOwner") else None
    values["Contents"] = [_content(row, encode, owner) for row in page.rows]
    values["CommonPrefixes"] = _prefixes(page.prefixes, encode)
    values["KeyCount"] = len(page.rows) + len(page.prefixes)
    values["IsTruncated"] = page.next_token is not None
    values["NextContinuationToken"] = page.next_token
    return Reply(values)


def list_versions(call: Call) -> Reply:
    """Versions and hide markers in one sequence, newest first within a key."""
    params = call.params
    limit, encode = _limit(params, "MaxKeys"), _encoder(params)
    key_marker, version_marker = params.get("KeyMarker") or "", params.get("VersionIdMarker") or ""
    if version_marker and not key_marker:
        raise S3Error("InvalidArgument", "A version-id marker cannot be specified without a key marker.")
    values = _frame(params, call, encode) | {
        "Name": call.bucket.name,
        "KeyMarker": encode(key_marker),
        "VersionIdMarker": version_marker,
        "MaxKeys": limit,
        "IsTruncated": False,
    }
    if limit == 0:
        return Reply(values)
    page = call.engine.list_versions(
        call.bucket.id,
        params.get("Prefix") or "",
        delimiter=params.get("Delimiter") or None,
        key_marker=key_marker or None,
        version_marker=version_marker or None,
        max_keys=limit,
    )
    owner = call.owner()
    # Both kinds stand in one sequence on the wire: the writer takes each entry's own element name.
    values["Versions"] = [_version(row, encode, owner) for row in page.rows]
    values["CommonPrefixes"] = _prefixes(page.prefixes, encode)
    if page.next_key_marker is not None:
        values["IsTruncated"] = True
        values["NextKeyMarker"] = encode(page.next_key_marker)
        values["NextVersionIdMarker"] = page.next_version_marker
    return Reply(values)


def _version(row: VersionRow, encode: Callable[[str], str], owner: dict[str, str]) -> dict[str, Any]:
    shown = _content(row, encode, owner) | {"VersionId": row.version_id, "IsLatest": bool(row.is_latest)}
    if row.is_hide_marker:
        for name in ("ETag", "Size", "StorageClass"):
            del shown[name]
        shown["@element"] = "DeleteMarker"
    return shown


def list_uploads(call: Call) -> Reply:
    """Unfinished multipart uploads."""
    params = call.params
    limit, encode = _limit(params, "MaxUploads"), _encoder(params)
    key_marker = params.get("KeyMarker") or ""
    # An upload marker counts only together with a key marker.
    upload_marker = (params.get("UploadIdMarker") or "") if key_marker else ""
    if upload_marker and parse_version_id(upload_marker) is None:
        raise S3Error("InvalidArgument", "Invalid uploadId marker")
    values = _frame(params, call, encode) | {
        "Bucket": call.bucket.name,
        "KeyMarker": encode(key_marker),
        "UploadIdMarker": upload_marker,
        "MaxUploads": limit,
        "IsTruncated": False,
    }
    if limit == 0:
        return Reply(values)
    page = call.engine.list_uploads(
        call.bucket.id,
        params.get("Prefix") or "",
        delimiter=params.get("Delimiter") or None,
        key_marker=key_marker or None,
        upload_marker=upload_marker or None,
        max_uploads=limit,
    )
    owner = call.owner()
    values["Uploads"] = [_upload(row, encode, owner) for row in page.rows]
    values["CommonPrefixes"] = _prefixes(page.prefixes, encode)
    if page.next_key_marker is not None:
        values["IsTruncated"] = True
        values["NextKeyMarker"] = encode(page.next_key_marker)
        values["NextUploadIdMarker"] = page.next_upload_marker
    return Reply(values)


def _upload(row: UploadRow, encode: Callable[[str], str], owner: dict[str, str]) -> dict[str, Any]:
    plan = partsums.Plan.of_extra(row.attributes.extra)
    return {
        "Key": encode(row.key),
        "UploadId": row.upload_id,
        "Initiator": owner,
        "Owner": owner,
        "StorageClass": "STANDARD",
        "Initiated": row.started_ms // 1000 * 1000,
        **(plan.values if plan is not None else {}),
    }
