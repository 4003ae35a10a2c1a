"""The reader over a real block cache, in real time: restarts, damage, a dead store, a disk that does not keep up."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from b2fs.cache.blockdisk import Buffer
from b2fs.cache.blocks import BlockCache, BlockCacheConfig
from b2fs.cache.reader import Reader, ReaderConfig
from b2fs.core.prefetch import PrefetchConfig
from b2fs.core.types import ETag, ObjectInfo, ObjectRef, VersionId
from b2fs.errors import Unavailable
from tests.unit.reader_fakes import BIG, KIB, MIB, FakeStore, read, read_all


@contextmanager
def _cache(directory: Path) -> Iterator[BlockCache]:
    cache = BlockCache(BlockCacheConfig(str(directory)))
    try:
        yield cache
    finally:
        cache.close()


@asynccontextmanager
async def _reading(store: FakeStore, blocks: BlockCache, config: ReaderConfig | None = None) -> AsyncIterator[Reader]:
    reader = Reader(store, blocks, config)
    async with trio.open_nursery() as nursery:
        await nursery.start(reader.run)
        try:
            yield reader
            reader.check_invariants()
        finally:
            nursery.cancel_scope.cancel()


class EndlessStore(FakeStore):
    """One large object whose content is made when it is asked for."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.ref = ObjectRef("endless", VersionId("v1"), ETag("e"), size)

    def content(self, start: int, end: int) -> bytes:
        """Each MiB begins with its number; start and end lie between them."""
        return b"".join(number.to_bytes(8, "big") + BIG[8:MIB] for number in range(start // MIB, end // MIB))

    async def get(
        self,
        key: str,
        *,
        version_id: VersionId | None = None,
        start: int = 0,
        end: int | None = None,
        if_match: ETag | None = None,
    ) -> tuple[ObjectInfo, bytes]:
        assert end is not None
        await trio.lowlevel.checkpoint()
        whole = self.content(start - start % MIB, end + -end % MIB)
        return ObjectInfo(self.ref, 0, {}), whole[start % MIB :][: end - start]


async def _settled(reader: Reader) -> None:
    """Wait until everything is on disk that is to be kept."""
    with trio.fail_after(60):
        while reader.pending_bytes:  # noqa: ASYNC110  # the reader has no event for this: nobody else needs one
            await trio.sleep(0.01)


def _store() -> FakeStore:
    store = FakeStore()
    store.round_trip_s = 0
    return store


async def test_after_a_restart_nothing_is_requested(tmp_path: Path) -> None:
    store = _store()
    big = store.put("big", BIG)
    small = [store.put(f"k{number}", bytes([number]) * (number + 1)) for number in range(50)]
    with _cache(tmp_path) as cache:
        async with _reading(store, cache) as reader:
            assert await read_all(reader.open(big), MIB) == BIG
            await reader.warm(small)
    store.gets.clear()
    with _cache(tmp_path) as cache:
        async with _reading(store, cache) as reader:
            listed = big._replace(version_id=None)
            stream = reader.open(listed)
            assert await read(stream, 13 * MIB + 5, 13 * MIB + 4101) == BIG[13 * MIB + 5 : 13 * MIB + 4101]
            assert await read_all(stream, MIB) == BIG
            await reader.warm(small[:30])
            for number, ref in enumerate(small):
                assert await read(reader.open(ref), 0, ref.size) == bytes([number]) * (number + 1)
            assert await reader.fetch_range(big, 5, 3 * MIB) == BIG[5 : 3 * MIB]
            assert reader.stats.fetched_bytes == 0
    assert store.gets == []


async def test_random_reads_are_kept_too(tmp_path: Path) -> None:
    store, choose = _store(), random.Random(4)
    ref = store.put("big", BIG)
    offsets = [choose.randrange(0, len(BIG) - 4096) for _ in range(50)]
    with _cache(tmp_path) as cache:
        async with _reading(store, cache) as reader:
            stream = reader.open(ref)
            for offset in offsets:
                await read(stream, offset, offset + 4096)
    store.gets.clear()
    with _cache(tmp_path) as cache:
        async with _reading(store, cache) as reader:
            stream = reader.open(ref)
            for offset in reversed(offsets):
                assert await read(stream, offset, offset + 4096) == BIG[offset : offset + 4096]
            held = reader.stats.disk_bytes
            assert await read_all(stream, 512 * KIB) == BIG, "what is there and what is not fit together"
            assert held > 0
            assert reader.stats.fetched_bytes < len(BIG)


async def test_small_pieces_are_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, visits = _store(), []
    store.round_trip_s = 0.002
    ref = store.put("big", BIG)
    with _cache(tmp_path) as cache:

        def put_many(stretches: Sequence[tuple[ObjectRef, int, Buffer]]) -> int:
            visits.append(len(stretches))
            return BlockCache.put_many(cache, stretches)

        monkeypatch.setattr(cache, "put_many", put_many)
        async with _reading(store, cache) as reader:
            stream = reader.open(ref)
            for start in range(MIB, 21 * MIB, MIB):
                await read(stream, start, start + 4096)
            await _settled(reader)
            assert sum(visits) == 20
            assert len(visits) < 10, "a visit costs as much as a request"
            for start in range(MIB, 21 * MIB, MIB):
                assert cache.present(ref).covers(start, start + 4096)


def _damage_half(directory: Path) -> list[int]:
    """Cut every fourth file, change a bit in every other fourth; return how long these were."""
    paths = sorted(directory.rglob("*.val"))[::2]
    sizes = [path.stat().st_size for path in paths]
    for number, path in enumerate(paths):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + (b"" if number % 2 else bytes([content[-1] ^ 1])))
    return sizes


async def test_damaged_entries_are_fetched_again(tmp_path: Path) -> None:
    store = _store()
    ref = store.put("big", BIG)
    with _cache(tmp_path) as cache:
        async with _reading(store, cache) as reader:
            await read_all(reader.open(ref), MIB)
        assert cache.stats.stored_bytes == len(BIG)
    damaged = _damage_half(tmp_path)
    assert len(damaged) > 4
    with _cache(tmp_path) as cache:
        async with _reading(store, cache) as reader:
            assert await read_all(reader.open(ref), MIB) == BIG
            assert reader.stats.fetched_bytes == sum(damaged)
        assert cache.stats.damaged == len(damaged)
    with _cache(tmp_path) as cache:
        assert sum(len(data) for _, data in cache.get_range(ref, 0, len(BIG))) == len(BIG), "whole again"


async def test_cached_content_is_readable_without_the_store(tmp_path: Path) -> None:
    store = _store()
    ref = store.put("big", BIG)
    with _cache(tmp_path) as cache:
        assert cache.put_whole(ref, BIG[: 8 * MIB] + BIG[8 * MIB :]) == len(BIG)
        store.fault = lambda key, start, end: Unavailable("down")
        async with _reading(store, cache) as reader:
            assert await read_all(reader.open(ref), MIB) == BIG
            with pytest.raises(Unavailable):
                await reader.open(store.put("other", BIG)).read(0, 10)


@pytest.mark.parametrize(
    ("object_mib", "cache_mib"),
    [
        (160, 64),
        pytest.param(
            3 << 10, 1 << 10, marks=pytest.mark.skipif(os.environ.get("B2FS_LONG") != "1", reason="B2FS_LONG")
        ),
    ],
)
async def test_an_object_larger_than_the_cache(tmp_path: Path, object_mib: int, cache_mib: int) -> None:
    store = EndlessStore(object_mib * MIB)
    ref = store.ref
    cache = BlockCache(BlockCacheConfig(str(tmp_path), size_bytes=cache_mib * MIB))
    largest = 0
    # A window that the disk can always take, so that all that is read is kept.
    config = ReaderConfig(memory_bytes=48 * MIB, prefetch=PrefetchConfig(window_bytes=8 * MIB))
    async with _reading(store, cache, config) as reader:
        for _ in range(2):
            stream = reader.open(ref)
            for start in range(0, ref.size, MIB):
                assert await read(stream, start, start + MIB) == store.content(start, start + MIB)
                if not start % (8 * MIB):
                    await _settled(reader)
                    largest = max(largest, cache.used_bytes)
            stream.close()
        await _settled(reader)
        assert reader.stats.uncached_bytes == 0
        assert max(largest, cache.used_bytes) <= (cache_mib + 16) * MIB, "one batch may be on its way out"
        kept = sum(end - start for start, end in cache.present(ref))
        assert kept >= cache_mib * MIB // 2, "making room does not empty it"
        last = list(cache.present(ref))[-1]
        assert last[1] == ref.size, "what was read last is there"
    cache.close()


async def test_little_of_what_was_scanned_stays_in_memory(tmp_path: Path) -> None:
    store = _store()
    ref = store.put("big", BIG)
    config = ReaderConfig(memory_bytes=64 * MIB)
    with _cache(tmp_path) as cache:
        async with _reading(store, cache, config) as reader:
            stream = reader.open(ref)
            assert await read_all(stream, MIB) == BIG
            await _settled(reader)
            assert reader.memory_used <= config.scanned_bytes + 2 * MIB
            assert stream.read_nowait(ref.size - 100, ref.size) == BIG[-100:], "the latest"
            assert await read(stream, 0, MIB) == BIG[:MIB]
            assert reader.stats.fetched_bytes == ref.size, "the rest is on disk"
    async with trio.open_nursery() as nursery:
        reader = Reader(store, None, config)
        await nursery.start(reader.run)
        assert await read_all(reader.open(ref), MIB) == BIG
        assert reader.memory_used >= ref.size, "without a disk it stays"
        nursery.cancel_scope.cancel()


class StuckCache(BlockCache):
    """A disk that takes the first write and does not finish it before it is told to."""

    def __init__(self, directory: Path) -> None:
        super().__init__(BlockCacheConfig(str(directory)))
        self.go_on = threading.Event()

    def put_many(self, stretches: Iterable[tuple[ObjectRef, int, Buffer]]) -> int:
        self.go_on.wait(timeout=30)
        return super().put_many(stretches)


async def test_no_reader_waits_for_a_disk_write(tmp_path: Path) -> None:
    store = _store()
    ref = store.put("big", BIG)
    cache = StuckCache(tmp_path)
    async with _reading(store, cache, ReaderConfig(memory_bytes=12 * MIB)) as reader:
        try:
            assert await read_all(reader.open(ref), MIB) == BIG
            assert reader.stats.uncached_bytes > 0
            assert reader.memory_used <= 12 * MIB
        finally:
            cache.go_on.set()
    assert cache.stats.stored_bytes + reader.stats.uncached_bytes == len(BIG)
    cache.close()
