"""What happens to a name while a call on it waits for the bucket."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from b2fs.core.nodes import Attr, OpenFile
from b2fs.store.forward import Method
from b2fs.vfs.api import ROOT
from b2fs.vfs.config import VfsConfig
from tests.vfs.bucket import ANYBODY, Mount, bucket, fill, mount

LISTS = (Method.LIST_OBJECTS, Method.HEAD)
#: Every look at a name is a question to the bucket.
CONFIG = VfsConfig("", ttl_s=0.0, attr_index=False)


async def _let_go(mounted: Mount, name: str, references: int) -> None:
    """The kernel looks a name in the root up and gives back that reference and those that it had."""
    attr = await mounted.find(name)
    mounted.fs.forget([(attr.ino, references + 1)])


async def test_a_file_that_is_let_go_while_it_is_opened_is_open(tmp_path: Path) -> None:
    """Made by another client just before: the kernel asks to create it and holds nothing yet."""
    async with bucket(tmp_path) as store, mount(store, tmp_path / "cache", VfsConfig("", attr_index=False)) as mounted:
        # So many that the attributes of most are asked for when they are opened.
        await fill(store, [f"f{number}" for number in range(300)])
        await _let_go_of_all(mounted)
        opened: list[tuple[OpenFile, Attr]] = []

        async def create() -> None:
            opened.append(await mounted.fs.create(ROOT, b"f150", 0o644, os.O_RDWR, ANYBODY))

        async with trio.open_nursery() as nursery:
            mounted.store.pause([Method.HEAD])
            nursery.start_soon(create)
            await mounted.store.wait_held()
            await _let_go(mounted, "f150", 0)
            await mounted.store.resume()
        (handle, attr) = opened[0][0].handle, opened[0][1]
        assert (await mounted.fs.getattr(attr.ino)).size == 4
        assert await mounted.pread(handle) == b"f150"
        await mounted.fs.release(handle)


async def _let_go_of_all(mounted: Mount) -> None:
    """A listing that the kernel forgets."""
    mounted.fs.forget([(attr.ino, 1) for attr in (await mounted.ls()).values()])


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

        await _let_go(mounted, "d", 1)
        await _let_go(mounted, "e", 1)
        async with trio.open_nursery() as nursery:
            mounted.store.pause(LISTS)
            nursery.start_soon(run)
            await mounted.store.wait_held()
            await mounted.drain()
            await mounted.store.resume()
        expected = {"rmdir": ["e"], "rename": ["e", "new"], "rename-onto": ["e"]}[call]
        assert sorted(await mounted.ls()) == expected
        await mounted.drain()
