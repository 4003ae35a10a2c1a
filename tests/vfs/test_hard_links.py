"""Hard links are one file again on a cold mount, and after the time to live of what was seen."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from tests.writeback.conftest import autojump_clock, place
from tests.writeback.harness import Mount, Place

__all__ = ["autojump_clock", "place"]


async def _two_names(mount: Mount) -> None:
    await mount.save("a", b"content")
    await mount.mkdir("d")
    await mount.link("a", "d/b")
    await mount.drain()


async def test_on_a_cold_mount_two_names_are_one_file(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        await _two_names(mount)
    place.forget_cache()
    async with place.mount() as mount:
        assert (await mount.stat("a")).ino == (await mount.stat("d/b")).ino
        first, second = await mount.open("a"), await mount.open("d/b")
        assert (await mount.stat("a")).nlink == (await mount.stat("d/b")).nlink == 2
        await mount.close(first)
        await mount.close(second)


async def test_after_the_time_to_live_they_are_still_one(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        await _two_names(mount)
        before = await mount.stat("a")
        await trio.sleep(200)
        assert (await mount.stat("d/b")).ino == (await mount.stat("a")).ino == before.ino


async def test_a_write_through_one_name_reaches_the_other_in_the_bucket(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount:
        await _two_names(mount)
    place.forget_cache()
    async with place.mount() as mount:
        first, second = await mount.open("a"), await mount.open("d/b")
        await mount.write(first, 0, b"C")
        assert await mount.read("d/b") == b"Content"
        await mount.close(first)
        await mount.close(second)
        await mount.drain()
    contents = place.bucket.contents()
    assert (contents["a"], contents["d/b"]) == (b"Content", b"Content")
