"""The table of handlers: which function serves which call, and where it runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from b2fs.server.ops import buckets, copies, cors, listing, locks, multipart, objects
from b2fs.server.ops.call import Call, Reply

Handler = Callable[[Call], Reply]
AsyncHandler = Callable[[Call], Awaitable[Reply]]

#: Lookups in the page cache, some 50 microseconds: run on the event loop, since the way to a thread costs more.
QUICK: Final[Mapping[str, Handler]] = {
    "GetBucketAcl": buckets.get_bucket_acl,
    "GetBucketCors": cors.get_cors,
    "GetBucketEncryption": buckets.get_encryption,
    "GetBucketLocation": buckets.get_location,
    "GetBucketVersioning": buckets.get_versioning,
    "GetObject": objects.get_object,
    "GetObjectAcl": buckets.get_object_acl,
    "GetObjectLegalHold": locks.get_legal_hold,
    "GetObjectLockConfiguration": buckets.get_lock_configuration,
    "GetObjectRetention": locks.get_retention,
    "HeadBucket": buckets.head_bucket,
    "HeadObject": objects.head_object,
    "ListBuckets": buckets.list_buckets,
}
#: Changes and listings: in worker threads.
THREADED: Final[Mapping[str, Handler]] = {
    "AbortMultipartUpload": multipart.abort_upload,
    "CompleteMultipartUpload": multipart.complete_upload,
    "CopyObject": copies.copy_object,
    "CreateBucket": buckets.create_bucket,
    "CreateMultipartUpload": multipart.create_upload,
    "DeleteBucket": buckets.delete_bucket,
    "DeleteBucketCors": cors.delete_cors,
    "DeleteBucketEncryption": buckets.delete_encryption,
    "DeleteObject": objects.delete_object,
    "DeleteObjects": objects.delete_objects,
    "ListMultipartUploads": listing.list_uploads,
    "ListObjectVersions": listing.list_versions,
    "ListObjects": listing.list_objects,
    "ListObjectsV2": listing.list_objects_v2,
    "ListParts": multipart.list_parts,
    "PutBucketAcl": buckets.put_bucket_acl,
    "PutBucketCors": cors.put_cors,
    "PutBucketEncryption": buckets.put_encryption,
    "PutObjectAcl": buckets.put_object_acl,
    "PutObjectLegalHold": locks.put_legal_hold,
    "PutObjectLockConfiguration": buckets.put_lock_configuration,
    "PutObjectRetention": locks.put_retention,
    "UploadPartCopy": multipart.upload_part_copy,
}
#: Calls that take the object's content from the connection.
STREAMING: Final[Mapping[str, AsyncHandler]] = {
    "PutObject": objects.put_object,
    "UploadPart": multipart.upload_part,
}
