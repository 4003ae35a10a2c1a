"""Multipart uploads in the engine."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from b2fs.errors import InvalidRequest, NoSuchUpload
from b2fs.store.embedded.engine import Engine, EngineConfig
from b2fs.store.embedded.errors import (
    EntityTooSmall,
    InvalidPart,
    InvalidPartOrder,
)
from b2fs.store.embedded.rows import (
    Attributes,
    BucketSpec,
    PartClaim,
)
from tests.unit.embedded_engine.tools import Clock, content_files


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
    assert content_files(engine) == 0
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
