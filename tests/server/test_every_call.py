"""Each of the 38 calls: that it is made for who may, and what it says to who may not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import pytest
from b2sdk.v2 import B2Api, InMemoryAccountInfo
from botocore import UNSIGNED, xform_name
from botocore.exceptions import ClientError

from b2fs.server.wire.model import B2_CALLS
from tests.server.errors import refused
from tests.server.harness import KEY_ID, SECRET, Server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_NUMBERS = itertools.count(1)
_CORS: Final = {"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": ["https://example.com"]}]}
_ENCRYPTION: Final = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
_RETENTION: Final = {"Mode": "GOVERNANCE", "RetainUntilDate": "2099-01-01T00:00:00Z"}
_OBJECT: Final = {"Key": "k"}
_PART: Final = {"Key": "u", "UploadId": "{upload}", "PartNumber": 1}
#: What each call is given beside the bucket: the least.  In the order in which one bucket can bear them all.
CALLS: Final[Mapping[str, Mapping[str, Any]]] = {
    "HeadBucket": {},
    "GetBucketLocation": {},
    "GetBucketVersioning": {},
    "GetBucketAcl": {},
    "PutBucketAcl": {"ACL": "private"},
    "PutBucketCors": {"CORSConfiguration": _CORS},
    "GetBucketCors": {},
    "DeleteBucketCors": {},
    "PutBucketEncryption": {"ServerSideEncryptionConfiguration": _ENCRYPTION},
    "GetBucketEncryption": {},
    "DeleteBucketEncryption": {},
    "PutObjectLockConfiguration": {"ObjectLockConfiguration": {"ObjectLockEnabled": "Enabled"}},
    "GetObjectLockConfiguration": {},
    "PutObject": {**_OBJECT, "Body": b"text"},
    "GetObject": _OBJECT,
    "HeadObject": _OBJECT,
    "GetObjectAcl": _OBJECT,
    "PutObjectAcl": {**_OBJECT, "ACL": "private"},
    "PutObjectLegalHold": {**_OBJECT, "LegalHold": {"Status": "OFF"}},
    "GetObjectLegalHold": _OBJECT,
    "PutObjectRetention": {**_OBJECT, "Retention": _RETENTION},
    "GetObjectRetention": _OBJECT,
    "CopyObject": {"Key": "copy", "CopySource": "{bucket}/k"},
    "CreateMultipartUpload": {"Key": "u"},
    "UploadPart": {**_PART, "Body": b"text"},
    "UploadPartCopy": {**_PART, "CopySource": "{bucket}/k"},
    "ListParts": {"Key": "u", "UploadId": "{upload}"},
    "ListMultipartUploads": {},
    "CompleteMultipartUpload": {
        "Key": "u",
        "UploadId": "{upload}",
        "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": "{etag}"}]},
    },
    "AbortMultipartUpload": {"Key": "u", "UploadId": "{upload}"},
    "ListObjects": {},
    "ListObjectsV2": {},
    "ListObjectVersions": {},
    "DeleteObject": _OBJECT,
    "DeleteObjects": {"Delete": {"Objects": [_OBJECT]}},
    "DeleteBucket": {},
}
#: Answered without a bucket, or where there is none yet.
ELSEWHERE: Final = {"ListBuckets", "CreateBucket"}
#: Calls that name an object or an upload that must be there.
FINDS_OBJECT: Final = (
    "GetObject", "HeadObject", "GetObjectAcl", "PutObjectAcl", "GetObjectLegalHold", "PutObjectLegalHold",
    "GetObjectRetention", "PutObjectRetention",
)  # fmt: skip
FINDS_UPLOAD: Final = (
    "UploadPart", "UploadPartCopy", "ListParts", "CompleteMultipartUpload", "AbortMultipartUpload"
)  # fmt: skip


def filled(value: Any, names: Mapping[str, str]) -> Any:
    """A value of the table with its {names} put in."""
    if isinstance(value, str):
        return value.format_map(names)
    if isinstance(value, Mapping):
        return {name: filled(item, names) for name, item in value.items()}
    return [filled(item, names) for item in value] if isinstance(value, list) else value


def make(client: S3Client, call: str, bucket: str, names: Mapping[str, str] = {}, **more: Any) -> Any:
    known = {"bucket": bucket, "upload": "none", "etag": '"' + "0" * 32 + '"', **names}
    return getattr(client, xform_name(call))(Bucket=bucket, **filled(CALLS[call], known), **more)


@pytest.fixture(scope="module")
def home(s3: S3Client) -> Iterator[str]:
    """A bucket with Object Lock and the object that the table names."""
    name = f"every-call-{next(_NUMBERS)}"
    s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    s3.put_object(Bucket=name, Key="k", Body=b"text")
    yield name


@pytest.fixture(scope="module")
def nobody(server: Server) -> S3Client:
    """An anonymous client."""
    return server.s3(signature_version=UNSIGNED)


@pytest.fixture(scope="module")
def idler(server: Server) -> S3Client:
    """A client of the same account whose key is good for nothing that the table has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", str(server.authority.ca_file))
        api = B2Api(InMemoryAccountInfo())
        api.authorize_account(server.url, KEY_ID, SECRET)
        key = api.create_key(["shareFiles"], "idler")
    return server.s3(key.id_, key.application_key)


def test_the_table_is_whole() -> None:
    assert set(CALLS) | ELSEWHERE == B2_CALLS
    assert len(B2_CALLS) == 38


def test_each_is_answered(s3: S3Client) -> None:
    """One after the other on one bucket, which is made by the first and removed by the last."""
    bucket = f"every-call-{next(_NUMBERS)}"
    s3.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    names: dict[str, str] = {}
    for call in CALLS:
        if call == "AbortMultipartUpload":
            names["upload"] = s3.create_multipart_upload(Bucket=bucket, Key="u")["UploadId"]
        if call == "DeleteBucket":
            empty(s3, bucket)
        answer = make(s3, call, bucket, names)
        assert answer["ResponseMetadata"]["HTTPStatusCode"] in (200, 204), call
        if call == "CreateMultipartUpload":
            names["upload"] = answer["UploadId"]
        if call == "UploadPartCopy":
            names["etag"] = answer["CopyPartResult"]["ETag"]
    assert bucket not in [item["Name"] for item in s3.list_buckets()["Buckets"]]


def empty(s3: S3Client, bucket: str) -> None:
    page: Any = s3.list_object_versions(Bucket=bucket)
    for version in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
        s3.delete_object(
            Bucket=bucket, Key=version["Key"], VersionId=version["VersionId"], BypassGovernanceRetention=True
        )


def code_of(caught: ClientError) -> tuple[int, str]:
    return caught.response["ResponseMetadata"]["HTTPStatusCode"], caught.response["Error"]["Code"]


def refusal(call: str, status: int, code: str) -> tuple[int, str]:
    """HEAD has no body, so that botocore only knows the status."""
    return (status, str(status)) if call.startswith("Head") else (status, code)


@pytest.mark.parametrize("call", CALLS)
def test_a_bucket_that_is_not_there(s3: S3Client, call: str) -> None:
    with pytest.raises(ClientError) as caught:
        make(s3, call, "every-call-nowhere")
    assert code_of(caught.value) == refusal(call, 404, "NoSuchBucket")


@pytest.mark.parametrize("call", CALLS)
def test_strangers(s3: S3Client, other: S3Client, nobody: S3Client, home: str, call: str) -> None:
    """Another account, nobody, and who takes the bucket for somebody else's."""
    with pytest.raises(ClientError) as caught:
        make(other, call, home)
    assert code_of(caught.value) == refusal(call, 403, "AccessDenied")
    with pytest.raises(ClientError) as caught:
        make(nobody, call, home)
    assert code_of(caught.value) == refusal(call, 403, "AccessDenied")
    with pytest.raises(ClientError) as caught:
        make(s3, call, home, ExpectedBucketOwner="1" * 12)
    assert code_of(caught.value) == refusal(call, 403, "AccessDenied")


@pytest.mark.parametrize("call", [*CALLS, *sorted(ELSEWHERE)])
def test_a_key_without_the_capability(idler: S3Client, home: str, call: str) -> None:
    def ask() -> Any:
        if call == "ListBuckets":
            return idler.list_buckets()
        return idler.create_bucket(Bucket="every-call-never") if call == "CreateBucket" else make(idler, call, home)

    if call == "DeleteObjects":
        assert [error.get("Code") for error in ask()["Errors"]] == ["AccessDenied"]
        return
    with pytest.raises(ClientError) as caught:
        ask()
    assert code_of(caught.value) == refusal(call, 403, "AccessDenied")


@pytest.mark.parametrize("call", FINDS_OBJECT)
def test_objects_that_are_not_there(s3: S3Client, home: str, call: str) -> None:
    arguments: Any = {**CALLS[call], "Key": "nothing"}
    with pytest.raises(ClientError) as caught:
        getattr(s3, xform_name(call))(Bucket=home, **arguments)
    assert code_of(caught.value) == refusal(call, 404, "NoSuchKey")


@pytest.mark.parametrize("call", FINDS_UPLOAD)
def test_uploads_that_are_not_there(s3: S3Client, home: str, call: str) -> None:
    with refused(404, "NoSuchUpload"):
        make(s3, call, home)
