"""The small files of a directory, fetched ahead of those who open them one by one."""

from __future__ import annotations

import random

import trio
import trio.testing

from b2fs.cache.reader import Reader, ReaderConfig
from b2fs.core.siblings import SiblingHint, SiblingTracker
from b2fs.core.types import ObjectRef
from b2fs.errors import (
    Unavailable,
)
from tests.unit.reader_fakes import BIG, KIB, MIB, ROUND_TRIP_S, FakeStore, read, reading


async def test_warm_fetches_many_at_once(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    refs = [store.put(f"k{number}", f"content {number}".encode()) for number in range(100)]
    big = store.put("big", BIG)
    async with reading(store) as reader:
        began = trio.current_time()
        await reader.warm([*refs, big, store.put("empty", b"")])
        assert trio.current_time() - began < 3 * ROUND_TRIP_S
        assert store.most_in_flight == 64
        for number, ref in enumerate(refs):
            stream = reader.open(ref)
            assert stream.read_nowait(0, ref.size) == f"content {number}".encode()
            assert stream.info is not None
            stream.close()
        assert len(store.gets) == 100, "large and empty ones are left out"
        assert reader.stats.wasted_warm_bytes == 0


async def test_a_hint_is_taken_when_the_file_is_read_from_its_start(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    refs = [store.put(f"k{number}", bytes(1000)) for number in range(3)]
    async with reading(store) as reader:
        stream = reader.open(refs[0], hint=SiblingHint(tuple(refs[1:])))
        await read(stream, 500, 600)
        assert len(store.gets) == 1
        await read(stream, 0, 600)
        began = trio.current_time()
        assert await read(reader.open(refs[2]), 0, 1000) == bytes(1000)
        assert trio.current_time() - began <= ROUND_TRIP_S
        assert len(store.gets) == 3


async def test_a_failed_warm_is_silent_and_read_again(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    ref = store.put("k", b"content")
    store.fault = lambda key, start, end: Unavailable("down")
    async with reading(store) as reader:
        await reader.warm([ref])
        assert reader.memory_used == 0
        store.fault = lambda key, start, end: None
        assert await read(reader.open(ref), 0, 7) == b"content"


async def test_warming_stops_at_the_budget(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    refs = [store.put(f"k{number}", bytes(MIB)) for number in range(40)]
    async with reading(store, ReaderConfig(memory_bytes=8 * MIB)) as reader:
        await reader.warm(refs)
        assert len(store.gets) == 7
        assert reader.memory_used <= 8 * MIB


async def _open_in_order(reader: Reader, refs: list[ObjectRef], order: list[int]) -> None:
    """Open and read files of one directory as the filesystem does, with the tracker's hints."""
    tracker = SiblingTracker()
    for index in order:
        upcoming = tracker.opened("directory", index, len(refs))
        stream = reader.open(refs[index], hint=SiblingHint(tuple(refs[upcoming.start : upcoming.stop])))
        assert len(await read(stream, 0, refs[index].size)) == refs[index].size
        stream.close()
        await trio.lowlevel.checkpoint()


async def test_walking_a_directory_costs_few_round_trips(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    refs = [store.put(f"k{number}", bytes(4096)) for number in range(500)]
    async with reading(store) as reader:
        began = trio.current_time()
        await _open_in_order(reader, refs, list(range(500)))
        assert trio.current_time() - began < 25 * ROUND_TRIP_S
        assert len(store.gets) == 500


async def test_random_opens_waste_little(autojump_clock: trio.testing.MockClock) -> None:
    store, choose = FakeStore(), random.Random(9)
    refs = [store.put(f"k{number}", bytes(4096)) for number in range(1000)]
    async with reading(store, ReaderConfig(memory_bytes=256 * KIB)) as reader:
        await _open_in_order(reader, refs, [choose.randrange(1000) for _ in range(2000)])
        assert reader.stats.wasted_warm_bytes < reader.stats.fetched_bytes / 10
