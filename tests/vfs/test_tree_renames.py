"""Directories are renamed while others change what is in them, and files are stored under several names meanwhile."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.errors import FsError
from b2fs.store.forward import Method, StoreCall
from tests.model.invariants import broken
from tests.writeback.conftest import autojump_clock, place
from tests.writeback.harness import CALLER, Mount, Place
from tests.writeback.memstore import MemStore

__all__ = ["autojump_clock", "place"]


@asynccontextmanager
async def _while_listed(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, call: Callable[[], Awaitable[None]]
) -> AsyncIterator[None]:
    """Begin a call; the block runs when the bucket has answered its listing, which the call gets after the block."""
    listed, go_on = trio.Event(), trio.Event()
    around = mount.store.around

    async def late(asked: StoreCall, ask: Callable[[], Awaitable[object]]) -> object:
        answer = await around(asked, ask)
        if asked.method is Method.LIST_OBJECTS and not listed.is_set():
            listed.set()
            await go_on.wait()
        return answer

    async with trio.open_nursery() as nursery:
        monkeypatch.setattr(mount.store, "around", late)
        nursery.start_soon(call)
        await listed.wait()
        yield
        go_on.set()


async def _filled(mount: Mount) -> None:
    await mount.mkdir("d")
    await mount.save("d/a", b"content of a")
    await mount.save("d/b", b"content of b")
    await mount.drain()


async def test_what_is_removed_while_its_directory_is_listed_stays_gone(
    place: Place, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.mount() as mount:
        await _filled(mount)
        async with _while_listed(mount, monkeypatch, lambda: mount.rename("d", "e")):
            await mount.unlink("d/a")
            await mount.drain()
        assert await mount.tree() == {"e": None, "e/b": b"content of b"}
        await mount.drain()
    assert place.bucket.contents() == {"e/": b"", "e/b": b"content of b"}


async def test_what_is_stored_while_its_directory_is_listed_moves_along(
    place: Place, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.mount() as mount:
        await _filled(mount)
        async with _while_listed(mount, monkeypatch, lambda: mount.rename("d", "e")):
            await mount.save("d/new", b"new")
            await mount.drain()
        await mount.drain()
    expected = {"e/": b"", "e/a": b"content of a", "e/b": b"content of b", "e/new": b"new"}
    assert place.bucket.contents() == expected


async def test_nothing_moves_into_a_directory_that_was_removed_meanwhile(
    place: Place, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.mount() as mount:
        await _filled(mount)
        await mount.mkdir("t")
        await mount.drain()
        failed: list[int] = []

        async def move() -> None:
            try:
                await mount.rename("d", "t/d")
            except FsError as error:
                failed.append(error.code)

        async with _while_listed(mount, monkeypatch, move):
            await mount.rmdir("t")
        assert failed == [errno.ENOENT]
        assert await mount.tree() == {"d": None, "d/a": b"content of a", "d/b": b"content of b"}


async def test_a_write_reaches_a_name_that_had_been_stored_while_another_had_not(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount:
        mount.keep = True
        await mount.save("a", b"first")
        await mount.link("a", "b")
        await mount.drain()
        go_on = trio.Event()

        async def hold_b(call: StoreCall) -> None:
            if call.key == "b":
                await go_on.wait()

        mount.store.hook = hold_b
        await _write(mount, b"other")
        await trio.sleep(100)
        assert place.bucket.contents() == {"a": b"other", "b": b"first"}
        await _write(mount, b"third")
        go_on.set()
        await mount.drain()
    assert place.bucket.contents() == {"a": b"third", "b": b"third"}


async def _write(mount: Mount, data: bytes) -> None:
    handle = await mount.open("a")
    await mount.write(handle, 0, data)
    await mount.close(handle)


async def test_a_file_that_comes_back_to_its_name_while_another_is_stored_there_keeps_its_content(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount:
        await mount.save("a", b"first", fsync=True)
        go_on, held = trio.Event(), trio.Event()

        async def hold(call: StoreCall) -> None:
            if call.method is Method.PUT and call.key == "a":
                held.set()
                await go_on.wait()

        mount.store.hook = hold
        await mount.rename("a", "b")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_save_durably, mount, "a", b"second")
            await held.wait()
            await mount.rename("b", "a")
            go_on.set()
        await mount.drain()
        assert await mount.read("a") == b"first"
    assert place.bucket.contents() == {"a": b"first"}


async def _save_durably(mount: Mount, path: str, data: bytes) -> None:
    await mount.save(path, data, fsync=True)


async def test_what_was_moved_away_and_back_at_once_is_seen(place: Place, autojump_clock: MockClock) -> None:
    # With one call at a time the second rename comes before the first one is carried out.
    async with place.mount(config=WriteBackConfig(requests=1)) as mount:
        await _filled(mount)
        await mount.rename("d", "e")
        await mount.rename("e", "d")
        await mount.drain()
        assert await mount.tree() == {"d": None, "d/a": b"content of a", "d/b": b"content of b"}


async def _implied(place: Place, mount: Mount) -> None:
    """A directory `x` is known of which the only file was removed by somebody else."""
    async with MemStore(place.bucket, place.capabilities) as other:
        await other.put("x/f", b"")
        await trio.sleep(61)  # until the root is listed again
        assert await mount.names() == {"x", "empty"}
        await other.hide("x/f")


async def test_a_directory_without_an_object_takes_the_place_of_one_with(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount:
        await mount.mkdir("empty")
        await _implied(place, mount)
        await mount.rename("x", "empty")
        assert await mount.tree() == {"empty": None}
        await mount.drain()
    place.forget_cache()
    async with place.mount() as mount:
        assert await mount.tree() == {"empty": None}


async def test_a_removed_directory_without_an_object_is_gone_at_once(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        await mount.mkdir("empty")
        await _implied(place, mount)
        await mount.rmdir("x")
        assert await mount.names() == {"empty"}


async def test_a_directory_is_seen_again_when_something_is_stored_below_it(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount:
        await mount.mkdir("empty")
        await _implied(place, mount)
        await mount.rmdir("x")
        async with MemStore(place.bucket, place.capabilities) as other:
            await other.put("y/f", b"of others")
        await trio.sleep(61)  # until the root is listed again
        await mount.rename("y", "x")
        await mount.drain()
        assert await mount.tree() == {"empty": None, "x": None, "x/f": b"of others"}


async def test_a_listing_goes_on_while_its_directory_is_moved(place: Place, autojump_clock: MockClock) -> None:
    names = {f"{number:04}" for number in range(20)}
    async with MemStore(place.bucket, place.capabilities) as other:
        for name in names:
            await other.put(f"d/{name}", name.encode())
    async with place.mount() as mount:
        mount.keep = True  # a kernel keeps an open directory
        handle = await mount.fs.opendir(await mount.ino("d"), CALLER)
        entries = mount.fs.readdir(handle, 0)
        seen = {(await anext(entries)).name.decode() for _ in range(3)}
        await mount.rename("d", "e")
        await mount.drain()
        async for entry in entries:
            mount.fs.hold(entry.attr.ino)  # as the kernel does with every entry
            seen.add(entry.name.decode())
        await mount.fs.releasedir(handle)
        assert seen == names
        assert broken(mount.fs) is None
        assert await mount.tree() == {"e": None} | {f"e/{name}": name.encode() for name in names}
