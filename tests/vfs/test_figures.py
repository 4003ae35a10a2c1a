"""Figures that stat and b2fs's own attributes tell: blocks of sparse files, links of directories, states."""

from __future__ import annotations

import errno
import os
import random
import string
from dataclasses import replace
from pathlib import Path

import pytest
from trio.testing import MockClock

from b2fs.core.nodes import SetAttr
from b2fs.errors import AccessDenied, FsError
from b2fs.store.forward import Method
from b2fs.vfs.api import ROOT
from b2fs.vfs.config import VfsConfig
from tests.vfs.bucket import ANYBODY, Mount, bucket, fill, mount
from tests.writeback.conftest import autojump_clock, place
from tests.writeback.harness import RW, Place
from tests.writeback.harness import Mount as PathMount

__all__ = ["autojump_clock", "place"]

MIB = 1 << 20
OPTIONS = VfsConfig("", attr_index=False)


async def own(mounted: Mount | PathMount, ino: int, name: str) -> str:
    return (await mounted.fs.getxattr(ino, f"user.b2fs.{name}".encode(), ANYBODY)).decode()  # type: ignore[arg-type]  # an int of a stat


async def test_a_sparse_file_takes_the_blocks_of_its_data(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        handle = await mount.create("sparse")
        await mount.write(handle, 100 * MIB, b"x" * 4096)
        sparse = await mount.stat("sparse")
        assert sparse.size == 100 * MIB + 4096
        assert 8 <= sparse.blocks < 2048
        await mount.write(handle, 0, b"x" * MIB)
        assert sparse.blocks + 2048 <= (await mount.stat("sparse")).blocks < 4096
        await mount.close(handle)
        await mount.save("dense", b"x" * MIB)
        assert (await mount.stat("dense")).blocks == 2048
        await mount.truncate("dense", 64 * MIB)
        assert 2048 <= (await mount.stat("dense")).blocks < 4096


async def test_a_listed_directory_counts_its_subdirectories(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, ["d/a/x", "d/b/x", "d/file", ".b2fs/x", "e/"])
        async with mount(store, tmp_path / "cache", OPTIONS) as mounted:
            assert (await mounted.find("e")).nlink == 2
            await mounted.find("d/file")
            assert (await mounted.find("d")).nlink == 4
            assert (await mounted.find("")).nlink == 4
            await mounted.mkdir("d/c")
            assert (await mounted.find("d")).nlink >= 3
            await mounted.ls("d")
            assert (await mounted.find("d")).nlink == 5
            await mounted.drain()
            assert (await mounted.find("d")).nlink == 5
            await mounted.fs.rmdir(ROOT, b"e", ANYBODY)
            assert (await mounted.find("")).nlink <= 3  # before the bucket has heard of it


async def test_the_state_of_a_file(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        mount.keep = True
        await mount.save("f", b"one")
        ino = await mount.ino("f")
        assert await own(mount, ino, "state") == "dirty"
        with pytest.raises(FsError) as missing:
            await own(mount, ino, "version_id")
        assert missing.value.code == errno.ENODATA
        await mount.drain()
        ino = await mount.ino("f")
        assert await own(mount, ino, "state") == "clean"
        assert await own(mount, ino, "version_id")
        assert await own(mount, ino, "etag")
        mount.store.fail([Method.PUT], AccessDenied("no"), times=1)
        handle = await mount.open("f", RW)
        await mount.write(handle, 0, b"two")
        with pytest.raises(AccessDenied):
            await mount.fs.fsync(handle, False)
        assert await own(mount, await mount.ino("f"), "state") == "failed"
        await mount.close(handle)
        await mount.drain()
        assert await own(mount, await mount.ino("f"), "state") == "clean"


async def test_a_file_that_goes_up_says_so(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        mount.keep = True
        mount.store.pause([Method.PUT])
        await mount.save("f", b"one")
        ino = await mount.ino("f")
        await mount.store.wait_held()
        assert await own(mount, ino, "state") == "uploading"
        await mount.store.resume()
        await mount.drain()


async def test_the_version_of_a_file_that_only_a_listing_has_shown(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, ["f"])
        async with mount(store, tmp_path / "cache", OPTIONS) as mounted:
            await mounted.ls()
            ino = (await mounted.find("f")).ino
            assert await own(mounted, ino, "version_id") == (await store.head("f")).ref.version_id
            assert await own(mounted, (await mounted.find("")).ino, "state") == "clean"


@pytest.mark.parametrize("drained", [True, False], ids=["stored", "journaled"])
@pytest.mark.parametrize("kind", ["file", "directory"])
async def test_an_attribute_that_does_not_fit_changes_nothing(tmp_path: Path, kind: str, drained: bool) -> None:
    """Neither here, nor after the next mount takes up the journal, nor in the bucket."""
    kept = {b"user.a": os.urandom(1_000), b"user.b": os.urandom(2_000)}

    async def attributes(mounted: Mount) -> dict[bytes, bytes]:
        ino = (await mounted.find("x")).ino
        names = await mounted.fs.listxattr(ino, ANYBODY)
        return {name: await mounted.fs.getxattr(ino, name, ANYBODY) for name in names}

    async with bucket(tmp_path) as store:
        async with mount(store, tmp_path / "cache", OPTIONS) as mounted:
            await (mounted.mkdir("x") if kind == "directory" else mounted.write("x", b"content"))
            ino = (await mounted.find("x")).ino
            for name, value in kept.items():
                await mounted.fs.setxattr(ino, name, value, 0, ANYBODY)
            if drained:
                await mounted.drain()
            before = await mounted.find("x")
            for name in (b"user.a", b"user.c"):
                for size in (5_000, 65_536):
                    with pytest.raises(FsError) as refused:
                        await mounted.fs.setxattr(ino, name, os.urandom(size), 0, ANYBODY)
                    assert refused.value.code == errno.ENOSPC
            assert replace(await mounted.find("x"), ttl_s=before.ttl_s) == before
            assert await attributes(mounted) == kept
            assert await own(mounted, ino, "state") == ("clean" if drained else "dirty")
        async with mount(store, tmp_path / "cache", OPTIONS) as mounted:
            assert await attributes(mounted) == kept
            await mounted.drain()
        async with mount(store, tmp_path / "other", OPTIONS) as mounted:
            assert await attributes(mounted) == kept


async def test_attributes_share_the_metadata_with_a_long_path(tmp_path: Path) -> None:
    """Refused before anything has changed, for an object that could not be stored would fail for ever."""
    letters = random.Random(1)
    names = ["".join(letters.choices(string.ascii_letters, k=240)) for _ in range(16)]
    deep = "/".join(names)
    async with bucket(tmp_path) as store, mount(store, tmp_path / "cache", OPTIONS) as mounted:
        at = ""
        for name in names:
            at = f"{at}/{name}" if at else name
            await mounted.mkdir(at)
        await mounted.write("f", b"content")
        root, directory, ino = [(await mounted.find(path)).ino for path in ("", deep, "f")]
        await mounted.fs.setxattr(ino, b"user.large", os.urandom(2_400), 0, ANYBODY)
        for attempt in (
            mounted.fs.rename(root, b"f", directory, b"x" * 250, 0, ANYBODY),
            mounted.fs.link(ino, directory, b"x" * 250, ANYBODY),
            mounted.fs.setxattr(ino, b"user.more", os.urandom(3_000), 0, ANYBODY),
        ):
            with pytest.raises(FsError) as refused:
                await attempt
            assert refused.value.code == errno.ENOSPC
        assert await mounted.fs.listxattr(ino, ANYBODY) == [b"user.large"]
        await mounted.fs.removexattr(ino, b"user.large", ANYBODY)
        await mounted.fs.rename(root, b"f", directory, b"x" * 250, 0, ANYBODY)
        with pytest.raises(FsError) as refused:
            await mounted.fs.setxattr(ino, b"user.large", os.urandom(2_400), 0, ANYBODY)
        assert refused.value.code == errno.ENOSPC
        await mounted.fs.setattr(ino, SetAttr(mode=0o600), None, ANYBODY)
        await mounted.drain()
        assert await mounted.read(f"{deep}/{'x' * 250}") == b"content"
