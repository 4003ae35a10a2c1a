"""Uploads in parts that were cut off: they go on with what the server has, or are aborted until that has succeeded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from b2fs.cache import content
from b2fs.cache.ledger import Ledger
from b2fs.core.nodes import HandleId
from b2fs.errors import AccessDenied, Unavailable
from b2fs.store.forward import CHANGES, Method, StoreCall
from tests.writeback.harness import Mount, Place
from tests.writeback.tiny import PART, ROOM, TINY, append, away, digest, noise

LONG = os.environ.get("B2FS_LONG") == "1"
#: Less than would make parts leave.
BODY = noise(8 * PART + 100)


async def begun(mount: Mount, body: bytes = BODY) -> HandleId:
    """A file whose full parts are all in the bucket; it stays open."""
    handle = await mount.create("a")
    await append(mount, handle, body)
    await trio.sleep(10)
    assert mount.store.counts[Method.UPLOAD_PART] == len(body) // PART
    assert away(mount) == 0
    return handle


async def test_after_a_kill_only_what_is_missing_is_sent(tiny: Place, autojump_clock: MockClock) -> None:
    async with tiny.mount(config=TINY) as mount:
        await begun(mount)
        tiny.crash()
    async with tiny.mount(config=TINY) as mount:
        assert digest(await mount.read("a")) == digest(BODY)
        await mount.drain()
        assert mount.store.bytes_up == 100, "the end of the file"
        assert mount.store.counts[Method.CREATE_UPLOAD] == 0
    assert digest(tiny.bucket.contents()["a"]) == digest(BODY)
    assert tiny.bucket.uploads == {}


async def test_after_an_end_without_a_drain_it_goes_on_too(tiny: Place, autojump_clock: MockClock) -> None:
    async with tiny.mount(config=TINY) as mount:
        await begun(mount)
    async with tiny.mount(config=TINY) as mount:
        await mount.drain()
        assert mount.store.bytes_up == 100
    assert digest(tiny.bucket.contents()["a"]) == digest(BODY)


async def test_parts_that_were_changed_or_are_not_what_the_server_has_go_up_again(
    tiny: Place, autojump_clock: MockClock
) -> None:
    wanted = bytearray(BODY)
    async with tiny.mount(config=TINY) as mount:
        handle = await begun(mount)
        mount.store.fail(CHANGES, Unavailable("500"), times=None)
        await mount.write(handle, 2 * PART + 5, b"changed")
        wanted[2 * PART + 5 : 2 * PART + 12] = b"changed"
        tiny.crash()
    (upload,) = tiny.bucket.uploads.values()
    del upload.parts[5]
    part, body = upload.parts[7]
    upload.parts[7] = (type(part)(7, type(part.etag)("0" * 32), part.size), body)
    async with tiny.mount(config=TINY) as mount:
        await mount.drain()
        assert mount.store.bytes_up == 3 * PART + 100
    assert digest(tiny.bucket.contents()["a"]) == digest(bytes(wanted))


async def test_a_fault_that_passes_costs_no_part_twice(tiny: Place, autojump_clock: MockClock) -> None:
    async with tiny.mount(config=TINY) as mount:
        handle = await begun(mount)
        mount.store.fail(CHANGES, Unavailable("500"), times=5)
        await mount.close(handle)
        await trio.sleep(100)
        assert mount.pending == 0
        assert mount.store.counts[Method.CREATE_UPLOAD] == 1
    assert digest(tiny.bucket.contents()["a"]) == digest(BODY)


async def test_an_upload_that_is_gone_begins_anew(tiny: Place, autojump_clock: MockClock) -> None:
    async with tiny.mount(config=TINY) as mount:
        await begun(mount)
        tiny.crash()
    tiny.bucket.uploads.clear()
    async with tiny.mount(config=TINY) as mount:
        await trio.sleep(20)
        assert mount.pending == 0
    assert digest(tiny.bucket.contents()["a"]) == digest(BODY)


async def test_what_has_become_small_or_is_gone_is_aborted(tiny: Place, autojump_clock: MockClock) -> None:
    async with tiny.mount(config=TINY) as mount:
        handle = await begun(mount)
        mount.store.fail(CHANGES, Unavailable("500"), times=None)
        await mount.truncate("a", 10)
        await mount.close(handle)
        tiny.crash()
    assert len(tiny.bucket.uploads) == 1
    async with tiny.mount(config=TINY) as mount:
        await mount.drain()
    assert tiny.bucket.contents() == {"a": BODY[:10]}
    assert tiny.bucket.uploads == {}


async def test_an_abort_is_tried_until_it_succeeds_over_mounts_too(tiny: Place, autojump_clock: MockClock) -> None:
    """F11: a second upload of the same file does not make the first one forgotten."""
    async with tiny.mount(config=TINY) as mount:
        mount.store.fail(Method.ABORT_UPLOAD, AccessDenied("not entitled"), times=None)
        for _ in range(2):
            handle = await begun(mount)
            await mount.close(handle)
            await mount.unlink("a")
            mount.store.counts.clear()
        await mount.drain()
        assert len(tiny.bucket.uploads) == 2
        tiny.crash()
    theirs = tiny.bucket.new_id()
    async with tiny.mount(config=TINY) as mount:
        mount.store.fail(Method.ABORT_UPLOAD, Unavailable("500"), times=3)
        await mount.store.create_upload("a")
        await trio.sleep(100)
    assert len(tiny.bucket.uploads) == 1, "somebody else's upload of the same key is left alone"
    assert theirs < next(iter(tiny.bucket.uploads))


# ---- a crash at each step, with parts that leave the disk -----------------------------------------------------------

LARGE = noise(ROOM + ROOM // 2 + 777)
STEP = PART // 2


@dataclass
class Steps:
    """Takes a copy of everything before each step of write-back, and how much was acknowledged by then."""

    place: Place
    directory: Path
    acknowledged: int = 0
    taken: list[tuple[str, int, Place]] = field(default_factory=list)
    on: bool = False
    seen: int = 0

    def take(self, what: str) -> None:
        self.seen += 1
        if self.on and (LONG or self.seen % 7 == 0 or what not in ("commit", "upload_part")):
            left = self.place.left_behind(self.directory / f"step{len(self.taken)}")
            self.taken.append((what, self.acknowledged, left))

    async def before_call(self, call: StoreCall) -> None:
        self.take(call.method.value)


@pytest.fixture
def steps(tiny: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    steps = Steps(tiny, tmp_path)
    commit, punch = Ledger.commit, content.punch_hole

    def watched(what: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(*args: object) -> None:
            if what != "commit" or getattr(args[0], "uncommitted", False):
                steps.take(what)
            real(*args)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "commit", watched("commit", commit))
        patch.setattr(content, "punch_hole", watched("punch", punch))
        yield steps


async def test_a_crash_at_each_step(steps: Steps, tiny: Place, autojump_clock: MockClock) -> None:
    async with tiny.mount(config=TINY) as mount:
        handle = await mount.create("a")
        mount.store.hook = steps.before_call
        steps.on = True
        for at in range(0, len(LARGE), STEP):
            await mount.write(handle, at, LARGE[at : at + STEP])
            steps.acknowledged = min(at + STEP, len(LARGE))
        assert away(mount) > 0
        await mount.close(handle)
        await mount.drain()
        await trio.sleep(5)
        steps.on = False
    assert {"punch", "upload_part", "complete_upload"} <= {what for what, _, _ in steps.taken}
    for what, acknowledged, left in steps.taken:
        await check(what, acknowledged, left)


async def check(what: str, acknowledged: int, left: Place) -> None:
    """What is mounted next has every acknowledged byte, stores exactly that, and leaves no upload behind."""
    allowed = {digest(LARGE[:acknowledged]), digest(LARGE[: acknowledged + STEP])}
    async with left.mount(config=TINY) as mount:
        found = await mount.read("a")
        assert digest(found) in allowed, f"killed before {what} with {acknowledged} bytes acknowledged"
        await mount.drain()
    assert digest(left.bucket.contents().get("a")) == digest(found), what
    assert left.bucket.uploads == {}, what
    shown = {digest(body) for body in left.bucket.shown["a"]}
    assert shown <= {digest(LARGE[:at]) for at in range(0, len(LARGE), STEP)} | {digest(LARGE)}, what
