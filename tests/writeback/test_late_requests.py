"""What a server goes on with after the mount that had asked for it was killed lands on what the next mount stores."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from b2fs.cache.writeback.writer import Writer
from b2fs.core.types import VersionId
from b2fs.errors import StoreError
from b2fs.store.forward import Method
from tests.writeback.harness import Place

NAMES = [f"f{number}" for number in range(5)]


async def _killed_while_it_removes(place: Place, *, made_again: bool = False) -> None:
    """Files are in the bucket and removed; the request for that is on its way at the moment of kill -9."""
    async with place.mount() as mount:
        for name in NAMES:
            await mount.save(name, b"old")
        await mount.drain()
        await trio.sleep(10)
        mount.store.pause([Method.DELETE_MANY])
        for name in NAMES:
            await mount.unlink(name)
        await mount.store.wait_held()
        if made_again:
            for name in NAMES:
                await mount.save(name, b"new")
        place.crash()
    assert set(place.bucket.contents()) == set(NAMES)


async def _fsync_around(place: Place, after_s: float, landed: bytes | None) -> None:
    """The next mount saves and syncs every name; after_s later the server carries out what the killed one had asked."""
    async with place.mount() as mount, trio.open_nursery() as nursery:

        async def late() -> None:
            await trio.sleep(after_s)
            for name in NAMES:
                place.bucket.add(name, landed)

        async def save(name: str) -> None:
            await mount.save(name, b"new", fsync=True)

        nursery.start_soon(late)
        for name in NAMES:
            nursery.start_soon(save, name)
        await trio.sleep(after_s + 2)


@pytest.mark.parametrize("after_s", [0.5, 2.0])
async def test_a_fsync_that_returned_is_not_undone(any_place: Place, after_s: float, autojump_clock: MockClock) -> None:
    await _killed_while_it_removes(any_place)
    await _fsync_around(any_place, after_s, None)
    assert any_place.bucket.contents() == dict.fromkeys(NAMES, b"new")


@pytest.mark.parametrize("made_again", [False, True], ids=["made after the kill", "made before the kill"])
async def test_what_is_hidden_after_it_was_stored_is_stored_again(
    any_place: Place, made_again: bool, autojump_clock: MockClock
) -> None:
    await _killed_while_it_removes(any_place, made_again=made_again)
    async with any_place.mount() as mount:
        if not made_again:
            for name in NAMES:
                await mount.save(name, b"new")
        for name in NAMES:
            await mount.fsync(name)
        assert mount.pending == len(NAMES), "they are looked at once more"
        for name in NAMES:
            any_place.bucket.add(name, None)
        await mount.drain()
        assert any_place.bucket.contents() == dict.fromkeys(NAMES, b"new")
        await trio.sleep(100)
        assert mount.store.counts[Method.PUT] == 2 * len(NAMES)


async def test_a_crash_before_that_look_does_not_forget_it(any_place: Place, autojump_clock: MockClock) -> None:
    await _killed_while_it_removes(any_place)
    async with any_place.mount() as mount:
        for name in NAMES:
            await mount.save(name, b"new", fsync=True)
        await trio.sleep(1)
        any_place.crash()
    async with any_place.mount() as mount:
        await trio.sleep(5)
        assert mount.store.counts[Method.PUT] == len(NAMES)
        for name in NAMES:
            any_place.bucket.add(name, None)
        await trio.sleep(30)
        assert mount.pending == 0
    assert any_place.bucket.contents() == dict.fromkeys(NAMES, b"new")


async def test_an_older_content_of_ours_that_lands_late_is_replaced(
    any_place: Place, autojump_clock: MockClock
) -> None:
    await _killed_while_it_removes(any_place)
    async with any_place.mount() as mount:
        await mount.save("f0", b"new", fsync=True)
        ours: Writer = mount.fs._core.transfer.writer
        any_place.bucket.add("f0", b"put before the kill", ours.sign("f0", {"mode": "33188"}))
        await mount.drain()
        assert mount.fs.writeback.status().conflicts == 0
    assert any_place.bucket.contents()["f0"] == b"new"


async def _killed_while_it_stores(place: Place, *, renamed: bool = False) -> None:
    """What is being put at the moment of kill -9 is not the last content that the names got."""
    async with place.mount() as mount:
        mount.store.pause([Method.PUT])
        for name in NAMES:
            await mount.save(name, b"put before the kill")
        await mount.store.wait_held(len(NAMES))
        await trio.sleep(1)
        for name in NAMES:
            await mount.save("temporary" if renamed else name, b"old")
            if renamed:
                await mount.rename("temporary", name)
        place.crash()
    assert place.bucket.contents() == {}


@pytest.mark.parametrize("after_s", [0.5, 2.0])
async def test_a_put_that_is_carried_out_late_does_not_undo_a_fsync(
    any_place: Place, after_s: float, autojump_clock: MockClock
) -> None:
    await _killed_while_it_stores(any_place)
    await _fsync_around(any_place, after_s, b"put before the kill")
    assert any_place.bucket.contents() == dict.fromkeys(NAMES, b"new")


@pytest.mark.parametrize("renamed", [False, True], ids=["written", "replaced by a rename"])
async def test_a_put_that_is_carried_out_after_ours_is_stored_over(
    any_place: Place, renamed: bool, autojump_clock: MockClock
) -> None:
    await _killed_while_it_stores(any_place, renamed=renamed)
    async with any_place.mount() as mount:
        ours: Writer = mount.fs._core.transfer.writer
        for name in NAMES:
            await mount.fsync(name)
        for name in NAMES:
            any_place.bucket.add(name, b"put before the kill", ours.sign(name, {"mode": "33188"}))
        await mount.drain()
        assert mount.fs.writeback.status().conflicts == 0
    assert any_place.bucket.contents() == dict.fromkeys(NAMES, b"old")


async def test_other_names_do_not_wait_and_are_not_asked_for_again(any_place: Place, autojump_clock: MockClock) -> None:
    await _killed_while_it_removes(any_place)
    async with any_place.mount() as mount:
        began = trio.current_time()
        await mount.save("other", b"new", fsync=True)
        assert trio.current_time() - began < 1
        await mount.drain()
        asked = [call.key for call in mount.store.calls if call.method is Method.HEAD and call.key in NAMES]
        assert sorted(asked) == sorted(NAMES), "once, before they are removed"
    assert any_place.bucket.contents() == {"other": b"new"}


async def test_one_request_removes_few_enough_keys(place: Place, autojump_clock: MockClock) -> None:
    sizes: list[int] = []
    async with place.mount() as mount:
        for number in range(250):
            await mount.save(f"{number}", b"x")
        await mount.drain()
        await trio.sleep(10)
        inner = mount.store.inner.delete_many

        async def measured(targets: Sequence[tuple[str, VersionId | None]]) -> list[VersionId | StoreError | None]:
            sizes.append(len(targets))
            return await inner(targets)

        mount.store.inner.delete_many = measured  # type: ignore[method-assign]  # to see its argument
        for number in range(250):
            await mount.unlink(f"{number}")
        await mount.drain()
    assert place.bucket.contents() == {}
    assert sum(sizes) == 250
    assert max(sizes) <= 100
