"""When uploads begin: soon where that makes a program wait less, later where it would take from the program."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.cache.writeback.pace import IDLE_S, Pace
from b2fs.store.forward import Method
from tests.writeback.conftest import place
from tests.writeback.harness import CALLER, Mount, Place, changes_counted
from tests.writeback.tiny import KIB, PART, TINY, append, noise, tiny

__all__ = ["place", "tiny"]  # fixtures

MIB = 1 << 20
BODY = noise(6 * MIB)


async def write_busily(mount: Mount, seconds: float) -> None:
    """Append to a new file of some parts' size, a piece every hundredth of a second."""
    handle = await mount.create("a")
    await append(mount, handle, noise(3 * PART))
    until, at = trio.current_time() + seconds, 3 * PART
    while trio.current_time() < until:
        await mount.write(handle, at, noise(KIB // 4))
        at += KIB // 4
        await trio.sleep(0.01)
    await mount.close(handle)


async def test_a_growing_file_goes_up_when_its_writer_has_been_busy_for_a_second(
    tiny: Place, autojump_clock: MockClock
) -> None:
    async with tiny.mount(config=TINY) as mount, trio.open_nursery() as nursery:
        nursery.start_soon(write_busily, mount, 2.0)
        await trio.sleep(0.9)
        assert mount.store.counts[Method.CREATE_UPLOAD] == 0
        await trio.sleep(0.5)
        assert mount.store.counts[Method.CREATE_UPLOAD] == 1


async def test_a_growing_file_goes_up_as_soon_as_its_writer_pauses(tiny: Place, autojump_clock: MockClock) -> None:
    async with tiny.mount(config=TINY) as mount:
        handle = await mount.create("a")
        await append(mount, handle, noise(3 * PART))
        await trio.sleep(0.1)
        assert mount.store.counts[Method.UPLOAD_PART] == 3
        await mount.close(handle)


async def test_a_growing_file_that_is_removed_before_its_upload_begins_is_no_call(
    tiny: Place, autojump_clock: MockClock
) -> None:
    async with tiny.mount(config=TINY) as mount:
        with changes_counted(mount.store) as calls:
            await write_busily(mount, 0.2)
            await mount.unlink("a")
            await mount.drain()
            await trio.sleep(10)
    assert calls == []


async def test_what_was_stored_becomes_cache_only_when_all_has_been_quiet_for_a_second(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount:
        local = mount.fs._core.files.contents
        await mount.save("a", b"content")
        await mount.open("a", os.O_RDONLY)
        await mount.drain()
        await trio.sleep(0.9)
        assert len(local) == 1
        await mount.save("b", b"content")
        await mount.open("b", os.O_RDONLY)
        await mount.drain()
        await trio.sleep(0.9)
        assert len(local) == 2
        await trio.sleep(0.5)
        assert not local


async def save_busily(mount: Mount, seconds: float) -> None:
    """A small file every fifth of what counts as a pause."""
    for number in range(round(seconds / (IDLE_S / 5))):
        await mount.save(f"f{number}", b"content")
        await trio.sleep(IDLE_S / 5)


@pytest.mark.parametrize("batch", [0, 10])
async def test_small_files_go_up_in_batches_beside_a_program_that_stays_busy(
    place: Place, autojump_clock: MockClock, batch: int
) -> None:
    async with place.mount(config=WriteBackConfig(busy_batch=batch)) as mount, trio.open_nursery() as nursery:
        await mount.save("first", b"")  # the directory is listed
        await mount.drain()
        mount.store.reset_counts()
        mount.store.latency_s = 0.3
        nursery.start_soon(save_busily, mount, 2.0)
        puts = []
        for wait_s in (0.3, 0.2, 0.15, 0.25):
            await trio.sleep(wait_s)
            puts.append(mount.store.counts[Method.PUT])
        assert puts == [0, batch, batch, 2 * batch]
        nursery.cancel_scope.cancel()


async def test_a_removed_file_is_removed_from_the_bucket_although_a_program_is_busy(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount, trio.open_nursery() as nursery:
        await mount.save("a", b"content")
        await mount.drain()
        await mount.unlink("a")
        nursery.start_soon(save_busily, mount, 5.0)
        await trio.sleep(4.0)
        assert "a" not in place.bucket.contents()
        nursery.cancel_scope.cancel()


async def test_a_directory_in_which_something_always_changes_is_stored_all_the_same(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount:
        await mount.mkdir("d")
        for number in range(35):
            await mount.save(f"d/{number}", b"")
            await trio.sleep(1.0)
        assert "d/" in place.bucket.contents()


async def sync_root(mount: Mount) -> None:
    handle = await mount.fs.opendir(await mount.ino(""), CALLER)
    await mount.fs.fsyncdir(handle, False)
    await mount.fs.releasedir(handle)


@pytest.mark.parametrize("sync", [lambda mount: mount.fs.writeback.wait_drained(), sync_root])
async def test_a_sync_ends_although_programs_go_on(
    place: Place, autojump_clock: MockClock, sync: Callable[[Mount], Awaitable[None]]
) -> None:
    """It waits for what there was when it began."""
    async with place.mount() as mount, trio.open_nursery() as nursery:

        async def go_on() -> None:
            number = 0
            while True:
                number += 1
                await mount.save("new", b"%d" % number)
                await mount.rename("new", "replaced")
                await mount.save("written", b"%d" % number)
                await mount.save(f"f{number}", b"content")
                await mount.unlink(f"f{number - 10}" if number > 10 else "written")
                await trio.sleep(IDLE_S / 5)

        mount.store.latency_s = 0.02
        nursery.start_soon(go_on)
        await trio.sleep(0.5)
        await mount.save("mine", b"content")
        before = int((await mount.read("replaced")).decode())
        with trio.fail_after(10):
            await sync(mount)
        contents = place.bucket.contents()
        assert contents["mine"] == b"content"
        assert int(contents["replaced"]) >= before
        nursery.cancel_scope.cancel()


async def change(mount: Mount, at: int) -> None:
    handle = await mount.open("a")
    await mount.write(handle, at, b"changed")
    await mount.close(handle)


async def test_a_change_in_a_large_object_is_stored_at_once_and_those_soon_after_become_one(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount:
        await mount.save("a", BODY)
        await mount.drain()
    place.forget_cache()
    async with place.mount() as mount:
        await change(mount, 10)
        await trio.sleep(0.3)
        assert mount.store.counts[Method.COMPLETE_UPLOAD] + mount.store.counts[Method.PUT] == 1
        for at in range(20, 120, 10):
            await change(mount, at)
            await trio.sleep(0.3)
        assert mount.store.counts[Method.COMPLETE_UPLOAD] + mount.store.counts[Method.PUT] == 1
        await mount.drain()
        assert mount.store.counts[Method.COMPLETE_UPLOAD] + mount.store.counts[Method.PUT] == 2
    wanted = bytearray(BODY)
    for at in range(10, 120, 10):
        wanted[at : at + 7] = b"changed"
    assert place.bucket.contents()["a"] == wanted


async def test_time_that_passes_while_it_is_seen_that_an_upload_must_wait(
    place: Place, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processor is taken from us there, say: the moment to ask again may be over when it is waited for."""
    may_start, refused = Pace.may_start, 0

    def slow(pace: Pace, due: float, running: int) -> bool:
        nonlocal refused
        answer = may_start(pace, due, running)
        refused += not answer
        autojump_clock.jump(0.1)
        return answer

    monkeypatch.setattr(Pace, "may_start", slow)
    async with place.mount() as mount:
        for number in range(200):
            await mount.save(f"f{number}", b"%d" % number)
            await trio.sleep(0.01)
        await mount.drain()
        assert refused
    assert len(place.bucket.contents()) == 200
