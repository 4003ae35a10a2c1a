"""Signatures: AWS's published examples, and botocore's own for requests as the store makes them."""

from __future__ import annotations

import calendar
import datetime as dt

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from b2fs.store.s3.nearby import Frozen
from b2fs.store.s3.sigv4 import EMPTY_SHA256, UNSIGNED, signed

#: AWS, "Signature Calculations for the Authorization Header": the examples' keys, host and time.
EXAMPLE = Frozen("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", None)
HOST = ("Host", "examplebucket.s3.amazonaws.com")
NOW_S = calendar.timegm((2013, 5, 24, 0, 0, 0))


@pytest.mark.parametrize(
    ("method", "target", "headers", "payload", "signature"),
    [
        (
            "GET",
            "/test.txt",
            [("Range", "bytes=0-9")],
            EMPTY_SHA256,
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT",
            "/test%24file.text",
            [("Date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")],
            "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (
            "GET",
            "/?lifecycle",
            [],
            EMPTY_SHA256,
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "GET",
            "/?max-keys=2&prefix=J",
            [],
            EMPTY_SHA256,
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_the_published_examples(
    method: str, target: str, headers: list[tuple[str, str]], payload: str, signature: str
) -> None:
    made = dict(signed(method, target, [HOST, *headers], payload, EXAMPLE, "us-east-1", NOW_S))
    assert made["Authorization"].endswith(f"Signature={signature}")
    assert made["X-Amz-Date"] == "20130524T000000Z"


@pytest.mark.parametrize("token", [None, "a/token+with=signs"])
@pytest.mark.parametrize(
    "target",
    [
        "/bucket?list-type=2&prefix=b%20c%2F&delimiter=%2F&max-keys=1000&encoding-type=url",
        "/bucket/a%20key%C3%A9/with//slashes/~and-dots.txt?versionId=4_z%2B",
        "/bucket?versioning=",
        "/bucket/x?partNumber=2&uploadId=a%3Db%26c",
    ],
)
def test_the_same_as_botocore(token: str | None, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: now.replace(tzinfo=None))
    headers = [("Host", "127.0.0.1:8333"), ("x-amz-meta-mode", "33188"), ("Content-MD5", "  spread   out ")]
    request = AWSRequest("PUT", f"https://127.0.0.1:8333{target}", dict(headers[1:]), b"")
    request.context["payload_signing_enabled"] = False
    request.headers["X-Amz-Content-SHA256"] = UNSIGNED
    botocore.auth.S3SigV4Auth(Credentials("key", "secret", token), "s3", "us-west-004").add_auth(request)
    made = dict(
        signed("PUT", target, headers, UNSIGNED, Frozen("key", "secret", token), "us-west-004", now.timestamp())
    )
    assert made["Authorization"] == request.headers["Authorization"]
    assert made.get("X-Amz-Security-Token") == token
