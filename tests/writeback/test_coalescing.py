"""What happens to a key before its turn becomes one call, or none."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from b2fs.store.forward import Method
from tests.writeback.harness import Place, changes_counted


async def test_ten_saves_within_a_second_are_one_version(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        for number in range(10):
            await mount.save("a", b"%d" % number)
            await trio.sleep(0.09)
        await mount.drain()
    assert [v.body for v in place.bucket.versions["a"]] == [b"9"]


async def test_a_temporary_file_that_is_renamed_is_one_put_of_the_final_name(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount:
        with changes_counted(mount.store) as calls:
            await mount.save("a.tmp", b"content")
            await mount.rename("a.tmp", "a")
            await mount.drain()
    assert [(call.method, call.key) for call in calls] == [(Method.PUT, "a")]
    assert place.bucket.contents() == {"a": b"content"}


async def test_an_editor_that_saves_by_rename_over_the_old_file(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        await mount.save("a", b"old")
        await mount.drain()
        await trio.sleep(120)
        with changes_counted(mount.store) as calls:
            await mount.save("a.tmp", b"new")
            await mount.rename("a.tmp", "a")
            await mount.drain()
    assert [(call.method, call.key) for call in calls] == [(Method.PUT, "a")]
    assert [v.body for v in place.bucket.versions["a"]] == [b"old", b"new"]


async def test_created_and_unlinked_is_no_call(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        with changes_counted(mount.store) as calls:
            await mount.save("a", b"content")
            await mount.unlink("a")
            await mount.drain()
            await trio.sleep(10)
    assert calls == []
    assert place.bucket.held() == set()


async def test_a_tree_that_is_made_and_removed_is_no_call(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        with changes_counted(mount.store) as calls:
            await mount.mkdir("d")
            await mount.save("d/a", b"1")
            await mount.symlink("a", "d/l")
            for path in ("d/a", "d/l"):
                await mount.unlink(path)
            await mount.rmdir("d")
            await mount.drain()
    assert calls == []


async def test_unlinked_while_its_upload_runs_it_is_removed_by_version_without_a_marker(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount:
        mount.store.pause([Method.PUT])
        await mount.save("a", b"content")
        await mount.store.wait_held()
        await mount.unlink("a")
        await mount.store.resume()
        await mount.drain()
    assert place.bucket.shown["a"] == [b"content", None]
    assert place.bucket.held() == set()


async def test_unlinked_while_it_is_still_written_after_an_upload_it_is_removed_by_version(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount:
        handle = await mount.create("a")
        await mount.write(handle, 0, b"1")
        mount.store.pause([Method.PUT])
        await mount.store.wait_held()
        await mount.write(handle, 0, b"2")
        await mount.store.resume()
        await mount.store.wait_calls(Method.PUT, 1)
        await mount.unlink("a")
        await mount.close(handle)
        await mount.drain()
    assert place.bucket.held() == set()


async def test_what_was_in_the_bucket_before_is_hidden_and_its_versions_stay(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount:
        await mount.save("a", b"content")
        await mount.drain()
        await trio.sleep(5)
        await mount.unlink("a")
        await mount.drain()
    assert [v.body for v in place.bucket.versions["a"]] == [b"content", None]


async def test_own_versions_that_were_superseded_are_removed(place: Place, autojump_clock: MockClock) -> None:
    """A file that is open and changes again and again is stored now and then, and leaves one version."""
    async with place.mount() as mount:
        handle = await mount.create("a")
        for number in range(6):
            await mount.write(handle, 0, b"%d" % number)
            await mount.fs.fsync(handle, False)
            await mount.write(handle, 1, b"+")
            await trio.sleep(0.3)
        await mount.close(handle)
        await mount.drain()
    assert [v.body for v in place.bucket.versions["a"]] == [b"5+"]


async def test_several_names_of_one_file_are_each_stored(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        await mount.save("a", b"content")
        await mount.link("a", "b")
        await mount.drain()
        await mount.unlink("a")
        await mount.drain()
    assert place.bucket.contents() == {"b": b"content"}


async def test_an_open_file_is_stored_now_and_then(place: Place, autojump_clock: MockClock) -> None:
    """It is not kept waiting for ever by writes that never pause."""
    async with place.mount() as mount:
        handle = await mount.create("a")
        for number in range(100):
            await mount.write(handle, 0, b"%02d" % number)
            await trio.sleep(1)
        assert place.bucket.latest("a") is not None
        await mount.close(handle)
