"""Keys that may write and hide, but not remove versions; and keys that may do neither."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from b2fs.errors import AccessDenied, Unavailable
from b2fs.store.forward import Method
from tests.writeback.harness import Mount, Place


async def test_where_nothing_may_be_deleted_what_was_made_here_is_hidden_a_second_later(
    place: Place, autojump_clock: MockClock
) -> None:

    async with place.mount() as mount:
        inner = mount.store.inner.delete_many

        async def refuse(targets: list[tuple[str, str | None]]) -> list[object]:
            answers: list[object] = list(await inner([(key, v) for key, v in targets if v is None]))
            return [AccessDenied("no deleteFiles") if v is not None else answers.pop(0) for _, v in targets]

        mount.store.inner.delete_many = refuse  # type: ignore[method-assign, assignment]  # a key without deleteFiles
        mount.store.pause([Method.PUT])
        await mount.save("a", b"content")
        await mount.store.wait_held()
        await mount.unlink("a")
        await mount.store.resume()
        await mount.drain()
    assert place.bucket.contents() == {}
    versions = place.bucket.versions["a"]
    assert [v.body for v in versions] == [b"content", None]
    assert versions[1].order[0] >= versions[0].order[0] + 1


def _may_only_read(mount: Mount) -> None:
    mount.store.fail([Method.PUT, Method.DELETE_MANY], AccessDenied("no writeFiles"), times=None)


async def test_what_could_not_be_stored_and_is_removed_holds_nothing_up(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount:
        _may_only_read(mount)
        await mount.save("a", b"content")
        await trio.sleep(10)
        assert [failed.path for failed in mount.fs.writeback.status().failed] == ["a"]
        await mount.unlink("a")
        with trio.fail_after(60):
            await mount.drain()
        assert mount.pending == 0
    assert place.bucket.versions == {}


async def test_what_may_not_be_removed_and_is_there_is_told(place: Place, autojump_clock: MockClock) -> None:
    place.bucket.add("a", b"somebody else's")
    async with place.mount() as mount:
        _may_only_read(mount)
        await mount.unlink("a")
        await trio.sleep(60)
        with pytest.raises(AccessDenied):
            await mount.drain()
        assert mount.pending == 1
    assert place.bucket.contents() == {"a": b"somebody else's"}


async def test_whether_it_is_there_is_asked_until_it_is_known(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        _may_only_read(mount)
        await mount.save("a", b"content")
        await trio.sleep(10)
        mount.store.fail([Method.HEAD], Unavailable("reset"), times=1)
        await mount.unlink("a")
        await trio.sleep(10)
        assert mount.pending == 1
        await trio.sleep(60)
        assert mount.pending == 0
