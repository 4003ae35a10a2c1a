"""Faults on demand, caps, latency, the access log, and the other front."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, ResponseStreamingError, SSLError

from tests.server.errors import refused
from tests.server.harness import Authority, Server, run_server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

#: A TLS stream that ends without a goodbye is an SSLError to some versions of the client.
BROKEN = (ConnectionClosedError, SSLError)


def wait_log(server: Server, want: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """The access log once it is as wanted: a line is written just after its answer."""
    deadline = time.monotonic() + 60
    while not want(lines := server.log()):
        assert time.monotonic() < deadline, lines
        time.sleep(0.01)
    return lines


OPTIONS = [
    *("--fault", "PutObject:503:x1", "--fault", "PutObject:reset:x1", "--fault", "GetObject:slowdown:x1"),
    *("--fault", "GetObject:cut:x1", "--fault", "DeleteObject:lost:x1", "--fault", "Head*:500:100%"),
    *("--latency", "20ms", "--cap", "class-c=4", "--cap", "class-b=3", "--cap", "storage=10kB"),
]


def test_faults_caps_and_the_log(tmp_path: Path, authority: Authority) -> None:
    with run_server(tmp_path, authority, OPTIONS) as running:
        s3 = running.s3(request_checksum_calculation="when_required", response_checksum_validation="when_required")
        s3.create_bucket(Bucket="faulty-bucket")
        answered_faults(s3)
        broken_connections(s3)
        caps(s3)
        check_log(running)


def answered_faults(s3: S3Client) -> None:
    with refused(503, "ServiceUnavailable", "no tomes available"):
        s3.put_object(Bucket="faulty-bucket", Key="k", Body=b"x")
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket="faulty-bucket", Key="k")
    assert caught.value.response["Error"]["Code"] == "SlowDown"
    assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "1"
    with refused(500, "500"):
        s3.head_object(Bucket="faulty-bucket", Key="k")


def broken_connections(s3: S3Client) -> None:
    with pytest.raises(BROKEN):
        s3.put_object(Bucket="faulty-bucket", Key="k", Body=b"x")
    assert "Contents" not in s3.list_objects_v2(Bucket="faulty-bucket")
    s3.put_object(Bucket="faulty-bucket", Key="k", Body=b"x" * 6000)
    with pytest.raises(ResponseStreamingError):
        s3.get_object(Bucket="faulty-bucket", Key="k")["Body"].read()
    with pytest.raises(BROKEN):
        s3.delete_object(Bucket="faulty-bucket", Key="k")
    assert len(s3.list_object_versions(Bucket="faulty-bucket")["DeleteMarkers"]) == 1


def caps(s3: S3Client) -> None:
    with refused(403, "AccessDenied", "storage cap exceeded"):
        s3.put_object(Bucket="faulty-bucket", Key="k", Body=b"x" * 6000)
    for _ in range(2):
        with refused(404, "NoSuchKey"):
            s3.get_object(Bucket="faulty-bucket", Key="none")
    with refused(403, "AccessDenied", "transaction (Class B) cap exceeded. See the Caps & Alerts page"):
        s3.get_object(Bucket="faulty-bucket", Key="k")
    s3.get_bucket_location(Bucket="faulty-bucket")
    with refused(403, "AccessDenied", "Class C"):
        s3.list_objects_v2(Bucket="faulty-bucket")


def check_log(server: Server) -> None:
    """What a client costs can be counted: each answered call is one line."""
    lines = wait_log(server, lambda found: len(found) == 16)
    told = [(line["operation"], line["status"], line["class"], line["error"]) for line in lines]
    assert told[:4] == [
        ("CreateBucket", 200, "C", None),
        ("PutObject", 503, "A", "ServiceUnavailable"),
        ("GetObject", 503, "B", "SlowDown"),
        ("HeadObject", 500, "B", "InternalError"),
    ]
    broken = [line["operation"] for line in lines if line["error"] == "Aborted"]
    assert broken == ["PutObject", "GetObject", "DeleteObject"]
    put = next(line for line in lines if line["operation"] == "PutObject" and line["status"] == 200)
    assert (put["bytes_in"], put["path"]) == (6000, "/faulty-bucket/k")
    assert all(line["duration_ms"] >= 20 for line in lines)


def test_hypercorn_serves_the_same_application(tmp_path: Path, authority: Authority) -> None:
    with run_server(tmp_path, authority, ["--front", "hypercorn"]) as running:
        s3 = running.s3()
        s3.create_bucket(Bucket="hyper-bucket")
        body = bytes(range(256)) * 8192
        s3.put_object(Bucket="hyper-bucket", Key="k", Body=body)
        assert s3.get_object(Bucket="hyper-bucket", Key="k")["Body"].read() == body
        assert s3.head_object(Bucket="hyper-bucket", Key="k")["ContentLength"] == len(body)
        with refused(404, "404"):
            s3.head_object(Bucket="hyper-bucket", Key="none")


def test_checksums_may_be_refused_as_b2_did_once(tmp_path: Path, authority: Authority) -> None:
    with run_server(tmp_path, authority, ["--refuse-checksums"]) as running:
        modest = running.s3(request_checksum_calculation="when_required", response_checksum_validation="when_required")
        modest.create_bucket(Bucket="old-bucket")
        modest.put_object(Bucket="old-bucket", Key="k", Body=b"x")
        with refused(400, "InvalidArgument", "Unsupported header 'x-amz-"):
            running.s3().put_object(Bucket="old-bucket", Key="k", Body=b"y")
        assert modest.get_object(Bucket="old-bucket", Key="k")["Body"].read() == b"x"
