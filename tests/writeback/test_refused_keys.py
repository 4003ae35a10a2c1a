"""A key that the server refuses as malformed: it is told, and holds nothing up once its file is gone."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from b2fs.core.types import VersionId
from b2fs.errors import InvalidRequest, StoreError
from b2fs.store.forward import Method
from b2fs.store.s3.faults import error_of_item
from tests.writeback.harness import Mount, Place

_REFUSED = InvalidRequest("the key is malformed (InvalidRequest)")


@pytest.fixture(params=["alone", "with all others"])
def refusing(request: pytest.FixtureRequest) -> str:
    """Whether the server answers for each key of DeleteObjects, or refuses the whole request."""
    assert isinstance(request.param, str)
    return request.param


def _refuse(mount: Mount, how: str) -> None:
    """As SeaweedFS does with `..\\bar`."""
    mount.store.fail(Method.PUT, _REFUSED, times=None, matches=lambda call: call.key == "bad")
    inner = mount.store.inner.delete_many

    async def refuse(targets: list[tuple[str, VersionId | None]]) -> list[VersionId | StoreError | None]:
        bad = [key == "bad" for key, _ in targets]
        if any(bad) and how == "with all others":
            raise _REFUSED
        answers = await inner([target for target, is_bad in zip(targets, bad, strict=True) if not is_bad])
        return [_REFUSED if is_bad else answers.pop(0) for is_bad in bad]

    mount.store.inner.delete_many = refuse  # type: ignore[method-assign, assignment]  # a server that refuses a key


async def _is_refused(mount: Mount) -> None:
    await mount.save("bad", b"content")
    await trio.sleep(10)
    (failed,) = mount.fs.writeback.status().failed
    assert (failed.path, failed.error) == ("bad", str(_REFUSED))


async def test_once_it_is_removed_nothing_is_asked_or_waited_for(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        _refuse(mount, "alone")
        await _is_refused(mount)
        await mount.unlink("bad")
        await mount.drain()
        assert (mount.store.counts[Method.DELETE_MANY], mount.pending) == (0, 0)


async def test_nor_after_a_crash(place: Place, refusing: str, autojump_clock: MockClock) -> None:
    """What the bucket holds is not known then, so it is asked to remove it."""
    async with place.mount() as mount:
        await mount.save("good", b"content")
        await mount.drain()
        _refuse(mount, refusing)
        await _is_refused(mount)
        place.crash()
    async with place.mount() as mount:
        _refuse(mount, refusing)
        await mount.unlink("bad")
        await mount.unlink("good")
        await mount.drain()
        assert mount.pending == 0
    assert place.bucket.contents() == {}


def test_a_key_that_is_refused_among_others_is_known_as_such() -> None:
    """SeaweedFS's answer within that of DeleteObjects."""
    assert isinstance(error_of_item("InvalidRequest", "Invalid Request"), InvalidRequest)


async def test_what_was_seen_there_and_cannot_be_removed_is_told(place: Place, autojump_clock: MockClock) -> None:
    place.bucket.add("bad", b"somebody else's")
    async with place.mount() as mount:
        _refuse(mount, "alone")
        await mount.unlink("bad")
        await trio.sleep(60)
        with pytest.raises(InvalidRequest):
            await mount.drain()
