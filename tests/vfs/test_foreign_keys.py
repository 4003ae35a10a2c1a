"""Keys that other programs made, or that are no names: none hides another, and nothing is lost around them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from b2fs.core.keys import QUOTE as Q
from b2fs.core.nodes import Attr, SetAttr
from b2fs.errors import FsError
from b2fs.store.embedded.store import EmbeddedStore
from b2fs.vfs.api import ROOT
from b2fs.vfs.config import VfsConfig
from tests.vfs.bucket import ANYBODY, MarkersWithoutMetadata, Mount, bucket, fill, mount
from tests.writeback.conftest import autojump_clock, place
from tests.writeback.harness import Place

__all__ = ["autojump_clock", "place"]

OPTIONS = VfsConfig("", attr_index=False)


def kinds(found: dict[str, Attr]) -> dict[str, str]:
    return {name: "dir" if stat.S_ISDIR(attr.mode) else "file" for name, attr in found.items()}


async def contents(store: EmbeddedStore, prefix: str = "") -> dict[str, bytes]:
    listed = (await store.list_objects(prefix)).objects
    return {info.key: bytes((await store.get(info.key))[1]) for info in listed if not info.key.startswith(".b2fs/")}


async def unlink(mounted: Mount, path: str) -> None:
    parent, _, name = path.rpartition("/")
    await mounted.fs.unlink((await mounted.find(parent)).ino, os.fsencode(name), ANYBODY)


async def remove_tree(mounted: Mount, path: str) -> None:
    """As rm -r does."""
    for name, attr in (await mounted.ls(path)).items():
        if stat.S_ISDIR(attr.mode):
            await remove_tree(mounted, f"{path}/{name}")
        else:
            await unlink(mounted, f"{path}/{name}")
    parent, _, name = path.rpartition("/")
    await mounted.fs.rmdir((await mounted.find(parent)).ino, os.fsencode(name), ANYBODY)


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


async def test_an_object_beside_a_directory_is_seen_read_written_and_removed(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, ["d/a", "d/a/b", "d/c"])
        async with mount(store, tmp_path / "one", OPTIONS) as mounted:
            assert kinds(await mounted.ls("d")) == {"a": "dir", f"a{Q}3": "file", "c": "file"}
            assert await mounted.read(f"d/a{Q}3") == b"d/a"
            await mounted.write(f"d/a{Q}3", b"new")
            await mounted.drain()
        assert await contents(store, "d/") == {"d/a": b"new", "d/a/b": b"d/a/b", "d/c": b"d/c"}
        async with mount(store, tmp_path / "two", OPTIONS) as mounted:
            # Without a listing of the directory, too.
            assert await mounted.read(f"d/a{Q}3") == b"new"
            await unlink(mounted, f"d/a{Q}3")
            await mounted.drain()
        assert await contents(store, "d/") == {"d/": b"", "d/a/b": b"d/a/b", "d/c": b"d/c"}


async def test_it_has_its_plain_name_again_when_the_directory_is_gone(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, ["a", "a/b"])
        async with mount(store, tmp_path / "one", OPTIONS) as mounted:
            await unlink(mounted, "a/b")
            await mounted.fs.rmdir(ROOT, b"a", ANYBODY)
            await mounted.drain()
        async with mount(store, tmp_path / "two", OPTIONS) as mounted:
            assert kinds(await mounted.ls()) == {"a": "file"}
            assert await mounted.read("a") == b"a"


@pytest.mark.parametrize("upload_first", [True, False])
async def test_it_can_be_renamed_away(tmp_path: Path, upload_first: bool) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, ["a", "a/b"])
        async with mount(store, tmp_path / "one", OPTIONS) as mounted:
            if upload_first:
                await mounted.ls()
            await mounted.fs.rename(ROOT, f"a{Q}3".encode(), ROOT, b"x", 0, ANYBODY)
            await mounted.drain()
        assert await contents(store) == {"a/b": b"a/b", "x": b"a"}


async def test_a_user_may_have_such_names_too(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        async with mount(store, tmp_path / "one", OPTIONS) as mounted:
            await mounted.write(f"a{Q}3", b"mine")
            await mounted.mkdir(f"{Q}0")
            await mounted.drain()
        await fill(store, ["a", "a/b"])
        async with mount(store, tmp_path / "two", OPTIONS) as mounted:
            found = await mounted.ls()
            assert len(found) == 4, found.keys()
            assert sorted([await mounted.read(name) for name, kind in kinds(found).items() if kind == "file"]) == [
                b"a",
                b"mine",
            ]


ODD = {
    "raw quote": f"d/a{Q}b",
    "picture": "d/a\u2400",
    "empty": "d//x",
    "two empty": "d///x",
    "dot": "d/.",
    "dots": "d/..",
    "below dot": "d/./x",
    "below dots": "d/../x",
    "long": "d/" + "n" * 300,
    "long directory": "d/" + "é" * 200 + "/x",
}


@pytest.mark.parametrize("key", ODD.values(), ids=ODD.keys())
async def test_every_odd_key_can_be_reached_moved_and_removed(tmp_path: Path, key: str) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, [key, "d/plain"])
        async with mount(store, tmp_path / "one", OPTIONS) as mounted:
            paths = [path for path in await mounted.walk("d") if stat.S_ISREG((await mounted.find(path)).mode)]
            assert sorted([await mounted.read(path) for path in paths]) == sorted([key.encode(), b"d/plain"])
            assert all(len(name.encode()) <= 255 for path in paths for name in path.split("/"))
        async with mount(store, tmp_path / "two", OPTIONS) as mounted:
            # By lookups alone, then a change in place.
            (path,) = (path for path in paths if path != "d/plain")
            assert await mounted.read(path) == key.encode()
            await mounted.write(path, b"N")
            await mounted.drain()
            assert (await contents(store))[key] == b"N" + key.encode()[1:]
            with pytest.raises(FsError) as refused:
                await mounted.fs.rmdir(ROOT, b"d", ANYBODY)
            assert refused.value.code == errno.ENOTEMPTY
            await mounted.fs.rename(ROOT, b"d", ROOT, b"e", 0, ANYBODY)
            await mounted.drain()
            moved = await contents(store)
            assert sorted(moved.values()) == sorted([b"N" + key.encode()[1:], b"d/plain"])
            assert {name[0] for name in moved} == {"e"}
        async with mount(store, tmp_path / "three", OPTIONS) as mounted:
            await remove_tree(mounted, "e")
            await mounted.drain()
        assert await contents(store) == {}


async def test_the_content_of_a_directorys_own_object(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await store.put("d/", b"content")
        await fill(store, ["d//x", "d/f"])
        async with mount(store, tmp_path / "one", OPTIONS) as mounted:
            assert kinds(await mounted.ls("d")) == {f"{Q}0": "dir", f"{Q}0{Q}3": "file", "f": "file"}
            assert await mounted.read(f"d/{Q}0{Q}3") == b"content"
            found = (await mounted.find(f"d/{Q}0{Q}3")).ino
            for change in (
                mounted.fs.setattr(found, SetAttr(size=0), None, ANYBODY),
                mounted.fs.open(found, os.O_WRONLY, ANYBODY),
                mounted.fs.setxattr(found, b"user.a", b"", 0, ANYBODY),
                mounted.fs.link(found, ROOT, b"x", ANYBODY),
            ):
                with pytest.raises(FsError) as refused:
                    await change
                assert refused.value.code == errno.EPERM


@pytest.mark.parametrize("markers", [True, False])
async def test_that_content_stays_with_the_directory(tmp_path: Path, markers: bool) -> None:
    async with bucket(tmp_path) as inner:
        store = inner if markers else MarkersWithoutMetadata(inner)
        await inner.put("d/", b"content")
        await inner.put("d/sub/", b"below")
        async with mount(store, tmp_path / "one", OPTIONS) as mounted:
            await mounted.fs.setattr((await mounted.find("d")).ino, SetAttr(mode=0o700), None, ANYBODY)
            await mounted.drain()
            assert (await contents(inner))["d/"] == b"content"
            with pytest.raises(FsError) as refused:
                await mounted.fs.rmdir((await mounted.find("d")).ino, b"sub", ANYBODY)
            assert refused.value.code == errno.ENOTEMPTY
            await mounted.fs.rename(ROOT, b"d", ROOT, b"e", 0, ANYBODY)
            await mounted.drain()
            assert await contents(inner) == {"e/": b"content", "e/sub/": b"below"}
        async with mount(store, tmp_path / "two", OPTIONS) as mounted:
            assert stat.S_IMODE((await mounted.find("e")).mode) == 0o700
            assert await mounted.read(f"e/sub/{Q}0") == b"below"
            await unlink(mounted, f"e/sub/{Q}0")
            await mounted.drain()
            assert await contents(inner) == {"e/": b"content", "e/sub/": b""}
            await mounted.fs.rmdir((await mounted.find("e")).ino, b"sub", ANYBODY)
            await mounted.drain()
            assert await contents(inner) == {"e/": b"content"}


async def test_a_key_with_control_characters(place: Place) -> None:
    """B2 takes none, other servers do."""
    async with place.mount() as mount:
        await mount.store.put("d/a\nb", b"odd")
        await mount.store.put("d/a\u240ab", b"picture")
        (odd,) = (name for name in await mount.names("d") if name != "a\nb")
        assert (await mount.read("d/a\nb"), await mount.read(f"d/{odd}")) == (b"picture", b"odd")
        await mount.save(f"d/{odd}", b"changed")
        await mount.rename("d", "e")
        await mount.unlink("e/a\nb")
        await mount.drain()
        assert await mount.tree() == {"e": None, f"e/{odd}": b"changed"}


async def test_a_change_to_an_object_beside_a_directory_survives_a_crash(place: Place) -> None:
    async with place.mount() as mount:
        await mount.save("other", b"x")
        await mount.mkdir("a")
        await mount.save("a/b", b"b")
        await mount.drain()
        await mount.store.put("a", b"old")
    place.forget_cache()
    async with place.mount() as mount:
        await mount.names()
        await mount.save(f"a{Q}3", b"new")
        await mount.chmod("a", 0o700)
        place.crash()
    async with place.mount() as mount:
        assert await mount.read(f"a{Q}3") == b"new"
        await mount.drain()
    assert {key: body for key, body in place.bucket.contents().items() if not key.startswith(".b2fs/")} == {
        "a": b"new",
        "a/": b"",
        "a/b": b"b",
        "other": b"x",
    }


async def test_a_local_file_moves_along_although_others_made_a_directory_of_its_name(place: Place) -> None:
    async with place.mount() as mount:
        await mount.mkdir("d")
        await mount.save("d/x", b"x")
        await mount.drain()
        await mount.save("d/a", b"ours")
        await mount.store.put("d/a/theirs", b"theirs")
        await mount.rename("d", "e")
        await mount.drain()
    files = {key: body for key, body in place.bucket.contents().items() if not key.endswith("/")}
    assert files == {"e/a": b"ours", "e/a/theirs": b"theirs", "e/x": b"x"}


async def test_an_object_and_its_directory_may_be_pages_apart(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, ["d/m", "d/m/x", *(f"d/m-{number:04}" for number in range(2500))])
        async with mount(store, tmp_path / "one", OPTIONS) as mounted:
            found = kinds(await mounted.ls("d"))
            assert len(found) == 2502
            assert (found["m"], found[f"m{Q}3"]) == ("dir", "file")
            assert await mounted.read(f"d/m{Q}3") == b"d/m"
            assert await mounted.read("d/m/x") == b"d/m/x"
