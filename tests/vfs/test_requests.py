"""What listing and reading cost in requests."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest
import trio

from b2fs.core.nodes import InodeId, SetAttr
from b2fs.store.forward import Method
from b2fs.vfs.api import ROOT
from b2fs.vfs.config import VfsConfig
from tests.mounting import NoKernel
from tests.vfs.bucket import ANYBODY, MarkersWithoutMetadata, bucket, fill, mount

#: Attributes as s3fs stores them.
S3FS = {"mode": str(stat.S_IFREG | 0o600), "uid": "4711", "mtime": "1000000000"}


async def test_small_files_read_in_order_are_fetched_ahead(tmp_path: Path) -> None:
    keys = [f"d/f{number:03}" for number in range(200)]
    async with bucket(tmp_path) as store:
        await fill(store, keys)
        async with mount(store, tmp_path / "cache") as mounted:
            await mounted.ls("d")
            mounted.store.reset_counts()
            for key in keys:
                assert await mounted.read(key) == key.encode()
            assert mounted.count(Method.GET) == 200
            assert mounted.store.most_in_flight >= 16


async def test_small_files_read_at_random_are_not_fetched_ahead(tmp_path: Path) -> None:
    keys = [f"d/f{number:03}" for number in range(400)]
    chosen = random.Random(4).sample(keys, 80)
    async with bucket(tmp_path) as store:
        await fill(store, keys)
        async with mount(store, tmp_path / "cache") as mounted:
            await mounted.ls("d")
            mounted.store.reset_counts()
            for key in chosen:
                assert await mounted.read(key) == key.encode()
            assert mounted.count(Method.GET) <= 88


async def test_what_is_changed_here_is_not_fetched_ahead(tmp_path: Path) -> None:
    keys = [f"d/f{number:02}" for number in range(20)]
    async with bucket(tmp_path) as store:
        await fill(store, keys)
        async with mount(store, tmp_path / "cache") as mounted:
            await mounted.ls("d")
            await mounted.write("d/f10", b"changed here")
            await mounted.fs.unlink((await mounted.find("d")).ino, b"f11", ANYBODY)
            mounted.store.reset_counts()
            for number in (*range(10), *range(12, 20)):
                assert await mounted.read(keys[number]) == keys[number].encode()
            assert mounted.store.most_in_flight >= 4
            asked = {call.key for call in mounted.store.calls if call.method is Method.GET}
            assert {"d/f10", "d/f11"}.isdisjoint(asked)
            assert (await mounted.read("d/f10")).startswith(b"changed here")


# ---- objects of other programs --------------------------------------------------------------------------------------


async def test_a_large_plain_directory_is_judged_by_a_sample(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, (f"d/f{number:04}" for number in range(1500)))
        async with mount(store, tmp_path / "cache") as mounted:
            await mounted.find("d")
            mounted.store.reset_counts()
            found = await mounted.ls("d")
            assert len(found) == 1500
            assert {attr.mode for attr in found.values()} == {stat.S_IFREG | 0o644}
            assert mounted.count(Method.HEAD) == 24
            assert mounted.count(Method.LIST_OBJECTS) == 1  # the second page; the first came with the directory
            mounted.store.reset_counts()
            await mounted.find("d/f0777")
            assert mounted.count() == 0


async def test_every_object_is_asked_for_where_the_sample_carries_attributes(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, (f"d/f{number:03}" for number in range(100)), S3FS)
        async with mount(store, tmp_path / "cache") as mounted:
            assert {attr.mode for attr in (await mounted.ls("d")).values()} == {stat.S_IFREG | 0o600}


async def test_every_object_is_asked_for_on_request(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, (f"d/f{number:03}" for number in range(100)))
        config = VfsConfig("", foreign_attrs="head")
        async with mount(store, tmp_path / "cache", config) as mounted:
            await mounted.find("d")
            mounted.store.reset_counts()
            await mounted.ls("d")
            assert mounted.count(Method.HEAD) == 100


async def test_a_plain_tree_is_known_after_a_few_directories(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, (f"t/d{number // 10:02}/f{number % 10}" for number in range(200)))
        async with mount(store, tmp_path / "cache", VfsConfig("")) as mounted:
            await mounted.walk("t")
            assert len([call for call in mounted.store.calls if call.method is Method.HEAD and "/f" in call.key]) <= 5


async def test_a_tree_in_which_a_sample_carries_attributes_is_asked_for_each(tmp_path: Path) -> None:
    keys = [f"t/d{number // 10:02}/f{number % 10}" for number in range(100)]
    async with bucket(tmp_path) as store:
        await fill(store, keys, S3FS)
        async with mount(store, tmp_path / "cache", VfsConfig("")) as mounted:
            await mounted.walk("t")
            assert {(await mounted.find(key)).mode for key in keys} == {stat.S_IFREG | 0o600}


@pytest.mark.parametrize("listed", [False, True])
async def test_plain_directories_say_nothing_of_one_beside_them_before_it_was_looked_at(
    tmp_path: Path, listed: bool
) -> None:
    """Who lists or stats something there, and does not walk the tree, gets what rclone (say) has stored with it."""
    async with bucket(tmp_path) as store:
        for plain in ("photos", "logs", "texts"):
            await fill(store, (f"{plain}/f{number}" for number in range(20)))
        await fill(store, (f"backup/f{number:02}" for number in range(60)), S3FS)
        async with mount(store, tmp_path / "cache", VfsConfig("")) as mounted:
            for plain in ("photos", "logs"):
                await mounted.ls(plain)
            mounted.store.reset_counts()
            await mounted.find("texts/f7")
            await mounted.find("texts/f8")
            assert mounted.count(Method.HEAD) == 1, "one of a directory"
            if listed:
                assert {attr.mode for attr in (await mounted.ls("backup")).values()} == {stat.S_IFREG | 0o600}
            else:
                assert (await mounted.find("backup/f33")).mode == stat.S_IFREG | 0o600
                assert (await mounted.find("backup/f34")).mode == stat.S_IFREG | 0o600


async def test_a_small_directory_that_is_listed_by_itself_is_not_judged_by_a_sample(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, (f"d/f{number:02}" for number in range(32)))
        await fill(store, ["d/f17"], S3FS)
        async with mount(store, tmp_path / "cache", VfsConfig("")) as mounted:
            assert (await mounted.ls("d"))["f17"].mode == stat.S_IFREG | 0o600


async def test_attributes_that_the_sample_missed_are_corrected_by_reading(tmp_path: Path) -> None:
    told: list[InodeId] = []

    class Kernel(NoKernel):
        def invalidate_inode(self, ino: InodeId, *, attributes_only: bool) -> None:
            told.append(ino)

    async with bucket(tmp_path) as store:
        await fill(store, (f"d/f{number:03}" for number in range(200)))
        await fill(store, ["d/f101"], S3FS)
        async with mount(store, tmp_path / "cache", notifier=Kernel()) as mounted:
            before = (await mounted.ls("d"))["f101"]
            assert before.mode == stat.S_IFREG | 0o644
            assert await mounted.read("d/f101") == b"d/f101"
            after = await mounted.find("d/f101")
            assert (after.ino, after.mode, after.uid) == (before.ino, stat.S_IFREG | 0o600, 4711)
            assert told == [before.ino]


async def test_a_symbolic_link_that_the_sample_missed_is_one_after_reading(tmp_path: Path) -> None:
    gone: list[bytes] = []

    class Kernel(NoKernel):
        def invalidate_entry(self, parent: InodeId, name: bytes) -> None:
            gone.append(name)

    async with bucket(tmp_path) as store:
        await fill(store, (f"d/f{number:03}" for number in range(200)))
        await store.put("d/f101", b"target", metadata={"mode": str(stat.S_IFLNK | 0o777)})
        async with mount(store, tmp_path / "cache", notifier=Kernel()) as mounted:
            await mounted.ls("d")
            await mounted.read("d/f101")
            assert gone == [b"f101"]
            link = await mounted.find("d/f101")
            assert stat.S_ISLNK(link.mode)
            assert await mounted.fs.readlink(link.ino) == b"target"


async def test_changing_an_object_that_was_taken_as_plain_keeps_what_it_carries(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, (f"d/f{number:03}" for number in range(200)))
        others = {"colour": "red", "title": "Gr\xfc\xdfe", "Cache-Control": "max-age=60"}
        await store.put("d/f101", b"body", metadata={"uid": "12", **others}, content_type="text/x-odd")
        async with mount(store, tmp_path / "cache") as mounted:
            ino = (await mounted.ls("d"))["f101"].ino
            await mounted.fs.setattr(ino, SetAttr(mode=0o640), None, ANYBODY)
            await mounted.drain()
        info = await store.head("d/f101")
        assert info.metadata is not None
        assert (info.metadata["uid"], info.content_type) == ("12", "text/x-odd")
        assert {name: info.metadata[name] for name in others} == others
        assert info.metadata["mode"] == str(stat.S_IFREG | 0o640)


async def test_what_others_say_of_a_content_goes_with_it(tmp_path: Path) -> None:
    others = {"md5chksum": "x", "large_file_sha1": "y", "s3cmd-attrs": "md5:z", "colour": "red"}
    async with bucket(tmp_path) as store:
        for name in ("written", "cut", "moved"):
            await store.put(name, b"body", metadata={**others, "src_last_modified_millis": "1700000000123"})
        async with mount(store, tmp_path / "cache") as mounted:
            file = await mounted.fs.open((await mounted.find("written")).ino, os.O_RDWR, ANYBODY)
            await mounted.fs.write(file.handle, 0, b"BO")
            await mounted.fs.release(file.handle)
            cut = await mounted.find("cut")
            await mounted.fs.setattr(cut.ino, SetAttr(size=1), None, ANYBODY)
            await mounted.fs.rename(ROOT, b"moved", ROOT, b"new", 0, ANYBODY)
            await mounted.drain()
            # Nor do later changes of attributes alone bring it back.
            await mounted.fs.setattr(cut.ino, SetAttr(mode=0o600, mtime_ns=5_000_000), None, ANYBODY)
            await mounted.drain()
        for name, carried in (("written", {"colour"}), ("cut", {"colour"}), ("new", others.keys())):
            metadata = (await store.head(name)).metadata
            assert metadata is not None
            assert metadata.keys() & others.keys() == carried
            seconds = float(metadata["mtime"])
            assert int(metadata["src_last_modified_millis"]) == int(seconds * 1000), name


async def test_a_plain_object_that_was_replaced_before_its_first_read_is_read_as_it_was_opened(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, (f"d/f{number:03}" for number in range(200)))
        async with mount(store, tmp_path / "cache") as mounted:
            await mounted.ls("d")
            replaced, hidden = await mounted.open("d/f101"), await mounted.open("d/f102")
            await store.put("d/f101", b"later")
            await store.hide("d/f102")
            assert await mounted.pread(replaced.handle) == b"d/f101"
            assert await mounted.pread(hidden.handle) == b"d/f102"


# ---- trees --------------------------------------------------------------------------------------------------------

TREE = [f"tree/d{number // 50:02}/e{number % 50 // 10}/f{number % 10}" for number in range(2000)]


async def test_finding_in_a_tree_takes_few_listings(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, TREE)
        async with mount(store, tmp_path / "cache", VfsConfig("")) as mounted:
            found = await mounted.walk("tree")
            assert [path for path in found if path.count("/") == 3] == [f"{path}" for path in TREE]
            assert len(found) == 2000 + 240
            assert mounted.count() <= 10  # four are samples of what the objects carry


async def test_listing_one_directory_costs_one_page(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, TREE)
        async with mount(store, tmp_path / "cache", VfsConfig("")) as mounted:
            await mounted.find("tree")
            mounted.store.reset_counts()
            assert sorted(await mounted.ls("tree/d07")) == ["e0", "e1", "e2", "e3", "e4"]
            assert mounted.count(Method.LIST_OBJECTS) == 1


async def test_a_walk_sees_markers_and_names_that_sort_oddly(tmp_path: Path) -> None:
    keys = ["t/a/", "t/a/x", "t/a-b/y", "t/a.c", "t/b/", "t/c/d/e/f", "t/c/d/e/", "t/z"]
    keys += [f"t/n/m{number:04}/k" for number in range(1200)]
    async with bucket(tmp_path) as store:
        await fill(store, (key for key in keys if not key.endswith("/")))
        await fill(store, (key for key in keys if key.endswith("/")), {"mode": "16832"})
        async with mount(store, tmp_path / "cache", VfsConfig("")) as mounted:
            found = await mounted.walk("t")
            assert len(found) == 11 + 1 + 2 * 1200
            assert {"t/a-b/y", "t/a.c", "t/b", "t/c/d/e/f", "t/n/m1199/k", "t/z"} <= set(found)
            assert stat.S_IMODE((await mounted.find("t/b")).mode) == 0o700
            assert stat.S_IMODE((await mounted.find("t/c/d/e")).mode) == 0o700
            assert stat.S_IMODE((await mounted.find("t/c/d")).mode) == 0o755


async def test_what_is_changed_during_a_walk_stays_changed(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, TREE)
        async with mount(store, tmp_path / "cache", VfsConfig("")) as mounted:
            await mounted.ls("tree")
            await mounted.ls("tree/d00")
            await mounted.write("tree/d39/e4/new", b"new")
            await mounted.fs.unlink((await mounted.find("tree/d39/e4")).ino, b"f3", ANYBODY)
            await mounted.drain()
            found = await mounted.walk("tree")
            assert "tree/d39/e4/new" in found
            assert "tree/d39/e4/f3" not in found
            assert len(found) == 2240


async def test_a_deep_path_costs_one_listing_for_each_directory(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, ["a/b/c/d/f"])
        async with mount(store, tmp_path / "cache", VfsConfig("", attr_index=False)) as mounted:
            mounted.store.reset_counts()
            await mounted.find("a/b/c/d/f")
            assert mounted.count(Method.LIST_OBJECTS) == 5
            assert mounted.count(Method.HEAD) == 1


# ---- servers that drop the metadata of markers ----------------------------------------------------------------------


async def test_a_tree_without_markers_needs_no_question_for_each_directory(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, TREE)
        async with mount(MarkersWithoutMetadata(store), tmp_path / "cache", VfsConfig("")) as mounted:
            assert len(await mounted.walk("tree")) == 2240
            assert mounted.count() <= 10


async def test_directories_beside_markers_have_their_modes(tmp_path: Path) -> None:
    async with bucket(tmp_path) as embedded:
        store = MarkersWithoutMetadata(embedded)
        async with mount(store, tmp_path / "one") as mounted:
            for number in range(20):
                await mounted.mkdir(f"d{number:02}", 0o700 + number % 8)
            await mounted.drain()
            await mounted.fs.refresh()
            assert stat.S_IMODE((await mounted.find("d03")).mode) == 0o703
        modes = [0o700 + number % 8 for number in range(20)]
        for cache, heads in (("two", 21), ("three", 1)):
            async with mount(store, tmp_path / cache) as mounted:
                found = await mounted.ls()
                assert [stat.S_IMODE(attr.mode) for attr in found.values()] == modes
                assert mounted.count(Method.HEAD) <= heads  # one of them is of the root


async def test_a_directory_is_asked_for_after_it_was_changed_here(tmp_path: Path) -> None:
    async with bucket(tmp_path) as embedded:
        store = MarkersWithoutMetadata(embedded)
        await fill(embedded, ["d/f"])
        async with mount(store, tmp_path / "one") as mounted:
            ino = (await mounted.find("d")).ino
            await mounted.fs.setattr(ino, SetAttr(mode=0o711), None, ANYBODY)
            await mounted.drain()
            mounted.fs.forget([(ino, 1)])
            assert stat.S_IMODE((await mounted.find("d")).mode) == 0o711


@pytest.mark.parametrize("markers", [True, False], ids=["markers keep metadata", "markers drop metadata"])
async def test_the_root_is_listed_before_anybody_asks(tmp_path: Path, markers: bool) -> None:
    """Then the first directory that is entered costs one round trip, and a remount asks for nothing."""
    config = VfsConfig("", look_ahead=True)
    async with bucket(tmp_path) as inner:
        store = inner if markers else MarkersWithoutMetadata(inner)
        async with mount(store, tmp_path / "writer") as mounted:
            await mounted.mkdir("d")
            await mounted.write("d/f", b"body")
            await mounted.drain()
        async with mount(store, tmp_path / "cache", config) as mounted:
            wanted = {"", ".b2fs/attrs/"} if markers else {"", ".b2fs/attrs/", ".b2fs/dirs/"}
            with trio.fail_after(60):
                while not wanted <= {call.key for call in mounted.store.calls} or mounted.store.in_flight:
                    await trio.lowlevel.checkpoint()
            mounted.store.reset_counts()
            await mounted.find("d")
            assert mounted.count(Method.LIST_OBJECTS) == 1
        async with mount(store, tmp_path / "cache", config) as mounted:
            await mounted.find("d")
            assert "" not in {call.key for call in mounted.store.calls}


@pytest.mark.parametrize("markers", [True, False], ids=["markers keep metadata", "markers drop metadata"])
async def test_where_none_of_our_own_objects_are_none_is_asked_for(tmp_path: Path, markers: bool) -> None:
    """One page of their place tells that, even if something else stands there, as while a server is tried out."""
    config = VfsConfig("", look_ahead=True)
    async with bucket(tmp_path) as inner:
        store = inner if markers else MarkersWithoutMetadata(inner)
        await fill(inner, ["d/f", ".b2fs/probe-1/a"])
        async with mount(store, tmp_path / "cache", config) as mounted:
            assert set(await mounted.ls("d")) == {"f"}
            assert set(await mounted.ls()) == {"d"}
            listed = [call.key for call in mounted.store.calls if call.method is Method.LIST_OBJECTS]
            assert sorted(listed) == ["", ".b2fs/", "d/"]
