"""A mount that may not write, on what an earlier one has left."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tests.writeback.harness import Place


async def test_what_an_earlier_mount_left_waits_for_one_that_may_write(
    place: Place, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with place.mount() as mount:
        await mount.save("stored", b"stored")
        await mount.drain()
        await mount.save("left", b"left")
        place.crash()
    async with place.mount(read_only=True) as mount:
        assert await mount.tree() == {"stored": b"stored"}
        await trio.sleep(60)
    assert place.bucket.contents() == {"stored": b"stored"}
    told = [record.message for record in caplog.records if "from before" in record.message]
    assert told == ["not in the bucket yet: 1 change from before; shown and stored by the next mount that may write"]
    async with place.mount() as mount:
        assert await mount.tree() == {"stored": b"stored", "left": b"left"}
        await mount.drain()
    assert place.bucket.contents() == {"stored": b"stored", "left": b"left"}
