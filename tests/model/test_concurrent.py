"""Several callers at once over a bucket that answers slowly: afterwards it holds what the mount shows, and no more.

What the calls answer is not judged, only that a mount with an empty cache finds the same tree.
"""

from __future__ import annotations

import logging
import os
import random

import pytest
import trio
from trio.testing import MockClock

from b2fs.errors import FsError
from b2fs.vfs.api import RENAME_EXCHANGE
from tests.writeback.conftest import autojump_clock, place
from tests.writeback.harness import Mount, Place

__all__ = ["autojump_clock", "place"]

SEEDS = 2000 if os.environ.get("B2FS_LONG") == "1" else 8
STEPS = 40
CALLS = (
    *("save", "save", "write", "write", "truncate", "mkdir", "mkdir", "rename", "rename", "rename", "exchange"),
    *("link", "link", "unlink", "rmdir", "chmod", "fsync", "wait"),
)


async def _call(mount: Mount, chance: random.Random, mark: bytes) -> None:
    """One random call on random paths."""
    call, path, other = chance.choice(CALLS), _path(chance), _path(chance)
    match call:
        case "save":
            await mount.save(path, mark * chance.choice([1, 50]), fsync=chance.random() < 0.1)
        case "write":
            handle = await mount.open(path)
            await mount.write(handle, chance.choice([0, 3, 100]), mark)
            await mount.close(handle)
        case "truncate":
            await mount.truncate(path, chance.choice([0, 1, 40]))
        case "mkdir" | "unlink" | "rmdir" | "fsync":
            await getattr(mount, call)(path)
        case "rename" | "link":
            await getattr(mount, call)(path, other)
        case "exchange":
            await mount.rename(path, other, RENAME_EXCHANGE)
        case "chmod":
            await mount.chmod(path, chance.choice([0o600, 0o755]))
        case _:
            await trio.sleep(chance.choice([0.05, 0.3, 1, 2.5]))


def _path(chance: random.Random) -> str:
    return "/".join(chance.choice("abcd") for _ in range(chance.choice([1, 1, 2, 2, 3])))


async def _caller(mount: Mount, seed: str) -> None:
    chance = random.Random(seed)
    for step in range(STEPS):
        try:
            await _call(mount, chance, f"{seed}-{step} ".encode())
        except FsError:
            pass  # most random calls have a reason to fail
        if chance.random() < 0.3:
            await trio.sleep(chance.choice([0, 0.01, 0.2]))


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_the_bucket_holds_what_the_mount_shows(
    place: Place, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    chance = random.Random(seed)
    async with place.mount() as mount:
        mount.keep = True
        mount.store.latency_s = chance.choice([0.0, 0.02, 0.2])
        for name in "abcd":
            if chance.random() < 0.6:
                await mount.mkdir(name)
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(_caller, mount, f"{seed}-{number}")
        await mount.drain()
        expected = await mount.tree()
    place.forget_cache()
    async with place.mount() as mount:
        assert await mount.tree() == expected
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
