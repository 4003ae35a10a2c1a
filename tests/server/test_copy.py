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
    other.create_bucket(Bucket=f"{bucket}-other")
    with refused(403, "AccessDenied"):
        other.copy_object(Bucket=f"{bucket}-other", Key="c", CopySource=f"{bucket}/k")


@pytest.mark.parametrize("source", ["{}/%ZZ", "{}/100%", "{}/%A/k", "%", "{}/%C3%", "{}/%FF", "{}", "{}/", "/"])
def test_sources_that_cannot_be_read(server: Server, bucket: str, source: str) -> None:
    headers = signed(server, "PUT", f"/{bucket}/l", b"", {"x-amz-copy-source": source.format(bucket)})
    status, _, body = server.request("PUT", f"/{bucket}/l", b"", headers)
    assert (status, b"<Code>InvalidArgument</Code>" in body) == (400, True), body
