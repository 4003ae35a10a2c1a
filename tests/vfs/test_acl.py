"""Access control lists where the mount keeps them: in step with the mode, inherited, obeyed, and in the bucket."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import pytest

from b2fs.core.acl import ACCESS, DEFAULT, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, Acl, Entry
from b2fs.core.nodes import Caller, InodeId, SetAttr
from b2fs.errors import FsError
from b2fs.vfs.api import ROOT
from b2fs.vfs.config import VfsConfig
from tests.vfs.bucket import ANYBODY, Mount, bucket, mount

ALICE, BOB = Caller(1000, 1000, umask=0o077), Caller(1001, 1001)
OPTIONS = VfsConfig("", attr_index=False, acl=True, check_permissions=True)


def named(bits: int, mask: int = 7, *, owner: int = 7, group: int = 5, other: int = 0) -> bytes:
    """A list that names Bob."""
    entries = (Entry(USER_OBJ, owner), Entry(USER, bits, BOB.uid), Entry(GROUP_OBJ, group), Entry(MASK, mask))
    return Acl((*entries, Entry(OTHER, other))).pack()


async def make(mounted: Mount, name: str, mode: int, caller: Caller = ANYBODY, parent: InodeId = ROOT) -> InodeId:
    if stat.S_ISDIR(mode):
        return (await mounted.fs.mkdir(parent, name.encode(), mode, caller)).ino
    return (await mounted.fs.mknod(parent, name.encode(), mode, 0, caller)).ino


async def bits(mounted: Mount, ino: InodeId) -> int:
    return stat.S_IMODE((await mounted.fs.getattr(ino)).mode)


async def test_a_list_and_the_mode_follow_each_other(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store, mount(store, tmp_path / "one", OPTIONS) as mounted:
        ino = await make(mounted, "f", stat.S_IFREG | 0o644)
        await mounted.fs.setxattr(ino, ACCESS, named(6, 4, owner=6, group=2, other=1), 0, ANYBODY)
        assert await bits(mounted, ino) == 0o641
        await mounted.fs.setattr(ino, SetAttr(mode=0o460), None, ANYBODY)
        assert await mounted.fs.getxattr(ino, ACCESS, ANYBODY) == named(6, 6, owner=4, group=2, other=0)
        assert await mounted.fs.listxattr(ino, ANYBODY) == [ACCESS]
        await mounted.fs.removexattr(ino, ACCESS, ANYBODY)
        assert await bits(mounted, ino) == 0o460
        minimal = Acl((Entry(USER_OBJ, 7), Entry(GROUP_OBJ, 5), Entry(OTHER, 1)))
        await mounted.fs.setxattr(ino, ACCESS, minimal.pack(), 0, ANYBODY)
        assert (await bits(mounted, ino), await mounted.fs.listxattr(ino, ANYBODY)) == (0o751, [])


async def test_it_is_obeyed(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store, mount(store, tmp_path / "one", OPTIONS) as mounted:
        ino = await make(mounted, "f", stat.S_IFREG | 0o600)
        assert not await mounted.fs.access(ino, 4, BOB)
        await mounted.fs.setxattr(ino, ACCESS, named(6, 4), 0, ANYBODY)
        assert await mounted.fs.access(ino, 4, BOB)
        assert not await mounted.fs.access(ino, 2, BOB)  # masked
        assert not await mounted.fs.access(ino, 4, ALICE)
        for attempt in (
            mounted.fs.setxattr(ino, ACCESS, named(7), 0, BOB),
            mounted.fs.removexattr(ino, ACCESS, BOB),
        ):
            with pytest.raises(FsError) as refused:
                await attempt
            assert refused.value.code == errno.EPERM


async def test_a_default_list_takes_the_place_of_the_umask(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        async with mount(store, tmp_path / "one", OPTIONS) as mounted:
            directory = await make(mounted, "d", stat.S_IFDIR | 0o777)
            await mounted.fs.setattr(directory, SetAttr(mode=0o777), None, ANYBODY)
            plain = await make(mounted, "plain", stat.S_IFREG | 0o666, ALICE, directory)
            assert await bits(mounted, plain) == 0o600
            await mounted.fs.setxattr(directory, DEFAULT, named(6, 7, group=5, other=4), 0, ANYBODY)
            assert await bits(mounted, directory) == 0o777
            file = await make(mounted, "f", stat.S_IFREG | 0o664, ALICE, directory)
            assert await bits(mounted, file) == 0o664
            assert await mounted.fs.getxattr(file, ACCESS, ALICE) == named(6, 6, owner=6, group=5, other=4)
            below = await make(mounted, "below", stat.S_IFDIR | 0o700, ALICE, directory)
            assert await mounted.fs.getxattr(below, DEFAULT, ALICE) == named(6, 7, group=5, other=4)
            assert await bits(mounted, below) == 0o700
            link = await mounted.fs.symlink(directory, b"link", b"target", ALICE)
            assert stat.S_IMODE(link.mode) == 0o777
            await mounted.drain()
        async with mount(store, tmp_path / "two", OPTIONS) as mounted:
            file = (await mounted.find("d/f")).ino
            assert await mounted.fs.getxattr(file, ACCESS, ALICE) == named(6, 6, owner=6, group=5, other=4)
            assert await mounted.fs.access(file, 6, BOB)
            assert set(await mounted.fs.listxattr((await mounted.find("d/below")).ino, ALICE)) == {ACCESS, DEFAULT}


async def test_what_is_no_list_or_has_no_place(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store, mount(store, tmp_path / "one", OPTIONS) as mounted:
        ino = await make(mounted, "f", stat.S_IFREG | 0o640)
        link = (await mounted.fs.symlink(ROOT, b"link", b"target", ANYBODY)).ino
        for where, name, value, code in (
            (ino, ACCESS, b"nonsense", errno.EINVAL),
            (ino, ACCESS, named(8), errno.EINVAL),
            (ino, DEFAULT, named(6), errno.EACCES),
            (link, ACCESS, named(6), errno.EOPNOTSUPP),
        ):
            with pytest.raises(FsError) as refused:
                await mounted.fs.setxattr(where, name, value, 0, ANYBODY)
            assert refused.value.code == code
        assert (await bits(mounted, ino), await mounted.fs.listxattr(ino, ANYBODY)) == (0o640, [])
