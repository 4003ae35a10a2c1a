"""How many bytes a second a limited store lets through, and in which order; in virtual time."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from b2fs.errors import NotFound
from b2fs.store.embedded.store import EmbeddedConfig, EmbeddedStore
from b2fs.store.limit import BURST_S, LimitedStore, TokenBucket

KIB, MIB = 1 << 10, 1 << 20


async def test_the_rate_is_kept_over_any_time(autojump_clock: MockClock) -> None:
    rate, choose = 1 * MIB, random.Random(3)
    bucket, started = TokenBucket(rate), trio.current_time()
    spent = 0

    async def user(sizes: list[int]) -> None:
        nonlocal spent
        for size in sizes:
            await bucket.take(size)
            spent += size
            assert spent <= rate * (trio.current_time() - started + BURST_S) + 1

    plans = [[choose.choice([100, 64 * KIB, MIB, 16 * MIB]) for _ in range(30)] for _ in range(8)]
    async with trio.open_nursery() as nursery:
        for plan in plans:
            nursery.start_soon(user, plan)
    total = sum(map(sum, plans))
    assert spent == total
    assert trio.current_time() - started == pytest.approx(total / rate - BURST_S, abs=0.01), "and nothing is given away"


async def test_a_small_body_does_not_wait_for_large_ones(autojump_clock: MockClock) -> None:
    bucket = TokenBucket(1 * MIB)
    waits: list[float] = []

    async def small() -> None:
        asked_at = trio.current_time()
        await bucket.take(4 * KIB)
        waits.append(trio.current_time() - asked_at)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(bucket.take, 16 * MIB)
        for _ in range(50):
            await trio.sleep(1.7)
            nursery.start_soon(small)
    assert len(waits) == 50
    assert max(waits) < 0.1


async def test_a_large_body_is_not_starved_by_small_ones(autojump_clock: MockClock) -> None:
    bucket = TokenBucket(1 * MIB)
    done_at: list[float] = []

    async def large() -> None:
        await bucket.take(8 * MIB)
        done_at.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(large)
        for _ in range(400):  # twice as much as the rate lets through
            await trio.sleep(0.1)
            nursery.start_soon(bucket.take, 200 * KIB)
    assert done_at[0] < 17


async def test_who_gives_up_leaves_his_place_to_others(autojump_clock: MockClock) -> None:
    bucket = TokenBucket(1 * MIB)
    with trio.move_on_after(5):
        await bucket.take(100 * MIB)
    before = trio.current_time()
    await bucket.take(MIB)
    assert trio.current_time() == before, "what was saved up is there"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bucket.take, 100 * MIB)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(bucket.take, 101 * MIB)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await bucket.take(4 * MIB)
    assert trio.current_time() - before == pytest.approx(4, abs=0.01)


async def test_bodies_of_both_directions_are_held_back(tmp_path: Path, autojump_clock: MockClock) -> None:
    inner = EmbeddedStore(EmbeddedConfig(str(tmp_path), "bucket"))
    async with LimitedStore(inner, up_bytes_s=100 * KIB, down_bytes_s=200 * KIB) as store:
        began = trio.current_time()
        await store.put("a", bytes(1000 * KIB))
        put = trio.current_time()
        assert put - began == pytest.approx(9, abs=0.1)
        await store.get("a", start=0, end=800 * KIB)
        got = trio.current_time()
        assert got - put == pytest.approx(3, abs=0.1)
        await store.get("a")  # of unknown size: paid for by who comes next
        assert trio.current_time() - got == pytest.approx(0, abs=0.1)
        await store.get("a", start=0, end=1)
        assert trio.current_time() - got == pytest.approx(5, abs=0.1)


async def test_what_did_not_come_is_not_paid_for(tmp_path: Path, autojump_clock: MockClock) -> None:
    inner = EmbeddedStore(EmbeddedConfig(str(tmp_path), "bucket"))
    async with LimitedStore(inner, up_bytes_s=0, down_bytes_s=100 * KIB) as store:
        await store.put("a", bytes(10 * MIB))
        began = trio.current_time()
        for _ in range(20):
            with pytest.raises(NotFound):
                await store.get("missing", start=0, end=100 * KIB)
        await store.get("a", start=10 * MIB - 1, end=10 * MIB + 80 * KIB)
        await store.get("a", start=0, end=90 * KIB)
        assert trio.current_time() - began < 0.1
        assert store.capabilities == inner.capabilities


async def test_one_direction_alone(tmp_path: Path, autojump_clock: MockClock) -> None:
    inner = EmbeddedStore(EmbeddedConfig(str(tmp_path), "bucket"))
    async with LimitedStore(inner, up_bytes_s=100 * KIB, down_bytes_s=0) as store:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(partial(store.put, f"k{number}", bytes(50 * KIB)))
        assert trio.current_time() - began == pytest.approx(1, abs=0.1)
        began = trio.current_time()
        await store.get("k1", start=0, end=50 * KIB)
        assert trio.current_time() == began
