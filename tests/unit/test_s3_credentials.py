"""Which credentials the S3 store signs with, and how it comes by others; and TLS, which protects them."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
import trio
import trustme

from b2fs.core.types import Capabilities
from b2fs.errors import BadCredentials, ConfigError, Unavailable
from b2fs.store.s3 import RetryPolicy, S3Config, S3Store
from tests.unit.s3_scripted import EMPTY_LISTING, Reply, Request, ScriptedServer, error_reply

QUICK = RetryPolicy(attempts=2, base_delay_s=0.01, deadline_s=20.0)


def key_of(request: Request) -> str:
    return request.headers["authorization"].partition("Credential=")[2].partition("/")[0]


def write_credentials(path: Path, key_id: str) -> None:
    path.write_text(f"[default]\naws_access_key_id = {key_id}\naws_secret_access_key = x\n")


@pytest.fixture
def credentials_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "credentials"
    write_credentials(path, "one")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return path


async def test_a_profile_is_used(credentials_file: Path) -> None:
    with credentials_file.open("a") as file:
        file.write("[other]\naws_access_key_id = two\naws_secret_access_key = y\naws_session_token = tok\n")
    with ScriptedServer(lambda _: Reply(body=EMPTY_LISTING)).running() as server:
        async with S3Store(S3Config("bucket", server.endpoint, profile="other"), Capabilities()):
            pass
    [request] = server.requests
    assert key_of(request) == "two"
    assert request.headers["x-amz-security-token"] == "tok"


async def test_a_profile_that_does_not_exist(credentials_file: Path) -> None:
    with pytest.raises(ConfigError, match="nobody"):
        async with S3Store(S3Config("bucket", "http://127.0.0.1:1", profile="nobody")):
            raise AssertionError("entered")


async def test_no_credentials(credentials_file: Path) -> None:
    os.unlink(credentials_file)
    with pytest.raises(BadCredentials, match="no credentials"):
        async with S3Store(S3Config("bucket", "http://127.0.0.1:1")):
            raise AssertionError("entered")


async def test_a_key_that_was_replaced_in_its_file_is_picked_up(credentials_file: Path) -> None:
    expired = False

    def script(request: Request) -> Reply:
        if expired and key_of(request) == "one":
            return error_reply(403, "InvalidAccessKeyId")
        return Reply(body=EMPTY_LISTING)

    with ScriptedServer(script).running() as server:
        async with S3Store(S3Config("bucket", server.endpoint), Capabilities()) as store:
            expired = True
            with pytest.raises(BadCredentials):
                await store.list_objects("")
            write_credentials(credentials_file, "two")
            await store.list_objects("")
            assert [key_of(request) for request in server.requests] == ["one", "one", "one", "two"]


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


async def test_https_with_a_bundle_of_certificates(
    authority: trustme.CA, tls: ssl.SSLContext, tmp_path: Path, credentials_file: Path
) -> None:
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    # The second answer makes the third request go over the plain connection, which must be a TLS one all the same.
    replies = [Reply(body=EMPTY_LISTING), error_reply(503, "SlowDown"), Reply(200, {"ETag": '"e"'})]
    with ScriptedServer(lambda _: replies.pop(0), tls).running() as server:
        async with S3Store(S3Config("bucket", server.endpoint, ca_bundle=str(bundle)), Capabilities()) as store:
            await store.put("a", b"hello")
    assert [request.headers["x-amz-content-sha256"] for request in server.requests] == ["UNSIGNED-PAYLOAD"] * 3
    assert server.requests[2].body == b"hello"


async def test_https_with_a_certificate_of_nobody(tls: ssl.SSLContext, credentials_file: Path) -> None:
    with ScriptedServer(lambda _: Reply(body=EMPTY_LISTING), tls).running() as server:
        with trio.fail_after(60), pytest.raises(Unavailable, match="not trusted"):
            async with S3Store(S3Config("bucket", server.endpoint, retry=QUICK)):
                raise AssertionError("entered")
        assert server.requests == []


async def test_a_bundle_that_is_not_there(credentials_file: Path) -> None:
    with pytest.raises(ConfigError, match="no-such-file"):
        async with S3Store(S3Config("bucket", "https://localhost:1", ca_bundle="/no-such-file")):
            raise AssertionError("entered")


async def test_a_bundle_that_is_no_bundle(credentials_file: Path) -> None:
    with pytest.raises(ConfigError, match="bundle"):
        async with S3Store(S3Config("bucket", "https://localhost:1", ca_bundle=str(credentials_file))):
            raise AssertionError("entered")
