"""FaultyStore and MeteredStore around an embedded store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from b2fs.errors import NotFound, SlowDown, Unavailable
from b2fs.store.embedded.store import EmbeddedConfig, EmbeddedStore
from b2fs.store.faults import FaultyStore
from b2fs.store.forward import CHANGES, UPLOADS, Method, StoreCall
from b2fs.store.meter import PRICE_CLASSES, MeteredStore, PriceClass


@pytest.fixture
async def inner(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    async with EmbeddedStore(EmbeddedConfig(str(tmp_path / "store"), "bucket", durable=False)) as store:
        yield store


@pytest.fixture
def faulty(inner: EmbeddedStore) -> FaultyStore:
    return FaultyStore(inner)


async def test_next_calls_fail_and_later_ones_do_not(faulty: FaultyStore) -> None:
    faulty.fail(Method.PUT, Unavailable("down"), times=2)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await faulty.put("a", b"x")
    with pytest.raises(NotFound):
        await faulty.head("a")
    await faulty.put("a", b"x")
    assert faulty.counts[Method.PUT] == 3
    assert faulty.bytes_up == 1


async def test_a_lost_answer_leaves_the_change_behind(faulty: FaultyStore) -> None:
    faulty.fail(Method.PUT, Unavailable("reset"), answer_lost=True)
    with pytest.raises(Unavailable):
        await faulty.put("a", b"x")
    assert (await faulty.get("a"))[1] == b"x"
    assert faulty.bytes_down == 1


async def test_faults_by_key_until_healed(faulty: FaultyStore) -> None:
    faulty.fail(CHANGES, lambda: SlowDown("slow", 3.0), times=None, matches=lambda call: call.key.startswith("bad"))
    await faulty.put("good", b"x")
    for _ in range(3):
        with pytest.raises(SlowDown) as caught:
            await faulty.put("bad", b"x")
        assert caught.value.retry_after_s == 3.0
    faulty.heal()
    await faulty.put("bad", b"x")


async def test_probability_follows_the_seed(inner: EmbeddedStore) -> None:
    async def outcomes(seed: int) -> list[bool]:
        store = FaultyStore(inner, seed=seed)
        store.fail(Method.HEAD, NotFound("lost"), times=None, probability=0.5)
        result = []
        for _ in range(40):
            try:
                await store.head("a")
                result.append(True)
            except NotFound:
                result.append(False)
        return result

    await inner.put("a", b"x")
    first = await outcomes(1)
    assert 5 < sum(first) < 35
    assert await outcomes(1) == first
    assert await outcomes(2) != first


async def test_held_uploads_go_on_when_resumed(faulty: FaultyStore, inner: EmbeddedStore) -> None:
    faulty.pause(UPLOADS)
    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(faulty.put, name, b"x")
        await faulty.wait_held(3)
        assert (await inner.list_objects("")).objects == ()
        assert (await faulty.list_objects("")).objects == ()
        await faulty.resume()
    assert len((await inner.list_objects("")).objects) == 3
    assert faulty.held == 0
    assert faulty.most_in_flight == 4


async def test_a_held_call_can_be_cancelled(faulty: FaultyStore) -> None:
    faulty.pause()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(faulty.put, "a", b"x")
        await faulty.wait_held()
        nursery.cancel_scope.cancel()
    assert faulty.held == faulty.in_flight == 0


async def test_latency(faulty: FaultyStore, autojump_clock: trio.testing.MockClock) -> None:
    faulty.latency_s = 7.0
    started = trio.current_time()
    await faulty.put("a", b"x")
    assert trio.current_time() - started >= 7.0


async def test_the_hook_sees_each_call_first(faulty: FaultyStore) -> None:
    seen: list[StoreCall] = []

    async def hook(call: StoreCall) -> None:
        seen.append(call)
        if call.method is Method.HIDE:
            raise Unavailable("not now")

    faulty.hook = hook
    await faulty.put("a", b"four")
    with pytest.raises(Unavailable):
        await faulty.hide("a")
    assert seen == [StoreCall(Method.PUT, "a", 4), StoreCall(Method.HIDE, "a")]
    assert (await faulty.head("a")).size == 4


async def test_waiting_for_a_number_of_calls(faulty: FaultyStore) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(faulty.wait_calls, Method.HIDE, 3)
        for _ in range(3):
            await faulty.hide("a")
    assert faulty.counts == {Method.HIDE: 3}
    faulty.reset_counts()
    assert faulty.counts == {}
    assert faulty.calls == []


async def test_every_method_passes_through_and_is_counted(faulty: FaultyStore) -> None:
    put = await faulty.put("a", b"x" * 10)
    assert put.ref.version_id is not None
    await faulty.get("a", start=2, end=5)
    await faulty.head("a")
    copied = await faulty.copy(put.ref, "b")
    await faulty.list_objects("")
    await faulty.list_versions("")
    upload = await faulty.create_upload("m")
    part = await faulty.upload_part("m", upload, 1, b"y" * 6)
    part = await faulty.copy_part("m", upload, 1, put.ref, 0, 10)
    assert await faulty.list_parts("m", upload) == [part]
    assert len(await faulty.list_uploads("")) == 1
    await faulty.complete_upload("m", upload, [part])
    await faulty.abort_upload("m", upload)
    await faulty.hide("a")
    await faulty.delete_version("a", put.ref.version_id)
    await faulty.delete_many([("b", copied.ref.version_id)])
    assert faulty.counts == dict.fromkeys(Method, 1)
    assert faulty.bytes_up == 16
    assert faulty.bytes_down == 3
    assert faulty.capabilities == faulty.inner.capabilities
    assert faulty.identity == faulty.inner.identity


async def test_the_meter_counts_by_price_class(inner: EmbeddedStore) -> None:
    now = 86_400.0 * 20_000
    meter = MeteredStore(inner, now_s=lambda: now)
    await meter.put("a", b"12345")
    await meter.get("a")
    await meter.list_objects("")
    with pytest.raises(NotFound):
        await meter.head("missing")
    reading = meter.read()
    assert reading.by_class == {PriceClass.A: 1, PriceClass.B: 2, PriceClass.C: 1}
    assert reading.by_class_today == reading.by_class
    assert (reading.bytes_up, reading.bytes_down, reading.in_flight) == (5, 5, 0)
    assert reading.calls[Method.HEAD] == reading.failed[Method.HEAD] == 1
    now += 86_399
    assert meter.read().by_class_today[PriceClass.B] == 2
    now += 1
    assert meter.read().by_class_today == dict.fromkeys(PriceClass, 0)
    assert meter.read().by_class == reading.by_class


async def test_the_meter_sees_what_is_in_flight(inner: EmbeddedStore) -> None:
    faulty = FaultyStore(inner)
    meter = MeteredStore(faulty)
    faulty.pause()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(meter.put, "a", b"x" * 100)
        await faulty.wait_held()
        assert (meter.read().in_flight, meter.read().uploads_in_flight_bytes) == (1, 100)
        await faulty.resume()
    assert (meter.read().in_flight, meter.read().bytes_up) == (0, 100)


def test_every_method_has_a_price_class() -> None:
    assert set(PRICE_CLASSES) == set(Method)
