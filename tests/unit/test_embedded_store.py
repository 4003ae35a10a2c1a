"""EmbeddedStore beyond the contract: how it is opened, its identity, hazard mode, giving up."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from b2fs.errors import NoSuchBucket, NotFound, Unavailable, Unsupported
from b2fs.store.embedded.engine import Engine, EngineConfig
from b2fs.store.embedded.rows import Attributes, ContentHeaders
from b2fs.store.embedded.store import EmbeddedConfig, EmbeddedStore


async def test_nothing_is_made_unless_asked(tmp_path: Path) -> None:
    place = tmp_path / "missing"
    with pytest.raises(NoSuchBucket):
        async with EmbeddedStore(EmbeddedConfig(str(place), "bucket", create=False)):
            pass
    assert not place.exists()


async def test_content_outlives_the_store(tmp_path: Path) -> None:
    for expected in (None, b"first", b"second"):
        async with EmbeddedStore(EmbeddedConfig(str(tmp_path), "any name, really")) as store:
            if expected is not None:
                assert (await store.get("a"))[1] == expected
            await store.put("a", b"second" if expected else b"first")


async def test_the_identity_names_directory_and_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative = EmbeddedStore(EmbeddedConfig("some dir", "b#1"))
    absolute = EmbeddedStore(EmbeddedConfig(str(tmp_path / "some dir"), "b#1"))
    assert relative.identity == absolute.identity == f"file://{tmp_path}/some%20dir/b%231"


async def test_an_engine_that_was_given_stays_open(tmp_path: Path) -> None:
    with Engine(EngineConfig(str(tmp_path), durable=False)) as engine:
        for name in ("one", "two"):
            async with EmbeddedStore(EmbeddedConfig(str(tmp_path), name), engine=engine) as store:
                await store.put("a", name.encode())
        assert [row.name for row in engine.list_buckets()] == ["one", "two"]
        assert engine.read(engine.bucket("one").id, "a")[1] == b"one"


async def test_hazard_mode_reaches_the_store(tmp_path: Path) -> None:
    """A hide in the same second may not hide; hiding again after a second does."""
    async with EmbeddedStore(EmbeddedConfig(str(tmp_path), "bucket", hazard_seed=3, durable=False)) as store:
        for number in range(30):
            await store.put(f"{number}", b"x")
            await store.hide(f"{number}")
        visible = len((await store.list_objects("")).objects)
        assert 0 < visible < 30


async def test_a_store_that_is_not_open(tmp_path: Path) -> None:
    store = EmbeddedStore(EmbeddedConfig(str(tmp_path), "bucket", durable=False))
    with pytest.raises(Unsupported):
        await store.head("a")
    async with store:
        pass
    with pytest.raises(Unavailable):
        await store.head("a")


async def test_cancelled_calls_leave_no_file_behind(tmp_path: Path) -> None:
    async with EmbeddedStore(EmbeddedConfig(str(tmp_path), "bucket", durable=False)) as store:
        for _ in range(5):
            with trio.CancelScope() as scope:
                scope.cancel()
                await store.put("a", bytes(200_000))
            assert scope.cancelled_caught
        with pytest.raises(NotFound):
            await store.head("a")
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.put("small", b"x")
        with pytest.raises(NotFound):
            await store.head("small")
        await store.put("a", bytes(200_000))
    check_nothing_is_left(tmp_path)


def check_nothing_is_left(path: Path) -> None:
    assert list(path.glob("incoming/*")) == []
    with Engine(EngineConfig(str(path), durable=False)) as engine:
        assert engine.fsck().clean


async def test_metadata_of_other_clients_is_proper_text(tmp_path: Path) -> None:
    """What a front door kept as bytes that are no UTF-8 is Latin-1 here, and keeps its place in the store."""
    kept = Attributes(ContentHeaders("text/\udcff"), {"note": "caf\udce9", "plain": "\u20ac"})
    with Engine(EngineConfig(str(tmp_path), durable=False)) as engine:
        async with EmbeddedStore(EmbeddedConfig(str(tmp_path), "bucket"), engine=engine) as store:
            engine.put(engine.bucket("bucket").id, "k", b"x", kept)
            info = await store.head("k")
            assert info.metadata == {"note": "caf\xe9", "plain": "\u20ac"}
            assert info.content_type == "text/\xff"
            copied = await store.copy(info.ref, "copy")
            assert copied.metadata == info.metadata
        assert engine.head(engine.bucket("bucket").id, "copy").attributes == kept
