"""What listing and reading cost in requests."""

from __future__ import annotations

import random
from pathlib import Path

from b2fs.store.forward import Method
from tests.vfs.bucket import ANYBODY, bucket, fill, mount


async def test_small_files_read_in_order_are_fetched_ahead(tmp_path: Path) -> None:
    keys = [f"d/f{number:03}" for number in range(200)]
    async with bucket(tmp_path) as store:
        await fill(store, keys)
        async with mount(store, tmp_path / "cache") as mounted:
            await mounted.ls("d")
            mounted.store.reset_counts()
            for key in keys:
                assert await mounted.read(key) == key.encode()
            assert mounted.count(Method.GET) == 200
            assert mounted.store.most_in_flight >= 16


async def test_small_files_read_at_random_are_not_fetched_ahead(tmp_path: Path) -> None:
    keys = [f"d/f{number:03}" for number in range(400)]
    chosen = random.Random(4).sample(keys, 80)
    async with bucket(tmp_path) as store:
        await fill(store, keys)
        async with mount(store, tmp_path / "cache") as mounted:
            await mounted.ls("d")
            mounted.store.reset_counts()
            for key in chosen:
                assert await mounted.read(key) == key.encode()
            assert mounted.count(Method.GET) <= 88


async def test_what_is_changed_here_is_not_fetched_ahead(tmp_path: Path) -> None:
    keys = [f"d/f{number:02}" for number in range(20)]
    async with bucket(tmp_path) as store:
        await fill(store, keys)
        async with mount(store, tmp_path / "cache") as mounted:
            await mounted.ls("d")
            await mounted.write("d/f10", b"changed here")
            await mounted.fs.unlink((await mounted.find("d")).ino, b"f11", ANYBODY)
            mounted.store.reset_counts()
            for number in (*range(10), *range(12, 20)):
                assert await mounted.read(keys[number]) == keys[number].encode()
            assert mounted.store.most_in_flight >= 4
            asked = {call.key for call in mounted.store.calls if call.method is Method.GET}
            assert {"d/f10", "d/f11"}.isdisjoint(asked)
            assert (await mounted.read("d/f10")).startswith(b"changed here")
