"""The native API through Backblaze's own library, and its restrictions on both sides."""

from __future__ import annotations

import hashlib
import json
import os
import time
from base64 import b64encode
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from b2sdk.v2 import (
    SSE_B2_AES,
    B2Api,
    Bucket,
    CopySource,
    EncryptionAlgorithm,
    EncryptionKey,
    EncryptionMode,
    EncryptionSetting,
    FileRetentionSetting,
    InMemoryAccountInfo,
    LegalHold,
    RetentionMode,
)
from b2sdk.v2.exception import (
    BadRequest,
    DuplicateBucketName,
    FileAlreadyHidden,
    FileNotPresent,
    Unauthorized,
)
from botocore.exceptions import ClientError

from tests.server.errors import refused
from tests.server.harness import KEY_ID, SECRET, Server
from tests.server.test_auth import signed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SSE_C = EncryptionSetting(
    EncryptionMode.SSE_C, EncryptionAlgorithm.AES256, EncryptionKey(secret=b"k" * 32, key_id="some-id")
)


@pytest.fixture
def api(server: Server, monkeypatch: pytest.MonkeyPatch) -> B2Api:
    return login(server, monkeypatch, KEY_ID, SECRET)


def login(server: Server, monkeypatch: pytest.MonkeyPatch, key_id: str, secret: str) -> B2Api:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.authority.ca_file))
    api = B2Api(InMemoryAccountInfo())
    api.authorize_account(server.url, key_id, secret)
    return api


_NUMBERS = iter(range(1, 1000))


@pytest.fixture
def home(api: B2Api) -> Iterator[Bucket]:
    yield api.create_bucket(f"native-bucket-{next(_NUMBERS)}", "allPrivate")


def read(bucket: Bucket, name: str, **options: Any) -> bytes:
    target = BytesIO()
    bucket.download_file_by_name(name, **options).save(target)
    return target.getvalue()


def test_upload_list_download(home: Bucket) -> None:
    made = home.upload_bytes(b"hello", "dir/a ü+.txt", file_info={"src_last_modified_millis": "1"})
    assert made.content_sha1 == hashlib.sha1(b"hello").hexdigest()
    assert made.id_.startswith(f"4_z{home.id_}")
    home.upload_bytes(b"", "empty")
    found = home.download_file_by_name("dir/a ü+.txt").download_version
    assert (found.file_name, found.file_info) == ("dir/a ü+.txt", {"src_last_modified_millis": "1"})
    assert read(home, "dir/a ü+.txt") == b"hello"
    assert read(home, "empty") == b""
    assert read(home, "dir/a ü+.txt", range_=(1, 3)) == b"ell"
    listed = [(version.file_name, folder) for version, folder in home.ls()]
    assert listed == [("dir/a ü+.txt", "dir/"), ("empty", None)]
    assert [version.file_name for version, _ in home.ls(recursive=True)] == ["dir/a ü+.txt", "empty"]


def test_both_doors_see_the_same(home: Bucket, s3: S3Client) -> None:
    version = home.upload_bytes(b"native", "k", content_type="text/plain", file_info={"mode": "33188"})
    got = s3.get_object(Bucket=home.name, Key="k")
    assert (got["Body"].read(), got["Metadata"], got["VersionId"]) == (b"native", {"mode": "33188"}, version.id_)
    put = s3.put_object(Bucket=home.name, Key="s", Body=b"s3", Metadata={"a": "b"}, CacheControl="max-age=5")
    info = home.get_file_info_by_name("s")
    assert (info.id_, info.file_info["a"], info.cache_control) == (put["VersionId"], "b", "max-age=5")


def test_hide_and_delete(home: Bucket, s3: S3Client) -> None:
    version = home.upload_bytes(b"x", "k")
    marker = home.hide_file("k")
    with pytest.raises(FileAlreadyHidden):
        home.hide_file("k")
    with pytest.raises(FileNotPresent):
        home.hide_file("none")
    with pytest.raises(FileNotPresent):
        home.get_file_info_by_name("k")
    shown = [(item.action, item.id_) for item, _ in home.ls(latest_only=False)]
    assert shown == [("hide", marker.id_), ("upload", version.id_)]
    home.delete_file_version(marker.id_, "k")
    assert read(home, "k") == b"x"
    with pytest.raises(FileNotPresent):
        home.delete_file_version(marker.id_, "k")


def test_large_files(home: Bucket, tmp_path: Path) -> None:
    body = os.urandom(11_000_000)
    path = tmp_path / "large"
    path.write_bytes(body)
    made = home.upload_local_file(str(path), "large", min_part_size=5_000_000)
    assert (made.size, read(home, "large")) == (len(body), body)
    copied = home.copy(made.id_, "copy", offset=1, length=10)
    assert read(home, "copy") == body[1:11]
    assert copied.size == 10
    twice = home.concatenate([CopySource(made.id_, length=len(body))] * 2, "twice")
    assert (twice.size, read(home, "twice")) == (2 * len(body), body * 2)
    begun = home.api.services.large_file.start_large_file(home.id_, "begun", "text/plain")
    assert [item.file_id for item in home.list_unfinished_large_files()] == [begun.file_id]
    home.api.cancel_large_file(begun.file_id)
    assert list(home.list_unfinished_large_files()) == []


def test_encryption(home: Bucket, s3: S3Client) -> None:
    home.upload_bytes(b"managed", "m", encryption=SSE_B2_AES)
    assert home.get_file_info_by_name("m").server_side_encryption == SSE_B2_AES
    home.upload_bytes(b"customer", "c", encryption=SSE_C)
    assert read(home, "c", encryption=SSE_C) == b"customer"
    with pytest.raises(BadRequest):
        read(home, "c")
    got = s3.get_object(Bucket=home.name, Key="c", SSECustomerAlgorithm="AES256", SSECustomerKey="k" * 32)
    assert got["Body"].read() == b"customer"


def test_locks(api: B2Api) -> None:
    bucket = api.create_bucket(f"native-lock-{next(_NUMBERS)}", "allPrivate", is_file_lock_enabled=True)
    until = int(time.time() * 1000) + 86_400_000
    version = bucket.upload_bytes(
        b"x", "k", file_retention=FileRetentionSetting(RetentionMode.GOVERNANCE, until), legal_hold=LegalHold.ON
    )
    found = api.get_file_info(version.id_)
    assert (found.file_retention.mode, found.file_retention.retain_until, found.legal_hold) == (
        RetentionMode.GOVERNANCE,
        until,
        LegalHold.ON,
    )
    api.update_file_legal_hold(version.id_, "k", LegalHold.OFF)
    with pytest.raises(Unauthorized, match="Access Denied"):
        api.delete_file_version(version.id_, "k")
    api.delete_file_version(version.id_, "k", bypass_governance=True)


def test_buckets(api: B2Api, s3: S3Client, home: Bucket) -> None:
    with pytest.raises(DuplicateBucketName):
        api.create_bucket(home.name, "allPrivate")
    home.update(bucket_type="allPublic", bucket_info={"a": "b"}, default_server_side_encryption=SSE_B2_AES)
    found = api.get_bucket_by_name(home.name)
    assert (found.type_, found.bucket_info) == ("allPublic", {"a": "b"})
    assert found.default_server_side_encryption == SSE_B2_AES
    assert len(s3.get_bucket_acl(Bucket=home.name)["Grants"]) == 2
    api.delete_bucket(home)
    with refused(404, "NoSuchBucket"):
        s3.list_objects_v2(Bucket=home.name)


def test_restricted_keys_are_restricted_on_both_sides(
    api: B2Api, home: Bucket, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.upload_bytes(b"in", "in/k")
    home.upload_bytes(b"out", "out/k")
    key = api.create_key(["listBuckets", "listFiles", "readFiles"], "reader", bucket_id=home.id_, name_prefix="in/")
    s3 = server.s3(key.id_, key.application_key)
    assert s3.get_object(Bucket=home.name, Key="in/k")["Body"].read() == b"in"
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=home.name, Prefix="in/")["Contents"]] == ["in/k"]
    for call in (
        lambda: s3.get_object(Bucket=home.name, Key="out/k"),
        lambda: s3.list_objects_v2(Bucket=home.name),
        lambda: s3.put_object(Bucket=home.name, Key="in/k", Body=b"x"),
        lambda: s3.delete_object(Bucket=home.name, Key="in/k"),
        lambda: s3.create_bucket(Bucket="not-for-this-key"),
    ):
        with refused(403, "AccessDenied", "not entitled"):
            call()
    limited = login(server, monkeypatch, key.id_, key.application_key)
    bucket = limited.get_bucket_by_name(home.name)
    assert read(bucket, "in/k") == b"in"
    with pytest.raises(Unauthorized):
        read(bucket, "out/k")
    with pytest.raises(Unauthorized):
        limited.session.get_upload_url(bucket.id_)
    api.delete_key_by_id(key.id_)
    deadline = time.monotonic() + 60
    while s3_accepts(s3, home.name):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def s3_accepts(s3: S3Client, bucket: str) -> bool:
    try:
        s3.head_object(Bucket=bucket, Key="in/k")
    except ClientError:
        return False
    return True


def test_keys_are_listed_and_expire(api: B2Api, server: Server) -> None:
    key = api.create_key(["readFiles"], "brief", valid_duration_seconds=1)
    assert key.id_ in [item.id_ for item in api.list_keys()]
    assert len(key.id_) == 25
    deadline = time.monotonic() + 60
    while b"is not valid" not in try_list(server, key.id_, key.application_key):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    api.delete_key_by_id(key.id_)
    assert key.id_ not in [item.id_ for item in api.list_keys()]


def try_list(server: Server, key_id: str, secret: str) -> bytes:
    try:
        server.s3(key_id, secret).list_buckets()
    except ClientError as error:
        return error.response["Error"]["Message"].encode()
    return b""


def test_download_authorization(home: Bucket, server: Server) -> None:
    home.upload_bytes(b"shared", "share/k")
    token = home.get_download_authorization("share/", 60)
    path = f"/file/{home.name}/share/k"
    assert server.request("GET", path)[0] == 401
    assert server.request("GET", f"{path}?Authorization={token}")[::2] == (200, b"shared")
    status, _, body = server.request("GET", f"/file/{home.name}/other?Authorization={token}")
    assert (status, json.loads(body)["code"]) == (401, "unauthorized")


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_authorize_versions(server: Server, version: int) -> None:
    basic = b64encode(f"{KEY_ID}:{SECRET}".encode()).decode()
    headers = {"Authorization": f"Basic {basic}"}
    status, _, body = server.request("GET", f"/b2api/v{version}/b2_authorize_account", headers=headers)
    answer = json.loads(body)
    assert (status, answer["accountId"]) == (200, server.s3().list_buckets()["Owner"]["ID"])
    place = answer["apiInfo"]["storageApi"] if version >= 3 else answer
    assert place["s3ApiUrl"] == server.url
    assert "readFiles" in (place if version == 3 else place["allowed"])["capabilities"]
    bad = {"Authorization": f"Basic {b64encode(b'x:y').decode()}"}
    status, _, body = server.request("GET", f"/b2api/v{version}/b2_authorize_account", headers=bad)
    assert (status, json.loads(body)["code"]) == (401, "unauthorized")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"bucketId": 5}', b"[" * 100_000])
def test_bad_json(server: Server, body: bytes) -> None:
    basic = b64encode(f"{KEY_ID}:{SECRET}".encode()).decode()
    _, _, answer = server.request("GET", "/b2api/v2/b2_authorize_account", headers={"Authorization": f"Basic {basic}"})
    token = json.loads(answer)["authorizationToken"]
    status, _, answer = server.request("POST", "/b2api/v2/b2_list_file_names", body, {"Authorization": token})
    assert (status, json.loads(answer)["status"]) == (400, 400)
    status, _, answer = server.request("POST", "/b2api/v2/b2_list_file_names", body, {"Authorization": token[:-1]})
    assert (status, json.loads(answer)["code"]) == (401, "bad_auth_token")


def test_the_master_key_works_here_and_not_on_s3(server: Server, api: B2Api) -> None:
    account_id = api.account_info.get_account_id()
    with refused(403, "InvalidAccessKeyId", "Malformed Access Key Id"):
        server.s3(account_id, "any").list_buckets()


def test_metadata_that_is_no_utf_8_is_read_as_latin_1(server: Server, home: Bucket) -> None:
    headers: dict[str, Any] = signed(server, "PUT", f"/{home.name}/k", b"x", {"x-amz-meta-note": "caf\xe9"})
    headers["x-amz-meta-note"] = b"caf\xe9"
    assert server.request("PUT", f"/{home.name}/k", b"x", headers)[0] == 200
    version = next(version for version, _ in home.ls())
    assert version.file_info["note"] == "caf\xe9"
    assert home.download_file_by_name("k").download_version.file_info["note"] == "caf\xe9"
