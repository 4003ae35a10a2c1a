"""Keys that other programs made, or that are no names: none hides another, and nothing is lost around them."""

from __future__ import annotations

from pathlib import Path

from b2fs.vfs.config import VfsConfig
from tests.vfs.bucket import ANYBODY, bucket, mount

OPTIONS = VfsConfig("", attr_index=False)


async def test_a_directory_that_a_cold_mount_empties_and_removes_stays_away(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        async with mount(store, tmp_path / "one", OPTIONS) as mounted:
            await mounted.mkdir("d")
            await mounted.write("d/f", b"x")
            await mounted.drain()
        async with mount(store, tmp_path / "two", OPTIONS) as mounted:
            await mounted.fs.unlink((await mounted.find("d")).ino, b"f", ANYBODY)
            await mounted.fs.rmdir((await mounted.find("")).ino, b"d", ANYBODY)
            await mounted.drain()
        assert [info.key for info in (await store.list_objects("")).objects] == []
