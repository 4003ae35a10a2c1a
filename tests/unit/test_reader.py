"""The reader: right bytes, one version, one budget, shared fetches, faults and cancellation, in virtual time."""

from __future__ import annotations

import hashlib
import os
import random

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from b2fs.cache.reader import Reader, ReaderConfig
from b2fs.core.prefetch import PrefetchConfig
from b2fs.core.types import ObjectRef
from b2fs.errors import (
    AccessDenied,
    CorruptBody,
    NotFound,
    PreconditionFailed,
    StoreError,
    TimedOut,
    Unavailable,
)
from tests.unit.reader_fakes import BIG, KIB, MIB, ROUND_TRIP_S, FakeStore, read, read_all, reading


def _listed(ref: ObjectRef) -> ObjectRef:
    """The same content as a listing shows it."""
    return ref._replace(version_id=None)


@pytest.mark.parametrize("length", [64 * KIB, MIB, 3 * MIB + 1])
async def test_sequential_reads_wait_for_few_round_trips(autojump_clock: trio.testing.MockClock, length: int) -> None:
    store = FakeStore()
    ref = store.put("big", BIG)
    async with reading(store) as reader:
        stream, began = reader.open(ref), trio.current_time()
        assert await read_all(stream, length) == BIG
        assert trio.current_time() - began < 6 * ROUND_TRIP_S
        assert reader.stats.fetched_bytes == len(BIG), "every byte once"
        assert reader.stats.served_bytes == len(BIG)
        assert len(store.gets) < 30
        stream.close()


async def test_the_first_byte_costs_one_small_request(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    ref = store.put("big", BIG)
    async with reading(store) as reader:
        stream, began = reader.open(ref), trio.current_time()
        before = stream.info
        assert before is None
        assert await read(stream, 0, 128 * KIB) == BIG[: 128 * KIB]
        assert trio.current_time() - began == pytest.approx(ROUND_TRIP_S)
        assert store.gets == [("big", 0, MIB)]
        assert stream.info is not None
        assert stream.info.metadata == {"mode": "33188"}


async def test_random_reads_cost_one_small_request_each(autojump_clock: trio.testing.MockClock) -> None:
    store, choose = FakeStore(), random.Random(2)
    ref = store.put("big", BIG * 3)
    async with reading(store) as reader:
        stream, began = reader.open(ref), trio.current_time()
        for _ in range(100):
            start = choose.randrange(MIB, ref.size - 4096) // 4096 * 4096
            offset = start % len(BIG)
            assert await read(stream, start, start + 4096) == (BIG + BIG[:4096])[offset : offset + 4096]
        assert trio.current_time() - began <= 100 * ROUND_TRIP_S * 1.01
        assert reader.stats.fetched_bytes <= 100 * 72 * KIB


async def test_backward_reads_are_batched(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    ref = store.put("big", BIG[: 8 * MIB])
    async with reading(store) as reader:
        stream = reader.open(ref)
        for start in range(ref.size - 64 * KIB, -1, -64 * KIB):
            assert await read(stream, start, start + 64 * KIB) == BIG[start : start + 64 * KIB]
        assert len(store.gets) <= 20, "not one for each of the 128 reads"
        assert reader.stats.fetched_bytes == ref.size


async def test_strided_reads_fetch_what_is_read(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    ref = store.put("big", BIG)
    async with reading(store) as reader:
        stream = reader.open(ref)
        reads = range(MIB, 24 * MIB, MIB)
        for start in reads:
            assert await read(stream, start, start + 64 * KIB) == BIG[start : start + 64 * KIB]
        assert len(store.gets) == len(reads)
        assert reader.stats.fetched_bytes == len(reads) * 64 * KIB


async def test_readers_share_fetches_and_pieces(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    ref = store.put("big", BIG)
    async with reading(store) as reader:
        async with trio.open_nursery() as nursery:
            results: list[bytes] = []

            async def one(ref: ObjectRef) -> None:
                stream = reader.open(ref)
                results.append(await read_all(stream, MIB))
                stream.close()

            for number in range(5):
                nursery.start_soon(one, ref if number % 2 else _listed(ref))
        assert results == [BIG] * 5
        assert reader.stats.fetched_bytes == len(BIG)


async def test_a_cancelled_reader_does_not_take_the_fetch_along(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    ref = store.put("k", b"x" * 100_000)
    async with reading(store) as reader:
        stream = reader.open(ref)
        with trio.move_on_after(ROUND_TRIP_S / 2) as impatient:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, stream, 0, 100)
        assert impatient.cancelled_caught
        assert await read(stream, 0, 100) == b"x" * 100
        assert len(store.gets) == 1


async def test_closing_ends_read_ahead(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    ref = store.put("big", BIG)
    async with reading(store) as reader:
        stream = reader.open(ref)
        for start in range(0, 3 * MIB, MIB):
            await read(stream, start, start + MIB)
        await trio.testing.wait_all_tasks_blocked()
        assert store.in_flight > 0
        stream.close()
        stream.close()
        await trio.testing.wait_all_tasks_blocked()
        assert store.in_flight == 0
        assert reader.memory_used < 12 * MIB


# --- the budget


async def test_the_budget_holds_with_many_readers(autojump_clock: trio.testing.MockClock) -> None:
    config = ReaderConfig(memory_bytes=16 * MIB)
    store = FakeStore()
    refs = [store.put(f"k{number}", BIG) for number in range(4)]
    most = 0
    async with reading(store, config) as reader:
        store.fault = lambda key, start, end: note()

        def note() -> None:
            nonlocal most
            most = max(most, reader.memory_used)

        async with trio.open_nursery() as nursery:

            async def one(ref: ObjectRef) -> None:
                stream = reader.open(ref)
                digest = hashlib.sha256(await read_all(stream, 256 * KIB)).digest()
                assert digest == hashlib.sha256(BIG).digest()
                stream.close()

            for ref in refs:
                nursery.start_soon(one, ref)
        assert 8 * MIB < most <= config.memory_bytes
        assert reader.stats.wasted_bytes < len(BIG)


async def test_a_read_larger_than_the_budget_is_served(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    ref = store.put("big", BIG)
    async with reading(store, ReaderConfig(memory_bytes=2 * MIB)) as reader:
        stream = reader.open(ref)
        assert await read(stream, 0, 12 * MIB) == BIG[: 12 * MIB]
        assert await reader.fetch_range(ref, 5, len(BIG) - 5) == BIG[5:-5]
        stream.close()


async def test_waste_is_counted(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    refs = [store.put(f"k{number}", bytes(MIB)) for number in range(8)]
    async with reading(store, ReaderConfig(memory_bytes=2 * MIB)) as reader:
        for ref in refs:
            stream = reader.open(ref)
            await read(stream, 0, 4096)
            stream.close()
        assert reader.stats.wasted_bytes >= 6 * (MIB - 4096)


async def test_fetch_range_fetches_no_more_than_the_grains(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    ref = store.put("big", BIG)
    async with reading(store) as reader:
        assert await reader.fetch_range(ref, 100_000, 200_000) == BIG[100_000:200_000]
        assert store.gets == [("big", 98304, 229376)]
        assert await reader.fetch_range(ref, 7, 7) == b""


# --- one version


async def test_a_listed_object_is_pinned_by_the_first_answer(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    ref = _listed(store.put("k", BIG))
    async with reading(store) as reader:
        stream = reader.open(ref)
        await read(stream, 0, 10)
        store.put("k", bytes(len(BIG)))
        assert await read_all(stream, MIB) == BIG, "the old version to the end"


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("replacement", [bytes(len(BIG)), b"short", BIG + b"longer"])
async def test_a_replaced_object_is_never_mixed(
    autojump_clock: trio.testing.MockClock, conditional: bool, replacement: bytes
) -> None:
    store = FakeStore(conditional=conditional, versions=False)
    ref = store.put("k", BIG)
    async with reading(store) as reader:
        stream = reader.open(ref)
        assert await read(stream, 0, 100) == BIG[:100]
        store.put("k", replacement)
        with pytest.raises(PreconditionFailed):
            await read(stream, 12 * MIB, 12 * MIB + 100)


async def test_a_version_that_is_gone_is_said_so(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    ref = store.put("k", BIG)
    store.fault = lambda key, start, end: NotFound("no such version")
    async with reading(store) as reader:
        with pytest.raises(NotFound):
            await reader.open(ref).read(0, 10)
        assert len(store.gets) == 1, "not tried again"


# --- faults


async def test_a_fault_that_passes_is_not_seen(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    ref = store.put("big", BIG)
    seen: set[tuple[int, int]] = set()

    def first_time(key: str, start: int, end: int) -> BaseException | bytes | None:
        if (start, end) in seen:
            return None
        seen.add((start, end))
        return Unavailable("reset") if start % (2 * MIB) else b"cut body"

    store.fault = first_time
    async with reading(store) as reader:
        stream = reader.open(ref)
        assert await read_all(stream, MIB) == BIG
        assert reader.stats.retries == len(seen)


@pytest.mark.parametrize("error", [Unavailable("down"), AccessDenied("no"), RuntimeError("a bug")])
async def test_a_lasting_fault_reaches_every_reader(autojump_clock: trio.testing.MockClock, error: Exception) -> None:
    store = FakeStore()
    ref = store.put("k", BIG)
    store.fault = lambda key, start, end: error
    async with reading(store) as reader:
        stream = reader.open(ref)
        async with trio.open_nursery() as nursery:

            async def one() -> None:
                with pytest.raises(type(error)):
                    await stream.read(0, 10)

            for _ in range(3):
                nursery.start_soon(one)
        assert reader.memory_used == 0
        store.fault = lambda key, start, end: None
        assert await read(stream, 0, 10) == BIG[:10], "and passes with its cause"


async def test_a_short_body_is_never_served(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    ref = store.put("k", BIG)
    store.fault = lambda key, start, end: b"short"
    async with reading(store) as reader:
        with pytest.raises(CorruptBody):
            await reader.open(ref).read(0, 100)


async def test_a_silent_store_is_given_up_in_time(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    ref = store.put("k", BIG)
    async with reading(store, ReaderConfig(timeout_s=30)) as reader:
        stream = reader.open(ref)
        assert await read(stream, 0, MIB) == BIG[:MIB]
        store.round_trip_s = 1e6
        began = trio.current_time()
        with pytest.raises(TimedOut):
            await stream.read(5 * MIB, 6 * MIB)
        with pytest.raises(TimedOut):
            await reader.fetch_range(ref, 5 * MIB, 6 * MIB)
        assert trio.current_time() - began <= 61
        assert await read(stream, 0, MIB) == BIG[:MIB], "what is in memory stays readable"


async def test_a_failed_guess_is_repeated_by_who_needs_it(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    ref = store.put("big", BIG)
    async with reading(store) as reader:
        stream = reader.open(ref)
        await read(stream, 0, MIB)
        await read(stream, MIB, 2 * MIB)  # starts the first window
        store.fault = lambda key, start, end: AccessDenied("for a moment")
        with trio.move_on_after(ROUND_TRIP_S * 1.5):
            await trio.sleep_forever()
        store.fault = lambda key, start, end: None
        assert await read_all(stream, MIB) == BIG


async def test_reading_after_shutdown_fails_at_once(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    ref = store.put("k", BIG)
    async with reading(store) as reader:
        stream = reader.open(ref)
    with pytest.raises(StoreError):
        await stream.read(0, 10)


# --- any pattern

TINY = PrefetchConfig(
    grain_bytes=32,
    block_bytes=KIB,
    first_bytes=KIB,
    start_window_bytes=4 * KIB,
    window_bytes=16 * KIB,
    range_bytes=4 * KIB,
    reorder_bytes=4 * KIB,
    near_bytes=64,
    small_bytes=256,
)
SMALL = os.urandom(40 * KIB + 77)
spans = st.tuples(st.integers(0, len(SMALL) - 1), st.integers(1, 5 * KIB))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(spans, max_size=12), min_size=1, max_size=4), st.sampled_from([2 * KIB, 9 * KIB, 64 * KIB]))
def test_any_pattern_gives_the_right_bytes_within_the_budget(scripts: list[list[tuple[int, int]]], memory: int) -> None:
    store = FakeStore()
    ref = store.put("k", SMALL)
    config = ReaderConfig(memory_bytes=memory, prefetch=TINY, warm_bytes=KIB)
    flaky = random.Random(len(scripts))
    store.fault = lambda key, start, end: Unavailable("at times") if flaky.random() < 0.1 else None

    async def follow(reader: Reader, script: list[tuple[int, int]]) -> None:
        stream = reader.open(ref)
        for start, length in script:
            end = min(len(SMALL), start + length)
            try:
                assert await read(stream, start, end) == SMALL[start:end]
            except Unavailable:
                continue
            assert reader.memory_used <= max(memory, config.prefetch.range_bytes)
            reader.check_invariants()
        stream.close()

    async def main() -> None:
        async with reading(store, config) as reader, trio.open_nursery() as nursery:
            for script in scripts:
                nursery.start_soon(follow, reader, script)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
