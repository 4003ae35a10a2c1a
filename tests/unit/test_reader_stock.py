"""Bringing whole contents onto the disk: everything once, in parallel, in bounds, and never at the cost of itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from b2fs.cache.blocks import BlockCache, BlockCacheConfig
from b2fs.cache.reader import Reader, ReaderConfig
from b2fs.cache.reader.stock import CacheFull, CacheRefuses, Stocking
from b2fs.core.types import ObjectRef
from b2fs.errors import NotFound, Unavailable, Unsupported
from tests.unit.reader_fakes import BIG, KIB, MIB, FakeStore


@dataclass
class Place:
    store: FakeStore
    cache: BlockCache
    reader: Reader

    def stocking(self) -> Stocking:
        return self.reader.stocking()


async def pages(*given: Sequence[ObjectRef]) -> AsyncGenerator[Sequence[ObjectRef], None]:
    for page in given:
        yield page


@asynccontextmanager
async def place(
    directory: Path, *, size_bytes: int = 10 << 30, memory_bytes: int = 128 * MIB, store: FakeStore | None = None
) -> AsyncIterator[Place]:
    store = store or FakeStore()
    store.round_trip_s = 0.001
    cache = BlockCache(BlockCacheConfig(str(directory), size_bytes))
    reader = Reader(store, cache, ReaderConfig(memory_bytes=memory_bytes))
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(reader.run)
            yield Place(store, cache, reader)
            reader.check_invariants()
            nursery.cancel_scope.cancel()
    finally:
        cache.close()


async def test_what_was_stocked_is_read_without_a_request(tmp_path: Path) -> None:
    async with place(tmp_path) as there:
        small = [there.store.put(f"s{number}", bytes([number]) * (1 + 700 * number)) for number in range(200)]
        big = there.store.put("big", BIG)
        stocking = there.stocking()
        there.store.answers_at = 9  # whatever the disk and the machine take, so many are asked for at a time
        with trio.fail_after(60):
            await stocking.run(pages(small[:90], [*small[90:], big]))
        progress = stocking.progress
        assert (progress.files, progress.files_done, progress.listed) == (201, 201, True)
        assert progress.bytes == progress.bytes_done == progress.bytes_fetched == sum(r.size for r in [*small, big])
        assert len(there.store.gets) == 200 + 4
        there.store.gets.clear()
        for number, ref in enumerate(small):
            assert await there.reader.fetch_range(ref, 0, ref.size) == bytes([number]) * ref.size
        assert await there.reader.fetch_range(big, 0, big.size) == BIG
        assert there.store.gets == []


async def test_only_what_is_missing_is_fetched(tmp_path: Path) -> None:
    async with place(tmp_path) as there:
        big = there.store.put("big", BIG)
        await there.reader.fetch_range(big, 9 * MIB, 11 * MIB)
    async with place(tmp_path, store=there.store) as there:  # what was read is on the disk now
        there.store.gets.clear()
        first, second = there.stocking(), there.stocking()
        await first.run(pages([big]))
        assert first.progress.bytes_fetched == len(BIG) - 2 * MIB
        await second.run(pages([big]))
        assert second.progress.bytes_fetched == 0
        assert second.progress.bytes_done == len(BIG)
        assert sum(end - start for _, start, end in there.store.gets) == len(BIG) - 2 * MIB


async def test_it_stops_before_it_pushes_out_what_it_brought(tmp_path: Path) -> None:
    async with place(tmp_path, size_bytes=64 * MIB) as there:
        older = there.store.put("older", b"o" * (40 * MIB))
        await there.reader.fetch_range(older, 0, older.size)
    async with place(tmp_path, size_bytes=64 * MIB, store=there.store) as there:  # and is on the disk
        files = [there.store.put(f"f{number}", bytes([number]) * (8 * MIB)) for number in range(10)]
        await there.stocking().run(pages(files[:2]))
        stocking = there.stocking()
        with pytest.raises(CacheFull):
            await stocking.run(pages(files))
        assert stocking.progress.files_done == 7
        kept = await trio.to_thread.run_sync(there.cache.use_all, files)
        assert [extents.total for extents in kept] == [8 * MIB] * 7 + [0] * 3
        assert there.cache.used_bytes <= 64 * MIB


async def test_memory_stays_within_the_budget(tmp_path: Path) -> None:
    most = 0

    class Watched(FakeStore):
        def watch(self, key: str, start: int, end: int) -> None:
            nonlocal most
            most = max(most, there.reader.memory_used)

    store = Watched()
    async with place(tmp_path, memory_bytes=32 * MIB, store=store) as there:
        store.fault = store.watch
        contents = [there.store.put(f"f{number}", bytes([number]) * (20 * MIB)) for number in range(5)]
        small = [there.store.put(f"s{number}", bytes([number]) * MIB) for number in range(60)]
        await there.stocking().run(pages([*contents, *small]))
        assert there.reader.memory_used == 0
    assert 8 * MIB <= most <= 32 * MIB


async def test_a_content_that_was_replaced_is_left_out_and_named(tmp_path: Path) -> None:
    async with place(tmp_path) as there:
        files = [there.store.put(f"f{number}", bytes([number]) * (100 * KIB)) for number in range(5)]
        there.store.fault = lambda key, start, end: NotFound("gone") if key == "f3" else None
        stocking = there.stocking()
        await stocking.run(pages(files))
        assert stocking.progress.changed == ["f3"]
        assert stocking.progress.files_done == 4


async def test_a_bucket_that_cannot_be_reached_ends_it(tmp_path: Path) -> None:
    async with place(tmp_path) as there:
        files = [there.store.put(f"f{number}", bytes([number]) * (100 * KIB)) for number in range(200)]
        there.store.fault = lambda key, start, end: Unavailable("down") if key != "f0" else None
        with pytest.raises(Unavailable):
            await there.stocking().run(pages(files))
        assert len(there.store.gets) < 2 * len(files), "not each of them was tried"


async def test_a_disk_that_takes_nothing_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with place(tmp_path) as there:
        files = [there.store.put(f"f{number}", bytes([number]) * (100 * KIB)) for number in range(20)]
        monkeypatch.setattr(there.cache, "put_many", lambda stretches: 0)
        with pytest.raises(CacheRefuses):
            await there.stocking().run(pages(files))


async def test_it_can_be_cancelled_and_goes_on_where_it_was(tmp_path: Path) -> None:
    async with place(tmp_path) as there:
        files = [there.store.put(f"f{number}", bytes([number]) * (9 * MIB)) for number in range(8)]
        stocking = there.stocking()
        with trio.CancelScope() as scope:

            def cut(key: str, start: int, end: int) -> None:
                if key == "f4":
                    scope.cancel()

            there.store.fault = cut
            await stocking.run(pages(files))
        assert scope.cancelled_caught
        done = stocking.progress.bytes_done
        assert 0 < done < stocking.progress.bytes
        there.store.fault = lambda key, start, end: None
        again = there.stocking()
        await again.run(pages(files))
        assert again.progress.bytes_done == again.progress.bytes
        assert again.progress.bytes_fetched <= again.progress.bytes - done


async def test_without_a_cache_there_is_nothing_to_stock() -> None:
    with pytest.raises(Unsupported):
        Reader(FakeStore(), None).stocking()
