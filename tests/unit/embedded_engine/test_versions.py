"""The engine's versions: keys, attributes, order, hide markers, and the contents behind them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from b2fs.errors import NotFound, PreconditionFailed
from b2fs.store.embedded.engine import Engine, EngineConfig
from b2fs.store.embedded.errors import (
    EntityTooLarge,
    InvalidKey,
    IsHideMarker,
    KeyTooLong,
    MetadataTooLarge,
)
from b2fs.store.embedded.rows import (
    Attributes,
    BucketSpec,
    ContentHeaders,
    Encryption,
)
from tests.unit.embedded_engine.tools import Clock, content_files

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
    assert content_files(engine) == 1
    engine.delete_version(bucket, "a", first.version_id)
    assert engine.read(bucket, "b")[1] == data
    engine.delete_version(bucket, "b", second.version_id)
    engine.put(bucket, "c", b"")  # a later change: the file of the one before is gone by now
    assert content_files(engine) == 0
    assert engine.fsck().clean


def test_a_reader_is_not_disturbed_by_removal(engine: Engine, bucket: int) -> None:
    row = engine.put(bucket, "a", bytes(range(256)) * 10)
    _, reader = engine.open(bucket, "a")
    with reader:
        engine.delete_version(bucket, "a", row.version_id)
        engine.put(bucket, "b", b"")
        assert content_files(engine) == 0
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
