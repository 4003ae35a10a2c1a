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

from b2fs.cache import ledger
from tests.writeback.harness import CALLER, Mount, Place
from tests.writeback.powercut import Disk, cut, powered

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
        await mount.drain()
    assert after.bucket.contents() == {"a": left}


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
