"""The engine's buckets."""

from __future__ import annotations

import pytest

from b2fs.errors import NoSuchBucket, NotFound
from b2fs.store.embedded.engine import Engine
from b2fs.store.embedded.errors import (
    BucketChanged,
    BucketExists,
    BucketNotEmpty,
    InvalidBucketName,
    InvalidLock,
)
from b2fs.store.embedded.rows import (
    Acl,
    BucketChanges,
    BucketSpec,
    DefaultRetention,
    RetentionMode,
)
from tests.unit.embedded_engine.tools import Clock

GOVERNANCE, COMPLIANCE = RetentionMode.GOVERNANCE, RetentionMode.COMPLIANCE


def test_a_bucket_keeps_its_settings(engine: Engine, clock: Clock) -> None:
    spec = BucketSpec(
        "my-bucket",
        owner="0123456789ab",
        region="us-west-004",
        acl=Acl.PUBLIC_READ,
        cors_json="[]",
        lifecycle_json="[1]",
        info_json='{"a":"b"}',
        default_encryption="AES256",
        lock_enabled=True,
        default_retention=DefaultRetention(COMPLIANCE, days=3),
    )
    made = engine.create_bucket(spec)
    assert engine.bucket("my-bucket") == made == engine.bucket_by_id(made.bucket_id)
    assert (made.owner, made.region, made.acl, made.created_ms) == (spec.owner, spec.region, spec.acl, clock.ms)
    assert (made.cors_json, made.lifecycle_json, made.info_json) == ("[]", "[1]", '{"a":"b"}')
    assert made.default_retention == spec.default_retention
    assert len(made.bucket_id) == 24


def test_buckets_by_owner(engine: Engine) -> None:
    for name, owner in (("bucket-b", "one"), ("bucket-a", "one"), ("bucket-c", "two")):
        engine.create_bucket(BucketSpec(name, owner=owner))
    assert [row.name for row in engine.list_buckets()] == ["bucket-a", "bucket-b", "bucket-c"]
    assert [row.name for row in engine.list_buckets("one")] == ["bucket-a", "bucket-b"]
    with pytest.raises(BucketExists) as caught:
        engine.create_bucket(BucketSpec("bucket-c", owner="one"))
    assert caught.value.owner == "two"


@pytest.mark.parametrize(
    "name", ["short", "x" * 64, "under_score", "dots.in.it", "b2-reserved", "B2-reserved", "ümlaut"]
)
def test_bucket_names_that_b2_refuses(engine: Engine, name: str) -> None:
    with pytest.raises(InvalidBucketName):
        engine.create_bucket(BucketSpec(name))


@pytest.mark.parametrize(
    ("name", "fine"), [("s", True), ("under_score.", True), ("a/b", False), ("..", False), ("", False)]
)
def test_loose_bucket_names(engine: Engine, name: str, fine: bool) -> None:
    if fine:
        assert engine.create_bucket(BucketSpec(name), strict_name=False).name == name
    else:
        with pytest.raises(InvalidBucketName):
            engine.create_bucket(BucketSpec(name), strict_name=False)


def test_changing_a_bucket(engine: Engine, bucket: int) -> None:
    changed = engine.update_bucket(bucket, BucketChanges(acl=Acl.PUBLIC_READ, cors_json="[]"), if_revision=1)
    assert (changed.acl, changed.cors_json, changed.revision) == (Acl.PUBLIC_READ, "[]", 2)
    assert engine.bucket("bucket") == changed
    with pytest.raises(BucketChanged):
        engine.update_bucket(bucket, BucketChanges(cors_json=None), if_revision=1)
    assert engine.update_bucket(bucket, BucketChanges(cors_json=None)).cors_json is None


def test_object_lock_cannot_be_disabled(engine: Engine, locked_bucket: int, bucket: int) -> None:
    with pytest.raises(InvalidLock):
        engine.update_bucket(locked_bucket, BucketChanges(lock_enabled=False))
    with pytest.raises(InvalidLock):
        engine.update_bucket(bucket, BucketChanges(default_retention=DefaultRetention(GOVERNANCE, days=1)))
    assert engine.update_bucket(bucket, BucketChanges(lock_enabled=True)).lock_enabled


def test_only_an_empty_bucket_can_be_deleted(engine: Engine, bucket: int) -> None:
    row = engine.put(bucket, "a", b"x")
    engine.create_upload(bucket, "m")
    with pytest.raises(BucketNotEmpty):
        engine.delete_bucket(bucket)
    engine.delete_version(bucket, "a", row.version_id)
    engine.delete_bucket(bucket)
    with pytest.raises(NoSuchBucket):
        engine.bucket("bucket")
    for call in (
        lambda: engine.put(bucket, "a", b"x"),
        lambda: engine.head(bucket, "a"),
        lambda: engine.list_objects(bucket),
        lambda: engine.create_upload(bucket, "a"),
        lambda: engine.delete_bucket(bucket),
    ):
        with pytest.raises(NoSuchBucket):
            call()


def test_buckets_do_not_see_each_other(engine: Engine, bucket: int) -> None:
    other = engine.create_bucket(BucketSpec("other-bucket")).id
    ours = engine.put(bucket, "a", b"ours")
    engine.put(other, "a", b"theirs")
    assert engine.read(bucket, "a")[1] == b"ours"
    with pytest.raises(NotFound):
        engine.head(other, "a", ours.version_id)
    assert not engine.delete_version(other, "a", ours.version_id).existed
    assert engine.copy(bucket, "a", None, other, "b").bucket_id != ours.bucket_id
    assert [row.key for row in engine.list_objects(other).rows] == ["a", "b"]
