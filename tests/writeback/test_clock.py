"""The machine's clock is set back by an hour while changes are made."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from b2fs.vfs import clock
from tests.writeback.harness import Mount, Place

HOUR_NS = 3600 * 10**9
#: The modules that ask for the time.
MARKED = ("core", "files", "filesystem", "mutations", "renames")


async def test_what_is_changed_after_the_clock_was_set_back_is_the_newest(
    place: Place, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the upload nor a kill makes the older content come back."""
    now = clock.now_ns
    async with place.mount() as mount:
        await mount.save("stored", b"before")
        await mount.save("waits", b"before")
        await mount.drain()
        for module in MARKED:
            monkeypatch.setattr(f"b2fs.vfs.{module}.now_ns", lambda: now() - HOUR_NS)
        await mount.save("stored", b"after")
        await mount.drain()
        await mount.save("waits", b"after")
        await mount.save("new", b"after")
        place.crash()
    async with place.mount() as mount:
        await check(mount)
        await mount.drain()
        await check(mount)
    assert mount.fs.writeback.status().conflicts == 0
    assert place.bucket.contents() == dict.fromkeys(("stored", "waits", "new"), b"after")


async def check(mount: Mount) -> None:
    assert await mount.tree() == dict.fromkeys(("stored", "waits", "new"), b"after")
