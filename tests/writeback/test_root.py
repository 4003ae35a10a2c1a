"""The root of a mount has attributes of its own, as every directory has, though a bucket's root has no key."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from trio.testing import MockClock

from b2fs.core.nodes import SetAttr
from b2fs.core.types import Capabilities
from b2fs.store.forward import Method
from b2fs.vfs.api import ROOT
from tests.writeback.harness import CALLER, Mount, Place


@pytest.fixture(params=["markers", "side objects"])
def any_place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(tmp_path, capabilities=Capabilities()._replace(marker_metadata=request.param == "markers"))


async def permissions(mount: Mount) -> str:
    return f"{stat.S_IMODE((await mount.fs.getattr(ROOT)).mode):o}"


@pytest.mark.parametrize("prefix", ["", "below/it/"])
async def test_what_was_set_is_there_at_the_next_mount(
    any_place: Place, autojump_clock: MockClock, prefix: str
) -> None:
    async with any_place.mount(prefix=prefix) as mount:
        await mount.chmod("", 0o711)
        await mount.drain()
        assert mount.pending == 0
    any_place.forget_cache()
    async with any_place.mount(prefix=prefix) as mount:
        assert await permissions(mount) == "711"
        assert await mount.names() == set()


@pytest.mark.parametrize("prefix", ["", "below/it/"])
async def test_what_was_set_survives_a_crash(any_place: Place, autojump_clock: MockClock, prefix: str) -> None:
    async with any_place.mount(prefix=prefix) as mount:
        await mount.chmod("", 0o711)
        await mount.save("file", b"content")
        after = any_place.left_behind(any_place.root / "after")
    async with after.mount(prefix=prefix) as mount:
        assert await permissions(mount) == "711"
        await mount.drain()
    after.forget_cache()
    async with after.mount(prefix=prefix) as mount:
        assert await permissions(mount) == "711"
        assert await mount.tree() == {"file": b"content"}


async def test_the_last_of_many_changes_counts_and_its_times_follow_its_names(
    any_place: Place, autojump_clock: MockClock
) -> None:
    async with any_place.mount() as mount:
        for mode in (0o700, 0o750, 0o755):
            await mount.chmod("", mode)
            await mount.drain()
        await mount.fs.setattr(ROOT, SetAttr(uid=7, gid=8, mtime_ns=10**18), None, CALLER)
        await mount.drain()
        await mount.save("file", b"content")
        await mount.drain()
        mtime_ns = (await mount.fs.getattr(ROOT)).mtime_ns
        assert mtime_ns > 10**18
    any_place.forget_cache()
    async with any_place.mount() as mount:
        attr = await mount.fs.getattr(ROOT)
        assert (await permissions(mount), attr.uid, attr.gid) == ("755", 7, 8)
        assert attr.mtime_ns == mtime_ns


async def test_a_root_that_nobody_has_changed_costs_nothing(any_place: Place, autojump_clock: MockClock) -> None:
    async with any_place.mount() as mount:
        await mount.save("file", b"content")
        await mount.drain()
        assert mount.store.counts[Method.PUT] == 1
