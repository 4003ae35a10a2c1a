"""A name that gets another file, by us or somebody else, while its old one is looked at."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from b2fs.cache.inode import Inode
from b2fs.core.nodes import SetAttr
from b2fs.core.types import Capabilities
from b2fs.errors import FsError
from b2fs.store.forward import Method
from tests.writeback.conftest import autojump_clock, place
from tests.writeback.harness import CALLER, Mount, Place

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


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
async def test_who_opens_again_what_somebody_has_replaced_gets_the_new_file(
    place: Place, autojump_clock: MockClock, flags: int
) -> None:
    """Without versions the one that was listed is gone; but nobody has to wait until the listing is old."""
    place.capabilities = Capabilities(versioning=False, copy_from_version=False)
    place.bucket.add("a", b"old")
    async with place.mount(ttl_s=3600.0) as mount:
        mount.keep = True
        await mount.stat("a")
        place.bucket.add("a", b"newer")
        with pytest.raises(FsError) as failure:
            await _read_or_write(mount, flags)
        assert failure.value.code == errno.ESTALE
        await _read_or_write(mount, flags)
        assert await mount.read("a") == (b"newer" if flags == os.O_RDONLY else b"Newer")
        await mount.drain()
        assert mount.fs.writeback.status().conflicts == 0


async def _read_or_write(mount: Mount, flags: int) -> None:
    if flags == os.O_RDONLY:
        await mount.read("a")
        return
    handle = await mount.open("a", flags)
    try:
        await mount.write(handle, 0, b"N")
    finally:
        await mount.close(handle)


async def test_what_was_renamed_and_is_gone_can_be_replaced_but_not_written(
    place: Place, autojump_clock: MockClock
) -> None:
    """Another client has replaced it before it was copied; nobody can say what else it carried."""
    place.capabilities = Capabilities(versioning=False, copy_from_version=False)
    place.bucket.add("a", b"old")
    async with place.mount() as mount:
        mount.keep = True
        await mount.stat("a")
        assert mount.fs._core.root.children is not None
        inode = mount.fs._core.root.children[b"a"]
        inode.attrs_known, inode.presumed = False, True  # it was taken as plain
        mount.fs._core.remote.known.forget("a")
        mount.store.pause([Method.COPY])
        await mount.rename("a", "b")
        await mount.store.wait_held()
        place.bucket.add("a", b"theirs")
        with pytest.raises(FsError) as failure:
            await mount.open("b", os.O_RDWR | os.O_TRUNC)
        assert failure.value.code == errno.ESTALE
        await mount.save("c", b"ours")
        await mount.rename("c", "b")
        await mount.store.resume()
        await mount.drain()
    assert place.bucket.contents() == {"a": b"theirs", "b": b"ours"}


@pytest.mark.parametrize("versioning", [False, True])
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("theirs", [None, b"theirs"], ids=["removed", "replaced"])
async def test_what_is_written_through_an_open_file_is_never_lost(
    place: Place, autojump_clock: MockClock, theirs: bytes | None, listed: bool, versioning: bool
) -> None:
    """Another client replaces or removes it, and other programs look at its name, before it is written to."""
    place.capabilities = Capabilities(versioning=versioning, copy_from_version=versioning)
    async with place.mount() as mount:
        await mount.save("a", b"old")
        await mount.drain()
        await trio.sleep(10)
        handle = await mount.open("a")
        await mount.write(handle, 0, b"O")
        await mount.drain()
        await trio.sleep(10)
        place.bucket.add("a", theirs)
        await trio.sleep(100)
        if listed:
            assert await mount.names() == {"a"}
        assert (await mount.stat("a")).size == 3
        await mount.write(handle, 3, b" and more")
        await mount.close(handle)
        await mount.drain()
        assert await mount.read("a") == b"Old and more"
        assert mount.fs.writeback.status().conflicts == (theirs is not None)
    contents = place.bucket.contents()
    assert contents.pop("a") == b"Old and more"
    held = [version.body for versions in place.bucket.versions.values() for version in versions]
    assert theirs is None or theirs in held


async def test_a_file_that_is_open_for_writing_and_not_written_to_is_replaced_when_it_is_closed(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount:
        await mount.save("a", b"old")
        await mount.drain()
        handle = await mount.open("a")
        place.bucket.add("a", b"theirs")
        await trio.sleep(100)
        assert await mount.read("a") == b"old"
        await mount.close(handle)
        assert await mount.read("a") == b"theirs"
    assert place.bucket.contents() == {"a": b"theirs"}


@pytest.mark.parametrize("cuts", [False, True])
async def test_nothing_is_written_to_a_file_whose_directory_somebody_has_removed(
    place: Place, autojump_clock: MockClock, cuts: bool
) -> None:
    """It would be acknowledged and lost."""
    async with place.mount() as mount:
        mount.keep = True
        await mount.mkdir("d")
        await mount.save("d/a", b"old")
        await mount.drain()
        await trio.sleep(10)
        handle = await mount.open("d/a")
        for key in ("d/a", "d/"):
            place.bucket.add(key, None)
        await trio.sleep(100)
        assert await mount.names() == set()
        with pytest.raises(FsError) as failure:
            if cuts:
                await mount.fs.setattr(mount.fs._handles[handle].inode.ino, SetAttr(size=1), handle, CALLER)
            else:
                await mount.write(handle, 0, b"new")
        assert failure.value.code == errno.ESTALE
        await mount.close(handle)
        await mount.drain()
    assert place.bucket.contents() == {}
