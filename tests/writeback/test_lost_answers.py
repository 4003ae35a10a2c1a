"""Requests whose answer was lost: the store makes them again, and the server may carry out the first one as well.

Or later, on top of what came after it.
"""

from __future__ import annotations

import os

import pytest
import trio
from trio.testing import MockClock

from b2fs.cache.writeback.writer import Writer
from b2fs.errors import SlowDown, Unavailable
from b2fs.store.forward import Method
from tests.writeback.harness import RW, Mount, Place

LOST = Unavailable("the connection was reset")


def land(mount: Mount, name: str, body: bytes | None) -> None:
    """The server carries out a request of ours only now."""
    ours: Writer = mount.fs._core.transfer.writer
    mount.bucket.add(name, body, ours.sign(name, {"mode": "33188"}))


async def save_and_remove(mount: Mount) -> None:
    """A new file whose PUT may be carried out once more is in the bucket, and removed here."""
    mount.store.fail(Method.PUT, LOST, unseen=True)
    await mount.save("a", b"1")
    await mount.drain()
    await mount.unlink("a")


async def removed(mount: Mount) -> None:
    """Return when the name `a` was removed from the bucket, and is to be looked at once more."""
    await mount.store.wait_calls(Method.DELETE_MANY, 1)
    await trio.sleep(1)
    assert "a" not in mount.bucket.contents()
    assert mount.pending == 1


async def removed_in_vain(mount: Mount) -> None:
    """The name `a` is removed from the bucket, comes back, and is gone for good at the end."""
    await removed(mount)
    land(mount, "a", b"1")
    await mount.drain()
    assert mount.bucket.contents() == {}


async def save_slowly(mount: Mount) -> None:
    """A new file whose upload is on its way, held back."""
    mount.store.pause([Method.PUT])
    await mount.save("a", b"1")
    await mount.store.wait_held()


async def test_a_file_that_was_put_twice_and_removed_meanwhile_is_gone(
    any_place: Place, autojump_clock: MockClock
) -> None:
    async with any_place.mount() as mount:
        mount.store.fail(Method.PUT, LOST, answer_lost=True, unseen=True)
        await save_slowly(mount)
        await mount.unlink("a")
        await mount.store.resume()
        await mount.drain()
        assert await mount.names() == set()
    assert any_place.bucket.contents() == {}


async def test_a_copy_that_was_made_twice_and_removed_meanwhile_is_gone(
    any_place: Place, autojump_clock: MockClock
) -> None:
    async with any_place.mount() as mount:
        await mount.mkdir("d")
        await mount.save("d/a", b"1")
        await mount.drain()
        await trio.sleep(10)
        mount.store.fail(Method.COPY, LOST, answer_lost=True, unseen=True, matches=lambda call: call.key == "e/a")
        mount.store.pause([Method.COPY])
        await mount.rename("d", "e")
        await mount.store.wait_held()
        await mount.unlink("e/a")
        await mount.store.resume()
        await mount.drain()
        await mount.rmdir("e")
        await mount.drain()
    assert [key for key in any_place.bucket.contents() if not key.startswith(".b2fs/")] == []


async def test_what_lands_after_its_removal_is_removed_again(any_place: Place, autojump_clock: MockClock) -> None:
    async with any_place.mount() as mount:
        await save_and_remove(mount)
        await removed_in_vain(mount)
        assert await mount.names() == set()
        await trio.sleep(100)
        assert mount.store.counts[Method.HEAD] == 3, "one before it was removed, one saw it, one that it is gone"


async def test_what_somebody_else_puts_there_after_the_removal_stays(
    any_place: Place, autojump_clock: MockClock
) -> None:
    async with any_place.mount() as mount:
        await save_and_remove(mount)
        await removed(mount)
        any_place.bucket.add("a", b"theirs")
        await mount.drain()
        assert mount.pending == 0
    assert any_place.bucket.contents() == {"a": b"theirs"}


@pytest.mark.parametrize("after_s", [0.5, 2.0, 5.0])
async def test_an_older_content_that_lands_late_is_stored_over(
    any_place: Place, after_s: float, autojump_clock: MockClock
) -> None:
    async with any_place.mount() as mount:
        mount.store.fail(Method.PUT, LOST, unseen=True)
        await mount.save("a", b"1", fsync=True)
        async with trio.open_nursery() as nursery:

            async def late() -> None:
                await trio.sleep(after_s)
                land(mount, "a", b"1")

            nursery.start_soon(late)
            await mount.save("a", b"2", fsync=True)
        await mount.drain()
        assert mount.fs.writeback.status().conflicts == 0
        assert await mount.names() == {"a"}
    assert any_place.bucket.contents() == {"a": b"2"}


async def test_a_removal_that_lands_late_is_undone(any_place: Place, autojump_clock: MockClock) -> None:
    async with any_place.mount() as mount:
        await mount.save("a", b"1")
        await mount.drain()
        await trio.sleep(10)
        mount.store.fail(Method.DELETE_MANY, LOST, times=1)
        await mount.unlink("a")
        await trio.sleep(5)
        await mount.save("a", b"2", fsync=True)
        land(mount, "a", None)
        await mount.drain()
    assert any_place.bucket.contents() == {"a": b"2"}


async def test_what_was_to_be_removed_at_a_kill_may_land_later(any_place: Place, autojump_clock: MockClock) -> None:
    async with any_place.mount() as mount:
        await save_slowly(mount)
        await mount.unlink("a")
        await trio.sleep(1)
        any_place.crash()
        await mount.store.resume()
    async with any_place.mount() as mount:
        await removed_in_vain(mount)


async def test_a_kill_does_not_forget_what_may_land(any_place: Place, autojump_clock: MockClock) -> None:
    async with any_place.mount() as mount:
        await save_and_remove(mount)
        any_place.crash()
    async with any_place.mount() as mount:
        await removed_in_vain(mount)


async def test_a_large_file_whose_completion_was_lost(any_place: Place, autojump_clock: MockClock) -> None:
    """It is not completed twice, and what is left of it in the history is hidden with it."""
    body = os.urandom(40 << 20)
    async with any_place.mount() as mount:
        mount.store.fail(Method.COMPLETE_UPLOAD, LOST, unseen=True)
        handle = await mount.create("a", RW)
        for start in range(0, len(body), 4 << 20):
            await mount.write(handle, start, body[start : start + (4 << 20)])
        await mount.close(handle)
        await mount.drain()
        await mount.unlink("a")
        await removed_in_vain(mount)


async def test_the_same_content_again_needs_no_look(any_place: Place, autojump_clock: MockClock) -> None:
    async with any_place.mount() as mount:
        mount.store.fail(Method.PUT, LOST, answer_lost=True, unseen=True)
        began = trio.current_time()
        await mount.save("a", b"1", fsync=True)
        await mount.drain()
        assert trio.current_time() - began < 1
        await trio.sleep(100)
        assert mount.store.counts[Method.HEAD] == 0
        assert mount.store.counts[Method.PUT] == 1
    assert any_place.bucket.contents() == {"a": b"1"}


async def test_what_the_server_has_refused_needs_no_look(any_place: Place, autojump_clock: MockClock) -> None:
    async with any_place.mount() as mount:
        mount.store.fail(Method.PUT, SlowDown("later"), times=2)
        await mount.save("a", b"1", fsync=True)
        await mount.drain()
        mount.store.reset_counts()
        await mount.unlink("a")
        await mount.drain()
        assert mount.pending == 0
        await trio.sleep(100)
        assert mount.store.counts[Method.HEAD] == 1, "before it was removed"
    assert any_place.bucket.contents() == {}


async def test_what_is_wanted_and_removed_again_while_it_is_removed(
    any_place: Place, autojump_clock: MockClock
) -> None:
    """It is removed once more, and not only looked at: of such a marker nobody could say that it is ours."""
    any_place.capabilities = any_place.capabilities._replace(marker_metadata=False)
    async with any_place.mount() as mount:
        await mount.mkdir("d")
        await mount.drain()
        await trio.sleep(10)
        mount.store.pause([Method.DELETE_MANY])
        await mount.rmdir("d")
        await mount.store.wait_held()
        await mount.mkdir("d")
        await mount.store.resume()
        mount.store.pause([Method.PUT])
        await mount.store.wait_held()
        await mount.rmdir("d")
        await mount.store.resume()
        await mount.drain()
        assert await mount.names() == set()
    assert any_place.bucket.contents() == {}


async def test_a_question_without_an_answer_is_no_change(any_place: Place, autojump_clock: MockClock) -> None:
    """While the bucket cannot be reached not even the question is answered that comes before a change."""
    async with any_place.mount() as mount:
        await mount.save("a", b"1")
        await mount.drain()
        await trio.sleep(10)
        mount.store.fail(Method.HEAD, LOST, times=3)
        await mount.save("a", b"2", fsync=True)
        mount.store.reset_counts()
        await mount.drain()
        assert mount.store.counts[Method.HEAD] == 0
        assert mount.pending == 0
    assert any_place.bucket.contents() == {"a": b"2"}


async def test_after_a_minute_nothing_is_doubted(any_place: Place, autojump_clock: MockClock) -> None:
    async with any_place.mount() as mount:
        mount.store.fail(Method.PUT, LOST, unseen=True)
        await mount.save("a", b"1", fsync=True)
        await trio.sleep(61)
        began = trio.current_time()
        await mount.unlink("a")
        await mount.drain()
        assert trio.current_time() - began < 2
        assert mount.store.counts[Method.HEAD] == 1, "before it was removed"


async def test_both_names_of_a_hard_linked_file_are_stored_once(any_place: Place, autojump_clock: MockClock) -> None:
    """Each is stored from the other, and then looked at; what was stored last is no reason to store the other again."""
    async with any_place.mount() as mount:
        await mount.save("a", b"1")
        await mount.link("a", "b")
        await mount.drain()
        await trio.sleep(10)
        mount.store.fail([Method.PUT, Method.COPY], LOST, times=2, unseen=True, matches=lambda call: call.key in "ab")
        await mount.chmod("a", 0o600)
        await mount.drain()
        mount.store.reset_counts()
        await mount.chmod("a", 0o640)
        await mount.drain()
        assert mount.store.counts[Method.PUT] + mount.store.counts[Method.COPY] <= 3
        assert mount.pending == 0
    assert [key for key in any_place.bucket.contents() if not key.startswith(".b2fs/")] == ["a", "b"]


async def test_one_of_several_names_that_is_covered_is_stored_again(
    any_place: Place, autojump_clock: MockClock
) -> None:
    async with any_place.mount() as mount:
        await mount.save("a", b"1")
        await mount.link("a", "b")
        await mount.drain()
        await trio.sleep(10)
        mount.store.fail([Method.PUT, Method.COPY], LOST, times=2, unseen=True, matches=lambda call: call.key in "ab")
        await mount.chmod("a", 0o600)
        await mount.drain()
        await mount.save("a", b"2")
        await mount.fsync("a")
        for name in "ab":
            land(mount, name, b"1")
        await mount.drain()
    contents = any_place.bucket.contents()
    assert {name: contents[name] for name in "ab"} == {"a": b"2", "b": b"2"}
