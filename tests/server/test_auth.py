"""Who is let in: signatures, time, region, keys and their restrictions."""

from __future__ import annotations

import datetime
import hashlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from botocore import UNSIGNED
from botocore.auth import S3SigV4QueryAuth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.server.errors import refused
from tests.server.harness import KEY_ID, SECRET, Server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def test_wrong_secret(server: Server) -> None:
    with refused(403, "SignatureDoesNotMatch", "Signature validation failed"):
        server.s3(secret="wrong").list_buckets()


@pytest.mark.parametrize(
    ("key_id", "message"),
    [
        ("4fa0c5b6d1e2", "Malformed Access Key Id"),
        ("nonsense", "Malformed Access Key Id"),
        ("000aaaaaaaaaaaa0000000001", "The key '000aaaaaaaaaaaa0000000001' is not valid"),
    ],
)
def test_unknown_keys(server: Server, key_id: str, message: str) -> None:
    with refused(403, "InvalidAccessKeyId", message):
        server.s3(key_id).list_buckets()


def test_another_region_is_refused(server: Server) -> None:
    with refused(403, "AccessDenied"):
        server.s3(region="eu-central-003").list_buckets()


def test_version_2_is_refused(server: Server) -> None:
    with refused(400, "InvalidRequest", "Please use AWS4-HMAC-SHA256"):
        server.s3(signature_version="s3").list_buckets()


def test_anonymous_is_refused(server: Server, bucket: str) -> None:
    client = server.s3(signature_version=UNSIGNED)
    with refused(403, "AccessDenied"):
        client.list_buckets()
    with refused(403, "AccessDenied"):
        client.get_object(Bucket=bucket, Key="k")


def signed(
    server: Server, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> dict[str, str]:
    """The headers of a request that botocore signs, with the hash of its body."""
    request = AWSRequest(method, f"{server.url}{path}", headers=headers, data=body)
    if "x-amz-content-sha256" not in request.headers:
        request.headers["x-amz-content-sha256"] = hashlib.sha256(body).hexdigest()
    SigV4Auth(Credentials(KEY_ID, SECRET), "s3", "us-east-1").add_auth(request)
    return dict(request.headers.items())


def test_a_changed_body_is_refused(server: Server, s3: S3Client, bucket: str) -> None:
    headers = signed(server, "PUT", f"/{bucket}/k", b"hello")
    status, _, body = server.request("PUT", f"/{bucket}/k", b"jello", headers)
    assert (status, b"<Code>XAmzContentSHA256Mismatch</Code>" in body) == (400, True)
    with refused(404, "404"):
        s3.head_object(Bucket=bucket, Key="k")
    assert server.request("PUT", f"/{bucket}/k", b"hello", headers)[0] == 200


def test_unsigned_payload(server: Server, bucket: str) -> None:
    headers = signed(server, "PUT", f"/{bucket}/k", b"", {"x-amz-content-sha256": "UNSIGNED-PAYLOAD"})
    assert server.request("PUT", f"/{bucket}/k", b"anything", headers)[0] == 200


def test_added_headers_and_other_paths_are_refused(server: Server, bucket: str) -> None:
    headers = signed(server, "PUT", f"/{bucket}/k", b"")
    assert server.request("PUT", f"/{bucket}/l", b"", headers)[0] == 403
    status, _, body = server.request("PUT", f"/{bucket}/k", b"", headers | {"x-amz-meta-x": "y"})
    assert (status, b"not signed" in body) == (403, True)


def test_clock_skew(server: Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    late = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=20)

    def shifted(**_: Any) -> datetime.datetime:
        return late

    monkeypatch.setattr("botocore.auth.get_current_datetime", shifted)
    headers = signed(server, "GET", "/")
    status, _, body = server.request("GET", "/", headers=headers)
    assert (status, b"<Code>RequestTimeTooSkewed</Code>" in body) == (403, True)


def test_expired_urls(server: Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    late = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=20)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda **_: late)
    for seconds, status in ((60, 403), (3600, 404)):
        request = AWSRequest("GET", f"{server.url}/{bucket}/k")
        S3SigV4QueryAuth(Credentials(KEY_ID, SECRET), "s3", "us-east-1", seconds).add_auth(request)
        url = urlsplit(str(request.url))
        found, _, body = server.request("GET", f"{url.path}?{url.query}")
        assert (found, b"Request has expired" in body) == (status, status == 403)


@pytest.mark.parametrize("seconds", [0, -7, 604_801])
def test_urls_for_no_or_too_long_a_time(server: Server, seconds: int) -> None:
    request = AWSRequest("GET", f"{server.url}/")
    S3SigV4QueryAuth(Credentials(KEY_ID, SECRET), "s3", "us-east-1", seconds).add_auth(request)
    url = urlsplit(str(request.url))
    status, _, body = server.request("GET", f"{url.path}?{url.query}")
    assert (status, b"<Code>AccessDenied</Code>" in body) == (403, True)


def test_expected_owners(server: Server, s3: S3Client, bucket: str) -> None:
    owner = s3.list_buckets()["Owner"].get("ID", "")
    s3.head_bucket(Bucket=bucket, ExpectedBucketOwner=owner)
    with refused(403, "AccessDenied"):
        s3.list_objects_v2(Bucket=bucket, ExpectedBucketOwner="1" * 12)


@pytest.mark.parametrize(
    ("header", "status", "code"),
    [
        ("", 403, "AccessDenied"),
        ("AWS HAHAHA", 400, "InvalidArgument"),
        ("AWS key:signature", 400, "InvalidRequest"),
        ("Basic eDp5", 400, "InvalidArgument"),
        ("AWS4-HMAC-SHA256 nonsense", 400, "AuthorizationHeaderMalformed"),
        ("AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=x", 400, "AuthorizationHeaderMalformed"),
    ],
)
def test_malformed_authorizations(server: Server, header: str, status: int, code: str) -> None:
    headers = {"Authorization": header, "x-amz-content-sha256": "UNSIGNED-PAYLOAD", "x-amz-date": "20260101T000000Z"}
    found, _, body = server.request("GET", "/", headers=headers)
    assert (found, f"<Code>{code}</Code>".encode() in body) == (status, True), body


def test_presigned_urls_with_bad_parameters(server: Server) -> None:
    query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a&X-Amz-Date=x&X-Amz-Expires=1&X-Amz-SignedHeaders=host"
    status, _, body = server.request("GET", f"/?{query}&X-Amz-Signature=x")
    assert (status, b"<Code>AuthorizationQueryParametersError</Code>" in body) == (400, True)
