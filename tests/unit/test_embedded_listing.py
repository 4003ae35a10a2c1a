"""Listings of the engine against a plain model, and their cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from b2fs.errors import InvalidRequest
from b2fs.store.embedded.engine import Engine, EngineConfig
from b2fs.store.embedded.names import successor
from b2fs.store.embedded.rows import BucketSpec
from b2fs.store.embedded.versionid import compose_version_id, parse_version_id

KEYS = st.text(st.sampled_from("ab/-é\U0010ffff"), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(EngineConfig(str(tmp_path_factory.mktemp("store")), durable=False)) as opened:
        yield opened


def fresh_bucket(engine: Engine) -> int:
    name = f"bucket-{len(engine.list_buckets())}"
    return engine.create_bucket(BucketSpec(name)).id


def expected(keys: list[str], prefix: str, delimiter: str | None, start_after: str) -> list[str]:
    """Keys and common prefixes, as S3 describes them, in order."""
    result: list[str] = []
    for key in sorted(set(keys), key=str.encode):
        if not key.startswith(prefix) or key.encode() <= start_after.encode():
            continue
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        entry = key if cut < 0 or delimiter is None else key[: cut + len(delimiter)]
        if entry not in result and entry != start_after:
            result.append(entry)
    return result


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.lists(KEYS, max_size=14),
    prefix=st.sampled_from(["", "a", "a/", "b/a", "é", "\U0010ffff"]),
    delimiter=st.sampled_from([None, "/", "-", "a/"]),
    start_after=st.one_of(st.just(""), KEYS),
    page=st.integers(1, 4),
)
def test_objects_in_pages_are_what_the_model_says(
    engine: Engine, keys: list[str], prefix: str, delimiter: str | None, start_after: str, page: int
) -> None:
    bucket = fresh_bucket(engine)
    for key in keys:
        engine.put(bucket, key, b"x")
    seen: list[str] = []
    token = None
    while True:
        found = engine.list_objects(
            bucket, prefix, delimiter=delimiter, start_after=start_after or None, token=token, max_keys=page
        )
        entries = sorted([*(row.key for row in found.rows), *found.prefixes], key=str.encode)
        assert len(entries) <= page
        seen += entries
        token = found.next_token
        if token is None:
            break
    assert seen == expected(keys, prefix, delimiter, start_after)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.lists(KEYS, max_size=14),
    hidden=st.sets(KEYS, max_size=3),
    prefix=st.sampled_from(["", "a", "a/"]),
    delimiter=st.sampled_from([None, "/"]),
    page=st.integers(1, 4),
)
def test_versions_in_pages_are_what_the_model_says(
    engine: Engine, keys: list[str], hidden: set[str], prefix: str, delimiter: str | None, page: int
) -> None:
    bucket = fresh_bucket(engine)
    made: list[tuple[str, str]] = []
    for key in keys:
        made.append((key, engine.put(bucket, key, b"x").version_id))
    for key in sorted(hidden):
        made.append((key, engine.hide(bucket, key).version_id))
    versions: list[tuple[str, str]] = []
    prefixes: list[str] = []
    markers: dict[str, Any] = {}
    while True:
        found = engine.list_versions(bucket, prefix, delimiter=delimiter, max_keys=page, **markers)
        versions += [(row.key, row.version_id) for row in found.rows]
        prefixes += found.prefixes
        if found.next_key_marker is None:
            break
        markers = {"key_marker": found.next_key_marker, "version_marker": found.next_version_marker}
    entries = expected([key for key, _ in made], prefix, delimiter, "")
    kept = [entry for entry in entries if not (delimiter and entry.endswith(delimiter) and entry != prefix)]
    assert versions == [item for key in kept for item in reversed(made) if item[0] == key]
    assert prefixes == [entry for entry in entries if entry not in kept]


def test_a_directory_is_skipped_and_not_read(engine: Engine) -> None:
    """The rows that a delimiter listing looks at do not grow with the directory."""
    bucket = fresh_bucket(engine)
    for future in [engine.put_nowait(bucket, f"big/{n:05d}", b"") for n in range(3000)]:
        future.result()
    engine.put(bucket, "z", b"")

    def steps() -> int:
        count = 0

        def tick() -> int:
            nonlocal count
            count += 1
            return 0

        # One thread gets the same connection each time.
        engine.query(lambda connection: connection.set_progress_handler(tick, 100))
        try:
            page = engine.list_objects(bucket, delimiter="/")
            assert (page.prefixes, [row.key for row in page.rows]) == (["big/"], ["z"])
        finally:
            engine.query(lambda connection: connection.set_progress_handler(None, 100))
        return count

    assert steps() < 30  # hundreds of virtual machine instructions; reading the directory takes some 600


def test_bad_tokens(engine: Engine) -> None:
    bucket = fresh_bucket(engine)
    for token in ("not base64!", "ü", "gA=="):
        with pytest.raises(InvalidRequest):
            engine.list_objects(bucket, token=token)
    with pytest.raises(InvalidRequest):
        engine.list_versions(bucket, key_marker="a", version_marker="no id")


def test_a_version_marker_that_is_gone(engine: Engine) -> None:
    bucket = fresh_bucket(engine)
    made = [engine.put(bucket, "a", b"x").version_id for _ in range(3)]
    engine.put(bucket, "b", b"x")
    engine.delete_version(bucket, "a", made[1])
    page = engine.list_versions(bucket, key_marker="a", version_marker=made[1])
    assert page.rows[-1].key == "b"


def test_nothing_is_asked_for(engine: Engine) -> None:
    bucket = fresh_bucket(engine)
    engine.put(bucket, "a", b"x")
    assert engine.list_objects(bucket, max_keys=0).rows == []
    assert engine.list_objects(bucket, max_keys=0).next_token is None


@given(st.text(max_size=5), st.text(max_size=5))
def test_successor_is_behind_every_key_of_the_prefix(prefix: str, rest: str) -> None:
    bound = successor(prefix)
    if isinstance(bound, str):
        assert (prefix + rest).encode() < bound.encode()
        assert not bound.startswith(prefix) or not prefix


@given(st.integers(1, 2**62 - 1), st.integers(0, 10**14 - 1))
def test_version_ids_lead_back_to_their_row(fid: int, created_ms: int) -> None:
    bucket_id = "0123456789abcdef01234567"
    text = compose_version_id(bucket_id, fid, created_ms)
    assert parse_version_id(text) == (bucket_id, fid, created_ms)
    assert parse_version_id(text[:-1]) is None
    assert parse_version_id(text.replace("_d", "_d9", 1)) is None


def test_the_directory_is_private(tmp_path: Path) -> None:
    with Engine(EngineConfig(str(tmp_path / "store"), durable=False)) as engine:
        assert Path(engine.directory).stat().st_mode & 0o777 == 0o700
