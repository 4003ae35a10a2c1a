"""Files that were only listed: what they cost, and that they are files like all others."""

from __future__ import annotations

import gc
import os
import stat
import tracemalloc
from pathlib import Path

import pytest
from trio.testing import MockClock

from b2fs.core.nodes import InodeId, SetAttr
from b2fs.errors import FsError
from b2fs.store.forward import Method
from b2fs.vfs.config import VfsConfig
from tests.mounting import NoKernel
from tests.vfs.bucket import ANYBODY, Mount, bucket, fill, mount

CONFIG = VfsConfig("", attr_index=False)
NAMES = [f"f{number:04}" for number in range(100)]


def _held(mounted: Mount) -> int:
    """How many inodes there are, awake or dormant, but the root."""
    mounted.fs._core.dormant.check_invariants()
    return mounted.fs.held - 1


async def test_forgetting_lets_go(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, [f"d/{name}" for name in NAMES])
        async with mount(store, tmp_path / "cache", CONFIG) as mounted:
            directory = await mounted.find("d")
            for _ in range(2):
                found = await mounted.list_inode(directory.ino)
            assert _held(mounted) == 101
            assert len(mounted.fs._core.dormant) == 100
            await mounted.read("d/f0003")
            assert len(mounted.fs._core.dormant) == 99
            mounted.fs.forget([(attr.ino, 2) for attr in found.values()])
            assert _held(mounted) == 2  # the directory, and what find looked up in it
            mounted.fs.forget([(found["f0003"].ino, 1), (directory.ino, 3)])
            assert _held(mounted) == 0


async def test_a_listed_file_takes_little_memory_while_the_kernel_holds_it(tmp_path: Path) -> None:
    count = 5000
    async with bucket(tmp_path) as store:
        await fill(store, (f"d/f{number:06}" for number in range(count)))
        async with mount(store, tmp_path / "cache", CONFIG) as mounted:
            directory = await mounted.find("d")
            tracemalloc.start()
            try:
                found = await mounted.list_inode(directory.ino)
                assert len(found) == count
                del found
                mounted.fs._scanner.forget()
                gc.collect()
                taken, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert taken / count < 500


async def test_a_listed_file_is_the_same_file_for_every_call(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, [f"d/{name}" for name in NAMES])
        async with mount(store, tmp_path / "cache", CONFIG) as mounted:
            found = await mounted.ls("d")
            directory = (await mounted.find("d")).ino
            inos = {name: attr.ino for name, attr in found.items()}
            assert (await mounted.fs.lookup(directory, b"f0001", ANYBODY)).ino == inos["f0001"]
            assert (await mounted.fs.getattr(inos["f0002"])).size == len("d/f0002")
            with pytest.raises(FsError):
                await mounted.fs.getxattr(inos["f0003"], b"user.x", ANYBODY)
            opened = await mounted.fs.open(inos["f0004"], os.O_RDWR, ANYBODY)
            await mounted.fs.write(opened.handle, 0, b"changed")
            await mounted.fs.release(opened.handle)
            await mounted.fs.setattr(inos["f0005"], SetAttr(mode=0o600), None, ANYBODY)
            await mounted.fs.setxattr(inos["f0006"], b"user.x", b"y", 0, ANYBODY)
            await mounted.fs.rename(directory, b"f0007", directory, b"moved", 0, ANYBODY)
            await mounted.fs.unlink(directory, b"f0008", ANYBODY)
            again = await mounted.ls("d")
            assert {name: attr.ino for name, attr in again.items()} == {
                "moved" if name == "f0007" else name: ino for name, ino in inos.items() if name != "f0008"
            }
            assert await mounted.read("d/f0004") == b"changed"[:7]
            assert again["f0005"].mode == stat.S_IFREG | 0o600
            assert await mounted.fs.getxattr(inos["f0006"], b"user.x", ANYBODY) == b"y"
            await mounted.drain()
            mounted.fs._core.dormant.check_invariants()
        assert (await store.get("d/f0004"))[1] == b"changed"


async def test_a_directory_of_listed_files_is_renamed_with_them(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, [f"d/{name}" for name in NAMES])
        async with mount(store, tmp_path / "cache", CONFIG) as mounted:
            before = {name: attr.ino for name, attr in (await mounted.ls("d")).items()}
            await store.hide("d/f0009")
            await mounted.fs.rename(InodeId(1), b"d", InodeId(1), b"e", 0, ANYBODY)
            after = {name: attr.ino for name, attr in (await mounted.ls("e")).items()}
            assert after == {name: ino for name, ino in before.items() if name != "f0009"}
            assert await mounted.read("e/f0042") == b"d/f0042"
            mounted.fs._core.dormant.check_invariants()
            await mounted.drain()
        assert (await store.get("e/f0042"))[1] == b"d/f0042"


@pytest.mark.parametrize("hidden", [False, True])
async def test_a_listed_file_that_was_replaced_is_another_file_and_can_still_be_read(
    tmp_path: Path, mock_clock: MockClock, hidden: bool
) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, [f"d/{name}" for name in NAMES])
        async with mount(store, tmp_path / "cache", CONFIG) as mounted:
            before = (await mounted.ls("d"))["f0050"]
            await (store.hide("d/f0050") if hidden else store.put("d/f0050", b"something longer"))
            mock_clock.jump(61)
            after = await mounted.ls("d")
            if hidden:
                assert "f0050" not in after
            else:
                assert after["f0050"].ino != before.ino
                assert await mounted.read("d/f0050") == b"something longer"
            # A program that got the number before may still come with it.
            opened = await mounted.fs.open(before.ino, os.O_RDONLY, ANYBODY)
            assert await mounted.pread(opened.handle) == b"d/f0050"
            await mounted.fs.release(opened.handle)
            mounted.fs._core.dormant.check_invariants()


async def test_looking_again_after_the_time_to_live_costs_one_listing_and_wakes_nobody(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, [f"d/{name}" for name in NAMES])
        async with mount(store, tmp_path / "cache", CONFIG) as mounted:
            before = {name: attr.ino for name, attr in (await mounted.ls("d")).items()}
            directory = (await mounted.find("d")).ino
            mock_clock.jump(61)
            mounted.store.reset_counts()
            for name, ino in before.items():
                assert (await mounted.fs.lookup(directory, name.encode(), ANYBODY)).ino == ino
            asked = [call.key for call in mounted.store.calls[-mounted.count() :]]
            assert [key for key in asked if not key.startswith(".b2fs/")] == ["d/"]
            assert len(mounted.fs._core.dormant) == len(NAMES)


async def test_a_refresh_tells_the_kernel_of_listed_files(tmp_path: Path) -> None:
    told: set[bytes] = set()

    class Kernel(NoKernel):
        def invalidate_entry(self, parent: InodeId, name: bytes) -> None:
            told.add(name)

    async with bucket(tmp_path) as store:
        await fill(store, [f"d/{name}" for name in NAMES])
        async with mount(store, tmp_path / "cache", CONFIG, notifier=Kernel()) as mounted:
            await mounted.ls("d")
            await mounted.fs.refresh(b"d")
            assert {name.encode() for name in NAMES} <= told


async def test_listing_again_asks_for_nothing(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, [f"d/{name}" for name in NAMES])
        async with mount(store, tmp_path / "cache", CONFIG) as mounted:
            first = await mounted.ls("d")
            mounted.store.reset_counts()
            assert {name: attr.ino for name, attr in (await mounted.ls("d")).items()} == {
                name: attr.ino for name, attr in first.items()
            }
            assert mounted.count(*Method) == 0
