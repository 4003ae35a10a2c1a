"""Two clients that make the same new name: both versions are kept, and it is told."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.cache.writeback.conflicts import ConflictPolicy
from b2fs.core.types import Capabilities, ObjectInfo
from b2fs.errors import AccessDenied, Unavailable
from b2fs.store.forward import CHANGES, Method
from b2fs.store.protocol import Body
from tests.writeback.harness import Mount, Place
from tests.writeback.memstore import MemStore
from tests.writeback.tiny import PART, TINY, append, digest, noise

KEEP_BOTH = WriteBackConfig(conflict=ConflictPolicy.KEEP_BOTH)
CAPABILITIES = {
    "conditions": Capabilities(conditional_put=True),
    "versions": Capabilities(),
    "conditions alone": Capabilities(conditional_put=True, versioning=False, copy_from_version=False),
}


@pytest.fixture(params=["conditions", "versions"])
def versioned(request: pytest.FixtureRequest, place: Place) -> Place:
    place.capabilities = CAPABILITIES[request.param]
    return place


@pytest.fixture(params=CAPABILITIES)
def any_place(request: pytest.FixtureRequest, place: Place) -> Place:
    place.capabilities = CAPABILITIES[request.param]
    return place


async def _theirs(place: Place, key: str, body: bytes = b"theirs") -> None:
    async with MemStore(place.bucket, place.capabilities) as other:
        await other.put(key, body)


async def _looked(mount: Mount) -> int:
    """Everything is stored and looked at; how many conflicts that found."""
    await mount.drain()
    await trio.sleep(70)
    return mount.fs.writeback.status().conflicts


async def test_ours_goes_on_top_of_theirs_and_that_is_told(
    versioned: Place, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with versioned.mount() as mount:
        assert await mount.names() == set()
        await _theirs(versioned, "a")
        await mount.save("a", b"ours")
        assert await _looked(mount) == 1
    assert [v.body for v in versioned.bucket.versions["a"]] == [b"theirs", b"ours"]
    assert [record.getMessage() for record in caplog.records] == [
        "a was changed by somebody else; both versions are kept, ours on top"
    ]


async def test_theirs_gets_a_name_of_its_own_if_asked_for(any_place: Place, autojump_clock: MockClock) -> None:
    """Without versions it always does."""
    policy = WriteBackConfig() if not any_place.capabilities.versioning else KEEP_BOTH
    async with any_place.mount(config=policy) as mount:
        assert await mount.names() == set()
        await _theirs(any_place, "a.txt")
        await mount.save("a.txt", b"ours")
        assert await _looked(mount) == 1
    contents = any_place.bucket.contents()
    assert (contents.pop("a.txt"), [*contents.values()]) == (b"ours", [b"theirs"])


async def test_the_end_of_a_mount_waits_for_the_look(versioned: Place, autojump_clock: MockClock) -> None:
    async with versioned.mount() as mount:
        assert await mount.names() == set()
        await _theirs(versioned, "a")
        await mount.save("a", b"ours")
        mount.fs.writeback.hurry()
        await mount.drain()
        assert mount.fs.writeback.status().conflicts == 1


@pytest.mark.parametrize("conditional", [True, False])
async def test_what_one_client_makes_costs_at_most_a_page_for_a_burst(
    place: Place, conditional: bool, autojump_clock: MockClock
) -> None:
    place.capabilities = place.capabilities._replace(conditional_put=conditional)
    async with place.mount() as mount:
        await mount.mkdir("d")
        for number in range(50):
            await mount.save(f"d/{number}", b"x")
            await mount.save(f"d/{number}", b"y")
        await mount.drain()
        await trio.sleep(10)
        assert mount.store.counts[Method.LIST_VERSIONS] == 1
        for number in range(50):  # more of them within a minute wait for its end, or are put on condition
            await mount.save(f"d/more {number}", b"x")
            await trio.sleep(1)
        assert mount.store.counts[Method.LIST_VERSIONS] == 1
        assert await _looked(mount) == 0
        assert mount.store.counts[Method.LIST_VERSIONS] == (1 if conditional else 2)
        assert mount.store.counts[Method.HEAD] <= 2  # directories


async def test_all_of_a_burst_are_found(any_place: Place, autojump_clock: MockClock) -> None:
    async with any_place.mount(config=KEEP_BOTH) as mount:
        await mount.mkdir("d")
        await mount.drain()
        for number in range(0, 100, 10):
            await _theirs(any_place, f"d/{number}")
        for number in range(100):
            await mount.save(f"d/{number}", b"ours")
        assert await _looked(mount) == 10
    bodies = [body for key, body in any_place.bucket.contents().items() if key != "d/"]
    assert (bodies.count(b"ours"), bodies.count(b"theirs")) == (100, 10)


async def test_a_tree_that_one_client_makes_costs_less_than_a_page_a_directory(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount:
        for directory in range(30):
            await mount.mkdir(f"{directory}")
            for number in range(5):
                await mount.save(f"{directory}/{number}", b"x")
        assert await _looked(mount) == 0
        assert mount.store.counts[Method.LIST_VERSIONS] == 1


async def test_one_name_among_thousands_is_found(place: Place, autojump_clock: MockClock) -> None:
    for number in range(3500):
        place.bucket.add(f"d/{number:04}", b"old")
    async with place.mount() as mount:
        for name in ("0003 new", "1700 new", "3400 new"):
            assert name not in await mount.names("d")
            await _theirs(place, f"d/{name}", name.encode())
            await mount.save(f"d/{name}", b"ours")
        assert await _looked(mount) == 3
        assert mount.store.counts[Method.LIST_VERSIONS] == 3


async def test_a_key_with_more_versions_than_a_page(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        assert await mount.names() == set()
        for number in range(1100):
            await _theirs(place, "a", b"%d" % number)
        await _theirs(place, "b")
        for name in ("a", "b", "c"):
            await mount.save(name, b"ours")
        assert await _looked(mount) == 2


async def test_what_was_there_before_and_was_removed_is_no_conflict(
    any_place: Place, autojump_clock: MockClock
) -> None:
    await _theirs(any_place, "a")
    async with any_place.mount() as mount:
        for body in (b"1", b"2", b"3"):
            await mount.unlink("a")
            await mount.drain()
            await mount.save("a", body)
            assert await _looked(mount) == 0
            await mount.rename("a", "b")
            await mount.rename("b", "a")
            assert await _looked(mount) == 0
            await mount.rename("a", "c")
            await mount.drain()
            await mount.rename("c", "a")
            assert await _looked(mount) == 0


@pytest.mark.parametrize("save", [True, False])
async def test_a_put_that_was_not_heard_is_no_conflict(any_place: Place, save: bool, autojump_clock: MockClock) -> None:
    async with any_place.mount(config=KEEP_BOTH) as mount:
        mount.store.fail(Method.PUT, Unavailable("reset"), times=3, answer_lost=True)
        await mount.save("a", b"ours")
        if save:
            await trio.sleep(1.5)
            await mount.save("a", b"and more of it")
        await trio.sleep(60)
        assert await _looked(mount) == 0
    assert [*any_place.bucket.contents()] == ["a"]


async def test_nor_is_it_after_a_crash(any_place: Place, autojump_clock: MockClock) -> None:
    async with any_place.mount(config=KEEP_BOTH) as mount:
        mount.store.fail(Method.PUT, Unavailable("reset"), times=1, answer_lost=True)
        mount.store.fail(CHANGES, Unavailable("reset"), times=None)
        await mount.save("a", b"ours")
        await trio.sleep(3)
        assert any_place.bucket.contents() == {"a": b"ours"}
        any_place.crash()
    async with any_place.mount(config=KEEP_BOTH) as mount:
        assert await _looked(mount) == 0
    assert any_place.bucket.contents() == {"a": b"ours"}


async def test_what_somebody_else_made_before_the_next_mount_is_one(
    any_place: Place, autojump_clock: MockClock
) -> None:
    async with any_place.mount(config=KEEP_BOTH) as mount:
        mount.store.fail(CHANGES, Unavailable("reset"), times=None)
        await mount.save("a", b"ours")
        await trio.sleep(3)
        any_place.crash()
    await _theirs(any_place, "a")
    async with any_place.mount(config=KEEP_BOTH) as mount:
        assert await _looked(mount) == 1
    assert sorted(any_place.bucket.contents().values()) == [b"ours", b"theirs"]


async def test_the_new_name_of_a_renamed_file(versioned: Place, autojump_clock: MockClock) -> None:
    """A copy in the bucket, on which servers take no condition."""
    async with versioned.mount(config=KEEP_BOTH) as mount:
        await mount.save("old", noise(1 << 19))
        await mount.drain()
        await _theirs(versioned, "new")
        await mount.rename("old", "new")
        assert await _looked(mount) == 1
        assert mount.store.counts[Method.COPY] == 2
    assert sorted(len(body) for body in versioned.bucket.contents().values()) == [6, 1 << 19]


@pytest.mark.parametrize("kind", CAPABILITIES)
async def test_a_large_file(tiny: Place, kind: str, autojump_clock: MockClock) -> None:
    tiny.capabilities = CAPABILITIES[kind]._replace(min_part_bytes=tiny.capabilities.min_part_bytes)
    body = noise(4 * PART)
    async with tiny.mount(config=TINY._replace(conflict=ConflictPolicy.KEEP_BOTH)) as mount:
        assert await mount.names() == set()
        await _theirs(tiny, "a")
        handle = await mount.create("a")
        await append(mount, handle, body)
        await mount.close(handle)
        assert await _looked(mount) == 1
    contents = tiny.bucket.contents()
    assert (digest(contents.pop("a")), [*contents.values()]) == (digest(body), [b"theirs"])


async def test_the_names_of_hard_links(any_place: Place, autojump_clock: MockClock) -> None:
    async with any_place.mount() as mount:
        await mount.save("one", b"ours")
        await mount.link("one", "two")
        assert await _looked(mount) == 0
    any_place.forget_cache()
    async with any_place.mount() as mount:
        await mount.save("one", b"again")
        assert await _looked(mount) == 0
    assert any_place.bucket.contents() == {"one": b"again", "two": b"again"}


async def test_a_directory_that_two_make(any_place: Place, autojump_clock: MockClock) -> None:
    async with any_place.mount() as mount:
        assert await mount.names() == set()
        await _theirs(any_place, "d/", b"")
        await mount.mkdir("d")
        assert await _looked(mount) == 0


async def test_the_same_content_is_no_conflict(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        assert await mount.names() == set()
        await _theirs(place, "a", b"the same")
        await mount.save("a", b"the same")
        assert await _looked(mount) == 0


async def test_what_is_changed_again_before_the_look(place: Place, autojump_clock: MockClock) -> None:
    """Our first version is removed by then."""
    async with place.mount() as mount:
        assert await mount.names() == set()
        await _theirs(place, "a")
        for body in (b"1", b"2", b"3"):
            await mount.save("a", body, fsync=True)
        assert await _looked(mount) == 1
    assert [v.body for v in place.bucket.versions["a"]] == [b"theirs", b"3"]


async def test_a_look_that_fails_is_made_again(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        assert await mount.names() == set()
        await _theirs(place, "a")
        mount.store.fail(Method.LIST_VERSIONS, Unavailable("reset"), times=2)
        await mount.save("a", b"ours")
        await mount.drain()
        await trio.sleep(200)
        assert mount.fs.writeback.status().conflicts == 1


@pytest.mark.parametrize("error", [AccessDenied("listFiles"), Unavailable("reset")])
async def test_a_look_that_nobody_answers_is_given_up(
    place: Place, error: Unavailable | AccessDenied, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with place.mount() as mount:
        mount.store.fail(Method.LIST_VERSIONS, error, times=None)
        await mount.save("a", b"ours")
        await mount.drain()
        await trio.sleep(1000)
        assert mount.store.counts[Method.LIST_VERSIONS] == (1 if isinstance(error, AccessDenied) else 3)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"whether somebody else made 1 names at the same time cannot be seen: {error}"


async def test_a_removed_file_does_not_come_back_from_a_put_that_was_not_heard(
    any_place: Place, autojump_clock: MockClock
) -> None:
    """It was stored twice; the first version, of which we never heard, is below the second, which is removed."""
    async with any_place.mount() as mount:
        mount.store.fail(Method.PUT, Unavailable("reset"), times=1, answer_lost=True)
        handle = await mount.create("a")
        await mount.write(handle, 0, b"one")
        await trio.sleep(5.1)
        assert any_place.bucket.contents() == {"a": b"one"}
        mount.store.pause([Method.PUT])
        await mount.store.wait_held()
        await mount.write(handle, 0, b"two")
        await mount.store.resume()
        await trio.sleep(0.1)
        await mount.close(handle)
        await mount.unlink("a")
        await mount.drain()
    assert any_place.bucket.contents() == {}


@pytest.mark.parametrize("theirs", [False, True])
async def test_a_server_that_fails_where_it_is_asked_is_asked_no_more(
    any_place: Place, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, theirs: bool
) -> None:
    """As SeaweedFS does for some names.  What somebody else has put there is still found."""
    real = MemStore.put

    async def put(self: MemStore, key: str, body: Body, **conditions: Any) -> ObjectInfo:
        if conditions.get("if_none_match"):
            raise Unavailable("InternalError")
        return await real(self, key, body, **conditions)

    monkeypatch.setattr(MemStore, "put", put)
    async with any_place.mount() as mount:
        assert await mount.names() == set()
        if theirs:
            await _theirs(any_place, "a")
        await mount.save("a", b"ours")
        assert await _looked(mount) == theirs
    assert any_place.bucket.contents()["a"] == b"ours"
