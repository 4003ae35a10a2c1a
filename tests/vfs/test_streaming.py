"""A directory too long for one page: its first names come before its last page, and each name comes once."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import trio
import trio.testing

from b2fs.core.nodes import HandleId
from b2fs.errors import Unavailable
from b2fs.store.embedded.store import EmbeddedStore
from b2fs.store.forward import ForwardingStore, Method, StoreCall
from b2fs.vfs.config import VfsConfig
from tests.vfs.bucket import ANYBODY, Mount, bucket, fill, mount

T = TypeVar("T")
CONFIG = VfsConfig("", attr_index=False)
NAMES = [f"f{number:04}" for number in range(2500)]


class HeldPages(ForwardingStore):
    """The pages of listings of `d/`, but the first, arrive when they are let through."""

    def __init__(self, inner: EmbeddedStore) -> None:
        super().__init__(inner)
        self.asked = 0
        self.gate = trio.Event()

    async def around(self, call: StoreCall, ask: Callable[[], Awaitable[T]]) -> T:
        if call.method is Method.LIST_OBJECTS and call.key == "d/":
            self.asked += 1
            if self.asked > 1:
                await self.gate.wait()
        return await ask()


@asynccontextmanager
async def _held(tmp_path: Path, names: list[str]) -> AsyncIterator[tuple[Mount, HeldPages, EmbeddedStore, HandleId]]:
    """A mount on a bucket with these names in `d`, which is open for reading, while the second page is held back."""
    async with bucket(tmp_path) as store:
        await fill(store, (f"d/{name}" for name in names))
        held = HeldPages(store)
        async with mount(held, tmp_path / "cache", CONFIG) as mounted:
            handle = await mounted.fs.opendir((await mounted.find("d")).ino, ANYBODY)
            yield mounted, held, store, handle
            await mounted.fs.releasedir(handle)


async def _read(mounted: Mount, handle: HandleId, start: int, count: int = 1 << 30) -> list[tuple[str, int]]:
    """(name, cookie) of up to so many entries behind a cookie, as one request of the kernel gets them."""
    found: list[tuple[str, int]] = []
    entries = mounted.fs.readdir(handle, start)
    async with aclosing(entries):  # type: ignore[type-var]  # it is a generator, as the shell knows too
        async for entry in entries:
            mounted.fs.hold(entry.attr.ino)
            found.append((os.fsdecode(entry.name), entry.cookie))
            if len(found) == count:
                break
    return found


async def test_the_first_entries_come_while_the_second_page_is_held_back(tmp_path: Path) -> None:
    async with _held(tmp_path, NAMES) as (mounted, held, _, handle):
        first = await _read(mounted, handle, 0, 900)
        assert [name for name, _ in first] == NAMES[:900]
        assert not held.gate.is_set()
        held.gate.set()
        rest = await _read(mounted, handle, first[-1][1])
        assert [name for name, _ in first + rest] == NAMES


async def test_seeking_and_rewinding_while_a_page_is_held_back(tmp_path: Path) -> None:
    async with _held(tmp_path, NAMES) as (mounted, held, _, handle):
        first = await _read(mounted, handle, 0, 900)
        assert await _read(mounted, handle, first[99][1], 50) == first[100:150]
        assert await _read(mounted, handle, first[799][1], 100) == first[800:900]
        assert await _read(mounted, handle, 0, 10) == first[:10]
        held.gate.set()
        again = await _read(mounted, handle, 0)
        assert [name for name, _ in again] == NAMES
        assert await _read(mounted, handle, again[1999][1], 100) == again[2000:2100]


async def test_what_changes_between_two_pages_is_neither_lost_nor_doubled(tmp_path: Path) -> None:
    async with _held(tmp_path, NAMES) as (mounted, held, store, handle):
        directory = (await mounted.find("d")).ino
        await mounted.write("d/f1777", b"changed before anything was read")
        first = await _read(mounted, handle, 0, 500)
        for name in ("f0001", "f0900", "f1500"):  # handed out, on this page, on a later one
            await mounted.fs.unlink(directory, name.encode(), ANYBODY)
        for name in ("a-new", "z-new"):
            await mounted.write(f"d/{name}", b"new")
        await mounted.fs.rename(directory, b"f0902", directory, b"f2450-moved", 0, ANYBODY)
        await mounted.drain()
        await store.put("d/f2499-foreign", b"of somebody else")
        held.gate.set()
        names = [name for name, _ in first + await _read(mounted, handle, first[-1][1])]
        assert len(names) == len(set(names))
        assert {*NAMES} - {"f0900", "f0902", "f1500"} <= set(names)
        assert {"f0900", "f1500"}.isdisjoint(names)
        now = sorted(await mounted.list_inode(directory))
        assert {"a-new", "z-new", "f2450-moved"} <= set(now)
        assert {"f0001", "f0900", "f0902", "f1500"}.isdisjoint(now)


async def test_names_that_stay_come_once_while_another_client_adds_and_removes(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        stay, others = NAMES[::2], NAMES[1::2]
        await fill(store, (f"d/{name}" for name in (*stay, *others[::2])))
        async with mount(store, tmp_path / "cache", CONFIG) as mounted:
            directory = (await mounted.find("d")).ino
            for turn in range(3):
                handle = await mounted.fs.opendir(directory, ANYBODY)
                found: list[tuple[str, int]] = []
                while (piece := await _read(mounted, handle, found[-1][1] if found else 0, 300)) != []:
                    found += piece
                    name = others[len(found) * 7 % len(others)]
                    await (store.hide(f"d/{name}") if turn % 2 else store.put(f"d/{name}", b"new"))
                await mounted.fs.releasedir(handle)
                names = [name for name, _ in found]
                assert len(names) == len(set(names))
                assert set(stay) <= set(names)
                await mounted.fs.refresh()


async def test_an_object_whose_directory_is_on_the_next_page_has_one_name(tmp_path: Path) -> None:
    keys = ["a", *(f"a-{number:04}" for number in range(1200)), "a/below"]
    async with _held(tmp_path, keys) as (mounted, held, _, handle):
        first = await _read(mounted, handle, 0, 500)
        held.gate.set()
        names = [name for name, _ in first + await _read(mounted, handle, first[-1][1])]
        assert len(names) == len(set(names)) == 1202
        assert "a" in names
        assert await mounted.exists("d/a/below")


async def test_a_directory_that_is_closed_while_a_page_is_on_its_way_is_whole_when_it_is_opened_again(
    tmp_path: Path,
) -> None:
    async with _held(tmp_path, NAMES) as (mounted, held, _, handle):
        await _read(mounted, handle, 0, 10)
        await trio.testing.wait_all_tasks_blocked()
        assert held.asked == 2
        other = await mounted.fs.opendir((await mounted.find("d")).ino, ANYBODY)
        await mounted.fs.releasedir(handle)
        held.gate.set()
        assert [name for name, _ in await _read(mounted, other, 0)] == NAMES
        await mounted.fs.releasedir(other)


async def test_a_page_that_fails_fails_the_call_that_needs_it_and_is_asked_for_again(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, (f"d/{name}" for name in NAMES))
        async with mount(store, tmp_path / "cache", CONFIG) as mounted:
            directory = (await mounted.find("d")).ino
            mounted.store.fail([Method.LIST_OBJECTS], Unavailable("cut"), times=None)
            handle = await mounted.fs.opendir(directory, ANYBODY)
            first = await _read(mounted, handle, 0, 500)
            mounted.store.heal()
            rest = await _read(mounted, handle, first[-1][1])
            assert [name for name, _ in first + rest] == NAMES
            await mounted.fs.releasedir(handle)
