"""Metadata comes back in the very bytes in which it was sent, UTF-8 or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.server.harness import Server
from tests.server.test_auth import signed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def sending(headers: dict[str, str]) -> Callable[..., None]:
    """A hook of boto3's that adds headers behind its own check of the parameters."""

    def add(params: dict[str, Any], **_: Any) -> None:
        params["headers"].update(headers)

    return add


def note(answer: Any) -> bytes:
    value: str = answer["Metadata"]["note"]
    return value.encode("latin-1")


@pytest.mark.parametrize("value", ["Hello World\xe9", "gr\xfc\xdfe \xff", "\xc3\xa9", "a \xa0 b", "tab\there", "a   b"])
def test_boto3_gets_its_own_bytes_back(server: Server, bucket: str, value: str) -> None:
    """boto3 sends UTF-8, and reads Latin-1: that is its matter."""
    s3 = server.s3()
    s3.meta.events.register("before-call.s3.PutObject", sending({"x-amz-meta-note": value}))
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert note(s3.head_object(Bucket=bucket, Key="k")) == value.encode()
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "k"})
    assert note(s3.get_object(Bucket=bucket, Key="copy")) == value.encode()


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("caf\xe9", b"caf\xe9"),  # signed as UTF-8, sent as Latin-1: Python's http.client
        ("\xfc\u20ac\U0001f600", "\xfc\u20ac\U0001f600".encode()),  # others: sign and send UTF-8
        ("\xc3\xbc", b"\xc3\xbc"),
    ],
)
@pytest.mark.parametrize("name", ["x-amz-meta-note", "content-disposition", "cache-control"])
def test_the_bytes_on_the_wire_are_kept(server: Server, bucket: str, name: str, text: str, sent: bytes) -> None:
    headers: dict[str, Any] = signed(server, "PUT", f"/{bucket}/k", b"x", {name: text})
    headers[name] = sent
    status, _, body = server.request("PUT", f"/{bucket}/k", b"x", headers)
    assert status == 200, body
    for method in ("GET", "HEAD"):
        _, answered, _ = server.request(method, f"/{bucket}/k", headers=signed(server, method, f"/{bucket}/k"))
        assert answered[name].encode("latin-1") == sent


def test_a_multipart_upload_and_its_copy_keep_them_too(server: Server, s3: S3Client, bucket: str) -> None:
    headers: dict[str, Any] = signed(server, "POST", f"/{bucket}/k?uploads", b"", {"x-amz-meta-note": "\xe9\xff"})
    headers["x-amz-meta-note"] = b"\xe9\xff"
    status, _, body = server.request("POST", f"/{bucket}/k?uploads", b"", headers)
    assert status == 200, body
    upload = s3.list_multipart_uploads(Bucket=bucket)["Uploads"][0]["UploadId"]
    etag = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=b"x")["ETag"]
    s3.complete_multipart_upload(
        Bucket=bucket, Key="k", UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]}
    )
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "k"})
    for key in ("k", "copy"):
        assert note(s3.head_object(Bucket=bucket, Key=key)) == b"\xe9\xff"


def test_another_text_than_was_signed_is_refused(server: Server, bucket: str) -> None:
    headers: dict[str, Any] = signed(server, "PUT", f"/{bucket}/k", b"x", {"x-amz-meta-note": "caf\xe9"})
    headers["x-amz-meta-note"] = b"caf\xe8"
    status, _, body = server.request("PUT", f"/{bucket}/k", b"x", headers)
    assert (status, b"SignatureDoesNotMatch" in body) == (403, True)


@pytest.mark.parametrize(("count", "status"), [(6_996, 200), (6_997, 400)])
def test_bytes_count_against_the_limit(server: Server, bucket: str, count: int, status: int) -> None:
    headers: dict[str, Any] = signed(server, "PUT", f"/{bucket}/k", b"x", {"x-amz-meta-note": "\xe9" * count})
    headers["x-amz-meta-note"] = b"\xe9" * count
    found, _, body = server.request("PUT", f"/{bucket}/k", b"x", headers)
    assert (found, b"MetadataTooLarge" in body) == (status, status == 400)
