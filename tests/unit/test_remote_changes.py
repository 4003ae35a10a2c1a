"""What a directory is listed as while trees are read, and files and directories are made and removed beside that."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
import trio
import trio.testing

from b2fs.cache.remote import RemoteConfig, RemoteView
from b2fs.cache.remote.listing import Listing
from b2fs.core.types import ListPage
from b2fs.store.faults import FaultyStore
from b2fs.store.forward import StoreCall
from tests.writeback.memstore import MemBucket, MemStore

T = TypeVar("T")

#: The way there takes up to so long, and the way back.
WAY_S = 0.02


class SlowStore(FaultyStore):
    """Each question takes a while to get there, each answer to come back, and they overtake one another."""

    def __init__(self, inner: MemStore, rnd: random.Random, page: int) -> None:
        super().__init__(inner)
        self.way_s: Callable[[], float] = lambda: rnd.random() * WAY_S
        self.page = page

    async def around(self, call: StoreCall, ask: Callable[[], Awaitable[T]]) -> T:
        await trio.sleep(self.way_s())
        answer = await super().around(call, ask)
        await trio.sleep(self.way_s())
        return answer

    async def list_objects(self, *args: Any, **options: Any) -> ListPage:
        return await super().list_objects(*args, **{"max_keys": self.page, **options})


class Site:
    """A view of a bucket that nobody else changes, and what was settled when."""

    def __init__(self, seed: int, page: int) -> None:
        self.rnd = random.Random(seed)
        bucket = MemBucket(clock=trio.current_time)
        self.store = SlowStore(MemStore(bucket), self.rnd, page)
        self.view = RemoteView(self.store, RemoteConfig())
        self.keys: set[str] = set()
        #: Keys that are being changed.
        self.busy: set[str] = set()
        self.read = 0

    async def put(self, key: str) -> None:
        self.busy.add(key)
        info = await self.store.put(key, b"content")
        self.view.note_object(info)
        self.keys.add(key)
        self.busy.discard(key)

    async def remove(self, key: str) -> None:
        self.busy.add(key)
        await self.store.hide(key)
        self.view.note_absent(key)
        self.keys.discard(key)
        self.busy.discard(key)

    def names(self, prefix: str) -> set[str]:
        return {key[len(prefix) :] for key in self.keys if key.startswith(prefix) and "/" not in key[len(prefix) :]}

    def check(self, prefix: str, listing: Listing) -> None:
        """A listing that is handed out has every change that was settled until now."""
        unsettled = {key[len(prefix) :] for key in self.busy if key.startswith(prefix)}
        assert set(listing.files) - unsettled == self.names(prefix) - unsettled
        self.read += 1

    async def change(self, until: float) -> None:
        """Make and remove files, and now and then a directory, without a pause."""
        number = 0
        while trio.current_time() < until:
            number += 1
            free = sorted(self.keys - self.busy)
            if free and self.rnd.random() < 0.4:
                await self.remove(self.rnd.choice(free))
            else:
                await self.put(f"t/d{self.rnd.randrange(6)}/e{self.rnd.randrange(3)}/f{number}-{self.rnd.random()}")
            if self.rnd.random() < 0.2:
                self.view.note_new_directory(f"t/new{self.rnd.random()}/")
            await trio.sleep(self.rnd.random() * 0.01)

    async def walk(self, until: float) -> None:
        """Read the tree again and again, as a program does that goes from directory to directory."""
        while trio.current_time() < until:
            self.view.forget("t/")
            for prefix in ["t/", *(f"t/d{d}/{e}" for d in range(6) for e in ("", "e0/", "e1/", "e2/"))]:
                self.check(prefix, await self.view.listing(prefix))
                await trio.sleep(self.rnd.random() * 0.02)


@pytest.mark.parametrize("page", [7, 40, 1000])
@pytest.mark.parametrize("seed", range(5))
async def test_what_was_stored_is_listed_whoever_reads_trees_and_makes_directories(
    autojump_clock: trio.testing.MockClock, seed: int, page: int
) -> None:
    site = Site(seed, page)
    for number in range(40):
        await site.put(f"t/d{number % 6}/e{number % 3}/first{number}")
    until = trio.current_time() + 3.0
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(site.change, until)
        for _ in range(6):
            nursery.start_soon(site.walk, until)
    assert site.read > 100


@pytest.mark.parametrize("change", ["stored", "refreshed"])
async def test_an_answer_about_one_name_is_not_remembered_if_that_was_changed_meanwhile(
    autojump_clock: trio.testing.MockClock, change: str
) -> None:
    site = Site(0, page=7)
    for number in range(20):
        await site.put(f"t/f{number:02}")
    site.view.forget("")
    await site.view.find("t/", "f00")  # the first page: it does not tell of what comes behind
    assert site.view.find_nowait("t/", "new") is None
    async with trio.open_nursery() as nursery:
        site.store.way_s = lambda: 0.01
        nursery.start_soon(site.view.find, "t/", "new")
        await trio.sleep(0.015)  # the answers are on their way
        if change == "stored":
            info = await site.store.inner.put("t/new", b"content")
            site.view.note_object(info)
        else:
            site.view.forget("t/")
    found = site.view.find_nowait("t/", "new")
    assert found is None or found.file is not None
    assert (await site.view.find("t/", "new")).exists == (change == "stored")
    assert site.view.find_nowait("t/", "new") is not None
