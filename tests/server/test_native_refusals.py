"""What the native API refuses, in the codes and words that Backblaze's own programs look for."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
from b2sdk.v2 import (
    B2Api,
    Bucket,
    EncryptionAlgorithm,
    EncryptionKey,
    EncryptionMode,
    EncryptionSetting,
    FileRetentionSetting,
    LegalHold,
    RetentionMode,
)
from b2sdk.v2.exception import BadRequest, MaxRetriesExceeded, RetentionWriteError, SSECKeyError, Unauthorized

from tests.server.harness import KEY_ID, SECRET, Server
from tests.server.test_native import login

_NUMBERS = itertools.count(1)
NO_KEY = r"The object was stored using a form of Server Side Encryption.*\(bad_request\)"
#: The library warns of codes for which it has no exception of their own.
UNKNOWN_CODE = pytest.mark.filterwarnings("ignore:bad request exception with an unknown")
NO_LOCK = r"The bucket is not file lock enabled \(bucket_missing_file_lock\)"


def customer(key: bytes) -> EncryptionSetting:
    return EncryptionSetting(EncryptionMode.SSE_C, EncryptionAlgorithm.AES256, EncryptionKey(key, "some-id"))


def governance(seconds: float) -> FileRetentionSetting:
    return FileRetentionSetting(RetentionMode.GOVERNANCE, int((time.time() + seconds) * 1000))


@pytest.fixture
def api(server: Server, monkeypatch: pytest.MonkeyPatch) -> B2Api:
    return login(server, monkeypatch, KEY_ID, SECRET)


def new_bucket(api: B2Api, **options: Any) -> Bucket:
    return api.create_bucket(f"native-refusals-{next(_NUMBERS)}", "allPrivate", **options)


def test_customer_keys(api: B2Api) -> None:
    home = new_bucket(api)
    made = home.upload_bytes(b"secret", "k", encryption=customer(b"1" * 32))
    with pytest.raises(BadRequest, match=NO_KEY):
        home.download_file_by_name("k").save(io.BytesIO())
    with pytest.raises(SSECKeyError):
        home.download_file_by_name("k", encryption=customer(b"2" * 32)).save(io.BytesIO())
    with pytest.raises(BadRequest, match=NO_KEY):
        home.copy(made.id_, "copy")
    with pytest.raises(SSECKeyError):
        home.copy(
            made.id_, "copy", source_encryption=customer(b"2" * 32), source_content_type="a/b", source_file_info={}
        )


@UNKNOWN_CODE
def test_locks_where_there_are_none(api: B2Api) -> None:
    home = new_bucket(api)
    made = home.upload_bytes(b"x", "k")
    with pytest.raises(BadRequest, match=NO_LOCK):
        home.upload_bytes(b"x", "l", file_retention=governance(100))
    with pytest.raises(BadRequest, match=NO_LOCK):
        home.copy(made.id_, "l", legal_hold=LegalHold.ON)
    with pytest.raises(BadRequest, match=NO_LOCK):
        api.update_file_retention(made.id_, "k", governance(100))
    with pytest.raises(BadRequest, match=NO_LOCK):
        api.update_file_legal_hold(made.id_, "k", LegalHold.ON)


@UNKNOWN_CODE
def test_retention_that_may_not_be_written(api: B2Api, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    home = new_bucket(api, is_file_lock_enabled=True)
    made = home.upload_bytes(b"x", "k", file_retention=governance(1000))
    with pytest.raises(RetentionWriteError):
        api.update_file_retention(made.id_, "k", governance(500))
    with pytest.raises(BadRequest, match=r"must be in future \(retain_until_timestamp_must_be_in_future\)"):
        home.upload_bytes(b"x", "l", file_retention=governance(-1000))
    with pytest.raises(Unauthorized, match="Access Denied for application key"):
        api.delete_file_version(made.id_, "k")
    key = api.create_key(["listBuckets", "listFiles", "readFiles", "writeFiles", "deleteFiles"], "limited")
    limited = login(server, monkeypatch, key.id_, key.application_key)
    with pytest.raises(RetentionWriteError):
        limited.update_file_retention(made.id_, "k", governance(5000))
    with pytest.raises(RetentionWriteError):
        limited.update_file_legal_hold(made.id_, "k", LegalHold.ON)
    # Uploads are tried again with another URL, which helps against tokens that ended.
    with pytest.raises(MaxRetriesExceeded, match="unauthorized for application key with capabilities"):
        limited.get_bucket_by_name(home.name).upload_bytes(b"x", "l", file_retention=governance(100))
    with pytest.raises(Unauthorized, match="unauthorized for application key with capabilities"):
        limited.delete_file_version(made.id_, "k", bypass_governance=True)
    api.delete_file_version(made.id_, "k", bypass_governance=True)


def test_large_files_have_two_parts(api: B2Api) -> None:
    home, session = new_bucket(api), api.session
    digest = hashlib.sha1(b"part").hexdigest()
    file_id = session.start_large_file(home.id_, "large", "text/plain", {})["fileId"]
    for number in (1, 2):
        session.upload_part(file_id, number, 4, digest, io.BytesIO(b"part"))
    with pytest.raises(BadRequest, match="large files must have at least 2 parts"):
        session.finish_large_file(file_id, [digest])
    api.cancel_large_file(file_id)


def upload_statuses(server: Server, api: B2Api, home: Bucket, mode: str) -> list[int]:
    """The answers to 40 uploads in a test mode of B2's."""
    target = api.session.get_upload_url(home.id_)
    path = urlsplit(target["uploadUrl"]).path
    headers = {
        "Authorization": target["authorizationToken"],
        "X-Bz-File-Name": "k",
        "Content-Type": "text/plain",
        "X-Bz-Content-Sha1": "do_not_verify",
        "X-Bz-Test-Mode": mode,
    }
    return [server.request("POST", path, b"x", headers)[0] for _ in range(40)]


@pytest.mark.parametrize(
    ("mode", "statuses"),
    [
        ("fail_some_uploads", {200, 503}),
        ("expire_some_account_authorization_tokens", {200}),
        ("force_cap_exceeded", {403}),
        ("something_else", {200}),
    ],
)
def test_uploads_in_a_test_mode(server: Server, api: B2Api, mode: str, statuses: set[int]) -> None:
    assert set(upload_statuses(server, api, new_bucket(api), mode)) == statuses


def test_tokens_that_expire_in_a_test_mode(server: Server, api: B2Api) -> None:
    headers = {
        "Authorization": api.account_info.get_account_auth_token(),
        "X-Bz-Test-Mode": "expire_some_account_authorization_tokens",
    }
    body = json.dumps({"accountId": api.account_info.get_account_id()}).encode()
    answers = [server.request("POST", "/b2api/v3/b2_list_buckets", body, headers) for _ in range(40)]
    assert {status for status, _, _ in answers} == {200, 401}
    assert {json.loads(body)["code"] for status, _, body in answers if status == 401} == {"expired_auth_token"}


def test_backblaze_s_library_bears_failing_uploads(api: B2Api) -> None:
    class Failing:
        def pre_request(self, method: str, url: str, headers: dict[str, str]) -> None:
            headers["X-Bz-Test-Mode"] = "fail_some_uploads"

        def post_request(self, method: str, url: str, headers: dict[str, str], response: object) -> None:
            """The library asks for both."""

    home, http = new_bucket(api), api.session.raw_api.b2_http
    http.add_callback(Failing())
    for number in range(3):
        home.upload_bytes(b"x", f"k{number}")
    assert [version.file_name for version, _ in home.ls()] == ["k0", "k1", "k2"]
