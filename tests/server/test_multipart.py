"""Multipart uploads, part copies, and reading parts back."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.server.errors import refused
from tests.server.harness import Server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART = 5_000_000


def upload(s3: S3Client, bucket: str, key: str, parts: list[bytes], **options: Any) -> Any:
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key=key, **options)["UploadId"]
    sse = {name: value for name, value in options.items() if name.startswith("SSECustomer")}
    claims: list[Any] = []
    for number, body in enumerate(parts, 1):
        answer = s3.upload_part(Bucket=bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=body, **sse)
        claims.append({"PartNumber": number, "ETag": answer["ETag"]})
    return s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": claims})


def test_upload(s3: S3Client, bucket: str) -> None:
    bodies = [b"a" * PART, b"b" * PART, b"c" * 7]
    done = upload(s3, bucket, "k", bodies, Metadata={"x": "y"}, ContentType="text/plain")
    digests = b"".join(hashlib.md5(body).digest() for body in bodies)
    assert done["ETag"] == f'"{hashlib.md5(digests).hexdigest()}-3"'
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == b"".join(bodies)
    assert (got["VersionId"], got["Metadata"], got["ContentType"]) == (done["VersionId"], {"x": "y"}, "text/plain")
    assert done["Location"].endswith(f"/{bucket}/k")


def test_the_upload_id_is_the_version_id(s3: S3Client, bucket: str) -> None:
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    etag = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=1, Body=b"x")["ETag"]
    parts: Any = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    first = s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload_id, MultipartUpload=parts)
    assert first["VersionId"] == upload_id
    again = s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload_id, MultipartUpload=parts)
    assert again["ETag"] == first["ETag"]


def test_list_and_abort(s3: S3Client, bucket: str) -> None:
    ids = [s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"] for key in ("a", "b", "b")]
    found = s3.list_multipart_uploads(Bucket=bucket)
    assert [(item["Key"], item["UploadId"]) for item in found["Uploads"]] == list(zip("abb", ids, strict=True))
    page = s3.list_multipart_uploads(Bucket=bucket, MaxUploads=2)
    rest = s3.list_multipart_uploads(
        Bucket=bucket, KeyMarker=page["NextKeyMarker"], UploadIdMarker=page["NextUploadIdMarker"]
    )
    assert [item["UploadId"] for item in rest["Uploads"]] == ids[2:]
    for number in (1, 2, 3):
        s3.upload_part(Bucket=bucket, Key="a", UploadId=ids[0], PartNumber=number, Body=b"x" * number)
    parts = s3.list_parts(Bucket=bucket, Key="a", UploadId=ids[0], MaxParts=2)
    assert [(part["PartNumber"], part["Size"]) for part in parts["Parts"]] == [(1, 1), (2, 2)]
    assert (parts["IsTruncated"], parts["NextPartNumberMarker"]) == (True, 2)
    more = s3.list_parts(Bucket=bucket, Key="a", UploadId=ids[0], PartNumberMarker=2)
    assert [part["PartNumber"] for part in more["Parts"]] == [3]
    assert (
        s3.abort_multipart_upload(Bucket=bucket, Key="a", UploadId=ids[0])["ResponseMetadata"]["HTTPStatusCode"] == 204
    )
    for call in (s3.abort_multipart_upload, s3.list_parts):
        with refused(404, "NoSuchUpload"):
            call(Bucket=bucket, Key="a", UploadId=ids[0])
    with refused(404, "NoSuchUpload"):
        s3.upload_part(Bucket=bucket, Key="a", UploadId=ids[0], PartNumber=1, Body=b"x")


def test_markers_of_uploads(s3: S3Client, bucket: str) -> None:
    ids = [s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"] for key in ("a", "b")]
    for marker in (ids[0], "nonsense"):  # without a key's it does not count
        page = s3.list_multipart_uploads(Bucket=bucket, UploadIdMarker=marker)
        assert ([item["UploadId"] for item in page["Uploads"]], page["UploadIdMarker"]) == (ids, "")
    with refused(400, "InvalidArgument"):
        s3.list_multipart_uploads(Bucket=bucket, KeyMarker="a", UploadIdMarker="nonsense")


def test_a_completion_may_tell_the_size(s3: S3Client, bucket: str) -> None:
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=1, Body=b"body")
    claims: Any = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    order: Any = {"Bucket": bucket, "Key": "k", "UploadId": upload_id, "MultipartUpload": claims}
    for size in (3, 0, -4):
        with refused(400, "InvalidRequest"):
            s3.complete_multipart_upload(**order, MpuObjectSize=size)
    s3.complete_multipart_upload(**order, MpuObjectSize=4)
    assert s3.head_object(Bucket=bucket, Key="k")["ContentLength"] == 4


def test_refused_completions(s3: S3Client, bucket: str) -> None:
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    etags = [
        s3.upload_part(Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=n, Body=b"x" * n)["ETag"] for n in (1, 2)
    ]

    def complete(*claims: tuple[int, str]) -> None:
        parts: Any = [{"PartNumber": number, "ETag": etag} for number, etag in claims]
        s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload_id, MultipartUpload={"Parts": parts})

    with refused(400, "InvalidPart"):
        complete((1, '"ffffffffffffffffffffffffffffffff"'))
    with refused(400, "InvalidPart"):
        complete((3, etags[0]))
    with refused(400, "InvalidPartOrder"):
        complete((2, etags[1]), (1, etags[0]))
    with refused(400, "EntityTooSmall"):
        complete((1, etags[0]), (2, etags[1]))
    with refused(400, "MalformedXML"):
        complete()
    with refused(404, "NoSuchKey"):
        s3.get_object(Bucket=bucket, Key="k")
    complete((2, etags[1].strip('"')))
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"xx"


@pytest.mark.parametrize("number", [0, 10_001])
def test_part_numbers(s3: S3Client, bucket: str, number: int) -> None:
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    with refused(400, "InvalidArgument", "between 1 and 10000"):
        s3.upload_part(Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=number, Body=b"x")


def test_a_part_can_be_replaced(s3: S3Client, bucket: str) -> None:
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=1, Body=b"old")
    etag = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=1, Body=b"new")["ETag"]
    parts: Any = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload_id, MultipartUpload=parts)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"new"


def test_read_by_part_number(s3: S3Client, bucket: str) -> None:
    upload(s3, bucket, "k", [b"a" * PART, b"b" * 10])
    second = s3.get_object(Bucket=bucket, Key="k", PartNumber=2)
    assert (second["Body"].read(), second["PartsCount"]) == (b"b" * 10, 2)
    assert second["ContentRange"] == f"bytes {PART}-{PART + 9}/{PART + 10}"
    assert s3.head_object(Bucket=bucket, Key="k", PartNumber=1)["ContentLength"] == PART
    with refused(400, "InvalidPart"):
        s3.get_object(Bucket=bucket, Key="k", PartNumber=3)
    s3.put_object(Bucket=bucket, Key="single", Body=b"whole")
    assert s3.get_object(Bucket=bucket, Key="single", PartNumber=1)["Body"].read() == b"whole"
    with refused(400, "InvalidPart"):
        s3.get_object(Bucket=bucket, Key="single", PartNumber=2)


def test_copied_parts(s3: S3Client, bucket: str) -> None:
    body = bytes(range(250)) * 20_002
    version = s3.put_object(Bucket=bucket, Key="src ü", Body=body)["VersionId"]
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    source: Any = {"Bucket": bucket, "Key": "src ü", "VersionId": version}
    claims: list[Any] = []
    for number, span in ((1, "bytes=0-5000099"), (2, "bytes=100-104")):
        answer = s3.upload_part_copy(
            Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=number, CopySource=source, CopySourceRange=span
        )
        assert answer["CopySourceVersionId"] == version
        claims.append({"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]})
    s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload_id, MultipartUpload={"Parts": claims})
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == body[:5_000_100] + body[100:105]


def test_refused_part_copies(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="src", Body=b"01234")
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]

    def copy(source: str, **options: Any) -> None:
        s3.upload_part_copy(Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=1, CopySource=source, **options)

    for span in ("bytes=2-1", "0-2", "bytes=a-b", "bytes=0-", "bytes=0"):
        with refused(400, "InvalidArgument"):
            copy(f"{bucket}/src", CopySourceRange=span)
    with refused(416, "InvalidRange"):
        copy(f"{bucket}/src", CopySourceRange="bytes=0-21")
    with refused(404, "NoSuchKey"):
        copy(f"{bucket}/none")
    with refused(404, "NoSuchBucket"):
        copy("no-such-bucket/none")
    with refused(412, "PreconditionFailed"):
        copy(f"{bucket}/src", CopySourceIfMatch='"x"')


def test_managed_upload(s3: S3Client, bucket: str, server: Server) -> None:
    """boto3's own transfer manager, as most programs use it."""
    body = hashlib.sha512(b"seed").digest() * 200_000
    path = server.directory / "managed"
    path.write_bytes(body)
    s3.upload_file(str(path), bucket, "managed")
    path.unlink()
    s3.download_file(bucket, "managed", str(path))
    assert path.read_bytes() == body
    path.unlink()
