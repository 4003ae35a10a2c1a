"""B2's rule of the same second (I10): calls that make versions of one key keep a second, or leave no tie."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from b2fs.errors import AccessDenied, Unavailable
from b2fs.store.forward import Method
from tests.writeback.harness import Place, TimedStore
from tests.writeback.memstore import MemBucket


@pytest.fixture
def hazardous(place: Place, request: pytest.FixtureRequest) -> Place:
    """A bucket that orders versions of one second by chance."""
    place.bucket = MemBucket(clock=trio.current_time, hazard_seed=getattr(request, "param", 1))
    return place


def check_spacing(store: TimedStore, key: str) -> None:
    spans = store.versions_made(key)
    for before, after in pairwise(spans):
        assert after.asked_at >= before.answered_at + 1.0, (before, after)


async def test_versions_of_one_key_keep_a_second_from_answer_to_request(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount:
        mount.store.latency_s = 0.4
        for number in range(9):
            await mount.save("a", b"%d" % number)
            await trio.sleep(1.01 + 0.07 * number)
        await mount.unlink("a")
        await trio.sleep(10)
    assert len(mount.store.versions_made("a")) >= 5
    check_spacing(mount.store, "a")


async def test_a_hide_keeps_the_second_too(hazardous: Place, autojump_clock: MockClock) -> None:
    async with hazardous.mount() as mount:
        await mount.save("a", b"1")
        await mount.drain()
        await mount.unlink("a")
        await mount.drain()
        await mount.save("a", b"2")
        await mount.drain()
    assert hazardous.bucket.contents() == {"a": b"2"}


@pytest.mark.parametrize("hazardous", range(8), indirect=True)
async def test_fsyncs_in_one_second_leave_no_tie(hazardous: Place, autojump_clock: MockClock) -> None:
    """A waiting fsync does not keep the second: it removes the version that it replaces, by its ID."""
    async with hazardous.mount() as mount:
        handle = await mount.create("a")
        begun = trio.current_time()
        for number in range(10):
            await mount.write(handle, 0, b"%d" % number)
            await mount.fs.fsync(handle, False)
            assert hazardous.bucket.contents() == {"a": b"%d" % number}
        assert trio.current_time() - begun < 1
        await mount.close(handle)
        await mount.drain()
    assert [v.body for v in hazardous.bucket.versions["a"]] == [b"9"]


@pytest.mark.parametrize("hazardous", range(8), indirect=True)
async def test_a_tie_is_removed_even_if_that_fails_at_first(hazardous: Place, autojump_clock: MockClock) -> None:
    async with hazardous.mount() as mount:
        handle = await mount.create("a")
        await mount.write(handle, 0, b"1")
        await mount.fs.fsync(handle, False)
        await mount.write(handle, 0, b"2")
        mount.store.fail(Method.DELETE_VERSION, Unavailable("500"), times=2)
        await mount.fs.fsync(handle, False)
        assert hazardous.bucket.contents() == {"a": b"2"}
        await mount.close(handle)
        await mount.drain()
    assert [v.body for v in hazardous.bucket.versions["a"]] == [b"2"]


@pytest.mark.parametrize("hazardous", range(4), indirect=True)
async def test_a_second_fsync_does_not_return_before_the_tie_is_gone(
    hazardous: Place, autojump_clock: MockClock
) -> None:
    async with hazardous.mount() as mount, trio.open_nursery() as nursery:
        handle = await mount.create("a")
        await mount.write(handle, 0, b"1")
        await mount.fs.fsync(handle, False)
        await mount.write(handle, 0, b"2")
        mount.store.pause([Method.DELETE_VERSION])
        nursery.start_soon(mount.fs.fsync, handle, False)
        await mount.store.wait_held()
        done = trio.Event()

        async def fsync_again() -> None:
            await mount.fs.fsync(handle, False)
            done.set()

        nursery.start_soon(fsync_again)
        await trio.sleep(0.1)
        assert not done.is_set()
        await mount.store.resume()
        await done.wait()
        assert hazardous.bucket.contents() == {"a": b"2"}


@pytest.mark.parametrize("hazardous", range(4), indirect=True)
async def test_where_nothing_may_be_deleted_fsyncs_keep_the_second(hazardous: Place, autojump_clock: MockClock) -> None:
    async with hazardous.mount() as mount:
        mount.store.fail([Method.DELETE_VERSION], AccessDenied("no deleteFiles"), times=None)
        handle = await mount.create("a")
        for number in range(4):
            await mount.write(handle, 0, b"%d" % number)
            await mount.fs.fsync(handle, False)
        await mount.close(handle)
        # The first refusal teaches it; from the second version on the calls are apart.
        spans = mount.store.versions_made("a")[1:]
        for before, after in pairwise(spans):
            assert after.asked_at >= before.answered_at + 1.0
        assert hazardous.bucket.contents() == {"a": b"3"}


@pytest.mark.parametrize("hazardous", range(6), indirect=True)
async def test_after_a_crash_the_second_is_kept_as_well(hazardous: Place, autojump_clock: MockClock) -> None:
    async with hazardous.mount() as mount:
        handle = await mount.create("a")
        await mount.write(handle, 0, b"1")
        await mount.fs.fsync(handle, False)
        await mount.write(handle, 0, b"2")
        hazardous.crash()
    async with hazardous.mount() as mount:
        await mount.drain()
    assert hazardous.bucket.contents() == {"a": b"2"}
