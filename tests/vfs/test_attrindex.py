"""The attribute index: true modes and times with few requests, and never a wrong one."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from b2fs.cache.attrindex_codec import encode
from b2fs.core.nodes import SetAttr
from b2fs.errors import AccessDenied
from b2fs.store.embedded.store import EmbeddedStore
from b2fs.store.forward import Method
from b2fs.vfs.config import VfsConfig
from tests.vfs.bucket import ANYBODY, Mount, bucket, fill, mount

INDEX = ".b2fs/attrs/index"


async def _make(mounted: Mount, directories: int, files: int) -> None:
    for d in range(directories):
        await mounted.mkdir(f"d{d:03}", 0o750)
        for f in range(files):
            await mounted.write(f"d{d:03}/f{f:05}", b"body", 0o600 + f % 8)
    await mounted.drain()


async def test_ten_thousand_files_take_few_requests_from_a_fresh_cache(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        # As b2fs stores them, but quicker than through it: the first mount makes the index of what it has to ask for.
        await fill(store, ["d/"], {"mode": str(stat.S_IFDIR | 0o750)})
        await fill(store, (f"d/f{number:05}" for number in range(10_000)), {"mode": str(stat.S_IFREG | 0o605)})
        async with mount(store, tmp_path / "one") as mounted:
            await mounted.ls("d")
        async with mount(store, tmp_path / "two") as mounted:
            assert [attr.mode for attr in (await mounted.ls("d")).values()] == [stat.S_IFREG | 0o605] * 10_000
            assert stat.S_IMODE((await mounted.find("d")).mode) == 0o750
            assert mounted.count() <= 15
            assert mounted.count(Method.HEAD) == 0


async def test_a_small_tree_takes_few_requests_from_a_fresh_cache(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        async with mount(store, tmp_path / "one") as mounted:
            await _make(mounted, 40, 10)
        async with mount(store, tmp_path / "two") as mounted:
            assert len(await mounted.walk()) == 440
            assert mounted.count() <= 10
            before = mounted.count()
            assert stat.S_IMODE((await mounted.find("d017")).mode) == 0o750
            assert stat.S_IMODE((await mounted.find("d017/f00003")).mode) == 0o603
            assert mounted.count() == before


async def _two_files(store: EmbeddedStore, tmp_path: Path) -> None:
    async with mount(store, tmp_path / "writer") as mounted:
        await mounted.mkdir("d")
        await mounted.write("d/a", b"one", 0o601)
        await mounted.write("d/b", b"two", 0o602)
        await mounted.drain()


async def _modes_in(store: EmbeddedStore, cache: Path, config: VfsConfig | None = None) -> dict[str, int]:
    async with mount(store, cache, config or VfsConfig("")) as mounted:
        return {name: stat.S_IMODE(attr.mode) for name, attr in (await mounted.ls("d")).items()}


@pytest.mark.parametrize(
    "body",
    [b"", b"nonsense", b"b2fs-attributes 1\nnonsense", b"b2fs-attributes 999\n", encode({"d/": {}})[:-3], None],
    ids=["empty", "nonsense", "damaged", "newer", "cut", "missing"],
)
async def test_an_index_that_cannot_be_used_is_replaced(tmp_path: Path, body: bytes | None) -> None:
    async with bucket(tmp_path) as store:
        await _two_files(store, tmp_path)
        if body is None:
            await store.hide(INDEX)
        else:
            await store.put(INDEX, body)
        assert await _modes_in(store, tmp_path / "two") == {"a": 0o601, "b": 0o602}
        async with mount(store, tmp_path / "three") as mounted:
            assert (await mounted.ls("d"))["b"].mode == stat.S_IFREG | 0o602
            assert not [call for call in mounted.store.calls if call.method is Method.HEAD and call.key == "d/b"]


async def test_a_row_for_another_version_is_not_used(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await _two_files(store, tmp_path)
        await store.put("d/a", b"six", metadata={"mode": str(stat.S_IFREG | 0o606)})
        await store.hide("d/b")
        await fill(store, ["d/c"], {"mode": str(stat.S_IFREG | 0o604)})
        assert await _modes_in(store, tmp_path / "two") == {"a": 0o606, "c": 0o604}


async def test_a_changed_mode_is_in_the_index(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await _two_files(store, tmp_path)
        async with mount(store, tmp_path / "two") as mounted:
            await mounted.fs.setattr((await mounted.find("d/a")).ino, SetAttr(mode=0o640), None, ANYBODY)
            await mounted.drain()
        assert await _modes_in(store, tmp_path / "three") == {"a": 0o640, "b": 0o602}


async def test_a_bucket_stays_untouched_without_an_index(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        async with mount(store, tmp_path / "one", VfsConfig("", attr_index=False)) as mounted:
            await mounted.mkdir("d")
            await mounted.write("d/a", b"one", 0o601)
            await mounted.drain()
        assert not (await store.list_objects(".b2fs/")).objects
        assert await _modes_in(store, tmp_path / "two", VfsConfig("", attr_index=False)) == {"a": 0o601}
        assert not (await store.list_objects(".b2fs/")).objects


async def test_a_read_only_mount_uses_the_index_and_writes_none(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await _two_files(store, tmp_path)
        await fill(store, ["d/c"], {"mode": str(stat.S_IFREG | 0o604)})
        before = await store.head(INDEX)
        config = VfsConfig("", read_only=True)
        assert await _modes_in(store, tmp_path / "two", config) == {"a": 0o601, "b": 0o602, "c": 0o604}
        assert (await store.head(INDEX)).ref == before.ref


async def test_a_thousand_changes_cost_a_handful_of_requests(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await _two_files(store, tmp_path)
        async with mount(store, tmp_path / "two") as mounted:
            await mounted.ls("d")
            await fill(store, (f"e/f{number:03}" for number in range(1000)), {"mode": str(stat.S_IFREG | 0o605)})
            await mounted.fs.refresh()
            mounted.store.reset_counts()
            await mounted.ls("e")
            await mounted.fs.write_index()
            asked = [call for call in mounted.store.calls if call.key.startswith(".b2fs/attrs/")]
            assert len([call for call in asked if call.method is Method.PUT]) == 1
            assert len(asked) <= 5  # which ones there are, the index, and twice where it is read before it is written


async def test_only_the_newest_version_of_an_index_stays(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        for number in range(3):
            async with mount(store, tmp_path / f"c{number}") as mounted:
                await mounted.write(f"f{number}", b"body")
                await mounted.drain()
        assert len((await store.list_versions(INDEX)).versions) == 1


async def test_a_store_that_refuses_the_index_refuses_nothing_else(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store:
        await _two_files(store, tmp_path)
        async with mount(store, tmp_path / "two") as mounted:
            mounted.store.fail(
                [Method.GET, Method.PUT, Method.LIST_OBJECTS],
                AccessDenied("not entitled"),
                times=None,
                matches=lambda call: call.key.startswith(".b2fs/"),
            )
            assert stat.S_IMODE((await mounted.ls("d"))["a"].mode) == 0o601
            await mounted.write("d/new", b"body")
            await mounted.drain()
        assert (await store.head("d/new")).size == 4
