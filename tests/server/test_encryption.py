"""SSE-C: content is really encrypted at rest, and only its key opens it."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any

from tests.server.errors import refused
from tests.server.harness import Server
from tests.server.test_auth import signed
from tests.server.test_multipart import PART, upload

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KEY: Any = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "k" * 32}
OTHER: Any = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "o" * 32}
SOURCE: Any = {"CopySourceSSECustomerAlgorithm": "AES256", "CopySourceSSECustomerKey": "k" * 32}
MARK = b"these words must not be on the disk "


def on_disk(server: Server, needle: bytes) -> bool:
    files = [path for path in (server.directory / "store").rglob("*") if path.is_file()]
    return any(needle in path.read_bytes() for path in files)


def test_small_and_large_bodies(s3: S3Client, server: Server, bucket: str) -> None:
    for key, body in (("small", MARK), ("large", MARK * 30_000)):
        put = s3.put_object(Bucket=bucket, Key=key, Body=body, **KEY)
        assert put["SSECustomerAlgorithm"] == "AES256"
        assert put["SSECustomerKeyMD5"] == base64.b64encode(hashlib.md5(b"k" * 32).digest()).decode()
        assert put["ETag"].strip('"') != hashlib.md5(body).hexdigest()
        got = s3.get_object(Bucket=bucket, Key=key, **KEY)
        assert (got["Body"].read(), got["ContentLength"]) == (body, len(body))
        part = s3.get_object(Bucket=bucket, Key=key, Range="bytes=7-33", **KEY)
        assert part["Body"].read() == body[7:34]
        assert s3.head_object(Bucket=bucket, Key=key, **KEY)["ContentLength"] == len(body)
    assert not on_disk(server, MARK)


def test_wrong_and_missing_keys(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=MARK, **KEY)
    with refused(400, "InvalidRequest"):
        s3.get_object(Bucket=bucket, Key="k")
    with refused(400, "InvalidRequest"):
        s3.get_object(Bucket=bucket, Key="k", **OTHER)
    with refused(400, "400"):
        s3.head_object(Bucket=bucket, Key="k")
    s3.put_object(Bucket=bucket, Key="plain", Body=b"x")
    with refused(400, "InvalidRequest"):
        s3.get_object(Bucket=bucket, Key="plain", **KEY)


def test_bad_key_headers(s3: S3Client, bucket: str) -> None:
    bad: list[Any] = [
        {"SSECustomerAlgorithm": "AES256"},
        {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "short"},
        {
            "SSECustomerAlgorithm": "AES256",
            "SSECustomerKey": "k" * 32,
            "SSECustomerKeyMD5": "AAAAAAAAAAAAAAAAAAAAAA==",
        },
    ]
    for options in bad:
        with refused(400, "InvalidArgument"):
            s3.put_object(Bucket=bucket, Key="k", Body=b"x", **options)
    wrong: Any = {"SSECustomerAlgorithm": "AES512", "SSECustomerKey": "k" * 32}
    with refused(400, "InvalidEncryptionAlgorithmError"):
        s3.put_object(Bucket=bucket, Key="k", Body=b"x", **wrong)


def test_multipart(s3: S3Client, server: Server, bucket: str) -> None:
    first = (MARK * (PART // len(MARK) + 1))[:PART]
    upload(s3, bucket, "k", [first, MARK], **KEY)
    whole = first + MARK
    assert s3.get_object(Bucket=bucket, Key="k", **KEY)["Body"].read() == whole
    with refused(400, "InvalidPart"):
        s3.get_object(Bucket=bucket, Key="k", PartNumber=3)
    with refused(400, "InvalidRequest"):
        s3.get_object(Bucket=bucket, Key="k", PartNumber=2)
    across = s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={PART - 5}-{PART + 5}", **KEY)
    assert across["Body"].read() == whole[PART - 5 : PART + 6]
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key="l", **KEY)["UploadId"]
    with refused(400, "InvalidRequest"):
        s3.upload_part(Bucket=bucket, Key="l", UploadId=upload_id, PartNumber=1, Body=b"x")
    with refused(400, "InvalidRequest"):
        s3.upload_part(Bucket=bucket, Key="l", UploadId=upload_id, PartNumber=1, Body=b"x", **OTHER)
    assert not on_disk(server, MARK)


def test_a_part_that_is_sent_again_keeps_its_etag(s3: S3Client, bucket: str) -> None:
    etags = []
    for _ in range(2):
        upload_id = s3.create_multipart_upload(Bucket=bucket, Key="k", **KEY)["UploadId"]
        part: Any = {"Bucket": bucket, "Key": "k", "UploadId": upload_id, "PartNumber": 1, **KEY}
        etags.append({s3.upload_part(Body=MARK, **part)["ETag"] for _ in range(2)})
    assert [len(found) for found in etags] == [1, 1]
    assert etags[0] != etags[1]  # nor does it tell that two objects are equal
    assert f'"{hashlib.md5(MARK).hexdigest()}"' not in etags[0]


def test_a_completion_may_name_the_key(s3: S3Client, bucket: str) -> None:
    """S3 wants the key for uploads with a checksum; programs without them send none."""
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm="CRC32", **KEY)["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=1, Body=MARK, **KEY)
    claims = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"], "ChecksumCRC32": part["ChecksumCRC32"]}]}
    order: Any = {"Bucket": bucket, "Key": "k", "UploadId": upload_id, "MultipartUpload": claims}
    with refused(400, "InvalidRequest"):
        s3.complete_multipart_upload(**order)
    with refused(400, "InvalidRequest"):
        s3.complete_multipart_upload(**order, **OTHER)
    for _ in range(2):  # the second one is a client's retry
        done = s3.complete_multipart_upload(**order, **KEY)
        shown = done["ResponseMetadata"]["HTTPHeaders"]
        assert shown["x-amz-server-side-encryption-customer-algorithm"] == "AES256"
        assert shown["x-amz-server-side-encryption-customer-key-md5"] == part["SSECustomerKeyMD5"]


def test_readers_do_not_choose_an_encryption(server: Server, s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for method in ("GET", "HEAD"):
        headers = signed(server, method, f"/{bucket}/k", b"", {"x-amz-server-side-encryption": "AES256"})
        assert server.request(method, f"/{bucket}/k", b"", headers)[0] == 400
    with refused(400, "InvalidArgument"):
        s3.put_object(Bucket=bucket, Key="k", ServerSideEncryption="AES256", SSEKMSKeyId="key")


def test_copies(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=MARK, **KEY)
    source = f"{bucket}/k"
    with refused(400, "InvalidRequest"):
        s3.copy_object(Bucket=bucket, Key="c", CopySource=source)
    s3.copy_object(Bucket=bucket, Key="open", CopySource=source, **SOURCE)
    assert s3.get_object(Bucket=bucket, Key="open")["Body"].read() == MARK
    s3.copy_object(Bucket=bucket, Key="rekeyed", CopySource=source, **SOURCE, **OTHER)
    assert s3.get_object(Bucket=bucket, Key="rekeyed", **OTHER)["Body"].read() == MARK
    s3.copy_object(Bucket=bucket, Key="sealed", CopySource=f"{bucket}/open", **KEY)
    assert s3.get_object(Bucket=bucket, Key="sealed", **KEY)["Body"].read() == MARK


def test_part_copies(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=MARK, **KEY)
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key="c", **OTHER)["UploadId"]
    part = s3.upload_part_copy(
        Bucket=bucket,
        Key="c",
        UploadId=upload_id,
        PartNumber=1,
        CopySource=f"{bucket}/k",
        CopySourceRange="bytes=6-10",
        **SOURCE,
        **OTHER,
    )
    claims: Any = {"Parts": [{"PartNumber": 1, "ETag": part["CopyPartResult"]["ETag"]}]}
    s3.complete_multipart_upload(Bucket=bucket, Key="c", UploadId=upload_id, MultipartUpload=claims)
    assert s3.get_object(Bucket=bucket, Key="c", **OTHER)["Body"].read() == MARK[6:11]


def test_managed_encryption_is_echoed(s3: S3Client, bucket: str) -> None:
    assert (
        s3.put_object(Bucket=bucket, Key="k", Body=b"x", ServerSideEncryption="AES256")["ServerSideEncryption"]
        == "AES256"
    )
    assert s3.get_object(Bucket=bucket, Key="k")["ServerSideEncryption"] == "AES256"
    created = s3.create_multipart_upload(Bucket=bucket, Key="m", ServerSideEncryption="AES256")
    assert created["ServerSideEncryption"] == "AES256"
