"""Hard links are one file again on a cold mount, and after the time to live of what was seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from b2fs.errors import AccessDenied
from b2fs.store.forward import Method
from tests.writeback.conftest import autojump_clock, place
from tests.writeback.harness import Mount, Place

__all__ = ["autojump_clock", "place"]


async def _two_names(mount: Mount) -> None:
    await mount.save("a", b"content")
    await mount.mkdir("d")
    await mount.link("a", "d/b")
    await mount.drain()


async def _named(mount: Mount) -> list[str]:
    """The keys of the objects that name links."""
    return [info.key for info in (await mount.store.list_objects(".b2fs/links/")).objects]


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


async def test_a_cold_mount_that_knows_one_name_knows_all(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        await _two_names(mount)
        await mount.link("a", "d/c")
        await mount.drain()
    place.forget_cache()
    async with place.mount() as mount:
        assert (await mount.stat("d/b")).nlink == 3
        await mount.unlink("d/c")
        assert (await mount.stat("a")).nlink == 2


async def test_what_is_written_through_one_name_is_stored_under_names_that_nobody_looked_at(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount:
        await _two_names(mount)
    place.forget_cache()
    async with place.mount() as mount:
        await mount.save("d/b", b"new")
        await mount.chmod("d/b", 0o600)
        await mount.drain()
    assert (place.bucket.contents()["a"], place.bucket.contents()["d/b"]) == (b"new", b"new")
    place.forget_cache()
    async with place.mount() as mount:
        assert (await mount.stat("a")).mode & 0o777 == 0o600
        assert (await mount.stat("a")).ino == (await mount.stat("d/b")).ino


async def test_what_another_machine_writes_through_one_name_is_seen_through_all(
    place: Place, tmp_path: Path, autojump_clock: MockClock
) -> None:
    other = Place(tmp_path / "other", place.bucket)
    other.root.mkdir()
    async with place.mount() as here:
        await _two_names(here)
        async with other.mount() as there:
            await there.save("a", b"there")
            await there.drain()
        await trio.sleep(61)
        assert (await here.read("d/b"), await here.read("a")) == (b"there", b"there")
        assert (await here.stat("a")).ino == (await here.stat("d/b")).ino
        assert (await here.stat("a")).nlink == 2


@pytest.mark.parametrize("seen", [True, False])
async def test_names_are_found_after_a_rename_of_the_directory_that_they_are_in(
    place: Place, autojump_clock: MockClock, seen: bool
) -> None:
    async with place.mount() as mount:
        await _two_names(mount)
    place.forget_cache()
    async with place.mount() as mount:
        if seen:
            await mount.stat("d/b")
        await mount.rename("d", "e")
        await mount.drain()
    place.forget_cache()
    async with place.mount() as mount:
        assert (await mount.stat("a")).nlink == 2
        await mount.save("a", b"new")
        await mount.drain()
        assert place.bucket.contents()["e/b"] == b"new"
        assert sorted(key.split("/", 3)[3] for key in await _named(mount)) == ["a", "e/b"]


async def test_what_claims_to_be_a_name_and_is_none_is_ignored(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        await _two_names(mount)
        await mount.save("other", b"content")
        await mount.drain()
        (group,) = {key.split("/")[2] for key in await _named(mount)}
        for path in ("other", "missing", "missing/x", "other/x", "d"):
            await mount.store.put(f".b2fs/links/{group}/{path}", b"")
    place.forget_cache()
    async with place.mount() as mount:
        assert (await mount.stat("a")).nlink == 2
        assert (await mount.stat("other")).nlink == 1


async def test_files_that_are_no_links_cost_nothing(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        await mount.mkdir("d")
        await mount.save("d/a", b"x")
        await mount.chmod("d/a", 0o600)
        await mount.drain()
        assert not [call for call in mount.store.calls if call.key.startswith(".b2fs/links/")]


async def test_a_key_that_may_not_use_the_place_can_still_link(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        mount.store.fail(list(Method), AccessDenied("no"), times=None, matches=lambda call: "/links/" in call.key)
        await _two_names(mount)
        assert (await mount.stat("a")).nlink == 2
        assert place.bucket.contents()["d/b"] == b"content"


def _stored(mount: Mount) -> list[str]:
    """The keys of the files' own objects that were put or copied so far, one for each call."""
    made = (Method.PUT, Method.COPY)
    return sorted(call.key for call in mount.store.calls if call.method in made and not call.key.startswith(".b2fs/"))


async def test_a_rotation_of_snapshots_stores_each_new_name_once(place: Place, autojump_clock: MockClock) -> None:
    """And the names that are there only as often as one of them has to tell when a name was removed."""
    async with place.mount() as mount:
        await mount.save("0", b"content")
        await mount.link("0", "1")
        await mount.drain()
        for number in range(2, 12):
            mount.store.calls.clear()
            await mount.link(str(number - 1), str(number))
            await mount.drain()
            assert _stored(mount) == [str(number)]
        handle = await mount.open("11")  # as the kernel keeps a file that a program has just looked at
        for number in range(8):
            mount.store.calls.clear()
            await mount.unlink(str(number))
            await mount.drain()
            assert len(_stored(mount)) == 1
        await mount.close(handle)
        mount.store.calls.clear()
        await mount.chmod("9", 0o640)
        await mount.drain()
        assert _stored(mount) == ["10", "11", "8", "9"]
    place.forget_cache()
    async with place.mount() as mount:
        assert [(await mount.stat(name)).mode & 0o777 for name in ("8", "9", "10", "11")] == [0o640] * 4
        assert (await mount.stat("8")).nlink == 4


@pytest.mark.parametrize("change", ["link", "unlink"])
async def test_every_name_tells_on_a_cold_mount_when_a_name_came_or_went(
    place: Place, autojump_clock: MockClock, change: str
) -> None:
    names = ("a", "b", "c")
    async with place.mount() as mount:
        await mount.save("a", b"content")
        for name in "bcd":
            await mount.link("a", name)
        await mount.drain()
        await (mount.link("b", "e") if change == "link" else mount.unlink("d"))
        changed_ns = (await mount.stat("a")).ctime_ns
        await mount.drain()
    for first in names:
        place.forget_cache()
        async with place.mount() as mount:
            assert (await mount.stat(first)).ctime_ns == changed_ns
            assert {(await mount.stat(name)).ctime_ns for name in names} == {changed_ns}


async def test_names_that_come_and_go_before_their_turn(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        await mount.save("a", b"content")
        await mount.link("a", "b")
        await mount.drain()
        await mount.link("b", "c")
        await mount.unlink("a")
        await mount.unlink("b")
        await mount.save("c", b"changed")
        await mount.link("c", "d")
        place.crash()
    async with place.mount() as mount:
        assert (await mount.stat("d")).nlink == 2
        await mount.drain()
    place.forget_cache()
    async with place.mount() as mount:
        assert await mount.tree() == {"c": b"changed", "d": b"changed"}
        assert (await mount.stat("c")).ino == (await mount.stat("d")).ino
