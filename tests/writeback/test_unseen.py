"""What somebody else has put under a name stays there, if whoever removed the name here had not seen it."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock

from b2fs.errors import AccessDenied, Unavailable
from b2fs.store.forward import Method
from tests.writeback.harness import Mount, Place

LISTS = Method.LIST_OBJECTS


async def saved(mount: Mount, *names: str) -> None:
    """Files that are in the bucket, and of which nothing is pending."""
    for name in names:
        await mount.save(name, b"old")
    await mount.drain()
    await trio.sleep(10)
    mount.store.reset_counts()


async def settled(mount: Mount) -> None:
    """Nothing is pending any more, and it is later than that."""
    await mount.drain()
    await trio.sleep(0.1)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_is_put_before_or_after_the_removal_stays_and_is_told(
    any_place: Place, when: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with any_place.mount() as mount:
        await saved(mount, "a")
        if when == "before":
            any_place.bucket.add("a", b"theirs")
        await mount.unlink("a")
        if when == "after":
            any_place.bucket.add("a", b"theirs")
        await settled(mount)
        assert mount.fs.writeback.status().conflicts == 1
        assert await mount.read("a") == b"theirs"
    assert any_place.bucket.contents() == {"a": b"theirs"}
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert told == ["a was changed by somebody else and is not removed"]


async def test_who_has_seen_it_removes_it(any_place: Place, autojump_clock: MockClock) -> None:
    async with any_place.mount() as mount:
        await saved(mount, "a")
        any_place.bucket.add("a", b"theirs")
        await mount.unlink("a")
        await settled(mount)
        assert await mount.read("a") == b"theirs"
        await mount.unlink("a")
        await mount.drain()
        assert mount.fs.writeback.status().conflicts == 1
    assert any_place.bucket.contents() == {}


async def test_what_is_put_while_the_bucket_cannot_be_reached_stays(
    any_place: Place, autojump_clock: MockClock
) -> None:
    async with any_place.mount() as mount:
        await saved(mount, "a")
        mount.store.fail(list(Method), Unavailable("no route to host"), times=None)
        await mount.unlink("a")
        await trio.sleep(600)
        any_place.bucket.add("a", b"theirs")
        mount.store.heal()
        await trio.sleep(100)
        assert mount.pending == 0
    assert any_place.bucket.contents() == {"a": b"theirs"}


@pytest.mark.parametrize("answer_lost", [False, True])
async def test_what_is_put_after_a_kill_stays(any_place: Place, answer_lost: bool, autojump_clock: MockClock) -> None:
    async with any_place.mount() as mount:
        await saved(mount, "a")
        mount.store.fail(Method.DELETE_MANY, Unavailable("reset"), times=None, answer_lost=answer_lost)
        await mount.unlink("a")
        await trio.sleep(10)
        assert mount.store.counts[Method.DELETE_MANY]
        any_place.crash()
        assert ("a" in any_place.bucket.contents()) is not answer_lost
        any_place.bucket.add("a", b"theirs")
    async with any_place.mount() as mount:
        await settled(mount)
        assert await mount.read("a") == b"theirs"
    assert any_place.bucket.contents() == {"a": b"theirs"}


async def test_a_renamed_file_leaves_what_others_have_put_under_its_old_name(
    any_place: Place, autojump_clock: MockClock
) -> None:
    async with any_place.mount() as mount:
        await saved(mount, "a")
        mount.store.pause([Method.HEAD])
        await mount.rename("a", "b")
        await mount.store.wait_held()
        any_place.bucket.add("a", b"theirs")
        await mount.store.resume()
        await settled(mount)
        assert await mount.tree() == {"a": b"theirs", "b": b"old"}
    assert any_place.bucket.contents() == {"a": b"theirs", "b": b"old"}


async def test_of_many_only_what_others_have_put_is_asked_for_by_itself(
    any_place: Place, autojump_clock: MockClock
) -> None:
    names = [f"d/f{number:03}" for number in range(300)]
    async with any_place.mount() as mount:
        await mount.mkdir("d")
        await saved(mount, *names)
        any_place.bucket.add("d/f123", b"theirs")
        any_place.bucket.add("d/f2", b"between theirs")
        for name in names:
            await mount.unlink(name)
        await mount.rmdir("d")
        await settled(mount)
        asked = [call.key for call in mount.store.calls if call.method is Method.HEAD and call.key in names]
        assert asked == ["d/f123"]
        assert mount.store.counts[LISTS] <= 4, "a page for each request that removes a hundred"
        assert mount.fs.writeback.status().conflicts == 1
        await trio.sleep(100)
        assert await mount.names("d") == {"f123", "f2"}
    bodies = {key: body for key, body in any_place.bucket.contents().items() if body}
    assert bodies == {"d/f123": b"theirs", "d/f2": b"between theirs"}


async def test_keys_far_apart_are_asked_for_one_by_one(any_place: Place, autojump_clock: MockClock) -> None:
    names = [f"d{number:02}" for number in range(30)]
    async with any_place.mount() as mount:
        await saved(mount, *names)
        for name in names:
            for number in range(200):
                any_place.bucket.add(f"{name}+{number}", b"between")
        any_place.bucket.add("d17", b"theirs")
        for name in names:
            await mount.unlink(name)
        await mount.drain()
        assert mount.store.counts[LISTS] == 1
        assert mount.store.counts[Method.HEAD] == 25
    left = {key: body for key, body in any_place.bucket.contents().items() if "+" not in key}
    assert left == {"d17": b"theirs"}


async def test_what_was_made_again_meanwhile_goes_on_top(any_place: Place, autojump_clock: MockClock) -> None:
    """While the look is under way; then it is a conflict as any other."""
    async with any_place.mount() as mount:
        await saved(mount, "a")
        mount.store.pause([Method.HEAD])
        await mount.unlink("a")
        await mount.store.wait_held()
        any_place.bucket.add("a", b"theirs")
        await mount.save("a", b"ours")
        await mount.store.resume()
        await mount.drain()
        assert mount.fs.writeback.status().conflicts == 1
    assert any_place.bucket.contents()["a"] == b"ours"
    held = [version.body for versions in any_place.bucket.versions.values() for version in versions]
    assert b"theirs" in held


async def test_a_key_that_may_not_read_removes(any_place: Place, autojump_clock: MockClock) -> None:
    async with any_place.mount() as mount:
        await saved(mount, "a", *(f"f{number}" for number in range(30)))
        mount.store.fail([Method.HEAD, LISTS], AccessDenied("this key may not read"), times=None)
        await mount.unlink("a")
        for number in range(30):
            await mount.unlink(f"f{number}")
        with trio.fail_after(60):
            await mount.drain()
    assert any_place.bucket.contents() == {}


async def test_nothing_is_removed_before_it_was_looked_at(any_place: Place, autojump_clock: MockClock) -> None:
    async with any_place.mount() as mount:
        await saved(mount, "a", "b")
        mount.store.fail(Method.HEAD, Unavailable("reset"), times=None, matches=lambda call: call.key == "a")
        await mount.unlink("a")
        await mount.unlink("b")
        await trio.sleep(30)
        assert any_place.bucket.contents() == {"a": b"old"}
        any_place.bucket.add("a", b"theirs")
        mount.store.heal()
        await trio.sleep(100)
        assert mount.pending == 0
    assert any_place.bucket.contents() == {"a": b"theirs"}


async def test_a_new_file_is_freed_of_its_versions_and_not_looked_at(place: Place, autojump_clock: MockClock) -> None:
    """Its versions go by their IDs, which harms no other."""
    async with place.mount() as mount:
        mount.store.pause([Method.PUT])
        await mount.save("a", b"ours")
        await mount.store.wait_held()
        await mount.unlink("a")
        await mount.store.resume()
        await mount.drain()
        assert mount.store.counts[Method.HEAD] == 0
    assert "a" not in place.bucket.versions or place.bucket.versions["a"] == []
