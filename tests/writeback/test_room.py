"""Files that are larger than the room for dirty files: parts leave the disk, and no byte is lost or made up."""

from __future__ import annotations

import errno
import os

import pytest
import trio
from trio.testing import MockClock

from b2fs.core.nodes import HandleId
from b2fs.errors import FsError, StoreError, Unavailable
from b2fs.store.forward import CHANGES, Method
from tests.writeback.harness import RW, Mount, Place
from tests.writeback.tiny import KIB, PART, ROOM, TINY, append, away, digest, held, noise

BODY = noise(4 * ROOM)
HALF = noise(2 * ROOM)


async def large(mount: Mount, name: str = "a", body: bytes = HALF) -> HandleId:
    """A file of which a part is away; it stays open."""
    handle = await mount.create(name)
    await append(mount, handle, body)
    assert away(mount) > 0
    return handle


async def test_a_file_of_four_times_the_room_is_written_and_read_back_cold(
    tiny: Place, autojump_clock: MockClock
) -> None:
    async with tiny.mount(config=TINY) as mount:
        mount.store.latency_s = 0.02
        await mount.close(await large(mount, body=BODY))
        assert held(mount) <= ROOM
        await mount.drain()
        assert mount.store.counts[Method.UPLOAD_PART] == len(BODY) // PART, "each part goes up once"
        assert mount.store.counts[Method.GET] == 0
        assert digest(await mount.read("a")) == digest(BODY)
    assert digest(tiny.bucket.contents()["a"]) == digest(BODY)
    assert tiny.bucket.uploads == {}
    tiny.forget_cache()
    async with tiny.mount(config=TINY) as mount:
        assert digest(await mount.read("a")) == digest(BODY)


async def test_what_is_away_is_read_while_the_file_is_written(tiny: Place, autojump_clock: MockClock) -> None:
    async with tiny.mount(config=TINY) as mount:
        handle = await large(mount)
        assert digest(await mount.read("a")) == digest(HALF)
        await append(mount, handle, BODY[len(HALF) :], len(HALF))
        assert bytes(await mount.fs.read(handle, 10, 100)) == HALF[10:110]
        await mount.close(handle)
        await mount.drain()
    assert digest(tiny.bucket.contents()["a"]) == digest(HALF + BODY[len(HALF) :])


@pytest.mark.parametrize("offset", [0, PART - 5, 3 * PART + 1, len(HALF) - 3])
async def test_what_is_away_is_written_over(tiny: Place, autojump_clock: MockClock, offset: int) -> None:
    wanted = bytearray(HALF + bytes(10))
    wanted[offset : offset + 10] = b"0123456789"
    async with tiny.mount(config=TINY) as mount:
        handle = await large(mount)
        await mount.write(handle, offset, b"0123456789")
        expected = bytes(wanted[: max(len(HALF), offset + 10)])
        assert digest(await mount.read("a")) == digest(expected)
        await mount.close(handle)
        await mount.drain()
    assert digest(tiny.bucket.contents()["a"]) == digest(expected)
    assert {digest(body) for body in tiny.bucket.shown["a"]} <= {digest(HALF), digest(expected)}, "a torn content"


@pytest.mark.parametrize("size", [0, 5, PART, PART + 5, len(HALF) - 5, len(HALF) + 5])
async def test_what_is_away_is_cut(tiny: Place, autojump_clock: MockClock, size: int) -> None:
    expected = (HALF + bytes(10))[:size]
    async with tiny.mount(config=TINY) as mount:
        handle = await large(mount)
        await mount.truncate("a", size)
        assert digest(await mount.read("a")) == digest(expected)
        tiny.crash()
        await mount.close(handle)
    async with tiny.mount(config=TINY) as mount:
        assert digest(await mount.read("a")) == digest(expected)
        await mount.drain()
    assert digest(tiny.bucket.contents()["a"]) == digest(expected)
    assert tiny.bucket.uploads == {}


async def test_a_file_grows_again_where_parts_that_were_away_were_cut_off(
    tiny: Place, autojump_clock: MockClock
) -> None:
    """The rows of those parts are gone too: after a crash nothing of them comes back."""
    async with tiny.mount(config=TINY) as mount:
        handle = await large(mount)
        await mount.truncate("a", 0)
        await mount.truncate("a", len(HALF))
        tiny.crash()
        await mount.close(handle)
    async with tiny.mount(config=TINY) as mount:
        assert digest(await mount.read("a")) == digest(bytes(len(HALF)))


async def test_a_fsync_and_more(tiny: Place, autojump_clock: MockClock) -> None:
    async with tiny.mount(config=TINY) as mount:
        handle = await large(mount)
        await mount.fs.fsync(handle, False)
        assert digest(tiny.bucket.contents()["a"]) == digest(HALF)
        assert away(mount) == 0
        await append(mount, handle, BODY[len(HALF) :], len(HALF))
        await mount.fs.fsync(handle, False)
        await mount.close(handle)
        await mount.drain()
    assert digest(tiny.bucket.contents()["a"]) == digest(HALF + BODY[len(HALF) :])


async def test_random_writes_to_a_file_that_is_larger_than_the_room(tiny: Place, autojump_clock: MockClock) -> None:
    body = bytearray(len(HALF))
    async with tiny.mount(config=TINY) as mount:
        handle = await mount.create("a")
        await mount.truncate("a", len(body))
        for number, offset in enumerate(range(0, 40 * len(HALF), 37 * KIB)):
            at = offset % (len(HALF) - 8 * KIB)
            piece = noise(8 * KIB, number)
            await mount.write(handle, at, piece)
            body[at : at + len(piece)] = piece
            assert held(mount) <= ROOM + 8 * KIB
        assert digest(await mount.read("a")) == digest(bytes(body))
        await mount.close(handle)
        await mount.drain()
    assert digest(tiny.bucket.contents()["a"]) == digest(bytes(body))


# ---- names ----------------------------------------------------------------------------------------------------------


async def test_an_open_file_lives_on_without_its_name(tiny: Place, autojump_clock: MockClock) -> None:
    async with tiny.mount(config=TINY) as mount:
        handle = await large(mount)
        await mount.unlink("a")
        for start in (0, 5 * PART, len(HALF) - 100):
            assert bytes(await mount.fs.read(handle, start, 100)) == HALF[start : start + 100]
        await mount.close(handle)
        await mount.drain()
        assert held(mount) == 0
    assert tiny.bucket.contents() == {}
    assert tiny.bucket.uploads == {}


async def test_a_file_that_is_removed_needs_no_upload(tiny: Place, autojump_clock: MockClock) -> None:
    async with tiny.mount(config=TINY) as mount:
        await mount.close(await large(mount))
        await mount.unlink("a")
        await mount.drain()
        await trio.sleep(10)
        assert mount.store.counts[Method.COMPLETE_UPLOAD] == 0
    assert tiny.bucket.held() == set()
    assert tiny.bucket.uploads == {}


@pytest.mark.parametrize("failing", [False, True], ids=["at once", "after a failure"])
async def test_a_renamed_file_is_under_its_new_name_alone(
    tiny: Place, autojump_clock: MockClock, failing: bool
) -> None:
    async with tiny.mount(config=TINY) as mount:
        handle = await large(mount)
        if failing:
            mount.store.fail(CHANGES, Unavailable("500"), times=None)
            await mount.close(handle)
            await trio.sleep(20)
        await mount.rename("a", "b")
        await mount.save("a", b"another")
        tiny.crash()
        mount.store.heal()
        if not failing:
            await mount.close(handle)
    async with tiny.mount(config=TINY) as mount:
        assert await mount.read("a") == b"another"
        assert digest(await mount.read("b")) == digest(HALF)
        await mount.drain()
    assert {key: digest(body) for key, body in tiny.bucket.contents().items()} == {
        "a": digest(b"another"),
        "b": digest(HALF),
    }
    assert tiny.bucket.uploads == {}


async def test_a_file_that_is_renamed_between_two_tries(tiny: Place, autojump_clock: MockClock) -> None:
    async with tiny.mount(config=TINY) as mount:
        handle = await large(mount)
        mount.store.fail(CHANGES, Unavailable("500"), times=None)
        await mount.close(handle)
        await trio.sleep(20)
        await mount.rename("a", "b")
        await mount.rename("b", "c")
        mount.store.heal()
        await trio.sleep(300)
        assert mount.pending == 0
        assert digest(await mount.read("c")) == digest(HALF)
    assert {key: digest(body) for key, body in tiny.bucket.contents().items()} == {"c": digest(HALF)}
    assert tiny.bucket.uploads == {}


async def test_an_open_file_that_is_replaced_by_a_rename_is_read_on(tiny: Place, autojump_clock: MockClock) -> None:
    async with tiny.mount(config=TINY) as mount:
        handle = await large(mount)
        await mount.save("b", b"new")
        await mount.rename("b", "a")
        assert await mount.read("a") == b"new"
        assert bytes(await mount.fs.read(handle, 0, 100)) == HALF[:100]
        await mount.close(handle)
        await mount.drain()
    assert tiny.bucket.contents() == {"a": b"new"}
    assert tiny.bucket.uploads == {}


# ---- failures -------------------------------------------------------------------------------------------------------


async def test_writers_wait_while_the_bucket_is_away_for_a_moment(tiny: Place, autojump_clock: MockClock) -> None:
    async with tiny.mount(config=TINY) as mount:
        handle = await large(mount)
        mount.store.fail(CHANGES, Unavailable("500"), times=6)
        await append(mount, handle, BODY[len(HALF) :], len(HALF))
        await mount.close(handle)
        await mount.drain()
    assert digest(tiny.bucket.contents()["a"]) == digest(HALF + BODY[len(HALF) :])


async def test_of_several_writers_that_wait_each_goes_on_when_there_is_room(
    tiny: Place, autojump_clock: MockClock
) -> None:
    """The first that finds room ends the time without room for all of them."""
    names = "abcd"
    async with tiny.mount(config=TINY) as mount:
        mount.store.fail(CHANGES, Unavailable("500"), times=6)

        async def write(name: str) -> None:
            handle = await mount.create(name)
            for at in range(0, len(HALF), PART):
                await mount.write(handle, at, HALF[at : at + PART])
            await mount.close(handle)

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(write, name)
        await mount.drain()
    assert {name: digest(tiny.bucket.contents()[name]) for name in names} == dict.fromkeys(names, digest(HALF))


async def test_no_space_when_nothing_can_leave_for_long(tiny: Place, autojump_clock: MockClock) -> None:
    async with tiny.mount(config=TINY) as mount:
        mount.store.fail(CHANGES, Unavailable("500"), times=None)
        handle = await mount.create("a")
        written = 0
        with pytest.raises(FsError) as caught:
            while True:
                await mount.write(handle, written, HALF[written : written + PART])
                written += PART
        assert caught.value.code == errno.ENOSPC
        assert ROOM // 2 < written <= ROOM
        assert digest(await mount.read("a")) == digest(HALF[:written])
        mount.store.heal()
        await trio.sleep(120)
        await append(mount, handle, HALF[written:], written)
        await mount.close(handle)
        await mount.drain()
    assert digest(tiny.bucket.contents()["a"]) == digest(HALF)


async def test_an_upload_that_the_server_drops_is_told_and_never_completed_with_holes(
    tiny: Place, autojump_clock: MockClock
) -> None:
    async with tiny.mount(config=TINY) as mount:
        handle = await large(mount)
        await mount.save("b", b"b")
        tiny.bucket.uploads.clear()
        with pytest.raises(StoreError, match="dropped"):
            await mount.fs.fsync(handle, False)
        with pytest.raises(StoreError, match="dropped"):
            await mount.fs.read(handle, 0, 100)
        assert bytes(await mount.fs.read(handle, len(HALF) - 10, 10)) == HALF[-10:], "what is here can be read"
        await mount.close(handle)
        with pytest.raises(StoreError, match="dropped"):
            await mount.drain()
        (item,) = mount.fs.writeback.status().failed
        assert item.path == "a"
        tiny.crash()
    async with tiny.mount(config=TINY) as mount:
        with pytest.raises(StoreError):
            await mount.read("a")
        assert "a" not in tiny.bucket.contents()
        await mount.save("a", b"anew")
        await mount.drain()
    assert tiny.bucket.contents() == {"a": b"anew", "b": b"b"}


async def test_what_was_lost_can_be_renamed_and_removed(tiny: Place, autojump_clock: MockClock) -> None:
    async with tiny.mount(config=TINY) as mount:
        await mount.close(await large(mount))
        tiny.bucket.uploads.clear()
        await trio.sleep(10)
        await mount.rename("a", "b")
        await mount.save("a", b"another")
        with pytest.raises(StoreError):
            await mount.drain()
        assert tiny.bucket.contents() == {"a": b"another"}
        await mount.unlink("b")
        await mount.drain()
    assert tiny.bucket.contents() == {"a": b"another"}


async def test_without_holes_in_files_nothing_leaves(
    tiny: Place, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some filesystems cannot punch holes: then writers wait for the upload instead, or run out of room."""
    async with tiny.mount(config=TINY) as mount:
        monkeypatch.setattr(mount.fs._core.files, "can_punch", lambda: False)
        handle = await mount.create("a", RW | os.O_CREAT)
        with pytest.raises(FsError) as caught:
            await append(mount, handle, HALF)
        assert caught.value.code == errno.ENOSPC
        assert away(mount) == 0
        await mount.close(handle)
        await mount.drain()
    assert HALF.startswith(tiny.bucket.contents()["a"])


# ---- files that stay open --------------------------------------------------------------------------------------------


async def test_a_large_open_file_is_stored_when_it_no_longer_grows_and_then_sends_what_is_new(
    tiny: Place, autojump_clock: MockClock
) -> None:
    body = noise(6 * PART)
    async with tiny.mount(config=TINY) as mount:
        handle = await mount.create("log")
        await append(mount, handle, body)
        await trio.sleep(60)
        assert digest(tiny.bucket.contents()["log"]) == digest(body)
        sent = mount.store.bytes_up
        for number in range(5):
            await mount.write(handle, len(body), b"line %d\n" % number)
            body += b"line %d\n" % number
            await trio.sleep(60)
            assert digest(tiny.bucket.contents()["log"]) == digest(body)
        assert mount.store.bytes_up - sent < 5 * PART, "not all of it again for each line"
        assert digest(await mount.read("log")) == digest(body)
        assert mount.store.counts[Method.GET] == 0, "what is here is not fetched"
        await mount.close(handle)
        await mount.drain()
    assert digest(tiny.bucket.contents()["log"]) == digest(body)


async def test_a_file_that_is_appended_to_all_the_time_is_stored_all_the_same(
    tiny: Place, autojump_clock: MockClock
) -> None:
    """F18: each append would make a plan of its parts anew, if it did not only count for the next version."""
    body = noise(6 * PART)
    async with tiny.mount(config=TINY) as mount:
        mount.store.latency_s = 0.3
        handle = await mount.create("log")
        await append(mount, handle, body)
        await mount.fs.fsync(handle, False)
        for number in range(600):
            await mount.write(handle, len(body), b"line %d\n" % number)
            body += b"line %d\n" % number
            await trio.sleep(0.2)
            assert not mount.fs.writeback.status().failed
        assert len(tiny.bucket.contents()["log"]) > 6 * PART, "never stored while it grows"
        shown = [seen for seen in tiny.bucket.shown["log"] if seen is not None]
        assert all(body.startswith(seen) for seen in shown), "a content that the file never had"
        await mount.close(handle)
        await mount.drain()
    assert digest(tiny.bucket.contents()["log"]) == digest(body)


async def test_many_open_files_that_are_stored_need_no_room(tiny: Place, autojump_clock: MockClock) -> None:
    """Their names still have one object each; what is here of them is only dropped."""
    names = [f"f{number}" for number in range(2 * ROOM // PART)]
    bodies = {name: noise(PART, number) for number, name in enumerate(names)}
    async with tiny.mount(config=TINY) as mount:
        handles = {name: await mount.create(name) for name in names}
        for name, handle in handles.items():
            await append(mount, handle, bodies[name])
        await mount.drain()
        for name, handle in handles.items():
            assert digest(bytes(await mount.fs.read(handle, 0, PART))) == digest(bodies[name])
            await mount.write(handle, 100, b"changed")
            bodies[name] = bodies[name][:100] + b"changed" + bodies[name][107:]
        after = tiny.left_behind(tiny.root / "after")
        assert held(mount) <= ROOM
        for name, handle in handles.items():
            assert digest(await mount.read(name)) == digest(bodies[name])
            await mount.close(handle)
        await mount.drain()
    assert tiny.bucket.contents() == bodies
    async with after.mount(config=TINY) as mount:
        for name in names:
            assert digest(await mount.read(name)) == digest(bodies[name])
        await mount.drain()
    assert after.bucket.contents() == bodies
