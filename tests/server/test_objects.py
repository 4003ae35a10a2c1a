"""PutObject, GetObject, HeadObject, DeleteObject(s): content, headers, conditions, ranges, refusals."""

from __future__ import annotations

import base64
import datetime
import hashlib
import itertools
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.server.errors import refused
from tests.server.harness import Server
from tests.server.test_auth import signed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KEYS = [
    "a",
    "a/b",
    "a//b",
    "/a",
    "a/",
    "../up",
    "./x",
    "ü€😀",
    "with space",
    "a+b",
    "a%2Fb",
    "%",
    "&<>\"'",
    "x" * 1024,
    "~-_.!*()",
]


def text(s3: S3Client, bucket: str, key: str, **options: Any) -> str:
    body: bytes = s3.get_object(Bucket=bucket, Key=key, **options)["Body"].read()
    return body.decode()


@pytest.mark.parametrize("key", KEYS)
def test_any_key_round_trips(s3: S3Client, bucket: str, server: Server, key: str) -> None:
    s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    assert text(s3, bucket, key) == key
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [key]
    outside = [path for path in server.directory.iterdir() if path.name not in ("store", "secret", "access.log")]
    assert outside == []


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("x" * 1025, "KeyTooLongError"),
        ("a\x01b", "InvalidArgument"),
        ("a\x7f", "InvalidArgument"),
        ("\0", "InvalidArgument"),
    ],
)
def test_bad_keys_are_refused(s3: S3Client, bucket: str, key: str, code: str) -> None:
    with refused(400, code):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")


def test_put_answers_etag_and_version(s3: S3Client, bucket: str) -> None:
    answer = s3.put_object(Bucket=bucket, Key="k", Body=b"hello")
    assert answer["ETag"] == '"5d41402abc4b2a76b9719d911017c592"'
    assert answer["VersionId"].startswith("4_z")
    assert len(answer["VersionId"]) <= 200


def test_put_then_put_keeps_both(s3: S3Client, bucket: str) -> None:
    first = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["VersionId"]
    second = s3.put_object(Bucket=bucket, Key="k", Body=b"2")["VersionId"]
    assert first != second
    assert text(s3, bucket, "k") == "2"
    assert text(s3, bucket, "k", VersionId=first) == "1"


def test_headers_and_metadata_come_back(s3: S3Client, bucket: str) -> None:
    s3.put_object(
        Bucket=bucket,
        Key="k",
        Body=b"x",
        ContentType="text/x-y",
        CacheControl="max-age=1",
        ContentDisposition="inline",
        ContentEncoding="gzip",
        ContentLanguage="de",
        Expires="Sat, 31 Jan 2032 12:00:00 GMT",
        Metadata={"Mode": "33188", "b": "2"},
    )
    for answer in (s3.head_object(Bucket=bucket, Key="k"), s3.get_object(Bucket=bucket, Key="k")):
        shown: dict[str, Any] = dict(answer)
        assert shown["ContentType"] == "text/x-y"
        assert shown["CacheControl"] == "max-age=1"
        assert shown["ContentDisposition"] == "inline"
        assert shown["ContentEncoding"] == "gzip"
        assert shown["ContentLanguage"] == "de"
        assert shown["ResponseMetadata"]["HTTPHeaders"]["expires"] == "Sat, 31 Jan 2032 12:00:00 GMT"
        assert shown["Metadata"] == {"mode": "33188", "b": "2"}
        assert shown["LastModified"].microsecond == 0


def test_content_type_has_a_default(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert s3.head_object(Bucket=bucket, Key="k")["ContentType"] == "binary/octet-stream"


def test_response_overrides(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ContentType="text/plain")
    answer = s3.get_object(Bucket=bucket, Key="k", ResponseContentType="a/b", ResponseContentDisposition="attachment")
    assert (answer["ContentType"], answer["ContentDisposition"]) == ("a/b", "attachment")


def test_empty_object(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    answer = s3.get_object(Bucket=bucket, Key="k")
    assert (answer["ContentLength"], answer["Body"].read()) == (0, b"")
    with refused(416, "InvalidRange"):
        s3.get_object(Bucket=bucket, Key="k", Range="bytes=0-")


def test_large_body_is_streamed(s3: S3Client, bucket: str) -> None:
    body = bytes(range(256)) * (5 << 12)
    s3.put_object(Bucket=bucket, Key="k", Body=body)
    assert (
        hashlib.sha256(s3.get_object(Bucket=bucket, Key="k")["Body"].read()).digest() == hashlib.sha256(body).digest()
    )
    part = s3.get_object(Bucket=bucket, Key="k", Range="bytes=1000001-3000002")["Body"].read()
    assert part == body[1_000_001:3_000_003]


@pytest.mark.parametrize(
    ("asked", "status", "body", "content_range"),
    [
        ("bytes=0-0", 206, "0", "bytes 0-0/10"),
        ("bytes=2-4", 206, "234", "bytes 2-4/10"),
        ("bytes=7-", 206, "789", "bytes 7-9/10"),
        ("bytes=-3", 206, "789", "bytes 7-9/10"),
        ("bytes=-30", 206, "0123456789", "bytes 0-9/10"),
        ("bytes=5-100", 206, "56789", "bytes 5-9/10"),
        ("bytes=4-2", 200, "0123456789", None),
        ("bytes=0-1,3-4", 200, "0123456789", None),
        ("lines=0-1", 200, "0123456789", None),
        ("bytes=x-1", 200, "0123456789", None),
    ],
)
def test_ranges(s3: S3Client, bucket: str, asked: str, status: int, body: str, content_range: str | None) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    answer = s3.get_object(Bucket=bucket, Key="k", Range=asked)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == status
    assert answer["Body"].read().decode() == body
    assert answer.get("ContentRange") == content_range


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_ranges_outside(s3: S3Client, bucket: str, asked: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    with refused(416, "InvalidRange"):
        s3.get_object(Bucket=bucket, Key="k", Range=asked)


def test_conditional_reads(s3: S3Client, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]
    modified = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    day = timedelta(days=1)
    assert text(s3, bucket, "k", IfMatch=etag) == "x"
    assert text(s3, bucket, "k", IfNoneMatch='"other"') == "x"
    assert text(s3, bucket, "k", IfModifiedSince=modified - day) == "x"
    assert text(s3, bucket, "k", IfUnmodifiedSince=modified) == "x"
    assert text(s3, bucket, "k", IfMatch=etag, IfUnmodifiedSince=modified - day) == "x"
    with refused(412, "PreconditionFailed"):
        s3.get_object(Bucket=bucket, Key="k", IfMatch='"other"')
    with refused(412, "PreconditionFailed"):
        s3.get_object(Bucket=bucket, Key="k", IfUnmodifiedSince=modified - day)
    with refused(304, "304"):
        s3.get_object(Bucket=bucket, Key="k", IfNoneMatch=etag)
    with refused(304, "304"):
        s3.head_object(Bucket=bucket, Key="k", IfModifiedSince=modified)
    with refused(412, "412"):
        s3.head_object(Bucket=bucket, Key="k", IfMatch='"other"')


def test_conditional_put_is_not_implemented(s3: S3Client, bucket: str) -> None:
    conditions: list[Any] = [{"IfMatch": '"x"'}, {"IfNoneMatch": "*"}]
    for condition in conditions:
        with refused(501, "NotImplemented", "A header you provided implies functionality that is not implemented"):
            s3.put_object(Bucket=bucket, Key="k", Body=b"x", **condition)


def test_missing_things(s3: S3Client, bucket: str) -> None:
    with refused(404, "NoSuchKey", "Key not found"):
        s3.get_object(Bucket=bucket, Key="none")
    with refused(404, "404"):
        s3.head_object(Bucket=bucket, Key="none")
    with refused(404, "NoSuchBucket", "The specified bucket does not exist"):
        s3.get_object(Bucket="no-such-bucket", Key="none")
    with refused(400, "InvalidArgument"):
        s3.get_object(Bucket=bucket, Key="none", VersionId="nonsense")
    gone = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["VersionId"]
    s3.delete_object(Bucket=bucket, Key="k", VersionId=gone)
    with refused(404, "NoSuchVersion"):
        s3.get_object(Bucket=bucket, Key="k", VersionId=gone)


def test_delete_hides_and_delete_of_the_marker_unhides(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    answer = s3.delete_object(Bucket=bucket, Key="k")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert answer["DeleteMarker"] is True
    with pytest.raises(s3.exceptions.NoSuchKey) as caught:
        s3.get_object(Bucket=bucket, Key="k")
    headers = caught.value.response["ResponseMetadata"]["HTTPHeaders"]
    assert (headers["x-amz-delete-marker"], headers["x-amz-version-id"]) == ("true", answer["VersionId"])
    with refused(405, "MethodNotAllowed"):
        s3.get_object(Bucket=bucket, Key="k", VersionId=answer["VersionId"])
    removed = s3.delete_object(Bucket=bucket, Key="k", VersionId=answer["VersionId"])
    assert (removed["DeleteMarker"], removed["VersionId"]) == (True, answer["VersionId"])
    assert text(s3, bucket, "k") == "x"


def test_delete_many(s3: S3Client, bucket: str) -> None:
    versions = {key: s3.put_object(Bucket=bucket, Key=key, Body=b"x")["VersionId"] for key in ("a", "b", "c")}
    answer = s3.delete_objects(
        Bucket=bucket,
        Delete={"Objects": [{"Key": "a"}, {"Key": "b", "VersionId": versions["b"]}, {"Key": "none"}]},
    )
    deleted = {item["Key"]: item for item in answer["Deleted"]}
    assert deleted["a"]["DeleteMarker"] is True
    assert deleted["b"] == {"Key": "b", "VersionId": versions["b"]}
    assert deleted["none"]["DeleteMarkerVersionId"].startswith("4_z")
    quiet = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "c"}], "Quiet": True})
    assert "Deleted" not in set(quiet)
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
    with refused(400, "MalformedXML"):
        s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": str(n)} for n in range(1001)]})


def test_digests_are_checked(s3: S3Client, bucket: str) -> None:
    good = base64.b64encode(hashlib.md5(b"x").digest()).decode()
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ContentMD5=good)
    with refused(400, "BadDigest"):
        s3.put_object(Bucket=bucket, Key="k2", Body=b"y", ContentMD5=good)
    with refused(400, "InvalidDigest"):
        s3.put_object(Bucket=bucket, Key="k2", Body=b"y", ContentMD5="abc")
    with refused(400, "BadDigest"):
        s3.put_object(Bucket=bucket, Key="k2", Body=b"y", ChecksumSHA256=base64.b64encode(bytes(32)).decode())
    with refused(404, "404"):
        s3.head_object(Bucket=bucket, Key="k2")


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_checksums_in_trailers(s3: S3Client, bucket: str, algorithm: Any) -> None:
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"x" * 1000, ChecksumAlgorithm=algorithm)
    got = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    name = f"Checksum{algorithm}"
    assert dict(put)[name] == dict(got)[name]
    assert got["Body"].read() == b"x" * 1000


def test_metadata_limits(s3: S3Client, bucket: str, lock_bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata={"n": "v" * 6999})
    with refused(400, "MetadataTooLarge"):
        s3.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata={"n": "v" * 7000})
    with refused(400, "MetadataTooLarge"):
        s3.put_object(Bucket=lock_bucket, Key="k", Body=b"x", Metadata={"n": "v" * 2048})
    with refused(400, "InvalidArgument"):
        s3.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata={"b2-x": "v"})


def test_unsupported_headers(s3: S3Client, bucket: str) -> None:
    with refused(400, "InvalidArgument", "Unsupported value for canned acl 'public-read-write'"):
        s3.put_object(Bucket=bucket, Key="k", Body=b"x", ACL="public-read-write")
    with refused(400, "InvalidArgument", "Unsupported value for canned acl 'public-read'"):
        s3.put_object(Bucket=bucket, Key="k", Body=b"x", ACL="public-read")
    with refused(400, "InvalidArgument", "Unsupported header 'x-amz-tagging' received for this API call."):
        s3.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="a=b")
    with refused(400, "InvalidArgument", "Unsupported header 'x-amz-grant-read'"):
        s3.put_bucket_acl(Bucket=bucket, GrantRead="id=1")
    with refused(400, "InvalidArgument"):
        s3.put_object(Bucket=bucket, Key="k", Body=b"x", ServerSideEncryption="aws:kms")
    with refused(501, "NotImplemented"):
        s3.get_object_tagging(Bucket=bucket, Key="k")
    with refused(501, "NotImplemented"):
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})


def test_conditional_completions_are_refused_rather_than_made(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=1, Body=b"y")
    parts: Any = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    with refused(501, "NotImplemented"):
        s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload_id, MultipartUpload=parts, IfNoneMatch="*")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


OTHER_TIME = datetime.datetime(2015, 1, 1, tzinfo=datetime.UTC)


def test_deletes_may_ask_for_an_expected_version(s3: S3Client, bucket: str) -> None:
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    modified = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    others: list[Any] = [{"IfMatch": '"other"'}, {"IfMatchLastModifiedTime": OTHER_TIME}, {"IfMatchSize": 2}]
    versions: list[Any] = [{}, {"VersionId": put["VersionId"]}]
    for condition, version in itertools.product(others, versions):
        with refused(412, "PreconditionFailed"):
            s3.delete_object(Bucket=bucket, Key="k", **version, **condition)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    hidden = s3.delete_object(Bucket=bucket, Key="k", IfMatch=put["ETag"], IfMatchSize=1)
    assert hidden["DeleteMarker"]
    s3.delete_object(Bucket=bucket, Key="k", IfMatch='"other"')  # nothing is there that could be lost
    removed = s3.delete_object(
        Bucket=bucket, Key="k", VersionId=put["VersionId"], IfMatchLastModifiedTime=modified, IfMatch="*"
    )
    assert "DeleteMarker" not in set(removed)
    s3.delete_object(Bucket=bucket, Key="k", VersionId=put["VersionId"], IfMatch='"other"')


def test_each_of_many_deletes_may_ask_for_an_expected_version(s3: S3Client, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]
    others: Any = [{"ETag": "other"}, {"LastModifiedTime": OTHER_TIME}, {"Size": 2}]
    orders: Any = [{"Key": "k", **condition} for condition in others]
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": orders})
    assert [error["Code"] for error in answer["Errors"]] == ["PreconditionFailed"] * 3
    assert "Deleted" not in set(answer)
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k", "ETag": etag, "Size": 1}]})
    assert answer["Deleted"][0]["DeleteMarker"]


def test_a_refusal_names_its_request(server: Server, bucket: str) -> None:
    status, headers, body = server.request("GET", f"/{bucket}/missing")
    assert status == 403
    assert f"<RequestId>{headers['x-amz-request-id']}</RequestId>".encode() in body


def test_only_objects_may_be_cached(s3: S3Client, bucket: str) -> None:
    done = s3.put_object(Bucket=bucket, Key="k", Body=b"x", CacheControl="max-age=5")
    assert done["ResponseMetadata"]["HTTPHeaders"]["cache-control"] == "max-age=0, no-cache, no-store"
    assert s3.get_object(Bucket=bucket, Key="k")["CacheControl"] == "max-age=5"


def test_presigned_get_and_put(server: Server, bucket: str) -> None:
    s3 = server.s3(signature_version="s3v4")
    put = urlsplit(s3.generate_presigned_url("put_object", {"Bucket": bucket, "Key": "a b"}))
    status, _, body = server.request("PUT", f"{put.path}?{put.query}", b"by url", {"Host": put.netloc})
    assert (status, body) == (200, b"")
    got = urlsplit(s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "a b"}))
    status, headers, body = server.request("GET", f"{got.path}?{got.query}", headers={"Host": got.netloc})
    assert (status, body) == (200, b"by url")
    assert len(headers["x-amz-request-id"]) == 16
    status, _, body = server.request("GET", f"{got.path}?{got.query}&x=y", headers={"Host": got.netloc})
    assert status == 403
    assert b"<Code>SignatureDoesNotMatch</Code>" in body


def test_head_errors_have_no_body(server: Server, bucket: str) -> None:
    s3 = server.s3(signature_version="s3v4")
    url = urlsplit(s3.generate_presigned_url("head_object", {"Bucket": bucket, "Key": "none"}))
    status, headers, body = server.request("HEAD", f"{url.path}?{url.query}", headers={"Host": url.netloc})
    assert (status, body) == (404, b"")
    assert headers["content-length"] == "0"


@pytest.mark.parametrize("value", ["0", "-1", "never"])
def test_expires_is_any_text(server: Server, bucket: str, value: str) -> None:
    path = f"/{bucket}/k"
    assert server.request("PUT", path, b"x", signed(server, "PUT", path, b"x", {"expires": value}))[0] == 200
    _, headers, _ = server.request("HEAD", path, headers=signed(server, "HEAD", path))
    assert headers["expires"] == value
    path += "?response-expires=soon"
    _, headers, _ = server.request("GET", path, headers=signed(server, "GET", path))
    assert headers["expires"] == "soon"


def test_conditions_with_dates_that_are_none_are_ignored(server: Server, s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for name in ("if-modified-since", "if-unmodified-since"):
        asked = signed(server, "GET", f"/{bucket}/k", b"", {name: "yesterday"})
        assert server.request("GET", f"/{bucket}/k", headers=asked)[0] == 200


@pytest.mark.parametrize("text", ["bytes= -1", "bytes= 0-1", "bytes=0 -1", "bytes=--1", "bytes=,", "foo=0-1"])
def test_malformed_ranges_ask_for_the_whole(server: Server, s3: S3Client, bucket: str, text: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    answer = s3.get_object(Bucket=bucket, Key="k", Range=text)
    assert answer["Body"].read() == b"0123456789"
    assert "ContentRange" not in answer
