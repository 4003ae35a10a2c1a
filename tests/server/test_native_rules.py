"""Replication and notification rules, and upload times that the uploader gives, through Backblaze's own library."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from b2sdk.v2 import (
    B2Api,
    Bucket,
    EncryptionAlgorithm,
    EncryptionKey,
    EncryptionMode,
    EncryptionSetting,
    InMemoryAccountInfo,
    ReplicationConfiguration,
    ReplicationRule,
)
from b2sdk.v2.exception import BadRequest, Unauthorized

from tests.server.harness import KEY_ID, SECRET, Server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_NUMBERS = itertools.count(1)


def login(server: Server, monkeypatch: pytest.MonkeyPatch, key_id: str, secret: str) -> B2Api:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.authority.ca_file))
    api = B2Api(InMemoryAccountInfo())
    api.authorize_account(server.url, key_id, secret)
    return api


@pytest.fixture
def api(server: Server, monkeypatch: pytest.MonkeyPatch) -> B2Api:
    return login(server, monkeypatch, KEY_ID, SECRET)


@pytest.fixture
def bucket(api: B2Api) -> Bucket:
    return api.create_bucket(f"rules-{next(_NUMBERS)}", "allPrivate")


def reread(api: B2Api, bucket: Bucket) -> Bucket:
    found: Bucket = api.list_buckets(bucket_id=bucket.id_)[0]
    return found


NONE = ReplicationConfiguration()
SOURCE = ReplicationConfiguration(
    rules=[ReplicationRule(destination_bucket_id="d" * 24, name="to-elsewhere", file_name_prefix="a/", priority=7)],
    source_key_id=KEY_ID,
)
BOTH = ReplicationConfiguration(
    rules=SOURCE.rules, source_key_id=KEY_ID, source_to_destination_key_mapping={KEY_ID: "other"}
)


@pytest.mark.parametrize("configuration", [SOURCE, BOTH])
def test_replication_is_kept_and_shown(api: B2Api, bucket: Bucket, configuration: ReplicationConfiguration) -> None:
    assert bucket.replication == NONE
    bucket.update(replication=configuration)
    assert reread(api, bucket).replication == configuration
    bucket.update(bucket_info={"x": "y"})
    assert reread(api, bucket).replication == configuration
    bucket.update(replication=NONE)
    assert reread(api, bucket).replication == NONE


def test_a_bucket_may_begin_with_replication(api: B2Api) -> None:
    made = api.create_bucket(f"rules-{next(_NUMBERS)}", "allPrivate", replication=SOURCE)
    assert reread(api, made).replication == SOURCE


def test_files_for_elsewhere_are_pending(api: B2Api, bucket: Bucket) -> None:
    assert bucket.upload_bytes(b"x", "a/early").replication_status is None
    bucket.update(replication=SOURCE)
    source = reread(api, bucket)
    made = source.upload_bytes(b"x", "a/x")
    assert made.replication_status is not None
    assert made.replication_status.value == "PENDING"
    assert api.get_file_info(made.id_).replication_status is made.replication_status
    assert source.get_file_info_by_name("a/x").replication_status is made.replication_status
    assert source.upload_bytes(b"x", "b/x").replication_status is None
    secret = EncryptionSetting(EncryptionMode.SSE_C, EncryptionAlgorithm.AES256, EncryptionKey(b"k" * 32, "id"))
    assert source.upload_bytes(b"x", "a/secret", encryption=secret).replication_status is None
    assert source.hide_file("a/x").replication_status is None
    stopped = dataclasses.replace(SOURCE.rules[0], is_enabled=False)
    bucket.update(replication=ReplicationConfiguration(rules=[stopped], source_key_id=KEY_ID))
    assert source.upload_bytes(b"x", "a/y").replication_status is None


RULE: Any = {
    "eventTypes": ["b2:ObjectCreated:*"],
    "isEnabled": True,
    "name": "tell-me",
    "objectNamePrefix": "a/",
    "targetConfiguration": {"targetType": "webhook", "url": "https://example.com/hook"},
}


def test_notification_rules_are_kept_and_shown(api: B2Api, bucket: Bucket) -> None:
    assert bucket.get_notification_rules() == []
    target = RULE["targetConfiguration"] | {"customHeaders": None, "hmacSha256SigningSecret": None}
    shown = RULE | {"isSuspended": False, "suspensionReason": "", "targetConfiguration": target}
    assert bucket.set_notification_rules([RULE]) == [shown]
    assert bucket.get_notification_rules() == [shown]
    for_all: Any = {name: value for name, value in RULE.items() if name != "objectNamePrefix"}
    assert bucket.set_notification_rules([for_all]) == [shown | {"objectNamePrefix": ""}]
    target = target | {"customHeaders": [{"name": "X-Y", "value": "z"}], "hmacSha256SigningSecret": "a1" * 16}
    signed: Any = RULE | {"targetConfiguration": target}
    assert bucket.set_notification_rules([signed]) == [shown | signed]
    assert bucket.set_notification_rules([]) == []
    assert bucket.get_notification_rules() == []


@pytest.mark.parametrize(
    "rules",
    [
        [RULE, RULE],
        [RULE | {"name": "no blanks"}],
        [RULE | {"eventTypes": []}],
        [RULE | {"eventTypes": ["s3:ObjectCreated:*"]}],
        [RULE | {"isEnabled": "yes"}],
        [RULE | {"targetConfiguration": {"targetType": "webhook", "url": "http://example.com"}}],
        [RULE | {"targetConfiguration": {"targetType": "queue", "url": "https://example.com"}}],
        [RULE | {"targetConfiguration": RULE["targetConfiguration"] | {"hmacSha256SigningSecret": "short"}}],
        [RULE | {"targetConfiguration": RULE["targetConfiguration"] | {"customHeaders": ["X-Y: z"]}}],
        ["rule"],
    ],
)
def test_bad_notification_rules(bucket: Bucket, rules: list[Any]) -> None:
    with pytest.raises(BadRequest):
        bucket.set_notification_rules(rules)
    assert bucket.get_notification_rules() == []


def post(api: B2Api, call: str, **body: Any) -> Any:
    """A call that the library itself would not make."""
    info = api.account_info
    raw: Any = api.session.raw_api
    return raw._post_json(info.get_api_url(), call, info.get_account_auth_token(), **body)


_RULES = SOURCE.as_dict()["asReplicationSource"]


@pytest.mark.parametrize(
    "setting",
    [
        {"asReplicationSource": {"replicationRules": []}},
        {"asReplicationSource": {"replicationRules": "x", "sourceApplicationKeyId": "k"}},
        {"asReplicationSource": _RULES | {"replicationRules": [{"priority": 1}]}},
        {"asReplicationSource": _RULES | {"replicationRules": [_RULES["replicationRules"][0] | {"priority": 0}]}},
        {"asReplicationSource": _RULES | {"replicationRules": [_RULES["replicationRules"][0] | {"priority": True}]}},
        {"asReplicationSource": _RULES | {"replicationRules": _RULES["replicationRules"] * 2}},
        {"asReplicationDestination": {"sourceToDestinationKeyMapping": ["x"]}},
        {"asReplicationDestination": "x"},
        "x",
    ],
)
def test_bad_replication(api: B2Api, bucket: Bucket, setting: Any) -> None:
    with pytest.raises(BadRequest):
        post(
            api,
            "b2_update_bucket",
            accountId=api.get_account_id(),
            bucketId=bucket.id_,
            replicationConfiguration=setting,
        )
    assert reread(api, bucket).replication == NONE


def test_rules_have_capabilities_of_their_own(
    server: Server, api: B2Api, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.update(replication=SOURCE)
    key = api.create_key(["listBuckets", "writeBuckets", "readBuckets"], "narrow")
    narrow = login(server, monkeypatch, key.id_, key.application_key)
    seen = reread(narrow, bucket)
    assert seen.replication == NONE
    changes: list[Callable[[], Any]] = [
        lambda: seen.update(replication=NONE),
        lambda: seen.set_notification_rules([]),
        seen.get_notification_rules,
    ]
    for change in changes:
        with pytest.raises(Unauthorized):
            change()
    assert reread(api, bucket).replication == SOURCE


def test_an_uploader_may_say_when(s3: S3Client, bucket: Bucket) -> None:
    """Versions are in the order of these times, as on B2."""
    now_ms = int(time.time() * 1000)
    newest = bucket.upload_bytes(b"now", "k")
    for age_ms, body in ((2_000_000, b"oldest"), (1_000_000, b"older"), (1_000_000, b"older too")):
        made = bucket.upload_bytes(body, "k", custom_upload_timestamp=now_ms - age_ms)
        assert made.upload_timestamp == now_ms - age_ms
    assert bucket.get_file_info_by_name("k").id_ == newest.id_
    assert s3.get_object(Bucket=bucket.name, Key="k")["Body"].read() == b"now"
    ages = [now_ms - version.upload_timestamp for version in bucket.list_file_versions("k")]
    assert ages[1:] == [1_000_000, 1_000_000, 2_000_000]
    listed = s3.list_object_versions(Bucket=bucket.name)["Versions"]
    assert [version["IsLatest"] for version in listed] == [True, False, False, False]
    assert int(listed[3]["LastModified"].timestamp()) == (now_ms - 2_000_000) // 1000
    with pytest.raises(BadRequest):
        bucket.upload_bytes(b"x", "k", custom_upload_timestamp=now_ms + 3_600_000)


@pytest.mark.parametrize("name", ["customUploadTimestamp", "custom_upload_timestamp"])
def test_a_large_file_may_have_a_time_of_its_own(api: B2Api, s3: S3Client, bucket: Bucket, name: str) -> None:
    given_ms = int(time.time() * 1000) - 86_400_000
    started = post(api, "b2_start_large_file", bucketId=bucket.id_, fileName="l", contentType="a/b", **{name: given_ms})
    digests = []
    for number, body in enumerate((b"x" * 5_000_000, b"y"), 1):
        s3.upload_part(Bucket=bucket.name, Key="l", UploadId=started["fileId"], PartNumber=number, Body=body)
        digests.append(hashlib.sha1(body).hexdigest())
    made = post(api, "b2_finish_large_file", fileId=started["fileId"], partSha1Array=digests)
    assert made["uploadTimestamp"] == given_ms
    assert bucket.get_file_info_by_name("l").id_ == started["fileId"]
