"""CopyObject: metadata, versions, conditions, refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.server.errors import refused
from tests.server.harness import Server
from tests.server.test_auth import signed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def test_copy_keeps_content_and_metadata(s3: S3Client, bucket: str) -> None:
    put = s3.put_object(Bucket=bucket, Key="a/ü+ b", Body=b"text", Metadata={"x": "y"}, ContentType="text/plain")
    done = s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "a/ü+ b"})
    assert done["CopyObjectResult"]["ETag"] == put["ETag"]
    assert done["CopySourceVersionId"] == put["VersionId"]
    got = s3.get_object(Bucket=bucket, Key="copy")
    assert (got["Body"].read(), got["Metadata"], got["ContentType"]) == (b"text", {"x": "y"}, "text/plain")
    assert got["VersionId"] == done["VersionId"]


ALGORITHMS: tuple[Any, ...] = ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256")


@pytest.mark.parametrize("wanted", ALGORITHMS)
def test_a_copy_may_ask_for_a_checksum(s3: S3Client, bucket: str, wanted: Any) -> None:
    """Whichever the source has, also where the content is encrypted or was put together."""
    body = bytes(range(256)) * 8192
    key: Any = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "k" * 32}
    source_key: Any = {f"CopySource{name}": value for name, value in key.items()}
    for name in ALGORITHMS:
        s3.put_object(Bucket=bucket, Key=name, Body=body, ChecksumAlgorithm=name)
    s3.put_object(Bucket=bucket, Key="secret", Body=body, **key)
    member: Any = f"Checksum{wanted}"
    sources: Any = s3.head_object(Bucket=bucket, Key=wanted, ChecksumMode="ENABLED")
    cases: list[tuple[str, Any, Any]] = [(name, {}, {}) for name in ALGORITHMS]
    for name, sent, needed in [*cases, ("secret", source_key, {}), ("secret", source_key | key, key)]:
        answer = s3.copy_object(
            Bucket=bucket, Key="copy", CopySource=f"{bucket}/{name}", ChecksumAlgorithm=wanted, **sent
        )
        done: Any = answer["CopyObjectResult"]
        assert {field for field in done if field.startswith("Checksum")} == {member, "ChecksumType"}
        assert (done[member], done["ChecksumType"]) == (sources[member], "FULL_OBJECT")
        shown: Any = s3.get_object(Bucket=bucket, Key="copy", ChecksumMode="ENABLED", **needed)
        assert (shown[member], shown["Body"].read()) == (sources[member], body)


def test_a_composite_checksum_becomes_that_of_the_copy(s3: S3Client, bucket: str) -> None:
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm="SHA256")["UploadId"]
    part = s3.upload_part(
        Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=b"text", ChecksumAlgorithm="SHA256"
    )
    listed: Any = [{"PartNumber": 1, "ETag": part["ETag"], "ChecksumSHA256": part["ChecksumSHA256"]}]
    s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload, MultipartUpload={"Parts": listed})
    kept = s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/k")["CopyObjectResult"]
    assert kept["ChecksumSHA256"].endswith("-1")
    asked: Any = "SHA256"
    made = s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/k", ChecksumAlgorithm=asked)
    assert made["CopyObjectResult"]["ChecksumSHA256"] == part["ChecksumSHA256"]


def test_without_asking_a_copy_has_its_source_s_checksum(s3: S3Client, bucket: str) -> None:
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"text", ChecksumAlgorithm="SHA1")
    done = s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/k")["CopyObjectResult"]
    assert done["ChecksumSHA1"] == put["ChecksumSHA1"]
    wrong: Any = "MD17"
    with refused(400, "InvalidRequest"):
        s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/k", ChecksumAlgorithm=wrong)


def test_copy_replaces_metadata(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"text", Metadata={"x": "y"}, ContentType="text/plain")
    s3.copy_object(
        Bucket=bucket,
        Key="k",
        CopySource=f"{bucket}/k",
        MetadataDirective="REPLACE",
        Metadata={"n": "1"},
        ContentType="a/b",
    )
    head = s3.head_object(Bucket=bucket, Key="k")
    assert (head["Metadata"], head["ContentType"]) == ({"n": "1"}, "a/b")


def test_copy_to_itself_needs_a_change(s3: S3Client, bucket: str) -> None:
    old = s3.put_object(Bucket=bucket, Key="k", Body=b"old")["VersionId"]
    s3.put_object(Bucket=bucket, Key="k", Body=b"new")
    with refused(400, "InvalidRequest", "illegal because it is trying to copy an object to itself"):
        s3.copy_object(Bucket=bucket, Key="k", CopySource=f"{bucket}/k")
    s3.copy_object(Bucket=bucket, Key="k", CopySource={"Bucket": bucket, "Key": "k", "VersionId": old})
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"old"


def test_copy_conditions(s3: S3Client, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]
    source = f"{bucket}/k"
    s3.copy_object(Bucket=bucket, Key="c", CopySource=source, CopySourceIfMatch=etag)
    s3.copy_object(Bucket=bucket, Key="c", CopySource=source, CopySourceIfNoneMatch='"other"')
    with refused(412, "PreconditionFailed"):
        s3.copy_object(Bucket=bucket, Key="c", CopySource=source, CopySourceIfMatch='"other"')
    with refused(412, "PreconditionFailed"):
        s3.copy_object(Bucket=bucket, Key="c", CopySource=source, CopySourceIfNoneMatch=etag)


def test_bad_sources(s3: S3Client, other: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for source in ("nothing", f"{bucket}/"):
        with refused(400, "InvalidArgument"):
            s3.copy_object(Bucket=bucket, Key="c", CopySource=source)
    with refused(404, "NoSuchKey"):
        s3.copy_object(Bucket=bucket, Key="c", CopySource=f"{bucket}/none")
    with refused(404, "NoSuchBucket"):
        s3.copy_object(Bucket=bucket, Key="c", CopySource="no-such-bucket/none")
    marker = s3.delete_object(Bucket=bucket, Key="k")["VersionId"]
    with refused(404, "NoSuchKey"):
        s3.copy_object(Bucket=bucket, Key="c", CopySource=f"{bucket}/k")
    with refused(400, "InvalidRequest"):
        s3.copy_object(Bucket=bucket, Key="c", CopySource={"Bucket": bucket, "Key": "k", "VersionId": marker})
    bad: Any = "SOMETIMES"
    with refused(400, "InvalidArgument"):
        s3.copy_object(Bucket=bucket, Key="c", CopySource=f"{bucket}/k", MetadataDirective=bad)
    with refused(400, "InvalidArgument"):
        s3.copy_object(Bucket=bucket, Key="c", CopySource=f"{bucket}/k", TaggingDirective=bad)
    other.create_bucket(Bucket=f"{bucket}-other")
    with refused(403, "AccessDenied"):
        other.copy_object(Bucket=f"{bucket}-other", Key="c", CopySource=f"{bucket}/k")


@pytest.mark.parametrize("source", ["{}/%ZZ", "{}/100%", "{}/%A/k", "%", "{}/%C3%", "{}/%FF", "{}", "{}/", "/"])
def test_sources_that_cannot_be_read(server: Server, bucket: str, source: str) -> None:
    headers = signed(server, "PUT", f"/{bucket}/l", b"", {"x-amz-copy-source": source.format(bucket)})
    status, _, body = server.request("PUT", f"/{bucket}/l", b"", headers)
    assert (status, b"<Code>InvalidArgument</Code>" in body) == (400, True), body
