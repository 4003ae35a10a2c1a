"""Attributes that change on a file which somebody else has replaced go onto theirs; neither change is lost."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.cache.writeback.conflicts import ConflictPolicy
from b2fs.core.attrs import Posix, encode
from b2fs.core.nodes import SetAttr
from b2fs.errors import Unavailable
from b2fs.store.forward import Method, StoreCall
from tests.writeback.harness import CALLER, Mount, Place

NEW = b"theirs, longer than ours"


async def _replaced(place: Place, mount: Mount, metadata: dict[str, str] | None = None) -> None:
    """A file that this mount has stored and looked at, of which somebody else has put another version since."""
    await mount.save("a", b"old")
    await mount.drain()
    await trio.sleep(10)
    assert (await mount.stat("a")).size == 3
    place.bucket.add("a", NEW, metadata)


def _mode(place: Place) -> int:
    version = place.bucket.latest("a")
    assert version is not None
    return stat.S_IMODE(int(version.metadata["mode"]))


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("policy", ConflictPolicy)
async def test_the_content_is_theirs_and_the_mode_is_ours(
    any_place: Place, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, policy: ConflictPolicy
) -> None:
    async with any_place.mount(config=WriteBackConfig(conflict=policy)) as mount:
        mount.keep = True  # as a kernel does, which asks for nothing anew
        await _replaced(any_place, mount)
        await mount.chmod("a", 0o600)
        await mount.drain()
        found = await mount.stat("a")
        assert (found.size, stat.S_IMODE(found.mode)) == (len(NEW), 0o600)
        assert await mount.read("a") == NEW
        assert mount.fs.writeback.status().conflicts == 0
    assert any_place.bucket.contents() == {"a": NEW}
    assert _mode(any_place) == 0o600
    assert _warnings(caplog) == []
    any_place.forget_cache()
    async with any_place.mount() as mount:
        assert stat.S_IMODE((await mount.stat("a")).mode) == 0o600


async def test_what_was_given_attributes_a_moment_ago_is_looked_at_again(
    any_place: Place, autojump_clock: MockClock
) -> None:
    async with any_place.mount() as mount:
        await _replaced(any_place, mount)
        for number, body in enumerate((b"one", b"two", b"three")):
            await mount.chmod("a", 0o600 + number)
            await mount.drain()
            any_place.bucket.add("a", body)
        await mount.chmod("a", 0o640)
        await mount.drain()
        assert mount.fs.writeback.status().conflicts == 0
    assert any_place.bucket.contents() == {"a": b"three"}
    assert _mode(any_place) == 0o640


async def test_what_they_say_of_their_content_stays(any_place: Place, autojump_clock: MockClock) -> None:
    async with any_place.mount() as mount:
        mount.keep = True
        await mount.save("a", b"old")
        await mount.fs.setxattr(await mount.ino("a"), b"user.ours", b"1", 0, CALLER)
        await mount.drain()
        await trio.sleep(10)
        any_place.bucket.add("a", NEW, {"project": "x"}, "text/markdown")
        ino = await mount.ino("a")
        await mount.fs.setattr(ino, SetAttr(mtime_ns=10**9), None, CALLER)
        await mount.fs.setxattr(ino, b"user.more", b"2", 0, CALLER)
        await mount.drain()
        found = await mount.stat("a")
        assert found.mtime_ns > 10**9  # the content is newer than that
        assert set(await mount.fs.listxattr(found.ino, CALLER)) >= {b"user.ours", b"user.more"}
        version = any_place.bucket.latest("a")
        assert version is not None
        assert (version.metadata["project"], version.content_type) == ("x", "text/markdown")


async def test_ours_come_first_where_there_is_no_room_for_both(any_place: Place, autojump_clock: MockClock) -> None:
    async with any_place.mount() as mount:
        mount.keep = True
        await _replaced(any_place, mount, {"long": "x" * 1900})
        ino = await mount.ino("a")
        for number in range(4):
            await mount.fs.setxattr(ino, b"user.%d" % number, os.urandom(900), 0, CALLER)
        await mount.drain()
        assert len(await mount.fs.getxattr(ino, b"user.3", CALLER)) == 900
        version = any_place.bucket.latest("a")
        assert version is not None
        assert (version.body, "long" in version.metadata, "xattr" in version.metadata) == (NEW, False, True)


async def test_extended_attributes_are_of_both(any_place: Place, autojump_clock: MockClock) -> None:
    theirs = {b"user.theirs": b"3", b"system.posix_acl_access": b"goes with permissions"}
    async with any_place.mount() as mount:
        mount.keep = True
        await _replaced(any_place, mount, encode(Posix(stat.S_IFREG | 0o644, 0, 0, 1, 1, 1, xattrs=theirs)))
        ino = await mount.ino("a")
        await mount.fs.setxattr(ino, b"user.ours", b"1", 0, CALLER)
        await mount.drain()
    any_place.forget_cache()
    async with any_place.mount() as mount:
        mount.keep = True
        names = await mount.fs.listxattr(await mount.ino("a"), CALLER)
        assert {name for name in names if not name.startswith(b"user.b2fs.")} == {b"user.ours", b"user.theirs"}
        assert await mount.read("a") == NEW


async def test_a_file_with_several_names_is_a_conflict(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        await mount.save("a", b"old")
        await mount.link("a", "b")
        await mount.drain()
        await trio.sleep(10)
        place.bucket.add("a", NEW)
        await mount.chmod("b", 0o600)
        await mount.drain()
        assert await mount.read("a") == await mount.read("b") == b"old"
        assert mount.fs.writeback.status().conflicts == 1
    assert NEW in [version.body for version in place.bucket.versions["a"]]


async def test_attributes_that_both_give_are_told_of(
    any_place: Place, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with any_place.mount() as mount:
        await _replaced(any_place, mount, {"mode": str(stat.S_IFREG | 0o444), "uid": "7", "gid": "0"})
        await mount.chmod("a", 0o600)
        await mount.drain()
        assert mount.fs.writeback.status().conflicts == 1
    assert any_place.bucket.contents() == {"a": NEW}
    assert _mode(any_place) == 0o600
    assert _warnings(caplog) == ["a was given other attributes by somebody else as well; ours are on top"]


async def test_who_reads_the_old_version_goes_on_reading_it(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        await _replaced(place, mount)
        handle = await mount.open("a", os.O_RDONLY)
        await mount.chmod("a", 0o600)
        await mount.drain()
        assert bytes(await mount.fs.read(handle, 0, 100)) == b"old"
        assert mount.fs.writeback.status().conflicts == 1
        await mount.close(handle)
    assert [version.body for version in place.bucket.versions["a"]] == [b"old", NEW, b"old"]


@pytest.mark.parametrize("mode", [0o4755, 0o2755])
async def test_what_gives_rights_to_a_content_is_not_given_to_another(
    any_place: Place, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    async with any_place.mount() as mount:
        await _replaced(any_place, mount)
        await mount.chmod("a", mode)
        await mount.drain()
        assert mount.fs.writeback.status().conflicts == 1
        assert stat.S_IMODE((await mount.stat("a")).mode) == 0o755
    assert any_place.bucket.contents() == {"a": NEW}
    assert _mode(any_place) == 0o755
    assert _warnings(caplog) == ["a was replaced by somebody else, so it loses its set-id bits and capabilities"]


async def test_a_capability_is_given_to_one_content(any_place: Place, autojump_clock: MockClock) -> None:
    async with any_place.mount() as mount:
        mount.keep = True
        await _replaced(any_place, mount)
        ino = await mount.ino("a")
        await mount.fs.setxattr(ino, b"security.capability", b"\1\0\0\2" + bytes(16), 0, CALLER)
        await mount.drain()
        assert b"security.capability" not in await mount.fs.listxattr(ino, CALLER)
        assert mount.fs.writeback.status().conflicts == 1
    assert any_place.bucket.contents() == {"a": NEW}


async def test_an_older_content_of_ours_that_comes_late_is_not_taken_over(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount:
        await mount.save("a", b"first")
        await mount.drain()
        late = place.bucket.latest("a")
        assert late is not None
        await mount.save("a", b"second")
        await mount.drain()
        await trio.sleep(10)
        place.bucket.add("a", late.body, late.metadata)
        await mount.chmod("a", 0o600)
        await mount.drain()
        assert await mount.read("a") == b"second"
        assert mount.fs.writeback.status().conflicts == 1
    assert place.bucket.contents() == {"a": b"second"}


async def test_what_has_become_something_else_stays_below_ours(place: Place, autojump_clock: MockClock) -> None:
    """A symbolic link, say, has no use for the mode of a file."""
    async with place.mount() as mount:
        await _replaced(place, mount, {"mode": str(stat.S_IFLNK | 0o777)})
        await mount.chmod("a", 0o600)
        await mount.drain()
        assert mount.fs.writeback.status().conflicts == 1
    assert place.bucket.contents() == {"a": b"old"}


async def _write(mount: Mount) -> bytes:
    handle = await mount.open("a")
    await mount.write(handle, 0, b"T")
    await mount.close(handle)
    return b"T" + NEW[1:]


async def _cut(mount: Mount) -> bytes:
    await mount.truncate("a", 6)
    return NEW[:6]


async def _rename(mount: Mount) -> bytes:
    await mount.rename("a", "b")
    await mount.rename("b", "a")
    return NEW


@pytest.mark.parametrize("change", [_write, _cut, _rename])
async def test_what_is_changed_while_ours_goes_onto_theirs_is_changed_of_theirs(
    any_place: Place, autojump_clock: MockClock, change: Callable[[Mount], Awaitable[bytes]]
) -> None:
    async with any_place.mount() as mount:
        await _replaced(any_place, mount)
        mount.store.pause([Method.COPY])
        await mount.chmod("a", 0o600)
        await mount.store.wait_held()
        expected = await change(mount)
        await mount.store.resume()
        await mount.drain()
        assert await mount.read("a") == expected
        assert mount.fs.writeback.status().conflicts == 0
    assert any_place.bucket.contents() == {"a": expected}
    assert _mode(any_place) == 0o600


async def test_they_may_replace_it_once_more(any_place: Place, autojump_clock: MockClock) -> None:
    """While ours is on its way; the one before is in the history, or was never seen by anybody here."""
    async with any_place.mount() as mount:
        await _replaced(any_place, mount)
        mount.store.pause([Method.COPY])
        await mount.chmod("a", 0o600)
        await mount.store.wait_held()
        any_place.bucket.add("a", b"newest")
        await mount.store.resume()
        await mount.drain()
    versions = [version.body for version in any_place.bucket.versions["a"]]
    if any_place.capabilities.versioning:
        assert versions == [b"old", NEW, b"newest", NEW]
    else:
        assert any_place.bucket.contents() == {"a": b"newest"}
        assert _mode(any_place) == 0o600


@pytest.mark.parametrize("carried_out", [False, True])
async def test_a_kill_on_the_way_loses_neither_change(
    any_place: Place, autojump_clock: MockClock, carried_out: bool
) -> None:
    """Before the server has heard of it, and when it has carried it out and nobody was told."""
    async with any_place.mount() as mount:
        await _replaced(any_place, mount)
        mount.store.fail(Method.COPY, Unavailable("reset"), times=None, answer_lost=carried_out)
        await mount.chmod("a", 0o600)
        await mount.store.wait_calls(Method.COPY, 1)
        await trio.sleep(0.01)
        any_place.crash()
    for _ in range(2):
        async with any_place.mount() as mount:
            await mount.drain()
            assert mount.fs.writeback.status().conflicts == 0
            found = await mount.stat("a")
            assert (found.size, stat.S_IMODE(found.mode)) == (len(NEW), 0o600)
            assert await mount.read("a") == NEW
        assert any_place.bucket.contents() == {"a": NEW}
        assert _mode(any_place) == 0o600


async def test_a_kill_before_anybody_waits_for_the_server(
    any_place: Place, autojump_clock: MockClock, tmp_path: Path
) -> None:
    """The server carries the request out, and nothing has been journaled behind what was there when it was made."""
    twins: list[Place] = []

    async def kill(call: StoreCall) -> None:
        if call.method is Method.COPY and not twins:
            twins.append(any_place.left_behind(tmp_path / "twin"))

    async with any_place.mount() as mount:
        await _replaced(any_place, mount)
        mount.store.hook = kill
        await mount.chmod("a", 0o600)
        await mount.drain()
    done, (twin,) = any_place.bucket.latest("a"), twins
    assert done is not None
    twin.bucket.add("a", done.body, done.metadata)
    async with twin.mount() as mount:
        await mount.drain()
        assert await mount.read("a") == NEW
        assert mount.fs.writeback.status().conflicts == 0
    assert twin.bucket.contents() == {"a": NEW}
    assert _mode(twin) == 0o600


async def test_a_change_that_was_found_after_a_kill_goes_onto_theirs_as_well(
    any_place: Place, autojump_clock: MockClock
) -> None:
    async with any_place.mount() as mount:
        await mount.save("a", b"old")
        await mount.drain()
        await trio.sleep(10)
        mount.store.fail(list(Method), Unavailable("no route to host"), times=None)
        await mount.chmod("a", 0o600)
        any_place.crash()
    any_place.bucket.add("a", NEW)
    async with any_place.mount() as mount:
        await mount.drain()
        assert await mount.read("a") == NEW
        assert mount.fs.writeback.status().conflicts == 0
    assert any_place.bucket.contents() == {"a": NEW}
    assert _mode(any_place) == 0o600
