"""Copies from what only a listing has shown: no version ID is known, and the name may get another content first."""

from __future__ import annotations

import os

import pytest
import trio
from trio.testing import MockClock

from b2fs.core.types import VersionId
from b2fs.store.forward import Method
from tests.writeback.harness import Mount, Place
from tests.writeback.memstore import MemStore

THEIRS = os.urandom(300_000)


async def _stored_by_another(place: Place, key: str, body: bytes = THEIRS) -> None:
    async with MemStore(place.bucket, place.capabilities) as other:
        await other.put(key, body)


async def _move_and_store_over(mount: Mount) -> None:
    """Nobody has looked into d, so the rename knows of d/a by a listing; d/a is then stored anew before the copy."""
    mount.store.pause([Method.COPY])
    await mount.rename("d", "e")
    await mount.store.wait_held()
    await mount.mkdir("d")
    await mount.save("d/a", b"ours, and new", fsync=True)


async def test_a_moved_file_keeps_its_content_when_its_old_name_is_stored_over_first(
    place: Place, autojump_clock: MockClock
) -> None:
    await _stored_by_another(place, "d/a")
    async with place.mount() as mount:
        await _move_and_store_over(mount)
        await mount.store.resume()
        await mount.drain()
        assert await mount.tree() == {"d": None, "d/a": b"ours, and new", "e": None, "e/a": THEIRS}
    stored = place.bucket.contents()
    assert (stored["d/a"], stored["e/a"]) == (b"ours, and new", THEIRS)


async def test_a_crash_between_the_new_content_and_the_copy(place: Place, autojump_clock: MockClock) -> None:
    await _stored_by_another(place, "d/a")
    async with place.mount() as mount:
        await _move_and_store_over(mount)
        place.crash()
    async with place.mount() as mount:
        await mount.drain()
        assert await mount.tree() == {"d": None, "d/a": b"ours, and new", "e": None, "e/a": THEIRS}
    stored = place.bucket.contents()
    assert (stored["d/a"], stored["e/a"]) == (b"ours, and new", THEIRS)


async def test_a_version_of_ours_that_was_listed_is_not_removed_before_it_was_copied(
    place: Place, autojump_clock: MockClock
) -> None:
    """A fsync within the second removes the version that it replaces, but not one that is wanted elsewhere."""
    async with place.mount() as mount:
        mount.keep = True
        await mount.mkdir("d")
        await mount.save("d/a", THEIRS)
        await mount.drain()
        inode = mount.fs._core.inode(await mount.ino("d/a"))
        assert inode.base is not None
        # As when it was forgotten, and listed anew.
        inode.base = inode.base._replace(version_id=None)
        await _move_and_store_over(mount)
        await mount.store.resume()
        await mount.drain()
    stored = place.bucket.contents()
    assert (stored["d/a"], stored["e/a"]) == (b"ours, and new", THEIRS)


async def test_what_another_client_put_under_the_old_name_moves_along(place: Place, autojump_clock: MockClock) -> None:
    """It came after the listing, and the old name goes away: nobody may lose it."""
    await _stored_by_another(place, "d/a")
    async with place.mount() as mount:
        mount.store.pause([Method.COPY])
        await mount.rename("d", "e")
        await mount.store.wait_held()
        await _stored_by_another(place, "d/a", b"newer")
        await mount.store.resume()
        await mount.drain()
    assert place.bucket.contents()["e/a"] == b"newer"


async def test_what_another_client_removed_meanwhile_is_copied_from_the_history(
    place: Place, autojump_clock: MockClock
) -> None:
    await _stored_by_another(place, "d/a")
    async with place.mount() as mount:
        mount.store.pause([Method.COPY])
        await mount.rename("d", "e")
        await mount.store.wait_held()
        async with MemStore(place.bucket, place.capabilities) as other:
            await other.hide("d/a")
        await mount.store.resume()
        await mount.drain()
        assert await mount.read("e/a") == THEIRS
    assert place.bucket.contents()["e/a"] == THEIRS


async def test_a_copy_whose_source_became_another_one_meanwhile_is_tried_again(
    place: Place, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Not found is the version that was asked for; the file is in another one by now."""
    async with place.mount() as mount:
        mount.keep = True
        await mount.save("a", THEIRS)
        await mount.drain()
        await trio.sleep(5)
        inode = mount.fs._core.inode(await mount.ino("a"))
        base = inode.base
        assert base is not None
        mount.fs._core.discard_content(inode)
        inode.base = base._replace(version_id=VersionId("that was removed"))
        mount.store.pause([Method.COPY])
        await mount.rename("a", "b")
        await mount.store.wait_held()
        inode.base = base
        await mount.store.resume()
        await mount.drain()
        assert await mount.read("b") == THEIRS
    assert place.bucket.contents() == {"b": THEIRS}
    assert caplog.messages == []
