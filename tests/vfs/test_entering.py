"""What it costs to enter directories that are there already, as a program does that writes a tree over an old one."""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio
import trio.testing

from b2fs.core.types import ListPage, ObjectInfo, VersionId
from b2fs.errors import FsError, Unavailable
from b2fs.store.forward import ForwardingStore, Method, StoreCall
from b2fs.store.protocol import ObjectStore
from b2fs.vfs.config import VfsConfig
from tests.vfs.bucket import ANYBODY, MarkersWithoutMetadata, Mount, bucket, fill, mount

T = TypeVar("T")

DIRECTORIES = [f"d{number:02}" for number in range(50)]


class Rounds(ForwardingStore):
    """Counts round trips: all requests that are asked before anything waits for one of them are one."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.rounds = 0
        self._waiting = 0

    async def around(self, call: StoreCall, ask: Callable[[], Awaitable[T]]) -> T:
        self.rounds += not self._waiting
        self._waiting += 1
        try:
            await trio.testing.wait_all_tasks_blocked()
            return await ask()
        finally:
            self._waiting -= 1


class Held(ForwardingStore):
    """Holds the answer to the first flat listing below tree/ back, once it is told to."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.hold = False
        self.asked, self.release = trio.Event(), trio.Event()

    async def list_objects(
        self,
        prefix: str,
        *,
        delimiter: str | None = None,
        start_after: str | None = None,
        token: str | None = None,
        max_keys: int = 1000,
    ) -> ListPage:
        page = await self.inner.list_objects(
            prefix, delimiter=delimiter, start_after=start_after, token=token, max_keys=max_keys
        )
        if self.hold and prefix == "tree/" and delimiter is None:
            self.hold = False
            self.asked.set()
            await self.release.wait()
        return page


class Failing(ForwardingStore):
    """Refuses what is only asked of siblings: flat listings, and attributes of others than the first two."""

    async def list_objects(
        self,
        prefix: str,
        *,
        delimiter: str | None = None,
        start_after: str | None = None,
        token: str | None = None,
        max_keys: int = 1000,
    ) -> ListPage:
        if prefix == "tree/" and delimiter is None:
            raise Unavailable("not now")
        return await self.inner.list_objects(
            prefix, delimiter=delimiter, start_after=start_after, token=token, max_keys=max_keys
        )

    async def head(self, key: str, *, version_id: VersionId | None = None) -> ObjectInfo:
        if "tree/d" in key and not any(name in key for name in DIRECTORIES[:2]):
            raise Unavailable("not now")
        return await self.inner.head(key, version_id=version_id)


async def emptied(store: ObjectStore, tmp_path: Path) -> None:
    """A tree of directories with modes of their own, whose files are gone."""
    async with mount(store, tmp_path / "made") as mounted:
        await mounted.mkdir("tree")
        for number, name in enumerate(DIRECTORIES):
            await mounted.mkdir(f"tree/{name}", 0o700 + number % 8)
        await mounted.drain()


async def enter_all(mounted: Mount) -> None:
    """As tar does: look each directory up, and a name in it that is not there."""
    tree = (await mounted.find("tree")).ino
    for number, name in enumerate(DIRECTORIES):
        found = await mounted.fs.lookup(tree, name.encode(), ANYBODY)
        assert stat.S_IMODE(found.mode) == 0o700 + number % 8
        with pytest.raises(FsError):
            await mounted.fs.lookup(found.ino, b"absent", ANYBODY)


@pytest.mark.parametrize("markers", [True, False], ids=["markers keep metadata", "markers drop metadata"])
async def test_directories_that_are_entered_one_by_one_are_asked_about_together(tmp_path: Path, markers: bool) -> None:
    async with bucket(tmp_path) as embedded:
        store = embedded if markers else MarkersWithoutMetadata(embedded)
        await emptied(store, tmp_path)
        rounds = Rounds(store)
        async with mount(rounds, tmp_path / "cache", VfsConfig("", attr_index=False)) as mounted:
            await mounted.find("tree")
            mounted.store.reset_counts()
            rounds.rounds = 0
            await enter_all(mounted)
            assert mounted.count(Method.LIST_OBJECTS) <= 4
            assert mounted.count(Method.HEAD) <= len(DIRECTORIES)
            assert rounds.rounds <= 10, "and not one or two for each"


async def test_what_is_changed_here_while_siblings_are_listed_stays_changed(tmp_path: Path) -> None:
    async with bucket(tmp_path) as embedded:
        await fill(embedded, ["tree/a/x", "tree/b/x", "tree/c/x"])
        await embedded.hide("tree/c/x")
        await fill(embedded, ["tree/c/"])
        held = Held(embedded)
        async with mount(held, tmp_path / "cache", VfsConfig("", attr_index=False)) as mounted:
            await mounted.find("tree/a")
            held.hold = True
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mounted.find, "tree/b")
                await held.asked.wait()
                await mounted.write("tree/c/new", b"new")
                await mounted.drain()
                held.release.set()
            assert set(await mounted.ls("tree/c")) == {"new"}
            assert set(await mounted.ls("tree/b")) == {"x"}


@pytest.mark.parametrize("markers", [True, False], ids=["markers keep metadata", "markers drop metadata"])
async def test_a_question_about_siblings_that_fails_is_nobodys_error(tmp_path: Path, markers: bool) -> None:
    async with bucket(tmp_path) as embedded:
        store = embedded if markers else MarkersWithoutMetadata(embedded)
        await emptied(store, tmp_path)
        async with mount(Failing(store), tmp_path / "cache", VfsConfig("", attr_index=False)) as mounted:
            assert stat.S_IMODE((await mounted.find("tree/d00")).mode) == 0o700
            assert stat.S_IMODE((await mounted.find("tree/d01")).mode) == 0o701
            with pytest.raises(Unavailable):
                await mounted.find("tree/d02")
