"""Faults of the bucket and of the disk: nothing is lost, nothing comes back, and who has to know is told once."""

from __future__ import annotations

import errno
import os

import pytest
import trio
from trio.testing import MockClock

from b2fs.errors import CapExceeded, FsError, SlowDown, TimedOut, Unavailable, errno_of
from b2fs.store.forward import CHANGES, Method
from tests.writeback.harness import Mount, Place

LARGE = os.urandom(300_000)


@pytest.mark.parametrize(
    "error",
    [Unavailable("500 InternalError"), SlowDown("503 SlowDown", 3.0), TimedOut("no answer"), Unavailable("reset")],
    ids=["500", "slow-down", "timeout", "reset"],
)
@pytest.mark.parametrize("answer_lost", [False, True], ids=["refused", "answer lost"])
async def test_what_passes_is_tried_again_until_all_has_arrived(
    place: Place, autojump_clock: MockClock, error: Exception, answer_lost: bool
) -> None:
    async with place.mount() as mount:
        mount.store.fail(CHANGES, error, times=7, answer_lost=answer_lost)
        await mount.mkdir("d")
        await mount.save("d/a", b"a")
        await mount.save("d/b", LARGE)
        await mount.symlink("a", "d/l")
        await trio.sleep(300)
        assert mount.pending == 0
        await mount.rename("d", "e")
        mount.store.fail(CHANGES, error, times=7, answer_lost=answer_lost)
        await trio.sleep(300)
        assert mount.pending == 0
        status = mount.fs.writeback.status()
        assert (status.failed, status.offline) == ((), False)
    assert place.bucket.contents() == {"e/": b"", "e/a": b"a", "e/b": LARGE, "e/l": b"a"}


async def test_slow_down_is_obeyed(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        mount.store.fail(Method.PUT, lambda: SlowDown("503", 30.0))
        await mount.save("a", b"1")
        await trio.sleep(60)
        first, second = mount.store.versions_made("a")
        assert second.asked_at >= first.answered_at + 30
    assert place.bucket.contents() == {"a": b"1"}


async def test_what_is_unlinked_after_a_lost_answer_does_not_come_back(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount(ttl_s=1.0) as mount:
        mount.store.fail(Method.PUT, Unavailable("reset"), answer_lost=True)
        await mount.save("a", b"1")
        await mount.store.wait_calls(Method.PUT, 1)
        await trio.sleep(0.01)
        await mount.unlink("a")
        await mount.drain()
        await trio.sleep(60)
        assert await mount.names() == set()
    assert place.bucket.contents() == {}


async def test_what_is_unlinked_while_an_answer_gets_lost_does_not_come_back(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount:
        mount.store.fail(Method.PUT, Unavailable("reset"), answer_lost=True)
        mount.store.pause([Method.PUT])
        await mount.save("a", b"1")
        await mount.store.wait_held()
        await mount.unlink("a")
        await mount.store.resume()
        await mount.drain()
    assert place.bucket.contents() == {}


async def test_an_unreachable_bucket_is_said_to_be_offline(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        await mount.save("a", b"old")
        await mount.drain()
        await trio.sleep(100)
        mount.store.fail(CHANGES, Unavailable("no route"), times=None)
        await mount.save("a", b"new")
        await trio.sleep(10)
        assert mount.fs.writeback.status().offline
        assert await mount.read("a") == b"new"
        assert place.bucket.contents() == {"a": b"old"}
        handle = await mount.open("a")
        with pytest.raises(TimedOut):
            await mount.fs.fsync(handle, False)
        mount.store.heal()
        await mount.fs.fsync(handle, False)
        assert not mount.fs.writeback.status().offline
        await mount.close(handle)
    assert place.bucket.contents() == {"a": b"new"}


async def test_a_refusal_is_told_to_each_open_writer_once(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        mount.store.fail(Method.PUT, CapExceeded("the cap is used up"), matches=lambda call: call.key == "a")
        first, second = await mount.create("a"), await mount.open("a")
        reader, other = await mount.open("a", os.O_RDONLY), await mount.create("b")
        await mount.write(first, 0, b"1")
        await trio.sleep(15)
        assert [item.path for item in mount.fs.writeback.status().failed] == ["a"]
        for writer in (first, second):
            with pytest.raises(CapExceeded) as caught:
                await mount.fs.flush(writer)
            assert errno_of(caught.value) == errno.EDQUOT
            await mount.fs.flush(writer)
        for innocent in (reader, other):
            await mount.fs.flush(innocent)
        await trio.sleep(60)
        assert mount.fs.writeback.status().failed == ()
        for handle in (first, second, reader, other):
            await mount.close(handle)
        await mount.drain()
    assert place.bucket.contents() == {"a": b"1", "b": b""}


async def test_a_used_up_cap_is_edquot_for_fsync_and_passes_by_itself(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        mount.store.fail(CHANGES, CapExceeded("the storage cap is used up"), times=None)
        handle = await mount.create("a")
        await mount.write(handle, 0, b"1")
        with pytest.raises(CapExceeded):
            await mount.fs.fsync(handle, False)
        await mount.write(handle, 1, b"2")
        assert place.bucket.contents() == {}
        mount.store.heal()
        await trio.sleep(90)
        assert place.bucket.contents() == {"a": b"12"}
        place.crash()
    async with place.mount() as mount:
        assert await mount.tree() == {"a": b"12"}


async def test_a_refusal_stays_in_the_status_and_a_drain_tells_it(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        mount.store.fail(Method.PUT, CapExceeded("cap"), times=None, matches=lambda call: call.key == "a")
        await mount.save("a", b"1")
        await mount.save("b", b"2")
        with pytest.raises(CapExceeded):
            await mount.drain()
        assert place.bucket.contents() == {"b": b"2"}
        (item,) = mount.fs.writeback.status().failed
        assert (item.path, item.error) == ("a", "cap")


async def test_a_mistake_inside_b2fs_does_not_end_the_mount(
    place: Place, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with place.mount() as mount:
        mount.store.fail(Method.PUT, ZeroDivisionError("a mistake"), matches=lambda call: call.key == "a")
        await mount.save("a", b"a")
        await mount.save("b", b"b")
        await trio.sleep(10)
        (item,) = mount.fs.writeback.status().failed
        assert (item.path, "mistake" in item.error) == ("a", True)
        await trio.sleep(60)
        assert mount.pending == 0
    assert place.bucket.contents() == {"a": b"a", "b": b"b"}
    assert "Traceback" in caplog.text
    caplog.clear()  # it was expected


async def test_a_full_disk_refuses_before_bytes_are_accepted(
    place: Place, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.mount() as mount:
        await mount.save("a", b"old")
        await mount.drain()
        handle = await mount.open("a")
        full = os.statvfs_result((4096, 4096, 100, 1, 1, 100, 100, 100, 0, 255))
        with monkeypatch.context() as patch:
            patch.setattr(os, "statvfs", lambda path: full)
            mount.fs._core.room._until_look = 0  # it is asked again once in so many bytes
            with pytest.raises(FsError) as caught:
                await mount.write(handle, 0, b"new")
        assert caught.value.code == errno.ENOSPC
        assert await mount.read("a") == b"old"
        await mount.write(handle, 0, b"new")
        await mount.close(handle)
        await mount.drain()
    assert place.bucket.contents() == {"a": b"new"}


async def test_a_journal_that_cannot_grow_refuses_changes_and_forgets_none(
    place: Place, autojump_clock: MockClock
) -> None:
    """Neither those before, nor what it refused, which is there all the same; uploads go on, and nothing ends."""
    async with place.mount() as mount:
        await mount.save("before", b"before")
        mount.store.pause(CHANGES)
        await mount.save("waits", b"waits")
        await mount.store.wait_held()
        fill_journal(mount)
        refused = 0
        for number in range(200):
            try:
                await mount.save(f"f{number}", b"%d" % number)
            except OSError as error:
                assert errno_of(error) == errno.ENOSPC
                refused += 1
        assert 0 < refused < 200
        await mount.store.resume()
        await trio.sleep(100)
        assert await mount.read("waits") == b"waits"
        fill_journal(mount, full=False)
        await mount.save("after", b"after")
        expected = await mount.tree()
        assert (expected["before"], expected["after"]) == (b"before", b"after")
        place.crash()
    async with place.mount() as mount:
        assert await mount.tree() == expected
        await mount.drain()
    assert place.bucket.contents() == expected


def fill_journal(mount: Mount, *, full: bool = True) -> None:
    """Let SQLite find the disk full when it needs another page; or give it room again."""
    database = mount.fs._core.ledger._db
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count={pages if full else 1 << 30}")


async def test_many_files_and_many_faults(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        mount.store.fail(CHANGES, Unavailable("500"), times=None, probability=0.2)
        mount.store.fail(CHANGES, Unavailable("reset"), times=None, probability=0.2, answer_lost=True)
        expected = {}
        for number in range(60):
            name = f"f{number}"
            await mount.save(name, b"first")
            if number % 3 == 0:
                await trio.sleep(0.5)
            if number % 4 == 1:
                await mount.unlink(name)
            elif number % 4 == 2:
                await mount.rename(name, f"g{number}")
                expected[f"g{number}"] = b"first"
            else:
                await mount.save(name, b"second")
                expected[name] = b"second"
        await trio.sleep(2000)
        assert mount.pending == 0
        assert await mount.tree() == expected
    assert place.bucket.contents() == expected
