"""Somebody else's new version is never replaced silently."""

from __future__ import annotations

import logging
import stat
import time

import pytest
import trio
from trio.testing import MockClock

from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.cache.writeback.conflicts import ConflictPolicy, conflict_key
from b2fs.core.types import Capabilities
from b2fs.errors import AccessDenied, Unavailable
from b2fs.store.forward import Method
from tests.writeback.harness import Mount, Place
from tests.writeback.memstore import MemStore
from tests.writeback.tiny import PART, TINY, digest, noise


async def _both_change(place: Place, mount: Mount, theirs: bytes) -> None:
    """A file that is in the bucket is changed there and here, a while after it was stored."""
    await mount.save("dir.a.txt", b"old")
    await mount.drain()
    await trio.sleep(10)
    async with MemStore(place.bucket, place.capabilities) as other:
        await other.put("dir.a.txt", theirs)
    await mount.save("dir.a.txt", b"ours")
    await mount.drain()


async def test_ours_goes_on_top_of_theirs_which_stays_as_a_version(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        await _both_change(place, mount, b"theirs")
        assert mount.fs.writeback.status().conflicts == 1
    assert [v.body for v in place.bucket.versions["dir.a.txt"]][-2:] == [b"theirs", b"ours"]
    assert place.bucket.contents() == {"dir.a.txt": b"ours"}


async def test_theirs_gets_a_name_of_its_own_if_asked_for(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount(config=WriteBackConfig(conflict=ConflictPolicy.KEEP_BOTH)) as mount:
        await _both_change(place, mount, b"theirs")
        assert mount.fs.writeback.status().conflicts == 1
    contents = place.bucket.contents()
    (kept,) = set(contents) - {"dir.a.txt"}
    assert kept.startswith("dir.a (conflict ")
    assert kept.endswith(").txt")
    assert (contents["dir.a.txt"], contents[kept]) == (b"ours", b"theirs")


async def test_without_versions_theirs_is_always_kept_under_a_name(place: Place, autojump_clock: MockClock) -> None:
    place.capabilities = Capabilities(versioning=False, copy_from_version=False)
    async with place.mount() as mount:
        await _both_change(place, mount, b"theirs")
        assert mount.fs.writeback.status().conflicts == 1
    assert sorted(place.bucket.contents().values()) == [b"ours", b"theirs"]


async def _give(place: Place, key: str, mode: int) -> None:
    """Another mount gives a directory these permissions."""
    metadata = {"mode": str(stat.S_IFDIR | mode), "uid": "7", "gid": "8", "b2fs-writer": "0" * 16}
    async with MemStore(place.bucket, place.capabilities) as other:
        await other.put(key, b"", metadata=metadata)


async def _both_add(place: Place, mount: Mount) -> None:
    """A directory that is in the bucket gets another mode there and a name here, a while after it was stored."""
    await mount.mkdir("d")
    await mount.drain()
    await trio.sleep(10)
    await _give(place, "d/", 0o700)
    await mount.save("d/new", b"content")


def _mode(place: Place, key: str) -> int:
    version = place.bucket.latest(key)
    assert version is not None
    return stat.S_IMODE(int(version.metadata["mode"]))


@pytest.mark.parametrize("versioning", [False, True])
@pytest.mark.parametrize("policy", ConflictPolicy)
async def test_what_others_give_a_directory_stays_when_only_names_in_it_change(
    place: Place, autojump_clock: MockClock, policy: ConflictPolicy, versioning: bool
) -> None:
    place.capabilities = Capabilities(versioning=versioning)
    async with place.mount(config=WriteBackConfig(conflict=policy)) as mount:
        await _both_add(place, mount)
        await mount.drain()
        found = await mount.stat("d")
        assert (stat.S_IMODE(found.mode), found.uid, found.gid) == (0o700, 7, 8)
        assert _mode(place, "d/") == 0o700
        await trio.sleep(100)
        await mount.save("d/newer", b"content")
        await mount.drain()
        assert mount.fs.writeback.status().conflicts == 0
    assert _mode(place, "d/") == 0o700
    assert place.bucket.contents() == {"d/": b"", "d/new": b"content", "d/newer": b"content"}
    place.crash()
    async with place.mount() as mount:
        assert stat.S_IMODE((await mount.stat("d")).mode) == 0o700


@pytest.mark.parametrize("versioning", [False, True])
@pytest.mark.parametrize("policy", ConflictPolicy)
async def test_of_two_that_change_a_directory_ours_is_on_top_and_that_is_told(
    place: Place,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    policy: ConflictPolicy,
    versioning: bool,
) -> None:
    place.capabilities = Capabilities(versioning=versioning)
    async with place.mount(config=WriteBackConfig(conflict=policy)) as mount:
        await _both_add(place, mount)
        await mount.chmod("d", 0o711)
        await mount.drain()
        assert mount.fs.writeback.status().conflicts == 1
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "d/ was given other attributes by somebody else as well; ours are on top"
    ]
    assert _mode(place, "d/") == 0o711
    assert place.bucket.contents() == {"d/": b"", "d/new": b"content"}


async def test_a_key_that_may_not_read_stores_directories_all_the_same(place: Place, autojump_clock: MockClock) -> None:
    await _give(place, "d/", 0o755)
    async with place.mount() as mount:
        await mount.stat("d")
        mount.store.fail(Method.HEAD, AccessDenied("this key may not read"), times=None)
        await trio.sleep(100)
        await mount.save("d/new", b"content")
        await mount.chmod("d", 0o711)
        with trio.fail_after(60):
            await mount.drain()
        assert _mode(place, "d/") == 0o711


async def test_to_change_what_another_has_made_is_no_conflict(place: Place, autojump_clock: MockClock) -> None:
    await _give(place, "d/", 0o755)
    async with place.mount() as mount:
        for mode in (0o700, 0o711):
            await trio.sleep(100)
            await mount.chmod("d", mode)
            await mount.drain()
            assert _mode(place, "d/") == mode
        assert mount.fs.writeback.status().conflicts == 0


@pytest.mark.parametrize("changed", ["one", "two"])
async def test_each_name_of_a_hard_link_is_looked_at(place: Place, autojump_clock: MockClock, changed: str) -> None:
    async with place.mount() as mount:
        await mount.save("one", b"old")
        await mount.link("one", "two")
        await mount.drain()
        await trio.sleep(10)
        async with MemStore(place.bucket, place.capabilities) as other:
            await other.put(changed, b"theirs")
        await mount.save("one", b"ours")
        await mount.drain()
        assert mount.fs.writeback.status().conflicts == 1
    assert place.bucket.contents()["one"] == place.bucket.contents()["two"] == b"ours"


async def test_nobody_else_is_no_conflict(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        for body in (b"1", b"2", b"3"):
            await mount.save("a", body)
            await mount.drain()
            await trio.sleep(10)
        assert mount.fs.writeback.status().conflicts == 0


async def test_what_somebody_else_removed_is_put_back(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        await mount.save("a", b"old")
        await mount.drain()
        await trio.sleep(10)
        async with MemStore(place.bucket, place.capabilities) as other:
            await other.hide("a")
        await mount.save("a", b"ours")
        await mount.drain()
        assert mount.fs.writeback.status().conflicts == 0
    assert place.bucket.contents() == {"a": b"ours"}


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("d/a.txt", "d/a (conflict host 20260102T030405Z).txt"),
        ("a", "a (conflict host 20260102T030405Z)"),
        (".bashrc", ".bashrc (conflict host 20260102T030405Z)"),
        ("a.tar.gz", "a.tar (conflict host 20260102T030405Z).gz"),
    ],
)
def test_the_name_of_the_other_version(key: str, name: str) -> None:
    assert conflict_key(key, "host", time.struct_time((2026, 1, 2, 3, 4, 5, 4, 2, 0))) == name


async def test_a_change_by_others_while_the_bucket_was_out_of_reach(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        await mount.save("a", b"old")
        await mount.drain()
        await trio.sleep(10)
        mount.store.fail(Method.PUT, Unavailable("reset"), times=3)
        await mount.save("a", b"ours")
        await trio.sleep(2)
        async with MemStore(place.bucket, place.capabilities) as other:
            await other.put("a", b"theirs")
        await trio.sleep(60)
        await mount.drain()
        assert mount.fs.writeback.status().conflicts == 1
    assert [v.body for v in place.bucket.versions["a"]][-2:] == [b"theirs", b"ours"]


async def test_our_own_put_whose_answer_was_lost_is_no_conflict(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        await mount.save("a", b"old")
        await mount.drain()
        await trio.sleep(10)
        mount.store.fail(Method.PUT, Unavailable("reset"), times=1, answer_lost=True)
        await mount.save("a", b"ours")
        await trio.sleep(60)
        await mount.drain()
        assert mount.fs.writeback.status().conflicts == 0
    assert place.bucket.contents() == {"a": b"ours"}


async def test_a_file_that_is_saved_all_the_time_is_stored_now_and_then(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount:
        for number in range(100):
            await mount.save("a", b"%d" % number)
            await trio.sleep(0.5)
        assert place.bucket.contents()


async def test_without_versions_what_was_stored_a_moment_ago_is_asked_for_too(
    place: Place, autojump_clock: MockClock
) -> None:
    """What another client has put on top of it since would be gone for good."""
    place.capabilities = Capabilities(versioning=False, copy_from_version=False)
    async with place.mount() as mount:
        await mount.save("a", b"old")
        await mount.drain()
        place.bucket.add("a", b"theirs")
        await mount.save("a", b"ours")
        await mount.drain()
        assert mount.fs.writeback.status().conflicts == 1
    assert sorted(place.bucket.contents().values()) == [b"ours", b"theirs"]
    assert place.bucket.contents()["a"] == b"ours"


@pytest.mark.parametrize("known_s_ago", [1, 100])
async def test_without_versions_what_is_put_while_a_large_file_goes_up_is_kept_too(
    tiny: Place, known_s_ago: float, autojump_clock: MockClock
) -> None:
    tiny.capabilities = tiny.capabilities._replace(versioning=False, copy_from_version=False)
    body = noise(8 * PART)
    async with tiny.mount(config=TINY) as mount:
        await mount.save("a", noise(2 * PART, 1))
        await mount.drain()
        await trio.sleep(known_s_ago)
        mount.store.reset_counts()
        mount.store.pause([Method.UPLOAD_PART])
        await mount.save("a", body)
        await mount.store.wait_held()
        tiny.bucket.add("a", b"theirs")
        await mount.store.resume()
        await mount.drain()
        assert mount.fs.writeback.status().conflicts == 1
        assert mount.store.counts[Method.UPLOAD_PART] == 8, "nothing is sent twice"
    contents = tiny.bucket.contents()
    assert (digest(contents.pop("a")), [*contents.values()]) == (digest(body), [b"theirs"])


async def test_without_versions_a_large_file_that_nobody_has_touched_is_no_conflict(
    tiny: Place, autojump_clock: MockClock
) -> None:
    tiny.capabilities = tiny.capabilities._replace(versioning=False, copy_from_version=False)
    async with tiny.mount(config=TINY) as mount:
        for seed in range(3):
            await mount.save("a", noise(4 * PART, seed))
            await mount.drain()
        mount.store.fail(Method.COMPLETE_UPLOAD, Unavailable("reset"), answer_lost=True)
        await mount.save("a", noise(4 * PART, 7))
        await mount.drain()
        assert mount.fs.writeback.status().conflicts == 0
    assert {key: digest(value) for key, value in tiny.bucket.contents().items()} == {"a": digest(noise(4 * PART, 7))}
