"""A name that gets another file while the attributes of its old one are asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from trio.testing import MockClock

from b2fs.cache.inode import Inode
from tests.writeback.conftest import autojump_clock, place
from tests.writeback.harness import Mount, Place

__all__ = ["autojump_clock", "place"]


async def _move(mount: Mount) -> None:
    await mount.rename("a", "b")
    assert await mount.read("b") == b"second"


async def _remove(mount: Mount) -> None:
    await mount.unlink("a")
    assert await mount.names() == set()


async def _link(mount: Mount) -> None:
    await mount.link("a", "b")
    assert await mount.read("b") == b"second"


@pytest.mark.parametrize("change", [_move, _remove, _link])
async def test_a_change_of_a_name_is_of_what_it_has_by_then(
    place: Place, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, change: Callable[[Mount], Awaitable[None]]
) -> None:
    """There always is a file of that name, so nobody hears ENOENT, and no change goes to the file that is gone."""
    async with place.mount() as mount:
        mount.keep = True
        await mount.save("a", b"first")
        await mount.drain()
        assert mount.fs._core.root.children is not None
        mount.fs._core.root.children[b"a"].attrs_known = False  # so they are asked for
        names = mount.fs._names
        shown, asked = names.shown, False

        async def slow(inode: Inode) -> Inode:
            nonlocal asked
            if not asked and inode.is_regular:
                asked = True
                await mount.save("c", b"second")
                await mount.rename("c", "a")
            return await shown(inode)

        monkeypatch.setattr(names, "shown", slow)
        await change(mount)
        assert asked
        await mount.drain()
        assert b"first" not in place.bucket.contents().values()
