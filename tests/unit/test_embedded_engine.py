"""The engine's own promises: B2's rules, Object Lock, order, buckets, uploads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from b2fs.errors import InvalidRequest, Locked, NoSuchBucket, NoSuchUpload, NotFound, PreconditionFailed
from b2fs.store.embedded.engine import Engine, EngineConfig
from b2fs.store.embedded.errors import (
    BucketChanged,
    BucketExists,
    BucketNotEmpty,
    EntityTooLarge,
    EntityTooSmall,
    InvalidBucketName,
    InvalidKey,
    InvalidLock,
    InvalidPart,
    InvalidPartOrder,
    IsHideMarker,
    KeyTooLong,
    MetadataTooLarge,
)
from b2fs.store.embedded.rows import (
    Acl,
    Attributes,
    BucketChanges,
    BucketSpec,
    ContentHeaders,
    DefaultRetention,
    Encryption,
    LockSpec,
    PartClaim,
    Retention,
    RetentionMode,
)

DAY_MS = 86_400_000
GOVERNANCE, COMPLIANCE = RetentionMode.GOVERNANCE, RetentionMode.COMPLIANCE


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_123

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(tmp_path: Path, clock: Clock) -> Iterator[Engine]:
    config = EngineConfig(str(tmp_path / "store"), durable=False, min_part_bytes=10, inline_max=100)
    with Engine(config, clock_ms=clock) as opened:
        yield opened


@pytest.fixture
def bucket(engine: Engine) -> int:
    return engine.create_bucket(BucketSpec("bucket")).id


@pytest.fixture
def locked_bucket(engine: Engine) -> int:
    return engine.create_bucket(BucketSpec("locked-bucket", lock_enabled=True)).id


# --- Buckets


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


# --- Keys, metadata, attributes


@pytest.mark.parametrize("key", ["", "a\0b", "a\nb", "\x7f", "\udc80"])
def test_keys_that_b2_refuses(engine: Engine, bucket: int, key: str) -> None:
    with pytest.raises(InvalidKey):
        engine.put(bucket, key, b"x")
    with pytest.raises((InvalidKey, NotFound)):
        engine.head(bucket, key)


def test_keys_are_measured_in_bytes(engine: Engine, bucket: int) -> None:
    engine.put(bucket, "é" * 512, b"x")
    with pytest.raises(KeyTooLong):
        engine.put(bucket, "é" * 512 + "x", b"x")


def test_metadata_limits(engine: Engine, bucket: int, locked_bucket: int) -> None:
    engine.put(bucket, "a", b"", Attributes(metadata={"n": "v" * 6999}))
    with pytest.raises(MetadataTooLarge):
        engine.put(bucket, "a", b"", Attributes(metadata={"n": "v" * 7000}))
    encrypted = Attributes(metadata={"n": "v" * 2048}, encryption=Encryption())
    with pytest.raises(MetadataTooLarge):
        engine.put(bucket, "a", b"", encrypted)
    with pytest.raises(MetadataTooLarge):
        engine.create_upload(locked_bucket, "a", Attributes(metadata={"n": "v" * 2048}))


def test_all_attributes_come_back(engine: Engine, bucket: int) -> None:
    headers = ContentHeaders("text/plain", "no-cache", "inline", "gzip", "de", "Thu, 01 Dec 1994 16:00:00 GMT")
    attributes = Attributes(headers, {"a": "ü"}, Encryption("AES256", "bWQ1"), {"sha1": "abc"})
    row = engine.put(bucket, "a", b"x", attributes)
    assert engine.head(bucket, "a").attributes == attributes == row.attributes
    assert engine.copy(bucket, "a", row.version_id, bucket, "b").attributes == attributes
    assert engine.find_version(row.version_id) == row


def test_default_encryption(engine: Engine) -> None:
    bucket = engine.create_bucket(BucketSpec("encrypted", default_encryption="AES256")).id
    assert engine.put(bucket, "a", b"x").attributes.encryption == Encryption("AES256")
    assert engine.hide(bucket, "a").attributes.encryption is None


def test_size_and_etag_may_be_overridden(engine: Engine, bucket: int) -> None:
    row = engine.put(bucket, "a", b"ciphertext+tag", size=10, etag="f" * 32)
    assert (row.size, row.etag) == (10, "f" * 32)
    assert engine.read(bucket, "a")[1] == b"ciphertext+tag"


# --- Versions


def test_the_version_id_has_b2s_form(engine: Engine, bucket: int, clock: Clock) -> None:
    row = engine.put(bucket, "a", b"x")
    match = re.fullmatch(
        r"4_z([0-9a-f]{24})_f[0-9a-f]{16}_d20231114_m221320_c\d{3}_v\d{7}_t\d{4}_u01700000000123", row.version_id
    )
    assert match
    assert match[1] == engine.bucket("bucket").bucket_id


def test_versions_within_one_instant_are_ordered_by_arrival(engine: Engine, bucket: int, clock: Clock) -> None:
    made = [engine.put(bucket, "a", str(n).encode()).version_id for n in range(20)]
    clock.ms -= 60_000  # a clock that is set back does not change it either
    made.append(engine.put(bucket, "a", b"last").version_id)
    assert [row.version_id for row in engine.list_versions(bucket).rows] == made[::-1]
    assert engine.read(bucket, "a")[1] == b"last"


def test_hazard_mode_mixes_versions_of_one_second_only(tmp_path: Path, clock: Clock) -> None:
    config = EngineConfig(str(tmp_path / "store"), durable=False, hazard_seed=7)
    with Engine(config, clock_ms=clock) as engine:
        bucket = engine.create_bucket(BucketSpec("bucket")).id
        seconds = []
        for _ in range(3):
            seconds.append([engine.put(bucket, "a", b"x").version_id for _ in range(8)])
            clock.ms += 1000
        listed = [row.version_id for row in engine.list_versions(bucket).rows][::-1]
        chunks = [listed[i : i + 8] for i in (0, 8, 16)]
        assert [sorted(chunk) for chunk in chunks] == [sorted(second) for second in seconds]
        assert chunks != seconds
        for n in range(20):
            engine.put(bucket, f"k{n}", b"x")
            engine.hide(bucket, f"k{n}")
        lost = len(engine.list_objects(bucket, "k").rows)
        assert 0 < lost < 20
        assert engine.fsck().clean


def test_hide_markers_tell_what_they_are(engine: Engine, bucket: int) -> None:
    engine.put(bucket, "a", b"x")
    marker = engine.hide(bucket, "a")
    with pytest.raises(IsHideMarker) as caught:
        engine.head(bucket, "a")
    assert (caught.value.version_id, caught.value.named) == (marker.version_id, False)
    with pytest.raises(IsHideMarker) as caught:
        engine.read(bucket, "a", marker.version_id)
    assert caught.value.named
    assert engine.delete_version(bucket, "a", marker.version_id).was_hide_marker


def test_conditions_look_at_the_current_version(engine: Engine, bucket: int) -> None:
    with pytest.raises(PreconditionFailed):
        engine.put(bucket, "a", b"x", if_match="0" * 32)
    row = engine.put(bucket, "a", b"x", if_none_match=True)
    engine.hide(bucket, "a")
    with pytest.raises(PreconditionFailed):
        engine.put(bucket, "a", b"y", if_match=row.etag)


def test_contents_live_as_long_as_anything_refers_to_them(engine: Engine, bucket: int) -> None:
    data = bytes(1000)
    first = engine.put(bucket, "a", data)
    second = engine.copy(bucket, "a", None, bucket, "b")
    assert _files(engine) == 1
    engine.delete_version(bucket, "a", first.version_id)
    assert engine.read(bucket, "b")[1] == data
    engine.delete_version(bucket, "b", second.version_id)
    engine.put(bucket, "c", b"")  # a later change: the file of the one before is gone by now
    assert _files(engine) == 0
    assert engine.fsck().clean


def _files(engine: Engine) -> int:
    return sum(1 for path in Path(engine.directory).glob("content/*/*"))


def test_a_reader_is_not_disturbed_by_removal(engine: Engine, bucket: int) -> None:
    row = engine.put(bucket, "a", bytes(range(256)) * 10)
    _, reader = engine.open(bucket, "a")
    with reader:
        engine.delete_version(bucket, "a", row.version_id)
        engine.put(bucket, "b", b"")
        assert _files(engine) == 0
        assert reader.read_at(256, 4) == bytes(range(4))
        [segment] = reader.segments(10, 20)
        assert (segment.data, segment.offset, segment.length) == (None, 10, 10)
        assert segment.fd >= 0


def test_a_streamed_body(engine: Engine, bucket: int) -> None:
    with engine.writer() as writer:
        for n in range(50):
            writer.write(bytes([n]) * 7)
        assert (writer.size, writer.md5_hex) == (350, hashlib.md5(_stream()).hexdigest())
        row = engine.put(bucket, "a", writer)
    assert engine.read(bucket, "a")[1] == _stream()
    assert row.etag == hashlib.md5(_stream()).hexdigest()
    assert list(Path(engine.directory).glob("incoming/*")) == []


def _stream() -> bytes:
    return b"".join(bytes([n]) * 7 for n in range(50))


def test_a_discarded_body_leaves_nothing(engine: Engine, bucket: int) -> None:
    with engine.writer() as writer:
        writer.write(bytes(1000))
        assert len(list(Path(engine.directory).glob("incoming/*"))) == 1
    assert list(Path(engine.directory).glob("incoming/*")) == []
    refused = engine.writer()
    refused.write(bytes(1000))
    with pytest.raises(PreconditionFailed):
        engine.put(bucket, "a", refused, if_match="0" * 32)
    assert list(Path(engine.directory).glob("incoming/*")) == []


def test_bodies_over_the_limit(tmp_path: Path) -> None:
    with Engine(EngineConfig(str(tmp_path / "store"), durable=False, max_put_bytes=100, inline_max=10)) as engine:
        bucket = engine.create_bucket(BucketSpec("bucket")).id
        engine.put(bucket, "a", bytes(100))
        with pytest.raises(EntityTooLarge):
            engine.put(bucket, "a", bytes(101))
        assert list(Path(engine.directory).glob("incoming/*")) == []


# --- Object Lock


def until(clock: Clock, days: int, mode: RetentionMode = GOVERNANCE) -> Retention:
    return Retention(mode, clock.ms + days * DAY_MS)


def test_lock_needs_a_bucket_with_lock(engine: Engine, bucket: int, clock: Clock) -> None:
    with pytest.raises(InvalidLock):
        engine.put(bucket, "a", b"x", lock=LockSpec(until(clock, 1)))
    with pytest.raises(InvalidLock):
        engine.put(bucket, "a", b"x", lock=LockSpec(legal_hold=True))
    engine.put(bucket, "a", b"x")
    with pytest.raises(InvalidLock):
        engine.set_retention(bucket, "a", None, until(clock, 1))
    with pytest.raises(InvalidLock):
        engine.set_legal_hold(bucket, "a", None, True)


@pytest.mark.parametrize("mode", [GOVERNANCE, COMPLIANCE])
def test_retention_forbids_removal_until_it_ends(
    engine: Engine, locked_bucket: int, clock: Clock, mode: RetentionMode
) -> None:
    row = engine.put(locked_bucket, "a", b"x", lock=LockSpec(until(clock, 2, mode)))
    with pytest.raises(Locked):
        engine.delete_version(locked_bucket, "a", row.version_id)
    if mode is COMPLIANCE:
        with pytest.raises(Locked):
            engine.delete_version(locked_bucket, "a", row.version_id, bypass_governance=True)
        clock.ms += 2 * DAY_MS
        assert engine.delete_version(locked_bucket, "a", row.version_id).existed
    else:
        assert engine.delete_version(locked_bucket, "a", row.version_id, bypass_governance=True).existed


def test_a_locked_version_can_be_hidden(engine: Engine, locked_bucket: int, clock: Clock) -> None:
    row = engine.put(locked_bucket, "a", b"x", lock=LockSpec(until(clock, 2, COMPLIANCE)))
    engine.hide(locked_bucket, "a")
    assert engine.read(locked_bucket, "a", row.version_id)[1] == b"x"


def test_legal_hold(engine: Engine, locked_bucket: int) -> None:
    row = engine.put(locked_bucket, "a", b"x", lock=LockSpec(legal_hold=True))
    with pytest.raises(Locked):
        engine.delete_version(locked_bucket, "a", row.version_id, bypass_governance=True)
    engine.set_legal_hold(locked_bucket, "a", row.version_id, False)
    assert engine.delete_version(locked_bucket, "a", row.version_id).existed


def test_default_retention(engine: Engine, clock: Clock) -> None:
    default = DefaultRetention(GOVERNANCE, years=1)
    spec = BucketSpec("locked", lock_enabled=True, default_retention=default)
    bucket = engine.create_bucket(spec).id
    assert engine.put(bucket, "a", b"x").retention == until(clock, 365)
    own = until(clock, 3, COMPLIANCE)
    assert engine.put(bucket, "b", b"x", lock=LockSpec(own)).retention == own
    upload = engine.create_upload(bucket, "m")
    engine.put_part(bucket, "m", upload.upload_id, 1, b"x")
    clock.ms += 1000
    assert engine.complete_upload(bucket, "m", upload.upload_id, [PartClaim(1)]).retention == until(clock, 365)


def test_retention_may_be_tightened_and_not_loosened(engine: Engine, locked_bucket: int, clock: Clock) -> None:
    engine.put(locked_bucket, "a", b"x")
    engine.set_retention(locked_bucket, "a", None, until(clock, 5))
    engine.set_retention(locked_bucket, "a", None, until(clock, 6))
    with pytest.raises(Locked):
        engine.set_retention(locked_bucket, "a", None, until(clock, 4))
    with pytest.raises(Locked):
        engine.set_retention(locked_bucket, "a", None, None)
    engine.set_retention(locked_bucket, "a", None, until(clock, 4), bypass_governance=True)
    engine.set_retention(locked_bucket, "a", None, until(clock, 4, COMPLIANCE))
    with pytest.raises(Locked):
        engine.set_retention(locked_bucket, "a", None, until(clock, 9), bypass_governance=True)
    with pytest.raises(InvalidLock):
        engine.set_retention(locked_bucket, "a", None, until(clock, -1))
    assert engine.head(locked_bucket, "a").retention == until(clock, 4, COMPLIANCE)


# --- Multipart


def test_the_upload_id_becomes_the_version_id(engine: Engine, bucket: int, clock: Clock) -> None:
    upload = engine.create_upload(bucket, "a", Attributes(metadata={"n": "v"}))
    clock.ms += 5000
    engine.put_part(bucket, None, upload.upload_id, 1, b"x", extra={"sha1": "s"})
    [part] = engine.list_parts(bucket, "a", upload.upload_id)
    assert part.extra == {"sha1": "s"}
    version = engine.complete_upload(bucket, None, upload.upload_id, [PartClaim(1, part.etag)])
    assert str(version.version_id) == upload.upload_id
    assert version.modified_ms == clock.ms
    assert version.attributes.metadata == {"n": "v"}
    assert engine.head(bucket, "a", upload.upload_id) == version


def test_completing_twice_answers_the_same_version(engine: Engine, bucket: int) -> None:
    upload = engine.create_upload(bucket, "a")
    engine.put_part(bucket, "a", upload.upload_id, 1, b"x")
    first = engine.complete_upload(bucket, "a", upload.upload_id, [PartClaim(1)])
    assert engine.complete_upload(bucket, "a", upload.upload_id, [PartClaim(1)]) == first
    engine.delete_version(bucket, "a", first.version_id)
    with pytest.raises(NoSuchUpload):
        engine.complete_upload(bucket, "a", upload.upload_id, [PartClaim(1)])


def test_what_completion_refuses(engine: Engine, bucket: int) -> None:
    upload = engine.create_upload(bucket, "a").upload_id
    for number in (1, 2):
        engine.put_part(bucket, "a", upload, number, b"small")
    for claims, error in (
        ([], InvalidPart),
        ([PartClaim(3)], InvalidPart),
        ([PartClaim(1, "0" * 32)], InvalidPart),
        ([PartClaim(2), PartClaim(1)], InvalidPartOrder),
        ([PartClaim(1), PartClaim(1)], InvalidPartOrder),
        ([PartClaim(1), PartClaim(2)], EntityTooSmall),
    ):
        with pytest.raises(error):
            engine.complete_upload(bucket, "a", upload, claims)
    with pytest.raises(NoSuchUpload):
        engine.complete_upload(bucket, "other key", upload, [PartClaim(1)])
    with pytest.raises(InvalidRequest):
        engine.put_part(bucket, "a", upload, 10_001, b"x")
    assert len(engine.list_parts(bucket, "a", upload)) == 2
    assert [part.number for part in engine.list_parts(bucket, "a", upload, after=1)] == [2]
    assert [part.number for part in engine.list_parts(bucket, "a", upload, max_parts=1)] == [1]


def test_chains_of_copied_parts_read_right_and_free_their_sources(engine: Engine, bucket: int) -> None:
    """Each generation replaces a bit in the middle of the one before, as a partial rewrite of a file does."""
    expected = bytes(range(256)) * 8
    version = engine.put(bucket, "a", expected)
    versions = [version.version_id]
    for generation in range(12):
        at, patch = 100 + 37 * generation, bytes([generation]) * 150
        upload = engine.create_upload(bucket, "a").upload_id
        engine.copy_part(bucket, "a", upload, 1, bucket, "a", versions[-1], 0, at)
        engine.put_part(bucket, "a", upload, 2, patch)
        engine.copy_part(bucket, "a", upload, 3, bucket, "a", versions[-1], at + len(patch), None)
        done = engine.complete_upload(bucket, "a", upload, [PartClaim(1), PartClaim(2), PartClaim(3)])
        versions.append(done.version_id)
        expected = expected[:at] + patch + expected[at + len(patch) :]
        engine.delete_version(bucket, "a", versions[-2])
        assert engine.read(bucket, "a")[1] == expected
    assert engine.read(bucket, "a", start=90, end=700)[1] == expected[90:700]
    assert engine.fsck().clean
    engine.delete_version(bucket, "a", versions[-1])
    engine.put(bucket, "b", b"")
    assert _files(engine) == 0
    assert engine.query(lambda connection: connection.execute("SELECT count(*) FROM contents").fetchone()) == (0,)


def test_the_etag_of_a_long_copied_part_is_made_without_reading(tmp_path: Path) -> None:
    config = EngineConfig(str(tmp_path / "store"), durable=False, part_md5_max=100)
    with Engine(config) as engine:
        bucket = engine.create_bucket(BucketSpec("bucket")).id
        row = engine.put(bucket, "a", bytes(1000))
        upload = engine.create_upload(bucket, "b").upload_id
        short = engine.copy_part(bucket, "b", upload, 1, bucket, "a", None, 0, 100)
        assert short.etag == hashlib.md5(bytes(100)).hexdigest()
        long = engine.copy_part(bucket, "b", upload, 1, bucket, "a", row.version_id, 0, 101)
        assert len(long.etag) == 32
        assert long.etag != hashlib.md5(bytes(101)).hexdigest()
        assert engine.complete_upload(bucket, "b", upload, [PartClaim(1, long.etag)]).size == 101


def test_uploads_in_pages(engine: Engine, bucket: int) -> None:
    made = [(key, engine.create_upload(bucket, key).upload_id) for key in ("a", "a", "b/1", "b/2", "c")]
    seen = []
    key_marker = upload_marker = None
    while True:
        page = engine.list_uploads(bucket, key_marker=key_marker, upload_marker=upload_marker, max_uploads=2)
        seen += [(row.key, row.upload_id) for row in page.rows]
        key_marker, upload_marker = page.next_key_marker, page.next_upload_marker
        if key_marker is None:
            break
    assert seen == made
    rolled = engine.list_uploads(bucket, delimiter="/")
    assert [row.key for row in rolled.rows] == ["a", "a", "c"]
    assert rolled.prefixes == ["b/"]
    with pytest.raises(NoSuchUpload):
        engine.upload(bucket, "b/1", made[0][1])
