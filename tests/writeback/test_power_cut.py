"""A power cut at random moments: what a fsync had promised is there afterwards, and in the bucket in the end.

docs/semantics.md says what is promised.  Each run works on four names, and at many of its moments the disk is looked
at: what it may hold then, were it cut off, becomes a cache directory that is mounted.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from b2fs.cache import content, ledger
from b2fs.core.nodes import HandleId
from tests.writeback.harness import CALLER, Mount, Place
from tests.writeback.powercut import Disk, cut, powered, write_sparse
from tests.writeback.tiny import ROOM, TINY, append, away, digest, noise

RUNS = 300 if os.environ.get("B2FS_LONG") == "1" else 6
STEPS = 25
#: How many of the moments are looked at.
_SHARE = 0.1
_PATHS = "abcd"


@dataclass
class Promise:
    """What may be found under a name: one of the states since the last one that is certain."""

    states: list[bytes | None] = field(default_factory=lambda: [None])
    #: Those whose bytes are certain, whether or not the name stands for them.
    synced: list[bytes | None] = field(default_factory=list)
    #: Bytes were written that were not synced, and perhaps in the place of others.
    appended: bool = False
    replaced: bool = False

    def now(self) -> bytes | None:
        return self.states[-1]

    def settle(self) -> None:
        self.states = self.states[-1:]
        self.synced = self.states.copy()
        self.appended = self.replaced = False

    def copy(self) -> Promise:
        return Promise(self.states.copy(), self.synced.copy(), self.appended, self.replaced)

    def holds(self, found: bytes | None) -> bool:
        if found in self.states or self.replaced:
            return True
        if not self.appended or found is None:
            return False
        return any(body is not None and found.startswith(body) for body in self.synced)


@dataclass
class Taken:
    left: Place
    promises: dict[str, Promise]
    calls: list[str]


class Machine:
    """A computer that works on a mount, and the moments at which its power may be cut."""

    def __init__(self, place: Place, directory: Path, chance: random.Random) -> None:
        self.place = place
        self.directory = directory
        self.chance = chance
        self.promises = {path: Promise() for path in _PATHS}
        self.calls: list[str] = []
        self.taken: list[Taken] = []
        self.disk: Disk | None = None
        self.number = 0

    def look(self) -> None:
        if self.disk is None or self.chance.random() > _SHARE or not (self.place.cache / "ledger.db").exists():
            return
        left = cut(self.place, self.disk, self.directory / f"cut{len(self.taken)}", self.chance)
        promises = {path: promise.copy() for path, promise in self.promises.items()}
        self.taken.append(Taken(left, promises, list(self.calls)))

    def new_body(self) -> bytes:
        self.number += 1
        return random.Random(self.number).randbytes(self.chance.choice((10, 5000, 20_000)))

    async def work(self, mount: Mount) -> None:
        kinds: list[Callable[[Mount, str], Awaitable[None]]]
        kinds = [self.save, self.save_synced, self.append, self.append_synced, self.replace, self.remove, self.rest]
        for _ in range(STEPS):
            kind, path = self.chance.choice(kinds), self.chance.choice(_PATHS)
            self.calls.append(f"{kind.__name__} {path}")
            await kind(mount, path)
            self.calls.append("done")
            self.look()

    async def save(self, mount: Mount, path: str) -> None:
        promise, body = self.promises[path], self.new_body()
        promise.states.append(body)
        promise.replaced = True
        await mount.save(path, body)

    async def save_synced(self, mount: Mount, path: str) -> None:
        promise, body = self.promises[path], self.new_body()
        promise.states.append(body)
        promise.replaced = True
        await mount.save(path, body, fsync=True)
        promise.settle()

    async def append(self, mount: Mount, path: str, *, fsync: bool = False) -> None:
        promise, body = self.promises[path], self.new_body()
        present = promise.now()
        if present is None:
            return
        promise.states.append(present + body)
        promise.appended = True
        handle = await mount.open(path)
        await mount.write(handle, len(present), body)
        self.look()
        if fsync:
            await mount.fs.fsync(handle, False)
            promise.settle()
        await mount.close(handle)

    async def append_synced(self, mount: Mount, path: str) -> None:
        await self.append(mount, path, fsync=True)

    async def replace(self, mount: Mount, path: str) -> None:
        """As editors and databases do; whether the name is synced too is left to chance."""
        promise, body = self.promises[path], self.new_body()
        await mount.save("temporary", body, fsync=True)
        promise.states.append(body)
        promise.synced.append(body)
        await mount.rename("temporary", path)
        await self._sync_names(mount, promise)

    async def remove(self, mount: Mount, path: str) -> None:
        promise = self.promises[path]
        if promise.now() is None:
            return
        promise.states.append(None)
        await mount.unlink(path)
        await self._sync_names(mount, promise)

    async def _sync_names(self, mount: Mount, promise: Promise) -> None:
        if self.chance.random() < 0.5:
            handle = await mount.fs.opendir(await mount.ino(""), CALLER)
            await mount.fs.fsyncdir(handle, False)
            await mount.fs.releasedir(handle)
            if not promise.appended and not promise.replaced:
                promise.settle()

    async def rest(self, mount: Mount, path: str) -> None:
        for _ in range(4):
            await trio.sleep(self.chance.choice((0.1, 1.0, 5.0)))
            self.look()


@pytest.mark.parametrize(("started_anew", "left"), [(True, b"first"), (False, b"sec")])
async def test_the_beginning_of_a_file_that_was_never_synced_is_not_stored_over_a_good_one(
    place: Place, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, started_anew: bool, left: bytes
) -> None:
    """A disk may keep the rename and not the content.  But after a kill of the daemon alone a short file was cut so."""
    async with place.mount() as mount:
        await mount.save("a", b"first", fsync=True)
        await mount.drain()
        await mount.save("new", b"second")
        await mount.rename("new", "a")
        after = place.left_behind(place.root / "after")
    (dirty,) = (path for path in (after.cache / "dirty").iterdir() if path.read_bytes() == b"second")
    os.truncate(dirty, 3)
    if started_anew:
        monkeypatch.setattr(ledger, "boot_id", lambda: "another")
    async with after.mount() as mount:
        assert await mount.read("a") == left
        assert mount.fs.set_aside() == int(started_anew)
        await mount.drain()
    assert after.bucket.contents() == {"a": left}


_LONG = bytes(range(1, 251)) * 200
#: What a disk may hold of it that has its length.
_TORN = bytes(8192) + _LONG[8192:20_480] + bytes(len(_LONG) - 20_480)


async def _left_torn(place: Place, old: bytes | None = b"first", path: str = "a", *, rename: bool = True) -> Place:
    """A file that was replaced and never synced, of which the disk has the length and some bytes."""
    async with place.mount() as mount:
        if old is not None:
            await mount.save(path, old, fsync=True)
            await mount.drain()
        await mount.save("new" if rename else path, _LONG)
        if rename:
            await mount.rename("new", path)
        after = place.left_behind(place.root / "after")
    (dirty,) = (file for file in (after.cache / "dirty").iterdir() if file.read_bytes() == _LONG)
    write_sparse(dirty, _TORN)
    return after


@pytest.mark.parametrize("rename", [True, False])
@pytest.mark.parametrize(("started_anew", "left"), [(True, b"first"), (False, _TORN)])
async def test_a_file_that_was_never_synced_and_lost_bytes_in_its_middle_is_not_stored_either(
    place: Place,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    started_anew: bool,
    left: bytes,
    rename: bool,
) -> None:
    """What the disk has of it is kept for whoever can use it."""
    after = await _left_torn(place, rename=rename)
    if started_anew:
        monkeypatch.setattr(ledger, "boot_id", lambda: "another")
    async with after.mount() as mount:
        assert await mount.read("a") == left
        await mount.drain()
    assert after.bucket.contents() == {"a": left}
    kept = [*after.cache.glob("torn/*")]
    assert [path.read_bytes() for path in kept] == ([_TORN] if started_anew else [])
    if started_anew:
        assert kept[0].name.startswith("a (torn by a power cut, ")
        (line,) = [record.getMessage() for record in caplog.records if "power cut" in record.getMessage()]
        assert line == f"a power cut has left a part of a, which was not synced: it is in {kept[0]}"


@pytest.mark.parametrize("rename", [True, False])
async def test_nor_is_one_of_which_the_bucket_has_nothing(
    place: Place, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, rename: bool
) -> None:
    after = await _left_torn(place, None, "d\u00e9", rename=rename)
    monkeypatch.setattr(ledger, "boot_id", lambda: "another")
    async with after.mount() as mount:
        assert await mount.names() == set()
        await mount.drain()
    assert after.bucket.contents() == {}
    assert [path.read_bytes() for path in after.cache.glob("torn/d\u00e9 *")] == [_TORN]


async def test_where_zeros_become_holes_no_hole_is_believed(
    place: Place, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = await _left_torn(place)
    monkeypatch.setattr(ledger, "boot_id", lambda: "another")
    monkeypatch.setattr(content, "_has_hole", lambda path: True)
    async with after.mount() as mount:
        assert await mount.read("a") == _TORN


async def _grow(mount: Mount, handle: HandleId) -> None:
    await mount.truncate("a", 100_000)


async def _skip(mount: Mount, handle: HandleId) -> None:
    await mount.write(handle, 99_999, b"x")


async def _cut_and_grow(mount: Mount, handle: HandleId) -> None:
    await mount.truncate("a", 0)
    await mount.truncate("a", 100_000)


@pytest.mark.parametrize("make_hole", [_grow, _skip, _cut_and_grow])
async def test_a_hole_that_a_program_made_is_no_loss(
    place: Place,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    make_hole: Callable[[Mount, HandleId], Awaitable[None]],
) -> None:
    async with place.mount() as mount:
        handle = await mount.create("a")
        await mount.write(handle, 0, b"begin")
        await make_hole(mount, handle)
        expected = await mount.read("a")
        after = place.left_behind(place.root / "after")
        await mount.close(handle)
    (dirty,) = (after.cache / "dirty").iterdir()
    write_sparse(dirty, dirty.read_bytes())
    monkeypatch.setattr(ledger, "boot_id", lambda: "another")
    async with after.mount() as mount:
        assert (await mount.read("a"), len(expected)) == (expected, 100_000)
        await mount.drain()
    assert after.bucket.contents() == {"a": expected}


async def test_a_hole_in_the_place_of_parts_that_are_away_is_no_loss(
    tiny: Place, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = noise(3 * ROOM)
    async with tiny.mount(config=TINY) as mount:
        handle = await mount.create("a")
        await append(mount, handle, body)
        assert away(mount) > 0
        after = tiny.left_behind(tiny.root / "after")
        await mount.close(handle)
    (dirty,) = (after.cache / "dirty").iterdir()
    write_sparse(dirty, dirty.read_bytes())
    monkeypatch.setattr(ledger, "boot_id", lambda: "another")
    async with after.mount(config=TINY) as mount:
        await trio.sleep(30)
        await mount.drain()
        assert digest(await mount.read("a")) == digest(body)


async def check(taken: Taken, level: str) -> None:
    async with taken.left.mount(fsync_level=level) as mount:
        tree = await look(mount)
        for path, promise in taken.promises.items():
            assert promise.holds(tree.get(path)), _told(path, promise, tree.get(path), taken)
        await mount.drain()
        assert await look(mount) == tree
    found = {key: body for key, body in taken.left.bucket.contents().items() if key in _PATHS}
    assert found == tree


async def look(mount: Mount) -> dict[str, bytes]:
    return {path: await mount.read(path) for path in await mount.names() if path in _PATHS}


def _told(path: str, promise: Promise, found: bytes | None, taken: Taken) -> str:
    def short(body: bytes | None) -> str:
        return "nothing" if body is None else f"{len(body)} bytes {body[:4].hex()}"

    return f"{path}: found {short(found)}, promised {list(map(short, promise.states))}, after {taken.calls[-12:]}"


@pytest.mark.parametrize("level", ["local", "bucket"])
@pytest.mark.timeout(3600)
async def test_what_was_synced_survives_a_power_cut(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    looked = 0
    for seed in range(RUNS):
        directory = tmp_path / f"{level}{seed}"
        directory.mkdir()
        machine = Machine(Place(directory), directory, random.Random(seed))
        with powered(machine.place.cache, monkeypatch, machine.look) as machine.disk:
            async with machine.place.mount(fsync_level=level) as mount:
                await machine.work(mount)
        looked += len(machine.taken)
        with monkeypatch.context() as patch:
            patch.setattr(ledger, "boot_id", lambda: "another")
            for taken in machine.taken:
                await check(taken, level)
    assert looked > 4 * RUNS
