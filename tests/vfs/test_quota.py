"""`--quota`: what statvfs shows, and what is refused before it is accepted."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio

from b2fs.core.nodes import SetAttr, StatFs
from b2fs.errors import FsError, Unavailable
from b2fs.store.forward import Method
from b2fs.vfs.api import ROOT
from b2fs.vfs.config import Quota, VfsConfig
from tests.vfs.bucket import ANYBODY, Mount, bucket, fill, mount

MIB = 1 << 20
OPTIONS = VfsConfig("", attr_index=False, quota=Quota(10 * MIB, 10))


async def used(mounted: Mount) -> tuple[int, int]:
    """Blocks of 4 KiB and files."""
    found = await mounted.fs.statfs()
    return found.blocks - found.blocks_free, found.files - found.files_free


async def refused(mounted: Mount, path: str, size: int) -> None:
    with pytest.raises(FsError) as error:
        await mounted.write(path, bytes(size))
    assert error.value.code == errno.EDQUOT


async def test_without_a_quota_there_is_no_end_and_nothing_is_listed(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, ["a", "d/b"])
        async with mount(store, tmp_path / "cache", VfsConfig("", attr_index=False)) as mounted:
            found = await mounted.fs.statfs()
            assert (found.blocks, found.files) == (found.blocks_free, found.files_free)
            assert [call.key for call in mounted.store.calls if call.method is Method.LIST_OBJECTS] == [".b2fs/"]


@pytest.mark.parametrize("prefix", ["", "p/"])
async def test_what_is_in_the_bucket_counts(tmp_path: Path, prefix: str) -> None:
    async with bucket(tmp_path) as store:
        await store.put(f"{prefix}large", bytes(MIB))
        await store.put(f"{prefix}d/", b"")
        await store.put(f"{prefix}d/small", b"x")
        await store.put(f"{prefix}.b2fs/attrs/index", bytes(MIB))
        await store.put("other/large" if prefix else ".b2fs/x", bytes(MIB))
        async with mount(store, tmp_path / "cache", OPTIONS._replace(prefix=prefix)) as mounted:
            assert await mounted.fs.statfs() == StatFs(4096, 2560, 2560 - 257, 10, 7)


async def test_every_change_counts_at_once(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store, mount(store, tmp_path / "cache", OPTIONS) as mounted:
        assert await used(mounted) == (0, 0)
        await mounted.write("f", bytes(4 * MIB))
        assert await used(mounted) == (1024, 1)
        await mounted.fs.link((await mounted.find("f")).ino, ROOT, b"g", ANYBODY)
        assert await used(mounted) == (2048, 2)
        await mounted.fs.setattr((await mounted.find("f")).ino, SetAttr(size=MIB), None, ANYBODY)
        assert await used(mounted) == (512, 2)
        await mounted.write("h", bytes(2 * MIB))
        await mounted.fs.rename(ROOT, b"h", ROOT, b"g", 0, ANYBODY)
        assert await used(mounted) == (768, 2)
        await mounted.drain()
        assert await used(mounted) == (768, 2)
        for name in (b"f", b"g"):
            await mounted.fs.unlink(ROOT, name, ANYBODY)
        assert await used(mounted) == (0, 0)


async def test_what_is_beyond_it_is_refused_and_what_is_freed_is_free(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store, mount(store, tmp_path / "cache", OPTIONS) as mounted:
        await mounted.fs.statfs()
        await mounted.write("f", bytes(9 * MIB))
        await refused(mounted, "g", MIB + 1)
        assert (await mounted.find("g")).size == 0
        await mounted.write("g", bytes(MIB))
        with pytest.raises(FsError) as error:
            await mounted.fs.setattr((await mounted.find("g")).ino, SetAttr(size=2 * MIB), None, ANYBODY)
        assert error.value.code == errno.EDQUOT
        assert (await mounted.find("g")).size == MIB
        with pytest.raises(FsError) as error:
            await mounted.fs.link((await mounted.find("g")).ino, ROOT, b"x", ANYBODY)
        assert error.value.code == errno.EDQUOT
        await mounted.write("f", bytes(9 * MIB))  # in place: nothing grows
        await mounted.fs.unlink(ROOT, b"f", ANYBODY)
        await mounted.write("h", bytes(9 * MIB))
        await mounted.drain()


async def test_files_are_counted_too(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store, mount(store, tmp_path / "cache", OPTIONS) as mounted:
        for number in range(9):
            await mounted.write(f"f{number}", b"")
        await mounted.mkdir("d")
        for attempt in (
            mounted.fs.create(ROOT, b"x", 0o644, os.O_RDWR, ANYBODY),
            mounted.fs.mkdir(ROOT, b"x", 0o755, ANYBODY),
            mounted.fs.symlink(ROOT, b"x", b"target", ANYBODY),
        ):
            with pytest.raises(FsError) as error:
                await attempt
            assert error.value.code == errno.EDQUOT
        await mounted.fs.unlink(ROOT, b"f0", ANYBODY)
        await mounted.write("x", b"")
        await mounted.drain()


async def test_what_waits_from_an_earlier_end_counts(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        async with mount(store, tmp_path / "cache", OPTIONS) as mounted:
            mounted.store.fail([Method.PUT], Unavailable("no"), times=None)
            await mounted.write("f", bytes(MIB))
        async with mount(store, tmp_path / "cache", OPTIONS) as mounted:
            assert await used(mounted) == (256, 1)
            await mounted.drain()
            assert await used(mounted) == (256, 1)


async def test_figures_that_cannot_be_had_hold_nobody_up(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store, mount(store, tmp_path / "cache", OPTIONS) as mounted:
        mounted.store.fail([Method.LIST_OBJECTS], Unavailable("no"), times=None)
        with trio.fail_after(30):
            assert (await mounted.fs.statfs()).blocks == 2560
        mounted.store.heal()
        await mounted.drain()
