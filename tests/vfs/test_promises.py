"""What the semantics page promises about other clients, unreachable buckets and local durability."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from b2fs.core.nodes import SetAttr
from b2fs.errors import FsError, StoreError, Unavailable
from b2fs.store.forward import Method
from b2fs.vfs.config import VfsConfig
from tests.vfs.bucket import ANYBODY, bucket, fill, mount


async def test_an_unreachable_bucket_is_an_error_and_never_an_empty_directory(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, ["d/f"])
        async with mount(store, tmp_path / "cache") as mounted:
            mounted.store.fail([Method.LIST_OBJECTS, Method.HEAD], Unavailable("no route"), times=None)
            with pytest.raises(StoreError):
                await mounted.ls("")
            with pytest.raises(StoreError):
                await mounted.find("d")
            mounted.store.heal()
            assert list(await mounted.ls("d")) == ["f"]


async def test_what_another_client_does_is_seen_when_the_time_to_live_is_over(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, ["changed", "removed"])
        async with mount(store, tmp_path / "cache", VfsConfig("", ttl_s=0.0)) as mounted:
            before = (await mounted.ls())["changed"]
            await store.put("changed", b"by another client")
            await store.hide("removed")
            await store.put("made", b"new")
            assert sorted(await mounted.ls()) == ["changed", "made"]
            assert await mounted.read("changed") == b"by another client"
            assert await mounted.read("made") == b"new"
            assert (await mounted.find("changed")).ino != before.ino
            with pytest.raises(FsError) as caught:
                await mounted.find("removed")
            assert caught.value.code == errno.ENOENT


@pytest.mark.parametrize("level", ["local", "bucket"])
async def test_fsync_waits_for_what_the_mount_says(tmp_path: Path, level: str) -> None:
    config = VfsConfig("", fsync_level=level)
    async with bucket(tmp_path) as store, mount(store, tmp_path / "cache", config) as mounted:
        opened, _ = await mounted.fs.create((await mounted.find("")).ino, b"f", 0o644, os.O_RDWR, ANYBODY)
        await mounted.fs.write(opened.handle, 0, b"content")
        await mounted.fs.fsync(opened.handle, False)
        assert (mounted.count(Method.PUT) == 0) == (level == "local")
        await mounted.fs.release(opened.handle)
        await mounted.drain()


async def test_sync_on_close_makes_close_wait_for_the_bucket(tmp_path: Path) -> None:
    config = VfsConfig("", sync_on_close=True)
    async with bucket(tmp_path) as store, mount(store, tmp_path / "cache", config) as mounted:
        opened, _ = await mounted.fs.create((await mounted.find("")).ino, b"f", 0o644, os.O_RDWR, ANYBODY)
        await mounted.fs.write(opened.handle, 0, b"content")
        await mounted.fs.flush(opened.handle)
        assert (await store.get("f"))[1] == b"content"
        await mounted.fs.release(opened.handle)


@pytest.mark.parametrize("change", ["made", "opened with O_TRUNC", "ftruncate"])
async def test_sync_on_close_waits_for_files_that_nobody_wrote_to(tmp_path: Path, change: str) -> None:
    config = VfsConfig("", sync_on_close=True)
    async with bucket(tmp_path) as store, mount(store, tmp_path / "cache", config) as mounted:
        if change != "made":
            await fill(store, ["f"])
        flags = os.O_RDWR | (os.O_TRUNC if change == "opened with O_TRUNC" else 0)
        opened, attr = await mounted.fs.create((await mounted.find("")).ino, b"f", 0o644, flags, ANYBODY)
        if change == "ftruncate":
            await mounted.fs.setattr(attr.ino, SetAttr(size=0), opened.handle, ANYBODY)
        await mounted.fs.flush(opened.handle)
        assert (await store.get("f"))[1] == b""
        await mounted.fs.release(opened.handle)
