"""The rest of what is read at random: fetched when it pays, beside the programs, bounded, and ended with the file."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from b2fs.cache.blocks import BlockCache, BlockCacheConfig
from b2fs.cache.reader import Reader, ReaderConfig
from b2fs.cache.reader.completion import Completer
from b2fs.cache.reader.content import Content
from b2fs.cache.reader.fetch import Fetcher
from b2fs.core.completion import Patience
from b2fs.core.types import ETag, ObjectInfo, ObjectRef, VersionId
from b2fs.errors import Unavailable
from tests.unit.reader_fakes import BIG, KIB, MIB, FakeStore, read

CONFIG = ReaderConfig(memory_bytes=64 * MIB, complete_bytes=64 * MIB)
#: More than fetching BIG takes on any line.
LONG_S = 1e6


class HeldStore(FakeStore):
    """Answers at once, or, for large ranges, when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.round_trip_s = 0
        self.gate = trio.Event()
        self.waiting = 0

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
        if end - start >= MIB:
            self.waiting += 1
            try:
                await self.gate.wait()
            finally:
                self.waiting -= 1
        return await super().get(key, version_id=version_id, start=start, end=end, if_match=if_match)


@pytest.fixture
def store() -> HeldStore:
    return HeldStore()


@pytest.fixture
def blocks(tmp_path: Path) -> Iterator[BlockCache]:
    cache = BlockCache(BlockCacheConfig(str(tmp_path / "blocks")))
    yield cache
    cache.close()


class Bench:
    """A completer with an open content that nobody has read yet."""

    def __init__(self, store: FakeStore, blocks: BlockCache, config: ReaderConfig, ref: ObjectRef) -> None:
        self.fetcher = Fetcher(store, blocks, config)
        self.completer = Completer(self.fetcher, blocks, config)
        self.ref = ref
        self.content: Content = self.fetcher.contents.get(ref)
        self.content.streams += 1

    def waited(self, seconds: float) -> None:
        self.completer.waited(self.content, self.ref, seconds)

    def close(self) -> None:
        self.content.streams -= 1
        self.fetcher.drop_guesses(self.content)

    @property
    def busy(self) -> bool:
        return self.content.rest is not None and self.content.rest.scope is not None


@asynccontextmanager
async def _bench(
    store: FakeStore, blocks: BlockCache, ref: ObjectRef, config: ReaderConfig = CONFIG
) -> AsyncIterator[Bench]:
    bench = Bench(store, blocks, config, ref)
    async with trio.open_nursery() as nursery:
        await nursery.start(bench.fetcher.run)
        await bench.fetcher.look(bench.content, ref)
        yield bench
        bench.fetcher.memory.check_invariants()
        nursery.cancel_scope.cancel()


async def _until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110  # threads and several tasks bring it about
            await trio.sleep(0.002)


async def test_all_is_fetched_once_it_pays_and_not_before(store: HeldStore, blocks: BlockCache) -> None:
    ref = store.put("big", BIG)
    store.gate.set()
    async with _bench(store, blocks, ref) as bench:
        bench.waited(0.001)
        await trio.testing.wait_all_tasks_blocked()
        assert store.gets == []
        bench.waited(LONG_S)
        await _until(lambda: not bench.busy)
        assert bench.fetcher.memory.used == 0
        assert bench.fetcher.stats.completed_bytes == len(BIG) == sum(end - start for _, start, end in store.gets)
        assert bench.content.on_disk is not None
        assert bench.content.on_disk.covers(0, ref.size)
        assert blocks.present(ref).covers(0, ref.size)
        bench.waited(LONG_S)
        assert not bench.busy, "there is nothing left to fetch"


async def test_the_patient_wait_for_pieces_of_a_server_that_is_far_away(store: HeldStore, blocks: BlockCache) -> None:
    ref = store.put("big", BIG)
    store.gate.set()
    async with _bench(store, blocks, ref, CONFIG._replace(complete_after=Patience(pieces=3, wait_s=0.5))) as bench:
        for seconds in (LONG_S, LONG_S):
            bench.waited(seconds)
        await trio.testing.wait_all_tasks_blocked()
        assert store.gets == [], "too few"
        bench.waited(0.1)
        await _until(lambda: not bench.busy)
        assert bench.fetcher.stats.completed_bytes == len(BIG)
    near = store.put("near", BIG)
    async with _bench(store, blocks, near, CONFIG._replace(complete_after=Patience(pieces=3, wait_s=0.5))) as bench:
        for _ in range(100):
            bench.waited(0.4)
        await trio.testing.wait_all_tasks_blocked()
        assert all(key != "near" for key, _, _ in store.gets)


async def test_random_reads_go_on_and_then_need_no_store(store: HeldStore, blocks: BlockCache) -> None:
    """Real time: the rest is fetched because reads had to wait."""
    ref, choose = store.put("big", BIG), random.Random(5)
    store.round_trip_s = 0.01
    store.gate.set()
    reader = Reader(store, blocks, CONFIG)

    async with trio.open_nursery() as nursery:
        await nursery.start(reader.run)
        stream = reader.open(ref)

        async def read_some() -> int:
            """Read twenty pieces; how many requests there were by then."""
            for _ in range(20):
                start = choose.randrange(ref.size - 4 * KIB)
                assert await read(stream, start, start + 4 * KIB) == BIG[start : start + 4 * KIB]
            return len(store.gets)

        gets = -1
        with trio.fail_after(60):
            while gets < (gets := await read_some()):
                pass
        assert gets < 100
        assert blocks.present(ref).covers(0, ref.size), "all of it is here"
        stream.close()
        assert 0 < reader.stats.wasted_bytes <= reader.stats.completed_bytes
        reader.check_invariants()
        nursery.cancel_scope.cancel()


async def test_what_programs_want_meanwhile_does_not_wait_for_it(store: HeldStore, blocks: BlockCache) -> None:
    ref = store.put("big", BIG)
    async with _bench(store, blocks, ref) as bench:
        bench.waited(LONG_S)
        await _until(lambda: store.waiting > 0)
        flights = bench.fetcher.launch(bench.content, ref, [(0, 32 * KIB)], ahead=False)
        piece = await bench.fetcher.collect(bench.content, ref, 0, 4 * KIB, flights)
        assert bytes(piece) == BIG[: 4 * KIB]
        assert store.waiting > 0
        store.gate.set()
        await _until(lambda: not bench.busy)


async def test_closing_ends_it_and_counts_what_was_for_nothing(store: HeldStore, blocks: BlockCache) -> None:
    ref = store.put("big", BIG)
    store.gate.set()
    async with _bench(store, blocks, ref) as bench:
        bench.waited(LONG_S)
        await _until(lambda: bench.fetcher.stats.completed_bytes > 0)
        store.gate = trio.Event()
        bench.content.note_read(0, 4 * KIB)
        rest = bench.content.rest
        assert rest is not None
        bench.close()
        await _until(lambda: rest.scope is None)
        assert (store.waiting, store.in_flight, bench.fetcher.memory.used) == (0, 0, 0)
        stats = bench.fetcher.stats
        assert stats.wasted_bytes in (stats.completed_bytes, stats.completed_bytes - 4 * KIB)


async def test_a_line_that_turns_out_slow_ends_it_until_more_was_waited(
    store: HeldStore, blocks: BlockCache, mock_clock: trio.testing.MockClock
) -> None:
    mock_clock.rate = 1  # there are threads to wait for
    ref = store.put("big", BIG)
    async with _bench(store, blocks, ref, CONFIG._replace(timeout_s=1e6)) as bench:
        bench.waited(1.0)
        await _until(lambda: store.waiting == 4)
        mock_clock.jump(1000)
        store.gate.set()
        await _until(lambda: not bench.busy)
        assert len(store.gets) == 4
        bench.waited(1.0)
        assert not bench.busy
        bench.waited(1e9)
        await _until(lambda: not bench.busy)
        assert bench.content.on_disk is not None
        assert bench.content.on_disk.covers(0, ref.size)


async def test_a_fault_ends_it_and_harms_nobody(store: HeldStore, blocks: BlockCache) -> None:
    ref = store.put("big", BIG)
    store.gate.set()
    store.fault = lambda key, start, end: Unavailable("no") if end - start >= MIB else None
    async with _bench(store, blocks, ref) as bench:
        bench.waited(LONG_S)
        await _until(lambda: not bench.busy)
        assert bench.fetcher.stats.completed_bytes == 0
        bench.waited(0.001)
        assert not bench.busy, "not again with every read"
        flights = bench.fetcher.launch(bench.content, ref, [(0, 32 * KIB)], ahead=False)
        assert bytes(await bench.fetcher.collect(bench.content, ref, 0, 4 * KIB, flights)) == BIG[: 4 * KIB]


async def test_a_disk_that_takes_no_more_ends_it(store: HeldStore, tmp_path: Path) -> None:
    ref = store.put("big", BIG)
    store.gate.set()
    full = BlockCache(BlockCacheConfig(str(tmp_path / "full")), free_bytes=lambda directory: 0)
    async with _bench(store, full, ref) as bench:
        bench.waited(LONG_S)
        await _until(lambda: not bench.busy)
        assert 0 < len(store.gets) <= 4
        assert bench.fetcher.stats.wasted_bytes == sum(end - start for _, start, end in store.gets)
        bench.waited(LONG_S)
        assert not bench.busy
    full.close()


async def test_what_is_large_beside_the_cache_is_left_alone(store: HeldStore, blocks: BlockCache) -> None:
    ref = store.put("big", BIG)
    async with _bench(store, blocks, ref, CONFIG._replace(complete_bytes=len(BIG) - 1)) as bench:
        bench.waited(LONG_S)
        assert bench.content.rest is None
    async with _bench(store, blocks, store.put("small", BIG[:MIB])) as bench:
        bench.waited(LONG_S)
        assert bench.content.rest is None


async def test_it_takes_only_memory_that_nobody_wants(store: HeldStore, blocks: BlockCache) -> None:
    ref = store.put("big", BIG)
    async with _bench(store, blocks, ref) as bench:
        memory = bench.fetcher.memory
        await memory.reserve(CONFIG.memory_bytes)
        bench.waited(LONG_S)
        await _until(lambda: not bench.busy)
        assert (store.gets, store.waiting) == ([], 0)
        memory.release(CONFIG.memory_bytes)
        bench.waited(0.001)
        await _until(lambda: store.waiting == 4)
        assert memory.used <= CONFIG.memory_bytes // 4
        store.gate.set()
        await _until(lambda: not bench.busy)
        assert bench.fetcher.stats.completed_bytes == len(BIG)


async def test_pieces_that_lie_about_are_fetched_along(store: HeldStore, blocks: BlockCache) -> None:
    ref = store.put("big", BIG)
    store.gate.set()
    async with _bench(store, blocks, ref) as bench:
        assert bench.content.on_disk is not None
        bench.content.on_disk.add(8 * MIB, 16 * MIB)
        for start in range(MIB // 2, 8 * MIB, 2 * MIB):
            bench.content.on_disk.add(start, start + 32 * KIB)
        bench.waited(LONG_S)
        await _until(lambda: not bench.busy)
        assert all(start % MIB == 0 and not 8 * MIB <= start < 16 * MIB for _, start, _ in store.gets), store.gets
        assert sum(end - start for _, start, end in store.gets) == len(BIG) - 8 * MIB
