"""Which capability each call needs, and whether the caller has it for this bucket and key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from b2fs.server.auth.keys import ApplicationKey
from b2fs.server.ops.call import Call
from b2fs.server.wire.errors import S3Error, not_entitled
from b2fs.server.wire.model import Level
from b2fs.store.embedded.rows import Acl, BucketRow

CAPABILITY: Final[Mapping[str, str]] = {
    "AbortMultipartUpload": "writeFiles",
    "CompleteMultipartUpload": "writeFiles",
    "CopyObject": "writeFiles",
    "CreateBucket": "writeBuckets",
    "CreateMultipartUpload": "writeFiles",
    "DeleteBucket": "deleteBuckets",
    "DeleteBucketCors": "writeBuckets",
    "DeleteBucketEncryption": "writeBucketEncryption",
    "GetBucketAcl": "readBuckets",
    "GetBucketCors": "readBuckets",
    "GetBucketEncryption": "readBucketEncryption",
    "GetBucketLocation": "readBuckets",
    "GetBucketVersioning": "readBuckets",
    "GetObject": "readFiles",
    "GetObjectAcl": "readFiles",
    "GetObjectLegalHold": "readFileLegalHolds",
    "GetObjectLockConfiguration": "readBucketRetentions",
    "GetObjectRetention": "readFileRetentions",
    "HeadBucket": "listBuckets",
    "HeadObject": "readFiles",
    "ListBuckets": "listAllBucketNames",
    "ListMultipartUploads": "listFiles",
    "ListObjectVersions": "listFiles",
    "ListObjects": "listFiles",
    "ListObjectsV2": "listFiles",
    "ListParts": "writeFiles",
    "PutBucketAcl": "writeBuckets",
    "PutBucketCors": "writeBuckets",
    "PutBucketEncryption": "writeBucketEncryption",
    "PutObject": "writeFiles",
    "PutObjectAcl": "writeFiles",
    "PutObjectLegalHold": "writeFileLegalHolds",
    "PutObjectLockConfiguration": "writeBucketRetentions",
    "PutObjectRetention": "writeFileRetentions",
    "UploadPart": "writeFiles",
    "UploadPartCopy": "writeFiles",
}

#: What anybody may do with a public-read bucket.
_PUBLIC: Final = frozenset({"GetObject", "HeadObject", "HeadBucket", "ListObjects", "ListObjectsV2"})
#: Listings may only be asked for below the key's name prefix.
_LISTINGS: Final = frozenset({"ListMultipartUploads", "ListObjectVersions", "ListObjects", "ListObjectsV2"})


def _capability(call: Call) -> str | None:
    """What the call needs; None where the handler decides item by item."""
    name = call.target.operation.name
    if name == "DeleteObject":
        return "deleteFiles" if "VersionId" in call.params else "writeFiles"
    return CAPABILITY.get(name)


def _file_name(call: Call) -> str | None:
    """The name that the key's prefix restriction is held against."""
    if call.target.operation.name in _LISTINGS:
        prefix: str = call.params.get("Prefix") or ""
        return prefix
    return call.name if call.target.operation.level is Level.OBJECT else None


def may_read(bucket: BucketRow, key: ApplicationKey | None, file_name: str) -> bool:
    """Whether the caller may read this object of this bucket, as the source of a copy."""
    if key is not None and key.account.id == bucket.owner:
        return key.allows("readFiles", bucket.bucket_id, file_name)
    return bucket.acl is Acl.PUBLIC_READ


def authorise(call: Call) -> None:
    """Find the bucket and check that the caller may make this call on it.

    Raises AccessDenied (also for anonymous callers), NoSuchBucket.
    """
    operation = call.target.operation
    key = call.key
    capability = _capability(call)
    if operation.level is Level.SERVICE or operation.name == "CreateBucket":
        if key is None:
            raise S3Error("AccessDenied", "Unauthenticated requests are not allowed for this api")
        if capability is not None and not key.allows(capability):
            raise not_entitled()
        return
    bucket = call.home.buckets.find(call.target.bucket)
    if call.params.get("ExpectedBucketOwner", bucket.owner) != bucket.owner:
        raise S3Error("AccessDenied")
    if key is None or key.account.id != bucket.owner:
        if operation.name not in _PUBLIC or bucket.acl is not Acl.PUBLIC_READ:
            raise S3Error("AccessDenied")
    elif capability is not None and not key.allows(capability, bucket.bucket_id, _file_name(call)):
        raise not_entitled()
    call.enter(bucket)
