"""Several callers at once over a bucket that answers slowly: afterwards it holds what the mount shows, and no more.

What the calls answer is not judged, only that a mount with an empty cache finds the same tree, and that after every
step of every task the inodes and entries fit together (`invariants`).  Tasks take turns as the seed says, so a step
that breaks a rule is found again.
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from b2fs.core.types import VersionId
from b2fs.errors import FsError, StoreError
from b2fs.store.forward import StoreCall
from b2fs.vfs.api import RENAME_EXCHANGE
from tests.model.invariants import Inspector
from tests.writeback.conftest import autojump_clock, place
from tests.writeback.harness import Mount, Place, TimedStore
from tests.writeback.memstore import MemStore

__all__ = ["autojump_clock", "place"]

LONG = os.environ.get("B2FS_LONG") == "1"
#: (seed, callers, calls of each, names).
RUNS = [(seed, 3, 40, "abcd") for seed in range(1000 if LONG else 4)]
#: More callers on fewer names.  Each of the first has found a mistake of its own.
CROWDED = (10_001, 10_002, 10_003, 10_007, 10_019, 10_024, 10_027, 10_028)
RUNS += [(seed, 8, 80, "abc") for seed in (*CROWDED, *range(20_000, 20_300 if LONG else 20_001))]
CALLS = (
    *("save", "save", "write", "write", "truncate", "mkdir", "mkdir", "rename", "rename", "rename", "exchange"),
    *("exchange", "link", "link", "unlink", "rmdir", "chmod", "fsync", "names", "wait"),
)


async def _call(mount: Mount, chance: random.Random, names: str, mark: bytes) -> None:
    """One random call on random paths."""
    call, path, other = chance.choice(CALLS), _path(chance, names), _path(chance, names)
    match call:
        case "save":
            await mount.save(path, mark * chance.choice([1, 50]), fsync=chance.random() < 0.1)
        case "write":
            handle = await mount.open(path)
            await mount.write(handle, chance.choice([0, 3, 100]), mark)
            await mount.close(handle)
        case "truncate":
            await mount.truncate(path, chance.choice([0, 1, 40]))
        case "mkdir" | "unlink" | "rmdir" | "fsync" | "names":
            await getattr(mount, call)(path)
        case "rename" | "link":
            await getattr(mount, call)(path, other)
        case "exchange":
            await mount.rename(path, other, RENAME_EXCHANGE)
        case "chmod":
            await mount.chmod(path, chance.choice([0o600, 0o755]))
        case _:
            await trio.sleep(chance.choice([0.05, 0.3, 1, 2.5]))


def _path(chance: random.Random, names: str) -> str:
    return "/".join(chance.choice(names) for _ in range(chance.choice([1, 1, 2, 2, 3])))


async def _caller(mount: Mount, inspector: Inspector, seed: str, steps: int, names: str) -> None:
    chance = random.Random(seed)
    for step in range(steps):
        if inspector.found is not None:
            return
        try:
            await _call(mount, chance, names, f"{seed}-{step} ".encode())
        except FsError:
            pass  # most random calls have a reason to fail
        if chance.random() < 0.5:
            await trio.sleep(chance.choice([0, 0.01, 0.2]))


def _answer_late(patch: pytest.MonkeyPatch, chance: random.Random) -> None:
    """Calls are carried out at some moment between question and answer."""
    around = TimedStore.around

    async def late(self: TimedStore, call: StoreCall, ask: Callable[[], Awaitable[object]]) -> object:
        if chance.random() < 0.5:
            await trio.sleep(chance.choice([0, 0.01, 0.05, 0.2]))
        answer = await around(self, call, ask)
        if chance.random() < 0.5:
            await trio.sleep(chance.choice([0, 0.01, 0.05, 0.2]))
        return answer

    patch.setattr(TimedStore, "around", late)


def _watch_removals(patch: pytest.MonkeyPatch, inspector: Inspector) -> None:
    """The inspector sees every removal in the moment in which it is carried out."""
    delete_version, delete_many = MemStore.delete_version, MemStore.delete_many

    async def one(self: MemStore, key: str, version_id: VersionId) -> None:
        inspector.removing([(key, version_id)])
        await delete_version(self, key, version_id)

    async def many(
        self: MemStore, targets: Sequence[tuple[str, VersionId | None]]
    ) -> Sequence[VersionId | StoreError | None]:
        inspector.removing(targets)
        return await delete_many(self, targets)

    patch.setattr(MemStore, "delete_version", one)
    patch.setattr(MemStore, "delete_many", many)


def _take_turns(patch: pytest.MonkeyPatch, seed: int) -> None:
    """trio runs tasks that could run at once in an order by chance: by this seed."""
    scheduler: Any = importlib.import_module("trio._core._run")
    patch.setattr(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    patch.setattr(scheduler, "_r", random.Random(seed))


@pytest.mark.parametrize(("seed", "callers", "steps", "names"), RUNS)
async def test_the_bucket_holds_what_the_mount_shows(
    place: Place,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    callers: int,
    steps: int,
    names: str,
) -> None:
    chance = random.Random(seed)
    _take_turns(monkeypatch, seed)
    ttl_s = chance.choice([0.1, 1.0, 60.0])
    async with place.mount(ttl_s=ttl_s) as mount:
        mount.keep = chance.random() < 0.6
        mount.store.latency_s = chance.choice([0.0, 0.02, 0.2])
        inspector = Inspector(mount.fs)
        with monkeypatch.context() as patch:
            _watch_removals(patch, inspector)
            if chance.random() < 0.8:
                _answer_late(patch, chance)
            trio.lowlevel.add_instrument(inspector)
            for name in names:
                if chance.random() < 0.6:
                    await mount.mkdir(name)
            async with trio.open_nursery() as nursery:
                for number in range(callers):
                    nursery.start_soon(_caller, mount, inspector, f"{seed}-{number}", steps, names)
            trio.lowlevel.remove_instrument(inspector)
            assert inspector.found is None
            await mount.drain()
        expected = await mount.tree()
    place.forget_cache()
    async with place.mount() as mount:
        assert await mount.tree() == expected
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_directory_that_was_replaced_while_its_rename_waited(place: Place) -> None:
    outcome: list[int] = []
    async with place.mount() as mount:
        for path in ("whole", "whole/below", "empty"):
            await mount.mkdir(path)
        await mount.drain()
        mount.store.latency_s = 1.0

        async def move_replaced() -> None:
            try:
                await mount.rename("empty", "moved")
            except FsError as error:
                outcome.append(error.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.rename, "whole", "empty")
            await trio.sleep(0.1)
            nursery.start_soon(move_replaced)
        assert outcome == [errno.ENOENT]
        assert set(await mount.tree()) == {"empty", "empty/below"}
