"""What a mount knows of the bucket when it begins, from the end of the one before."""

from __future__ import annotations

import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest
from trio.testing import MockClock

from b2fs.store.forward import Method
from b2fs.vfs.config import VfsConfig
from tests.vfs.bucket import bucket, fill, mount

TTL_S = 60.0
#: The clock stands still at the end of these tests, where an index would wait for a second to pass.
CONFIG = VfsConfig("", attr_index=False)
NAMES = [f"f{number:03}" for number in range(200)]
SAVED = "listings"


async def test_a_remount_asks_for_nothing_that_was_just_seen(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, (f"d/{name}" for name in NAMES))
        await store.put("d/link", b"f000", metadata={"mode": str(stat.S_IFLNK | 0o777)})
        async with mount(store, tmp_path / "cache") as mounted:
            before = await mounted.ls("d")
        async with mount(store, tmp_path / "cache") as mounted:
            mounted.store.reset_counts()
            after = await mounted.ls("d")
            assert {name: replace(attr, ttl_s=0) for name, attr in after.items()} == {
                name: replace(attr, ttl_s=0) for name, attr in before.items()
            }
            assert (await mounted.find("d/f100")).size == len("d/f100")
            assert not await mounted.exists("d/missing")
            assert mounted.count(*Method) == 0


async def test_attributes_are_known_after_the_time_to_live_too(tmp_path: Path, mock_clock: MockClock) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, (f"d/{name}" for name in NAMES), {"mode": str(stat.S_IFREG | 0o600)})
        async with mount(store, tmp_path / "cache", CONFIG) as mounted:
            await mounted.ls("d")
        mock_clock.jump(TTL_S + 1)
        async with mount(store, tmp_path / "cache", CONFIG) as mounted:
            mounted.store.reset_counts()
            found = await mounted.ls("d")
            assert {attr.mode for attr in found.values()} == {stat.S_IFREG | 0o600}
            assert mounted.count(Method.HEAD) == 0


async def test_a_change_that_somebody_made_between_two_mounts_is_seen_in_time(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("b2fs.cache.remote.saved.time.time", mock_clock.current_time)
    async with bucket(tmp_path) as store:
        await fill(store, ["d/changed", "d/gone", "d/same"])
        async with mount(store, tmp_path / "cache", CONFIG) as mounted:
            await mounted.ls("d")
        mock_clock.jump(TTL_S / 2)
        await store.put("d/changed", b"something longer")
        await store.hide("d/gone")
        await fill(store, ["d/new"])
        async with mount(store, tmp_path / "cache", CONFIG) as mounted:
            assert sorted(await mounted.ls("d")) == ["changed", "gone", "same"]
            mock_clock.jump(TTL_S / 2 + 1)
            found = await mounted.ls("d")
            assert sorted(found) == ["changed", "new", "same"]
            assert found["changed"].size == len(b"something longer")


async def test_what_was_changed_here_is_there(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, ["d/a", "d/b", "d/c"])
        async with mount(store, tmp_path / "cache") as mounted:
            await mounted.ls("d")
            await mounted.write("d/stored", b"stored")
            await mounted.drain()
            await mounted.write("d/waiting", b"not uploaded yet")
        async with mount(store, tmp_path / "cache") as mounted:
            assert sorted(await mounted.ls("d")) == ["a", "b", "c", "stored", "waiting"]
            assert await mounted.read("d/stored") == b"stored"
            assert await mounted.read("d/waiting") == b"not uploaded yet"


async def test_a_mount_that_did_not_end_in_order_leaves_nothing_to_believe(tmp_path: Path) -> None:
    """What it stored after an earlier look at the directory would be missing there."""
    async with bucket(tmp_path) as store:
        await fill(store, ["d/a"])
        async with mount(store, tmp_path / "cache") as mounted:
            await mounted.ls("d")
        assert (tmp_path / "cache" / SAVED).exists()
        with pytest.RaisesGroup(pytest.RaisesExc(KeyboardInterrupt), flatten_subgroups=True):
            async with mount(store, tmp_path / "cache") as mounted:
                await mounted.write("d/b", b"stored before the end")
                await mounted.drain()
                raise KeyboardInterrupt
        assert not (tmp_path / "cache" / SAVED).exists()
        async with mount(store, tmp_path / "cache") as mounted:
            assert sorted(await mounted.ls("d")) == ["a", "b"]


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "other format", "nonsense", "directory"])
async def test_a_file_that_cannot_be_used_is_as_good_as_none(tmp_path: Path, damage: str) -> None:
    saved = tmp_path / "cache" / SAVED
    async with bucket(tmp_path) as store:
        await fill(store, ["d/a", "d/b"])
        async with mount(store, tmp_path / "cache") as mounted:
            await mounted.ls("d")
        body = saved.read_bytes()
        saved.unlink()
        match damage:
            case "empty":
                saved.write_bytes(b"")
            case "cut":
                saved.write_bytes(body[:-5])
            case "flipped":
                saved.write_bytes(body[:40] + bytes([body[40] ^ 1]) + body[41:])
            case "other format":
                saved.write_bytes(body.replace(b"listings 1", b"listings 2"))
            case "nonsense":
                saved.write_bytes(b"nonsense" * 100)
            case _:
                saved.mkdir()
        async with mount(store, tmp_path / "cache") as mounted:
            assert sorted(await mounted.ls("d")) == ["a", "b"]
            assert mounted.count(Method.LIST_OBJECTS) >= 2


async def test_a_clock_that_was_set_back_makes_nothing_younger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, ["d/a"])
        async with mount(store, tmp_path / "cache") as mounted:
            await mounted.ls("d")
        now = time.time()
        monkeypatch.setattr("b2fs.cache.remote.saved.time.time", lambda: now - 3600)
        await fill(store, ["d/b"])
        async with mount(store, tmp_path / "cache") as mounted:
            assert sorted(await mounted.ls("d")) == ["a", "b"]
