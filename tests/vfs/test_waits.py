"""What happens to a name while a call on it waits for the bucket."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from b2fs.store.forward import Method
from b2fs.vfs.api import ROOT
from b2fs.vfs.config import VfsConfig
from tests.vfs.bucket import ANYBODY, Mount, bucket, mount

LISTS = (Method.LIST_OBJECTS, Method.HEAD)
#: Every look at a name is a question to the bucket.
CONFIG = VfsConfig("", ttl_s=0.0, attr_index=False)


async def _let_go(mounted: Mount, name: str) -> None:
    """The kernel gives back every reference that it had of a name in the root."""
    attr = await mounted.find(name)
    mounted.fs.forget([(attr.ino, 1_000)])


@pytest.mark.parametrize("call", ["rmdir", "rename", "rename-onto"])
async def test_a_name_that_is_stored_and_let_go_is_still_there(tmp_path: Path, call: str) -> None:
    async with bucket(tmp_path) as store, mount(store, tmp_path / "cache", CONFIG) as mounted:
        await mounted.mkdir("d")
        await mounted.mkdir("e")

        async def run() -> None:
            if call == "rmdir":
                await mounted.fs.rmdir(ROOT, b"d", ANYBODY)
            else:
                await mounted.fs.rename(ROOT, b"d", ROOT, b"e" if call == "rename-onto" else b"new", 0, ANYBODY)

        await _let_go(mounted, "d")
        await _let_go(mounted, "e")
        async with trio.open_nursery() as nursery:
            mounted.store.pause(LISTS)
            nursery.start_soon(run)
            await mounted.store.wait_held()
            await mounted.drain()
            await mounted.store.resume()
        expected = {"rmdir": ["e"], "rename": ["e", "new"], "rename-onto": ["e"]}[call]
        assert sorted(await mounted.ls()) == expected
        await mounted.drain()
