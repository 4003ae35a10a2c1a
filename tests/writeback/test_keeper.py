"""The journal is small when there is nothing to be kept in it."""

from __future__ import annotations

import os

import trio
from trio.testing import MockClock

from b2fs.cache.ledger import Ledger
from tests.writeback.harness import Place

KIB = 1 << 10


def size_of(ledger: Ledger) -> int:
    return os.path.getsize(ledger.path)


async def test_the_journal_is_small_at_rest(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        ledger = mount.fs._core.ledger
        for number in range(400):
            await mount.save(f"f{number}", b"x")
        await mount.drain()
        assert ledger.wal_bytes() > 1024 * KIB, "else this says nothing"
        await trio.sleep(10)
        assert ledger.wal_bytes() <= 64 * KIB
        assert size_of(ledger) <= 512 * KIB
        await mount.save("a", b"after that")
        place.crash()
    async with place.mount() as mount:
        assert await mount.read("a") == b"after that"
