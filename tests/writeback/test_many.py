"""Many small files: all of them arrive, with as few calls as can be, and nothing of them stays behind."""

from __future__ import annotations

import os

import trio
from trio.testing import MockClock

from b2fs.store.forward import Method
from tests.writeback.harness import Place

FILES = 10_000 if os.environ.get("B2FS_LONG") == "1" else 300


async def test_many_small_files_are_drained_completely(place: Place, autojump_clock: MockClock) -> None:
    bodies = {f"d/f{number}": b"%d" % number for number in range(FILES)}
    async with place.mount() as mount:
        mount.store.latency_s = 0.02
        await mount.mkdir("d")
        for path, body in bodies.items():
            await mount.save(path, body)
        began = trio.current_time()
        await mount.drain()
        # 48 at a time at 20 ms, and one after another for the directory.
        assert trio.current_time() - began < 3 + FILES / 150
        assert mount.pending == 0
        puts = [call.key for call in mount.store.calls if call.method is Method.PUT]
        assert sorted(puts) == sorted(["d/", *bodies]), "one call for each"
        assert mount.store.counts[Method.HEAD] <= 1, "the root's own attributes"
        await trio.sleep(60)
        assert os.listdir(place.cache / "dirty") == []
        core = mount.fs._core
        assert (core.ledger.load_entries(), core.ledger.load_uploads()) == ([], [])
        assert list(core.ledger.load_inodes(core.files)) == []
        assert len(core.inodes) <= 1, "only the root is remembered"
        files = ("ledger.db", "ledger.db-wal")
        assert sum((place.cache / file).stat().st_size for file in files if (place.cache / file).exists()) < 1 << 20
    assert place.bucket.contents() == {"d/": b"", **bodies}


async def test_many_small_files_after_a_kill_in_the_middle(place: Place, autojump_clock: MockClock) -> None:
    bodies = {f"f{number}": b"%d" % number for number in range(FILES)}
    async with place.mount() as mount:
        mount.store.latency_s = 0.1
        for path, body in bodies.items():
            await mount.save(path, body)
        await trio.sleep(0.2)
        assert 0 < mount.pending < FILES
        place.crash()
    async with place.mount() as mount:
        mount.store.latency_s = 0.02
        await mount.drain()
    assert place.bucket.contents() == bodies
