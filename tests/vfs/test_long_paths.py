"""Paths whose keys are longer than a bucket takes: kept under `.b2fs/long/`, seen where they belong."""

from __future__ import annotations

import errno
import logging
import stat
from pathlib import Path

import pytest

from b2fs.cache.longkeys import LongKeys
from b2fs.core.longkeys import PATH_NAME, encode_path, short_name
from b2fs.errors import FsError
from b2fs.store.embedded.store import EmbeddedStore
from b2fs.store.forward import Method
from b2fs.vfs.config import VfsConfig
from tests.vfs.bucket import ANYBODY, MarkersWithoutMetadata, Mount, bucket, fill, mount
from tests.vfs.driver import Driver
from tests.writeback.conftest import autojump_clock, place
from tests.writeback.harness import Place

__all__ = ["autojump_clock", "place"]

PART = "é" * 100  # 200 bytes
DEEP = "/".join([PART] * 6)  # 1,205 bytes
UP = DEEP.rpartition("/")[0]  # 1,004 bytes
OPTIONS = VfsConfig("", attr_index=False)


async def make_dirs(mounted: Mount, path: str) -> None:
    at = ""
    for part in path.split("/"):
        at = f"{at}/{part}" if at else part
        await mounted.mkdir(at)


async def rename(mounted: Mount, old: str, new: str) -> None:
    old_dir, _, old_name = old.rpartition("/")
    new_dir, _, new_name = new.rpartition("/")
    parents = (await mounted.find(old_dir)).ino, (await mounted.find(new_dir)).ino
    await mounted.fs.rename(parents[0], old_name.encode(), parents[1], new_name.encode(), 0, ANYBODY)


async def keys(store: EmbeddedStore, prefix: str = "") -> list[str]:
    return [info.key for info in (await store.list_objects(prefix)).objects]


async def long_keys(store: EmbeddedStore) -> list[str]:
    return await keys(store, ".b2fs/long/")


async def test_a_long_path_is_there_on_a_cold_mount(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        async with mount(store, tmp_path / "one", OPTIONS) as mounted:
            await make_dirs(mounted, DEEP)
            await mounted.write(f"{DEEP}/file", b"content", 0o640)
            await mounted.drain()
        assert {f".b2fs/long/{short_name(path)}" for path in (f"{DEEP}/", f"{DEEP}/file")} == set(
            await long_keys(store)
        )
        async with mount(store, tmp_path / "two", OPTIONS) as mounted:
            assert f"{DEEP}/file" in await mounted.walk()
            assert await mounted.read(f"{DEEP}/file") == b"content"
            assert (await mounted.find(f"{DEEP}/file")).mode == stat.S_IFREG | 0o640
            assert set(await mounted.ls()) == {PART}


async def test_another_client_finds_plain_content_and_the_path(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        async with mount(store, tmp_path / "one", OPTIONS) as mounted:
            await make_dirs(mounted, UP)
            await mounted.write(f"{UP}/{'x' * 200}", b"content")
            await mounted.drain()
        (key,) = await long_keys(store)
        info, body = await store.get(key)
        assert body == b"content"
        assert (info.metadata or {})[PATH_NAME] == encode_path(f"{UP}/{'x' * 200}")


@pytest.mark.parametrize("way", ["there and back", "before the upload"])
async def test_a_file_moves_to_a_long_path_and_back(tmp_path: Path, way: str) -> None:
    name = "x" * 200
    async with bucket(tmp_path) as store:
        async with mount(store, tmp_path / "one", OPTIONS) as mounted:
            await make_dirs(mounted, UP)
            await mounted.write("short", b"content", 0o604)
            if way == "there and back":
                await mounted.drain()
            await rename(mounted, "short", f"{UP}/{name}")
            if way == "there and back":
                await mounted.drain()
                assert len(await long_keys(store)) == 1
                assert "short" not in await keys(store)
            await rename(mounted, f"{UP}/{name}", "back")
            await mounted.drain()
        assert await long_keys(store) == []
        async with mount(store, tmp_path / "two", OPTIONS) as mounted:
            assert await mounted.read("back") == b"content"
            assert stat.S_IMODE((await mounted.find("back")).mode) == 0o604
            assert await mounted.ls(UP) == {}
        assert PATH_NAME not in ((await store.head("back")).metadata or {})


async def test_a_directory_moves_so_that_its_files_become_long_and_short_again(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        async with mount(store, tmp_path / "one", OPTIONS) as mounted:
            await make_dirs(mounted, UP)
            await make_dirs(mounted, "d/below")
            for number in range(3):
                await mounted.write(f"d/below/a longer name, file{number}", b"%d" % number)
            await mounted.drain()
            await rename(mounted, "d", f"{UP}/d")
            await mounted.drain()
            assert await keys(store, "d") == []
            assert len(await long_keys(store)) == 3
        async with mount(store, tmp_path / "two", OPTIONS) as mounted:
            assert set(await mounted.ls(f"{UP}/d/below")) == {f"a longer name, file{number}" for number in range(3)}
            await rename(mounted, f"{UP}/d", "back")
            await mounted.drain()
            assert await long_keys(store) == []
        async with mount(store, tmp_path / "three", OPTIONS) as mounted:
            assert await mounted.read("back/below/a longer name, file2") == b"2"
            assert await mounted.ls(UP) == {}


async def test_a_path_that_nothing_can_carry_is_refused_before_anything_happens(tmp_path: Path) -> None:
    # Bytes that are no text take five each in a key, and these do not pack well.
    names = [bytes(128 + (a * b * 7) % 128 for b in range(255)) for a in range(3, 60, 2)]
    async with bucket(tmp_path) as store, mount(store, tmp_path / "one", OPTIONS) as mounted:
        at = (await mounted.find("")).ino
        with pytest.raises(FsError) as refused:
            for name in names * 20:
                at = (await mounted.fs.mkdir(at, name, 0o755, ANYBODY)).ino
        assert refused.value.code == errno.ENAMETOOLONG
        await mounted.drain()


async def test_unlinked_long_names_are_gone(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        async with mount(store, tmp_path / "one", OPTIONS) as mounted:
            await make_dirs(mounted, DEEP)
            await mounted.write(f"{DEEP}/file", b"content")
            await mounted.drain()
        async with mount(store, tmp_path / "two", OPTIONS) as mounted:
            await mounted.fs.unlink((await mounted.find(DEEP)).ino, b"file", ANYBODY)
            await mounted.fs.rmdir((await mounted.find(UP)).ino, PART.encode(), ANYBODY)
            await mounted.drain()
            assert await long_keys(store) == []
        async with mount(store, tmp_path / "three", OPTIONS) as mounted:
            assert await mounted.ls(UP) == {}


async def test_hard_and_symbolic_links_under_long_names(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        async with mount(store, tmp_path / "one", OPTIONS) as mounted:
            await make_dirs(mounted, DEEP)
            await mounted.write("file", b"content")
            deep = (await mounted.find(DEEP)).ino
            await mounted.fs.link((await mounted.find("file")).ino, deep, b"hard", ANYBODY)
            await mounted.fs.symlink(deep, b"soft", b"target", ANYBODY)
            await mounted.drain()
        async with mount(store, tmp_path / "two", OPTIONS) as mounted:
            assert await mounted.read(f"{DEEP}/hard") == b"content"
            assert (await mounted.find(f"{DEEP}/hard")).ino == (await mounted.find("file")).ino
            assert await mounted.fs.readlink((await mounted.find(f"{DEEP}/soft")).ino) == b"target"


async def test_what_carries_no_path_of_its_own_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = f"{DEEP}/file"
    async with bucket(tmp_path) as store:
        wrong = [
            {},
            {PATH_NAME: "other"},
            {PATH_NAME: "%FF"},
            {PATH_NAME: "z:!"},
            {PATH_NAME: encode_path(f"{DEEP}/x")},
        ]
        for number, metadata in enumerate(wrong):
            await store.put(f".b2fs/long/{number:032x}", b"x", metadata=metadata)
        await store.put(f".b2fs/long/{short_name('short')}", b"x", metadata={PATH_NAME: "short"})
        await store.put(f".b2fs/long/{short_name(name)}", b"right", metadata={PATH_NAME: encode_path(name)})
        with caplog.at_level(logging.ERROR, "b2fs.cache.longkeys"):
            async with mount(store, tmp_path / "one", OPTIONS) as mounted:
                assert [path for path in await mounted.walk() if "/" not in path] == [PART]
                assert await mounted.read(name) == b"right"


async def test_a_bucket_without_long_names_is_not_asked_for_them(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, [f"d{number}/file" for number in range(20)])
        async with mount(store, tmp_path / "one", OPTIONS) as mounted:
            await mounted.walk()
            assert not [call for call in mounted.store.calls if call.key.startswith(".b2fs/long/")]
        await fill(store, [".b2fs/root"])
        async with mount(store, tmp_path / "two", OPTIONS) as mounted:
            await mounted.walk()
            assert not [call for call in mounted.store.calls if call.key.startswith(".b2fs/long/")]


async def test_a_cold_tree_of_long_names_takes_one_listing_and_one_look_at_each(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        for number in range(50):
            path = f"{DEEP}/d{number}/file"
            await store.put(f".b2fs/long/{short_name(path)}", b"x", metadata={PATH_NAME: encode_path(path)})
        async with mount(store, tmp_path / "one", OPTIONS) as mounted:
            assert len(await mounted.walk()) == 6 + 100
            asked = [call for call in mounted.store.calls if call.key.startswith(".b2fs/long/")]
            assert [call.method for call in asked].count(Method.LIST_OBJECTS) == 1


async def test_attributes_of_long_directories_where_markers_carry_none(tmp_path: Path) -> None:
    async with bucket(tmp_path) as inner:
        store = MarkersWithoutMetadata(inner)
        async with mount(store, tmp_path / "one", OPTIONS) as mounted:
            await make_dirs(mounted, UP)
            await mounted.mkdir(f"{UP}/{PART}", 0o711)
            await mounted.drain()
        async with mount(store, tmp_path / "two", OPTIONS) as mounted:
            assert stat.S_IMODE((await mounted.find(DEEP)).mode) == 0o711


async def test_pages_of_a_listing_have_each_long_name_once(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, [f"{PART}/f{number:04}" for number in range(0, 3000, 2)])
        for number in range(1, 3000, 300):
            path = f"{PART}/f{number:04}/{DEEP}"
            await store.put(f".b2fs/long/{short_name(path)}", b"x", metadata={PATH_NAME: encode_path(path)})
        async with mount(store, tmp_path / "one", OPTIONS) as mounted:
            found = await mounted.ls(PART)
            assert len(found) == 1500 + 10
            assert sum(stat.S_ISDIR(attr.mode) for attr in found.values()) == 10
            assert len([path for path in await mounted.walk() if path.endswith(DEEP)]) == 10


def test_paths_of_any_length_up_to_what_the_kernel_takes(fs: Driver) -> None:
    name = "n" * 250
    at = ""
    for _ in range(14):
        at = f"{at}/{name}" if at else name
        fs.mkdir(at)
    assert len(at) > 3500
    fs.write(f"{at}/file", b"content")
    assert fs.names(at) == {"file"}
    fs.rename(f"{at}/file", "short")
    assert fs.read("short") == b"content"
    fs.rename("short", f"{at}/again")
    fs.rename(name, "other")
    assert fs.read(f"other{at[250:]}/again") == b"content"


async def test_a_refresh_shows_long_paths_that_others_made(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, [".b2fs/root", "d/x"])
        async with mount(store, tmp_path / "one", OPTIONS) as mounted:
            assert await mounted.walk() == ["d", "d/x"]
            path = f"d/{DEEP}"
            await store.put(f".b2fs/long/{short_name(path)}", b"x", metadata={PATH_NAME: encode_path(path)})
            await mounted.fs.refresh()
            assert path in await mounted.walk()


async def test_a_crash_before_the_upload_of_long_names(place: Place) -> None:
    async with place.mount() as mount:
        at = ""
        for part in DEEP.split("/"):
            at = f"{at}/{part}" if at else part
            await mount.mkdir(at)
        await mount.save(f"{DEEP}/file", b"content")
        await mount.save("short", b"short")
        await mount.drain()
        await mount.save(f"{DEEP}/new", b"new")
        await mount.rename(f"{DEEP}/file", "file")
        await mount.rename("short", f"{DEEP}/short")
        place.crash()
    async with place.mount() as mount:
        assert await mount.names(DEEP) == {"new", "short"}
        assert await mount.read("file") == b"content"
        await mount.drain()
    place.forget_cache()
    async with place.mount() as mount:
        assert {name: await mount.read(f"{DEEP}/{name}") for name in await mount.names(DEEP)} == {
            "new": b"new",
            "short": b"short",
        }
        assert await mount.names() == {PART, "file"}


async def test_a_large_file_goes_up_in_parts_and_is_changed_in_place(tmp_path: Path) -> None:
    size = 20 << 20
    async with bucket(tmp_path) as store:
        async with mount(store, tmp_path / "one", OPTIONS) as mounted:
            await make_dirs(mounted, DEEP)
            await mounted.write(f"{DEEP}/large", bytes(size))
            await mounted.drain()
            assert mounted.count(Method.CREATE_UPLOAD) == 1
        async with mount(store, tmp_path / "two", OPTIONS) as mounted:
            await mounted.write(f"{DEEP}/large", b"changed")
            await mounted.drain()
            assert mounted.count(Method.COPY_PART) > 0
        async with mount(store, tmp_path / "three", OPTIONS) as mounted:
            opened = await mounted.open(f"{DEEP}/large")
            assert (await mounted.find(f"{DEEP}/large")).size == size
            assert bytes(await mounted.fs.read(opened.handle, 0, 10)) == b"changed\0\0\0"
            await mounted.fs.release(opened.handle)
        (key,) = [key for key in await long_keys(store) if key.endswith(short_name(f"{DEEP}/large"))]
        assert (await store.head(key)).size == size


@pytest.mark.parametrize("prefix", [".b2fs/attrs/", ".b2fs/dirs/", "plain/", ""])
async def test_listings_of_many_pages_end(tmp_path: Path, prefix: str) -> None:
    async with bucket(tmp_path) as inner:
        await fill(
            inner,
            [f"{place}{number:04}" for place in (".b2fs/attrs/", ".b2fs/dirs/", "plain/") for number in range(35)],
        )
        path = f"plain/0020/{DEEP}"
        await inner.put(f".b2fs/long/{short_name(path)}", b"x", metadata={PATH_NAME: encode_path(path)})
        store = LongKeys(inner, "", ttl_s=60.0)
        found: list[str] = []
        token: str | None = None
        for _ in range(20):
            page = await store.list_objects(prefix, token=token, max_keys=10)
            found.extend(info.key for info in page.objects)
            token = page.next_token
            if token is None:
                break
        expected = await keys(inner, prefix)
        if "plain/".startswith(prefix):
            expected = sorted([*expected, path])
        assert found == expected
        assert token is None
