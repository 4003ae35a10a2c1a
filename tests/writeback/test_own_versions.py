"""Versions of ours that we never heard of are known as ours after a crash; everybody else's are not."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.cache.writeback.conflicts import ConflictPolicy
from b2fs.core.attrs import WRITER
from b2fs.core.types import Capabilities
from b2fs.errors import Unavailable
from b2fs.store.forward import CHANGES, Method
from tests.writeback.harness import Mount, Place
from tests.writeback.memstore import MemStore
from tests.writeback.tiny import PART, TINY, append, digest, noise

KEEP_BOTH = WriteBackConfig(conflict=ConflictPolicy.KEEP_BOTH)


async def _unheard(mount: Mount, first: bytes = b"first, unheard") -> None:
    """A stored file gets another content, which is put; the answer is lost, and the file changes again."""
    await mount.save("a", b"old")
    await mount.drain()
    await trio.sleep(10)
    mount.store.fail(Method.PUT, Unavailable("reset"), times=1, answer_lost=True)
    mount.store.fail(Method.PUT, Unavailable("reset"), times=None)
    await mount.save("a", first)
    await trio.sleep(3)
    assert mount.bucket.contents()["a"] == first
    await mount.save("a", b"second")


async def _mounted_again(place: Place) -> int:
    """Mount, store everything; how many conflicts that found."""
    async with place.mount(config=KEEP_BOTH) as mount:
        await trio.sleep(30)
        await mount.drain()
        return mount.fs.writeback.status().conflicts


async def test_a_put_that_was_not_heard_before_a_crash_is_no_conflict(
    any_place: Place, autojump_clock: MockClock
) -> None:
    async with any_place.mount(config=KEEP_BOTH) as mount:
        await _unheard(mount)
        any_place.crash()
    assert await _mounted_again(any_place) == 0
    assert any_place.bucket.contents() == {"a": b"second"}, "no junk beside it"


async def test_nor_is_it_without_a_crash(any_place: Place, autojump_clock: MockClock) -> None:
    async with any_place.mount(config=KEEP_BOTH) as mount:
        await _unheard(mount)
        mount.store.heal()
        await trio.sleep(60)
        await mount.drain()
        assert mount.fs.writeback.status().conflicts == 0
    assert any_place.bucket.contents() == {"a": b"second"}


async def test_what_another_client_put_since_is_a_conflict(any_place: Place, autojump_clock: MockClock) -> None:
    async with any_place.mount(config=KEEP_BOTH) as mount:
        await _unheard(mount)
        any_place.crash()
    async with MemStore(any_place.bucket, any_place.capabilities) as other:
        await other.put("a", b"theirs")
    assert await _mounted_again(any_place) == 1
    assert sorted(any_place.bucket.contents().values()) == [b"second", b"theirs"]


async def test_so_is_what_another_mount_made_of_it(any_place: Place, autojump_clock: MockClock) -> None:
    """Of the same length and content as ours: another cache directory has another identity."""
    async with any_place.mount(config=KEEP_BOTH) as mount:
        await _unheard(mount)
        any_place.crash()
    left = any_place.cache
    any_place.forget_cache()
    async with any_place.mount() as other:
        await other.chmod("a", 0o600)
        await other.drain()
    any_place.generation -= 1
    assert any_place.cache == left
    assert await _mounted_again(any_place) == 1


@pytest.mark.parametrize("changed", ["key", "attributes"])
async def test_a_copy_that_another_program_made_of_ours_is_not_ours(
    any_place: Place, changed: str, autojump_clock: MockClock
) -> None:
    """A copy in the bucket carries the metadata of its source: that of another key, or with another time on it."""
    async with any_place.mount(config=KEEP_BOTH) as mount:
        await mount.save("b", b"ours, under another name")
        await _unheard(mount)
        any_place.crash()
    async with MemStore(any_place.bucket, any_place.capabilities) as other:
        source = await other.head("b" if changed == "key" else "a")
        metadata = None if changed == "key" else {**(source.metadata or {}), "mtime": "1.0"}
        await other.copy(source.ref, "a", metadata=metadata)
    assert await _mounted_again(any_place) == 1


async def test_of_versions_that_do_not_say_who_made_them_the_content_decides(
    any_place: Place, autojump_clock: MockClock
) -> None:
    """As an earlier b2fs made them."""
    async with any_place.mount(config=KEEP_BOTH) as mount:
        await _unheard(mount, b"second")
        any_place.crash()
    ours = any_place.bucket.latest("a")
    assert ours is not None
    any_place.bucket.add("a", b"second", {n: v for n, v in ours.metadata.items() if n != WRITER})
    assert await _mounted_again(any_place) == 0


async def test_an_upload_in_parts_says_so_too(tiny: Place, autojump_clock: MockClock) -> None:
    body = noise(4 * PART)
    async with tiny.mount(config=TINY) as mount:
        await mount.save("a", b"old")
        await mount.drain()
        await trio.sleep(10)
        mount.store.fail(Method.COMPLETE_UPLOAD, Unavailable("reset"), times=1, answer_lost=True)
        handle = await mount.open("a")
        await append(mount, handle, body)
        await mount.close(handle)
        await mount.store.wait_calls(Method.COMPLETE_UPLOAD, 1)
        mount.store.fail(CHANGES, Unavailable("reset"), times=None)
        await trio.sleep(1)
        await mount.save("a", b"second")
        tiny.crash()
    async with tiny.mount(config=TINY) as mount:
        await trio.sleep(30)
        await mount.drain()
        assert mount.fs.writeback.status().conflicts == 0
    assert digest(tiny.bucket.contents()["a"]) == digest(b"second")


async def test_only_files_that_had_a_version_before_are_asked_for(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        for number in range(5):
            await mount.save(f"{number}", b"x")
        await mount.drain()
        assert mount.store.counts[Method.HEAD] <= 1
        assert mount.store.counts[Method.PUT] >= 5


@pytest.mark.parametrize("path", ["a", "d/"])
async def test_what_is_removed_while_it_is_put_goes_without_a_version_id_too(
    place: Place, path: str, autojump_clock: MockClock
) -> None:
    """Some servers tell no version IDs at all, SeaweedFS none of directories' markers."""
    place.capabilities = Capabilities(versioning=False, copy_from_version=False)
    async with place.mount() as mount:
        mount.store.pause([Method.PUT])
        await (mount.mkdir(path.rstrip("/")) if path.endswith("/") else mount.save(path, b"content"))
        await mount.store.wait_held()
        await (mount.rmdir(path.rstrip("/")) if path.endswith("/") else mount.unlink(path))
        await mount.store.resume()
        await mount.drain()
    assert place.bucket.contents() == {}
