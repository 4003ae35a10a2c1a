"""What listing and reading cost in requests."""

from __future__ import annotations

import random
import stat
from pathlib import Path

from b2fs.core.types import InodeId, SetAttr
from b2fs.store.forward import Method
from b2fs.vfs.config import VfsConfig
from tests.mounting import NoKernel
from tests.vfs.bucket import ANYBODY, bucket, fill, mount

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
            assert mounted.count(Method.LIST_OBJECTS) == 2
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
            assert (
                len({call.key for call in mounted.store.calls if call.method is Method.HEAD and "/f" in call.key}) <= 40
            )


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
        await store.put("d/f101", b"body", metadata={"uid": "12", "colour": "red"}, content_type="text/x-odd")
        async with mount(store, tmp_path / "cache") as mounted:
            ino = (await mounted.ls("d"))["f101"].ino
            await mounted.fs.setattr(ino, SetAttr(mode=0o640), None, ANYBODY)
            await mounted.drain()
        info = await store.head("d/f101")
        assert info.metadata is not None
        assert (info.metadata["uid"], info.metadata["colour"], info.content_type) == ("12", "red", "text/x-odd")
        assert info.metadata["mode"] == str(stat.S_IFREG | 0o640)


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
