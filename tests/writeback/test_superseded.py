"""Removing what was superseded must not remove what somebody still needs."""

from __future__ import annotations

import os

import trio
from trio.testing import MockClock

from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.core.nodes import HandleId
from b2fs.store.forward import Method
from tests.writeback.harness import Mount, Place

#: More than is sent again rather than copied in the bucket.
LARGE = os.urandom(300_000)


async def test_a_version_that_another_name_is_to_be_copied_from_is_not_removed(
    place: Place, autojump_clock: MockClock
) -> None:
    """Save, keep as backup by renaming, save anew with fsync: all within a second."""
    async with place.mount() as mount:
        await mount.save("a", LARGE)
        await mount.drain()
        await trio.sleep(0.01)
        await mount.rename("a", "a~")
        await mount.save("a", b"new", fsync=True)
        await mount.drain()
        assert await mount.tree() == {"a": b"new", "a~": LARGE}
    assert place.bucket.contents() == {"a": b"new", "a~": LARGE}


async def _change_while_stored(mount: Mount, handle: HandleId, body: bytes) -> None:
    """A version is made while the file changes, so that the key is not done with it."""
    mount.store.pause([Method.PUT])
    await mount.store.wait_held()
    await mount.write(handle, 0, body)
    await trio.sleep(5)
    await mount.store.resume()
    await trio.sleep(0.1)  # it is answered; the next one comes a second later


async def test_a_removed_file_does_not_show_what_it_held_a_while_ago(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount(config=WriteBackConfig(supersede_s=0)) as mount:
        handle = await mount.create("a")
        await mount.write(handle, 0, b"one")
        await mount.close(handle)
        handle = await mount.open("a")
        for body in (b"two", b"three", b"four"):
            await _change_while_stored(mount, handle, body)
        mount.store.pause([Method.PUT])
        await mount.store.wait_held()
        await mount.unlink("a")
        await mount.store.resume()
        await mount.close(handle)
        await mount.drain()
    assert place.bucket.contents() == {}
    assert len(place.bucket.versions["a"]) > 1  # what is older stays as history


async def test_a_removed_file_does_not_show_a_version_that_another_name_needed(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount:
        await mount.save("a", LARGE)
        handle = await mount.open("a")
        await _change_while_stored(mount, handle, b"x")
        await mount.close(handle)
        mount.store.pause([Method.PUT, Method.COPY])
        await mount.rename("a", "kept")
        await mount.save("a", b"new")
        await mount.store.wait_held()
        await mount.unlink("a")
        await mount.store.resume()
        await mount.drain()
    assert place.bucket.contents() == {"kept": b"x" + LARGE[1:]}


async def test_an_open_file_keeps_the_version_that_it_reads(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        mount.keep = True
        await mount.save("a", LARGE)
        await mount.drain()
        await mount.save("b", b"new")
        reader = await mount.open("a", os.O_RDONLY)
        await mount.rename("b", "a")
        await mount.fsync("a")
        assert bytes(await mount.fs.read(reader, 0, 1 << 20)) == LARGE
        await mount.close(reader)


async def test_a_fsync_waits_for_the_inode_that_it_was_called_on(place: Place, autojump_clock: MockClock) -> None:
    """The name's old content is being uploaded when the new file takes its place."""
    async with place.mount() as mount:
        handle = await mount.create("a")
        for number in range(20):
            await mount.write(handle, number, b"x")
        await mount.close(handle)
        mount.store.pause([Method.PUT])
        await mount.store.wait_held()
        temporary = await mount.create("a.tmp")
        await mount.write(temporary, 0, b"new")
        await mount.rename("a.tmp", "a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.store.resume)
            await mount.fs.fsync(temporary, False)
            assert place.bucket.contents()["a"] == b"new"
        await mount.close(temporary)


async def test_a_renamed_files_source_is_not_given_up_by_an_upload_to_its_new_name(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount:
        await mount.save("x", LARGE)
        await mount.drain()
        mount.store.pause([Method.PUT])
        await mount.save("k", b"old content of k")
        await mount.store.wait_held()
        await mount.rename("x", "k")
        await mount.store.resume()
        await mount.drain()
        copied = [span for span in mount.store.spans if span.method is Method.COPY]
        removed = [span for span in mount.store.spans if span.method is Method.DELETE_MANY]
        assert copied[-1].answered_at <= removed[-1].asked_at
    assert place.bucket.contents() == {"k": LARGE}


async def test_a_version_that_an_open_file_reads_is_hidden_and_not_removed(
    place: Place, autojump_clock: MockClock
) -> None:
    """Nothing was under the name before us, so its versions would be removed by their IDs if nobody needed them."""
    body = os.urandom(300_000)
    async with place.mount() as mount:
        await mount.save("a", body)
        await trio.sleep(2)
        assert mount.pending == 0
        handle = await mount.open("a", os.O_RDONLY)
        mount.fs._core.discard_content(mount.fs._core.inode(await mount.ino("a")))  # as the cache does in time
        await mount.unlink("a")
        await mount.drain()
        assert "a" not in place.bucket.contents()
        assert bytes(await mount.fs.read(handle, 0, len(body))) == body
        await mount.close(handle)
