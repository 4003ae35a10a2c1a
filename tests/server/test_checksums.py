"""x-amz-checksum-*: of single uploads, of parts, and of what is made of parts."""

from __future__ import annotations

import base64
import hashlib
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.server.errors import refused
from tests.server.harness import Server
from tests.server.test_auth import signed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART = 5_000_000
BODIES = [b"a" * PART, b"b" * PART, b"c" * 7]


def sha256(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def start(s3: S3Client, bucket: str, algorithm: Any, **options: Any) -> tuple[str, list[dict[str, Any]]]:
    """An upload of BODIES, and what its completion may claim."""
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm=algorithm, **options)["UploadId"]
    claims = []
    for number, body in enumerate(BODIES, 1):
        answer: Any = s3.upload_part(
            Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=number, Body=body, ChecksumAlgorithm=algorithm
        )
        name = f"Checksum{algorithm}"
        claims.append({"PartNumber": number, "ETag": answer["ETag"], name: answer[name]})
    return upload_id, claims


def complete(s3: S3Client, bucket: str, upload_id: str, claims: list[dict[str, Any]], **options: Any) -> Any:
    parts: Any = {"Parts": claims}
    return s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload_id, MultipartUpload=parts, **options)


def test_a_checksum_is_kept_and_shown_to_who_asks(s3: S3Client, bucket: str) -> None:
    done = s3.put_object(Bucket=bucket, Key="k", Body=b"body", ChecksumSHA256=sha256(b"body"))
    assert (done["ChecksumSHA256"], done["ChecksumType"]) == (sha256(b"body"), "FULL_OBJECT")
    assert "ChecksumSHA256" not in set(s3.head_object(Bucket=bucket, Key="k"))
    assert s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")["ChecksumSHA256"] == sha256(b"body")
    with refused(400, "BadDigest"):
        s3.put_object(Bucket=bucket, Key="k", Body=b"body", ChecksumSHA256="bad")
    with refused(400, "BadDigest"):
        s3.put_object(Bucket=bucket, Key="k", Body=b"body", ChecksumSHA256=sha256(b"other"))


def test_listings_tell_which_checksum_there_is(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="a", Body=b"body", ChecksumSHA256=sha256(b"body"))
    s3.put_object(Bucket=bucket, Key="b", Body=b"body", Metadata={"checksum_x": "y"}, ChecksumAlgorithm="CRC32")
    upload_id, claims = start(s3, bucket, "SHA1")
    upload = s3.list_multipart_uploads(Bucket=bucket)["Uploads"][0]
    assert (upload["ChecksumAlgorithm"], upload["ChecksumType"]) == ("SHA1", "COMPOSITE")
    complete(s3, bucket, upload_id, claims)
    expected = [(["SHA256"], "FULL_OBJECT"), (["CRC32"], "FULL_OBJECT"), (["SHA1"], "COMPOSITE")]
    lists: list[Any] = [
        s3.list_objects(Bucket=bucket)["Contents"],
        s3.list_objects_v2(Bucket=bucket)["Contents"],
        s3.list_object_versions(Bucket=bucket)["Versions"],
    ]
    for listed in lists:
        assert [(entry["ChecksumAlgorithm"], entry["ChecksumType"]) for entry in listed] == expected


def test_a_composite_checksum_is_that_of_the_parts_checksums(s3: S3Client, bucket: str) -> None:
    upload_id, claims = start(s3, bucket, "SHA256")
    listed = s3.list_parts(Bucket=bucket, Key="k", UploadId=upload_id)
    assert (listed["ChecksumAlgorithm"], listed["ChecksumType"]) == ("SHA256", "COMPOSITE")
    assert [part["ChecksumSHA256"] for part in listed["Parts"]] == [sha256(body) for body in BODIES]
    whole = f"{sha256(b''.join(hashlib.sha256(body).digest() for body in BODIES))}-3"
    done = complete(s3, bucket, upload_id, claims, ChecksumSHA256=whole)
    assert (done["ChecksumSHA256"], done["ChecksumType"]) == (whole, "COMPOSITE")
    assert complete(s3, bucket, upload_id, claims)["ChecksumSHA256"] == whole
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (head["ChecksumSHA256"], head["ChecksumType"]) == (whole, "COMPOSITE")


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC64NVME"])
def test_a_checksum_of_the_full_object_needs_no_claims(s3: S3Client, bucket: str, algorithm: Any) -> None:
    upload_id, claims = start(s3, bucket, algorithm, ChecksumType="FULL_OBJECT")
    plain = [{name: claim[name] for name in ("PartNumber", "ETag")} for claim in claims]
    done = complete(s3, bucket, upload_id, plain)
    single: Any = s3.put_object(Bucket=bucket, Key="one", Body=b"".join(BODIES), ChecksumAlgorithm=algorithm)
    name = f"Checksum{algorithm}"
    assert (done[name], done["ChecksumType"]) == (single[name], "FULL_OBJECT")


def test_a_completion_is_held_against_the_checksums(s3: S3Client, bucket: str) -> None:
    upload_id, claims = start(s3, bucket, "SHA256")
    with refused(400, "InvalidRequest", "It was missing for part 2"):
        complete(s3, bucket, upload_id, [claims[0], {"PartNumber": 2, "ETag": claims[1]["ETag"]}, claims[2]])
    with refused(400, "InvalidPart"):
        complete(s3, bucket, upload_id, [claims[0] | {"ChecksumSHA256": sha256(b"other")}, *claims[1:]])
    with refused(400, "BadDigest"):
        complete(s3, bucket, upload_id, claims, ChecksumSHA256=f"{sha256(b'other')}-3")
    without = [{name: claim[name] for name in ("PartNumber", "ETag")} for claim in claims]
    for given in (claims, without):
        with refused(400, "BadDigest"):
            complete(s3, bucket, upload_id, given, ChecksumSHA256="bad")
    assert complete(s3, bucket, upload_id, claims)["ChecksumSHA256"].endswith("-3")


def test_a_part_has_the_upload_s_checksum(s3: S3Client, bucket: str) -> None:
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm="CRC32")["UploadId"]
    with refused(400, "InvalidRequest", "Checksum Type mismatch"):
        s3.upload_part(Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=1, Body=b"x", ChecksumSHA256=sha256(b"x"))
    with refused(400, "InvalidRequest"):
        s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm="SHA256", ChecksumType="FULL_OBJECT")


def test_copied_parts_are_not_read_for_a_checksum(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="source", Body=b"x" * 10)
    upload_id = s3.create_multipart_upload(
        Bucket=bucket, Key="k", ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT"
    )["UploadId"]
    copied = s3.upload_part_copy(
        Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=1, CopySource=f"{bucket}/source"
    )
    claims = [{"PartNumber": 1, "ETag": copied["CopyPartResult"]["ETag"]}]
    assert "ChecksumCRC32" not in complete(s3, bucket, upload_id, claims)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x" * 10


CRC32_OF_BODY = base64.b64encode(zlib.crc32(b"body").to_bytes(4)).decode()


def put_signed(server: Server, bucket: str, headers: dict[str, str]) -> tuple[int, bytes]:
    path = f"/{bucket}/k"
    status, _, answer = server.request("PUT", path, b"body", signed(server, "PUT", path, b"body", headers))
    return status, answer


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        (
            {"x-amz-checksum-crc32": CRC32_OF_BODY, "x-amz-checksum-sha256": sha256(b"body")},
            b"Expecting a single x-amz-checksum- header",
        ),
        (
            {"x-amz-checksum-crc32": CRC32_OF_BODY, "x-amz-sdk-checksum-algorithm": "SHA256"},
            b"Value for x-amz-sdk-checksum-algorithm header is invalid",
        ),
    ],
)
def test_headers_that_contradict_each_other(
    server: Server, bucket: str, headers: dict[str, str], message: bytes
) -> None:
    status, answer = put_signed(server, bucket, headers)
    assert (status, b"<Code>InvalidRequest</Code>" in answer, message in answer) == (400, True, True), answer


def test_a_text_that_is_no_checksum_matches_nothing(server: Server, bucket: str) -> None:
    status, answer = put_signed(server, bucket, {"x-amz-checksum-crc32": ""})
    assert status == 400
    assert b"<Code>BadDigest</Code>" in answer
    assert b"Value for x-amz-checksum-crc32 header is invalid" in answer


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC64NVME"])
def test_a_part_is_not_shown_with_the_checksum_of_the_whole(s3: S3Client, bucket: str, algorithm: Any) -> None:
    upload_id, claims = start(s3, bucket, algorithm, ChecksumType="FULL_OBJECT")
    complete(s3, bucket, upload_id, claims)
    part = s3.get_object(Bucket=bucket, Key="k", PartNumber=2, ChecksumMode="ENABLED")
    assert part["Body"].read() == BODIES[1]
    assert f"Checksum{algorithm}" not in part


def test_one_checksum_and_its_name_agree(server: Server, bucket: str) -> None:
    headers = {"x-amz-checksum-crc32": CRC32_OF_BODY, "x-amz-sdk-checksum-algorithm": "CRC32"}
    assert put_signed(server, bucket, headers)[0] == 200


def test_types_are_read_in_any_case(s3: S3Client, bucket: str) -> None:
    algorithm: Any = "cRc32"
    kind: Any = "full_Object"
    made = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm=algorithm, ChecksumType=kind)
    assert (made["ChecksumAlgorithm"], made["ChecksumType"]) == ("CRC32", "FULL_OBJECT")
    with refused(400, "InvalidRequest", "Value for x-amz-checksum-type header is invalid"):
        kind = "half"
        s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm=algorithm, ChecksumType=kind)


def test_a_part_of_a_composite_checksum_has_one(server: Server, bucket: str) -> None:
    s3 = server.s3(request_checksum_calculation="when_required")
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm="SHA256")["UploadId"]
    with refused(400, "InvalidRequest", "expected checksum Type: sha256, actual checksum Type: null"):
        s3.upload_part(Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=1, Body=b"x")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ChecksumSHA256": "no base64"}, "InvalidArgument"),
        ({"ChecksumCRC32": CRC32_OF_BODY}, "InvalidArgument"),  # two of them then
        ({"ChecksumSHA256": sha256(b"other")}, "InvalidPart"),
        ({"ChecksumSHA256": None, "ChecksumCRC32": CRC32_OF_BODY}, "InvalidRequest"),
        ({"ChecksumSHA256": None}, "InvalidRequest"),
    ],
)
def test_claims_of_a_completion(s3: S3Client, bucket: str, change: dict[str, Any], code: str) -> None:
    upload_id, claims = start(s3, bucket, "SHA256")
    claims[0] = {name: value for name, value in (claims[0] | change).items() if value is not None}
    with refused(400, code):
        complete(s3, bucket, upload_id, claims)
