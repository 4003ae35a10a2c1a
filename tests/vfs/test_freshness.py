"""What other clients change in the bucket: when it is seen, and what stays as it was opened."""

from __future__ import annotations

import errno
import stat
from contextlib import suppress
from pathlib import Path

import pytest
from trio.testing import MockClock

from b2fs.core.nodes import InodeId
from b2fs.errors import AccessDenied, FsError, NotFound, Unavailable, errno_of
from b2fs.store.faults import FaultyStore
from b2fs.store.forward import Method
from b2fs.vfs.config import VfsConfig
from tests.mounting import NoKernel
from tests.vfs.bucket import ANYBODY, MarkersWithoutMetadata, Mount, bucket, fill, mount

TTL_S = 60.0
#: The clock stands still at the end of these tests, where an index would wait for a second to pass.
CONFIG = VfsConfig("", attr_index=False)
NS = 1_000_000_000


async def test_changes_of_others_are_seen_after_the_time_to_live(tmp_path: Path, mock_clock: MockClock) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, ["d/changed", "d/gone", "d/same"])
        async with mount(store, tmp_path / "cache", CONFIG) as mounted:
            before = await mounted.ls("d")
            await store.put("d/changed", b"something longer")
            await store.hide("d/gone")
            await fill(store, ["d/new", "d/sub/new"])
            mock_clock.jump(TTL_S - 1)
            mounted.store.reset_counts()
            assert {name: attr.ino for name, attr in (await mounted.ls("d")).items()} == {
                name: attr.ino for name, attr in before.items()
            }
            assert not await mounted.exists("d/new")
            assert mounted.count() == 0
            mock_clock.jump(2)
            after = await mounted.ls("d")
            assert sorted(after) == ["changed", "new", "same", "sub"]
            assert after["same"].ino == before["same"].ino
            assert after["changed"].ino != before["changed"].ino
            assert await mounted.read("d/changed") == b"something longer"
            assert await mounted.read("d/sub/new") == b"d/sub/new"


async def test_an_open_file_keeps_its_version(tmp_path: Path, mock_clock: MockClock) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, ["d/a", "d/b", "d/c"])
        async with mount(store, tmp_path / "cache", CONFIG) as mounted:
            opened = [await mounted.open(f"d/{name}") for name in "abc"]
            await mounted.pread(opened[0].handle)
            await store.put("d/a", b"other")
            await store.put("d/b", b"other")
            await store.hide("d/c")
            mock_clock.jump(TTL_S + 1)
            assert sorted(await mounted.ls("d")) == ["a", "b"]
            assert await mounted.read("d/a") == b"other"
            assert [await mounted.pread(each.handle) for each in opened] == [b"d/a", b"d/b", b"d/c"]
            for each in opened:
                await mounted.fs.release(each.handle)


async def test_a_name_that_was_absent_appears(tmp_path: Path, mock_clock: MockClock) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, ["d/a"])
        async with mount(store, tmp_path / "cache", CONFIG) as mounted:
            with pytest.raises(FsError) as missing:
                await mounted.find("d/b")
            assert missing.value.code == errno.ENOENT
            assert missing.value.ttl_s <= TTL_S
            await fill(store, ["d/b"])
            mock_clock.jump(TTL_S + 1)
            assert await mounted.read("d/b") == b"d/b"


async def test_a_directory_that_others_give_another_mode(tmp_path: Path, mock_clock: MockClock) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, ["d/"], {"mode": str(stat.S_IFDIR | 0o700)})
        async with mount(store, tmp_path / "cache", CONFIG) as mounted:
            ino = (await mounted.find("d")).ino
            made_ns = (await store.head("d/")).modified_ns
            while (await store.head("d/")).modified_ns // NS == made_ns // NS:
                await fill(store, ["d/"], {"mode": str(stat.S_IFDIR | 0o751)})
            mock_clock.jump(TTL_S + 1)
            found = await mounted.find("d")
            assert (found.ino, stat.S_IMODE(found.mode)) == (ino, 0o751)


async def looked_at(mounted: Mount, parent: str, name: str) -> int:
    """The permissions of a name as `ls -l` finds them: by the listing, or by a lookup if that may not be believed."""
    attr = (await mounted.ls(parent))[name]
    if not attr.ttl_s:
        attr = await mounted.find(f"{parent}/{name}")
    return stat.S_IMODE(attr.mode)


@pytest.mark.parametrize(
    ("names", "made_here", "dropping"),
    [
        ("a", False, False),
        ("a", True, True),
        ("abc", True, False),
        ("abc", False, True),
        ("abcdefghijklmnopqrstuvwxyz", False, False),
        ("abcdefghijklmnopqrstuvwxyz", True, True),
    ],
)
async def test_ls_shows_the_mode_that_others_give_a_directory(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, made_here: bool, dropping: bool, names: str
) -> None:
    """Although its name in the listing above stays what it was."""
    monkeypatch.setattr("b2fs.cache.remote.known.UPLOAD_SLACK_S", 0)
    keys = [f"d/{name}/" for name in names]
    sides = [f".b2fs/dirs/d/{name}/.attrs" for name in names] if dropping else []

    async def give(mode: int) -> None:
        """In another second than what is there."""
        made_ns = 0
        with suppress(NotFound):
            made_ns = (await store.head(keys[-1])).modified_ns
        metadata = {"mode": str(stat.S_IFDIR | mode)}
        while True:
            await fill(store, [keys[0]], metadata)
            if (await store.head(keys[0])).modified_ns // NS > made_ns // NS:
                break
        await fill(store, [*sides, *keys], metadata)

    async with bucket(tmp_path) as store:
        await fill(store, ["d/file"])
        if not made_here:
            await give(0o755)
        async with mount(MarkersWithoutMetadata(store) if dropping else store, tmp_path / "cache", CONFIG) as mounted:
            for name in names if made_here else "":
                await mounted.mkdir(f"d/{name}")
            await mounted.drain()
            assert {await looked_at(mounted, "d", name) for name in names} == {0o755}
            for mode in (0o711, 0o750):
                await give(mode)
                for _ in range(2):
                    mock_clock.jump(TTL_S + 1)
                    assert {await looked_at(mounted, "d", name) for name in names} == {mode}
            mounted.store.reset_counts()
            assert await looked_at(mounted, "d", names[-1]) == 0o750
            assert mounted.count() == 0
            mock_clock.jump(TTL_S + 1)
            for name in names:
                await looked_at(mounted, "d", name)
            assert mounted.count() <= 6


async def test_directories_that_may_not_be_asked_about_are_shown_as_they_were(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """As with a key that may list but not read."""
    names = "abc"
    async with bucket(tmp_path) as store:
        await fill(store, [f"d/{name}/" for name in names], {"mode": str(stat.S_IFDIR | 0o750)})
        faulty = FaultyStore(store)
        async with mount(faulty, tmp_path / "cache", CONFIG) as mounted:
            assert {await looked_at(mounted, "d", name) for name in names} == {0o750}
            faulty.fail(Method.HEAD, AccessDenied("this key may only list"), times=None)
            mock_clock.jump(TTL_S + 1)
            assert {await looked_at(mounted, "d", name) for name in names} == {0o750}
            faulty.heal()
            mock_clock.jump(TTL_S + 1)
            assert {await looked_at(mounted, "d", name) for name in names} == {0o750}


async def test_what_is_changed_here_wins_until_it_is_stored(tmp_path: Path, mock_clock: MockClock) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, ["d/a", "d/b"])
        async with mount(store, tmp_path / "cache", CONFIG) as mounted:
            await mounted.write("d/a", b"mine")
            await mounted.fs.unlink((await mounted.find("d")).ino, b"b", ANYBODY)
            mounted.store.pause()
            await store.put("d/a", b"theirs")
            await store.put("d/b", b"theirs")
            await mounted.fs.refresh()
            assert sorted(await mounted.ls("d")) == ["a"]
            assert (await mounted.read("d/a")).startswith(b"mine")
            await mounted.store.resume()


@pytest.mark.parametrize("path", [b"", b"d", b"d/a"])
async def test_refresh_shows_changes_at_once(tmp_path: Path, path: bytes) -> None:
    told: list[bytes] = []

    class Kernel(NoKernel):
        def invalidate_entry(self, parent: InodeId, name: bytes) -> None:
            told.append(name)

    async with bucket(tmp_path) as store:
        await fill(store, ["d/a", "other/x"])
        async with mount(store, tmp_path / "cache", CONFIG, notifier=Kernel()) as mounted:
            old = await mounted.open("d/a")
            await mounted.ls("other")
            await store.put("d/a", b"changed")
            mounted.store.reset_counts()
            await mounted.fs.refresh(path)
            assert mounted.count() == 0
            assert b"a" in told
            assert await mounted.read("d/a") == b"changed"
            assert await mounted.pread(old.handle) == b"d/a"
            await mounted.fs.release(old.handle)


async def test_refresh_of_what_nobody_looked_at(tmp_path: Path) -> None:
    async with bucket(tmp_path) as store, mount(store, tmp_path / "cache", CONFIG) as mounted:
        await mounted.fs.refresh(b"not/seen/yet")
        assert not await mounted.exists("not")


async def test_a_store_that_cannot_be_reached_is_never_an_empty_directory(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with bucket(tmp_path) as store:
        await fill(store, ["d/a", "d/b"])
        async with mount(store, tmp_path / "cache", CONFIG) as mounted:
            await mounted.ls("d")
            assert await mounted.read("d/a") == b"d/a"
            mounted.store.fail([Method.LIST_OBJECTS, Method.HEAD, Method.GET], Unavailable("down"), times=None)
            assert sorted(await mounted.ls("d")) == ["a", "b"]
            mock_clock.jump(TTL_S + 1)
            for path in ("d/a", "d/never", "d"):
                with pytest.raises((Unavailable, FsError)) as failed:
                    await mounted.ls(path)
                assert errno_of(failed.value) == errno.EIO
            mounted.store.heal()
            assert sorted(await mounted.ls("d")) == ["a", "b"]
