"""Renames: the copy before the removal, whole trees, and what a crash in between leaves."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from b2fs.core.types import Capabilities
from b2fs.errors import Unavailable
from b2fs.store.forward import CHANGES, Method, StoreCall
from b2fs.vfs.api import RENAME_EXCHANGE
from tests.writeback.harness import Place, changes_counted
from tests.writeback.memstore import MemStore

LARGE = os.urandom(300_000)


async def test_a_stored_file_is_copied_and_then_hidden(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        await mount.save("a", LARGE)
        await mount.drain()
        await trio.sleep(5)
        with changes_counted(mount.store) as calls:
            await mount.rename("a", "b")
            await mount.drain()
        assert [call.method for call in calls] == [Method.COPY, Method.DELETE_MANY]
        copy, hide = mount.store.spans[-2:]
        assert copy.answered_at <= hide.asked_at
    assert place.bucket.contents() == {"b": LARGE}
    assert place.bucket.hidden() == ["a"]


async def test_a_name_stays_until_all_copies_from_it_are_confirmed(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        await mount.save("a", LARGE)
        await mount.drain()
        await trio.sleep(5)
        mount.store.pause([Method.COPY])
        await mount.rename("a", "b")
        await mount.store.wait_held()
        await trio.sleep(60)
        assert place.bucket.contents() == {"a": LARGE}
        assert await mount.names() == {"b"}
        await mount.store.resume()
        await mount.drain()
    assert place.bucket.contents() == {"b": LARGE}


async def test_a_directory_is_at_its_new_name_at_once_and_in_the_bucket_later(
    place: Place, autojump_clock: MockClock
) -> None:
    async with place.mount() as mount:
        await mount.mkdir("d")
        for number in range(30):
            await mount.save(f"d/{number}", b"%d" % number)
        await mount.drain()
        await trio.sleep(5)
        mount.store.pause(CHANGES)
        await mount.rename("d", "e")
        assert await mount.names() == {"e"}
        assert await mount.names("e") == {str(number) for number in range(30)}
        assert await mount.read("e/7") == b"7"
        await mount.store.wait_held(16)
        await mount.store.resume()
        await mount.drain()
    expected = {f"e/{number}": b"%d" % number for number in range(30)}
    assert place.bucket.contents() == {"e/": b"", **expected}


@pytest.mark.parametrize("calls_before", [0, 1, 5, 12, 20])
async def test_a_directory_rename_goes_on_after_a_crash(
    place: Place, autojump_clock: MockClock, calls_before: int
) -> None:
    files = {str(number): os.urandom(10 + number) for number in range(20)}
    async with place.mount() as mount:
        await mount.mkdir("d")
        await mount.mkdir("d/sub")
        for name, content in files.items():
            await mount.save(f"d/{name}", content)
        await mount.save("d/sub/deep", b"deep")
        await mount.drain()
        await trio.sleep(5)
        await mount.rename("d", "e")
        mount.store.latency_s = 0.01
        await mount.store.wait_calls(Method.COPY, calls_before)
        place.crash()
    async with place.mount() as mount:
        below = {"e/sub": None, "e/sub/deep": b"deep", **{f"e/{name}": content for name, content in files.items()}}
        assert await mount.tree() == {"e": None, **below}
        await mount.drain()
    found = place.bucket.contents()
    assert found.pop("e/") == found.pop("e/sub/") == b""
    assert found == {"e/sub/deep": b"deep", **{f"e/{name}": content for name, content in files.items()}}


async def test_a_directory_that_was_listed_is_renamed_within_one_round_trip(
    place: Place, autojump_clock: MockClock
) -> None:
    for number in range(20):
        place.bucket.add(f"d/{number}", b"content")
    async with place.mount() as mount:
        mount.keep = True
        assert len(await mount.names("d")) == 20
        assert await mount.names() == {"d"}
        await trio.sleep(1)
        mount.store.latency_s = 1.0
        begun = trio.current_time()
        await mount.rename("d", "e")
        assert trio.current_time() - begun < 1.5
        mount.store.latency_s = 0.0
        await mount.drain()
    assert set(place.bucket.contents()) - {"e/"} == {f"e/{number}" for number in range(20)}


@pytest.mark.parametrize("versioning", [False, True])
@pytest.mark.parametrize("linked", [False, True])
async def test_what_was_copied_is_not_lost_by_a_crash_when_its_source_has_just_gone(
    place: Place, tmp_path: Path, autojump_clock: MockClock, versioning: bool, linked: bool
) -> None:
    """The next mount may move the copy on at once: it must not want the source, and leave the copy without a user."""
    place.capabilities = Capabilities(versioning=versioning, copy_from_version=versioning)
    twins: list[Place] = []
    crashed = trio.Event()

    async def crash(call: StoreCall) -> None:
        if call.method is Method.DELETE_MANY and not twins:
            twin = place.left_behind(tmp_path / "twin")
            twin.bucket.add("a", None)  # the server has carried it out
            twins.append(twin)
            crashed.set()

    async with place.mount() as mount, trio.open_nursery() as nursery:

        async def go_on() -> None:
            for number in itertools.count():
                await mount.save(f"f{number}", b"")
                await trio.sleep(0.01)

        await mount.save("a", b"content")
        await mount.drain()
        await trio.sleep(10)  # what is local becomes cache
        if linked:
            await mount.link("a", "c")
        await mount.rename("a", "b")
        # The engine finds no rest, in which it commits what acknowledges nothing, and the removal is late already.
        mount.store.pause([Method.COPY])
        nursery.start_soon(go_on)
        await trio.sleep(5)
        mount.store.hook = crash
        await mount.store.resume()
        await crashed.wait()
        nursery.cancel_scope.cancel()
    (twin,) = twins
    async with twin.mount() as mount:
        await mount.rename("b", "e")
        if linked:
            await mount.rename("c", "d")
        await mount.drain()
        assert await mount.read("e") == b"content"
    found = {key: body for key, body in twin.bucket.contents().items() if body}
    assert found == dict.fromkeys(("d", "e") if linked else ("e",), b"content")


async def test_nor_is_a_copy_that_is_to_be_looked_at_again(place: Place, autojump_clock: MockClock) -> None:
    """After a crash the entry stays for a while when it is stored; its row must name what it is copied from now."""
    place.capabilities = Capabilities(versioning=False, copy_from_version=False)
    async with place.mount() as mount:
        await mount.save("a", b"content")
        await mount.drain()
        await trio.sleep(10)
        mount.store.pause([Method.COPY])
        await mount.rename("a", "b")
        await mount.store.wait_held()
        place.crash()
    removed = trio.Event()

    async def see(call: StoreCall) -> None:
        if call.method is Method.DELETE_MANY:
            removed.set()

    async with place.mount() as mount:
        mount.store.hook = see
        await removed.wait()
        await trio.sleep(1)
        place.crash()
    assert place.bucket.contents() == {"b": b"content"}
    async with place.mount() as mount:
        await mount.rename("b", "c")
        await mount.drain()
        assert await mount.read("c") == b"content"
    assert place.bucket.contents() == {"c": b"content"}


async def test_a_directory_whose_entries_nobody_has_looked_at(place: Place, autojump_clock: MockClock) -> None:
    for number in range(10):
        place.bucket.add(f"d/{number}", b"%d" % number, {"mode": "33188"})
    async with place.mount() as mount:
        await mount.rename("d", "e")
        place.crash()
    async with place.mount() as mount:
        await mount.drain()
    found = place.bucket.contents()
    assert {key: body for key, body in found.items() if not key.endswith("/")} == {
        f"e/{number}": b"%d" % number for number in range(10)
    }
    version = place.bucket.latest("e/3")
    assert version is not None
    assert version.metadata["mode"] == "33188"


async def test_a_removed_name_stays_gone_while_the_bucket_still_has_it(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount(ttl_s=1.0) as mount:
        await mount.save("a", b"1")
        await mount.drain()
        mount.store.pause([Method.DELETE_MANY])
        await mount.unlink("a")
        await trio.sleep(30)
        assert await mount.names() == set()
        place.crash()
    async with place.mount(ttl_s=1.0) as mount:
        mount.store.pause([Method.DELETE_MANY])
        await trio.sleep(30)
        assert await mount.names() == set()
        await mount.store.resume()
        await mount.drain()
        assert await mount.names() == set()
    assert place.bucket.contents() == {}


async def test_names_that_change_places(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        await mount.save("a", LARGE)
        await mount.save("b", b"b" * 300_000)
        await mount.drain()
        await trio.sleep(5)
        await mount.rename("a", "b", RENAME_EXCHANGE)
        place.crash()
    async with place.mount() as mount:
        await mount.drain()
    assert place.bucket.contents() == {"a": b"b" * 300_000, "b": LARGE}


async def test_a_rename_that_is_undone_before_its_turn(place: Place, autojump_clock: MockClock) -> None:
    async with place.mount() as mount:
        await mount.save("a", LARGE)
        await mount.drain()
        await trio.sleep(5)
        await mount.rename("a", "b")
        await mount.rename("b", "a")
        await mount.drain()
    assert place.bucket.contents() == {"a": LARGE}


async def test_a_file_that_was_replaced_by_a_rename_leaves_nothing_here(
    place: Place, autojump_clock: MockClock
) -> None:
    """Neither a dirty file nor a row of the ledger, even if it had not been stored."""
    async with place.mount() as mount:
        await mount.save("a", b"never stored")
        await mount.save("b", b"content")
        await mount.rename("b", "a")
        await mount.drain()
        await trio.sleep(5)
        assert list((place.cache / "dirty").iterdir()) == []
    assert place.bucket.contents() == {"a": b"content"}


async def test_a_listed_file_keeps_its_content_when_its_old_name_is_stored_over_first(
    place: Place, autojump_clock: MockClock
) -> None:
    """A listing tells no version IDs, so the copy's source is known by its ETag alone."""
    async with MemStore(place.bucket, place.capabilities) as other:
        await other.put("d/a", b"theirs")
    async with place.mount() as mount:
        assert await mount.names("d") == {"a"}
        mount.store.pause([Method.COPY])
        await mount.rename("d", "e")
        await mount.store.wait_held()
        await mount.mkdir("d")
        await mount.save("d/a", b"ours, and new", fsync=True)
        await mount.store.resume()
        await mount.drain()
        assert await mount.read("e/a") == b"theirs"
    stored = place.bucket.contents()
    assert (stored["d/a"], stored["e/a"]) == (b"ours, and new", b"theirs")


async def test_a_renamed_directory_without_a_marker_is_seen_under_its_new_name(
    place: Place, autojump_clock: MockClock
) -> None:
    """Nothing is stored under the directory's own key, so only what is below says that it is there."""
    async with MemStore(place.bucket, place.capabilities) as other:
        await other.put("d/deep/a", b"theirs")
    async with place.mount() as mount:
        assert await mount.names() == {"d"}
        assert await mount.names("d/deep") == {"a"}
        await mount.rename("d", "e")
        await mount.drain()
        assert await mount.names() == {"e"}
        assert await mount.names("e") == {"deep"}
        assert await mount.read("e/deep/a") == b"theirs"


@pytest.fixture
def path_place(tmp_path: Path) -> Place:
    """A bucket of a server to which `a` and `a/` are one (SeaweedFS)."""
    return Place(tmp_path, capabilities=Capabilities(versioning=False, folders=True))


@pytest.mark.parametrize("drained", [False, True])
async def test_where_keys_are_paths_files_and_directories_take_each_others_place(
    path_place: Place, autojump_clock: MockClock, drained: bool
) -> None:
    async with path_place.mount() as mount:
        for name in ("x", "y"):
            await mount.mkdir(name)
            await mount.save(f"{name}/inside", b"content")
        await mount.drain()
        for name, body in (("x", b""), ("y", b"body")):
            await mount.unlink(f"{name}/inside")
            await mount.rmdir(name)
            await mount.save(name, body, fsync=True)
            assert path_place.bucket.contents()[name] == body
        if drained:
            await mount.drain()
            assert path_place.bucket.contents() == {"x": b"", "y": b"body"}
        for name in ("x", "y"):
            await mount.unlink(name)
            await mount.mkdir(name)
        await mount.drain()
        assert path_place.bucket.contents() == {"x/": b"", "y/": b""}


async def test_where_keys_are_paths_a_removal_that_comes_late_removes_no_file(
    path_place: Place, autojump_clock: MockClock
) -> None:
    async with path_place.mount() as mount:
        await mount.mkdir("x")
        await mount.drain()
        mount.store.fail(Method.DELETE_MANY, Unavailable("the server is busy"), times=None)
        await mount.rmdir("x")
        await trio.sleep(5)
        await mount.save("x", b"", fsync=True)
        path_place.crash()
    async with path_place.mount() as mount:
        await mount.drain()
        assert path_place.bucket.contents() == {"x": b""}


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("places", [("x", "d", "t"), ("d", "x", "t")])
async def test_where_keys_are_paths_a_file_and_a_directory_change_places(
    path_place: Place, autojump_clock: MockClock, stored: bool, places: tuple[str, str, str]
) -> None:
    async with path_place.mount() as mount:
        await mount.save("x", b"file")
        await mount.mkdir("d")
        await mount.save("d/inside", b"content")
        if stored:
            await mount.drain()
        a, b, t = places
        for old, new in ((a, t), (b, a), (t, b)):
            await mount.rename(old, new)
        with trio.fail_after(60):
            await mount.drain()
        assert path_place.bucket.contents() == {"d": b"file", "x/": b"", "x/inside": b"content"}
    path_place.forget_cache()
    async with path_place.mount() as mount:  # of which the listing alone has told
        for old, new in ((a, t), (b, a), (t, b)):
            await mount.rename(old, new)
        with trio.fail_after(60):
            await mount.drain()
        assert path_place.bucket.contents() == {"x": b"file", "d/": b"", "d/inside": b"content"}


async def test_where_keys_are_paths_two_files_take_the_places_of_their_directories(
    path_place: Place, autojump_clock: MockClock
) -> None:
    """Each is to be copied out of the directory whose place the other takes: nothing may wait in a circle."""
    async with path_place.mount() as mount:
        for name in "xy":
            await mount.mkdir(name)
            await mount.save(f"{name}/{name}", name.encode())
        await mount.drain()
    path_place.forget_cache()
    async with path_place.mount() as mount:
        await mount.rename("x/x", "t1")
        await mount.rename("y/y", "t2")
        await mount.rmdir("x")
        await mount.rmdir("y")
        await mount.rename("t1", "y")
        await mount.rename("t2", "x")
        with trio.fail_after(60):
            await mount.drain()
        assert path_place.bucket.contents() == {"x": b"y", "y": b"x"}
