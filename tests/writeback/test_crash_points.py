"""A crash at every single step: before each system call on a dirty file and before each commit of the ledger.

Whatever the step, what is mounted next shows every operation that was completed, shows the one under way either done or
not begun, and brings exactly that into the bucket.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from b2fs.cache import content
from b2fs.cache.ledger import Ledger
from b2fs.vfs.api import RENAME_EXCHANGE
from tests.writeback.harness import Mount, Place

Tree = dict[str, bytes | None]
Step = tuple[Callable[[Mount], Awaitable[object]], Tree]

_CALLS = ("pwrite", "ftruncate", "link", "unlink", "rename", "open")


@dataclass
class Points:
    """Takes a copy of everything at each point."""

    place: Place
    directory: Path
    completed: int = 0
    #: (how many steps were completed, what a crash leaves).
    taken: list[tuple[int, Place]] = field(default_factory=list)
    busy: bool = False

    def take(self) -> None:
        here = threading.current_thread() is threading.main_thread()  # what others sync changes nothing
        if here and self.place.cache.exists() and not self.busy:
            twin = self.place.left_behind(self.directory / f"point{len(self.taken)}")
            self.taken.append((self.completed, twin))


class _WatchedOs:
    """The module os, with a look before each call that changes a file."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look

    def __getattr__(self, name: str) -> object:
        real = getattr(os, name)
        if name not in _CALLS:
            return real

        def call(*args: object, **named: object) -> object:
            self._look()
            return real(*args, **named)

        return call


@pytest.fixture
def points(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Points]:
    points = Points(place, tmp_path)
    commit = Ledger.commit

    def watched(ledger: Ledger) -> None:
        if ledger.uncommitted:
            points.take()
        commit(ledger)

    with monkeypatch.context() as patch:
        patch.setattr(content, "os", _WatchedOs(points.take))
        patch.setattr(Ledger, "commit", watched)
        yield points


async def run(points: Points, steps: list[Step], *, keep: bool) -> None:
    """Make the steps, then recover from each point and compare."""
    async with points.place.mount() as mount:
        mount.keep = keep
        for step, _ in steps:
            await step(mount)
            points.completed += 1
            points.take()
        points.busy = True  # what is to come is not part of it
    states: list[Tree] = [{}, *(tree for _, tree in steps)]
    assert len(points.taken) > len(steps)
    for completed, left in points.taken:
        await check(left, states[completed : completed + 2])


async def check(left: Place, allowed: list[Tree]) -> None:
    async with left.mount() as mount:
        tree = await mount.tree()
        assert tree in allowed
        await mount.drain()
        assert await mount.tree() == tree
    found = {key: body for key, body in left.bucket.contents().items() if not key.endswith("/")}
    assert found == {path: body for path, body in tree.items() if body is not None}


async def settle(mount: Mount) -> None:
    """Everything reaches the bucket, and what that leaves to be done here is done."""
    await mount.drain()
    await trio.sleep(5)


def rewrite(path: str, offset: int, data: bytes) -> Callable[[Mount], Awaitable[object]]:
    async def step(mount: Mount) -> None:
        handle = await mount.open(path)
        await mount.write(handle, offset, data)
        await mount.close(handle)

    return step


async def make_a(mount: Mount) -> None:
    handle = await mount.create("a")
    await mount.close(handle)


SMALL = b"0123456789"
EMPTY: Tree = {"a": b""}
FULL: Tree = {"a": SMALL}

FIRST: list[Step] = [(make_a, EMPTY), (rewrite("a", 0, SMALL), FULL)]

SCENARIOS: dict[str, list[Step]] = {
    "stored": [*FIRST, (settle, FULL)],
    "stored and changed": [
        *FIRST,
        (settle, FULL),
        (rewrite("a", 2, b"XY"), {"a": b"01XY456789"}),
        (settle, {"a": b"01XY456789"}),
    ],
    "grown and cut": [
        *FIRST,
        (rewrite("a", 10, b"abc"), {"a": SMALL + b"abc"}),
        (lambda mount: mount.truncate("a", 4), {"a": b"0123"}),
        (settle, {"a": b"0123"}),
        (lambda mount: mount.truncate("a", 6), {"a": b"0123\0\0"}),
        (settle, {"a": b"0123\0\0"}),
    ],
    "unlinked before it is stored": [*FIRST, (lambda mount: mount.unlink("a"), {}), (settle, {})],
    "unlinked when it is stored": [*FIRST, (settle, FULL), (lambda mount: mount.unlink("a"), {}), (settle, {})],
    "made again": [
        *FIRST,
        (settle, FULL),
        (lambda mount: mount.unlink("a"), {}),
        (make_a, EMPTY),
        (rewrite("a", 0, b"again"), {"a": b"again"}),
        (settle, {"a": b"again"}),
    ],
    "made again, and empty, while the bytes of the removed one are here": [
        *FIRST,
        (lambda mount: mount.unlink("a"), {}),
        (make_a, EMPTY),
        (lambda mount: mount.chmod("a", 0o600), EMPTY),
        (settle, EMPTY),
    ],
    "renamed before it is stored": [
        *FIRST,
        (lambda mount: mount.rename("a", "b"), {"b": SMALL}),
        (settle, {"b": SMALL}),
    ],
    "renamed over another": [
        *FIRST,
        (lambda mount: mount.symlink("x", "link"), {**FULL, "link": b"x"}),
        (lambda mount: mount.unlink("link"), FULL),
        (lambda mount: mount.rename("a", "b"), {"b": SMALL}),
        (make_a, {"a": b"", "b": SMALL}),
        (rewrite("a", 0, b"new"), {"a": b"new", "b": SMALL}),
        (lambda mount: mount.rename("a", "b"), {"b": b"new"}),
        (settle, {"b": b"new"}),
    ],
    "exchanged": [
        *FIRST,
        (lambda mount: mount.rename("a", "b"), {"b": SMALL}),
        (make_a, {"a": b"", "b": SMALL}),
        (settle, {"a": b"", "b": SMALL}),
        (lambda mount: mount.rename("a", "b", RENAME_EXCHANGE), {"a": SMALL, "b": b""}),
        (settle, {"a": SMALL, "b": b""}),
    ],
    "a tree that moves": [
        (lambda mount: mount.mkdir("d"), {"d": None}),
        (lambda mount: mount.mkdir("d/e"), {"d": None, "d/e": None}),
        (lambda mount: mount.symlink("target", "d/e/l"), {"d": None, "d/e": None, "d/e/l": b"target"}),
        (settle, {"d": None, "d/e": None, "d/e/l": b"target"}),
        (lambda mount: mount.rename("d/e", "f"), {"d": None, "f": None, "f/l": b"target"}),
        (settle, {"d": None, "f": None, "f/l": b"target"}),
        (lambda mount: mount.rename("f", "d"), {"d": None, "d/l": b"target"}),
        (settle, {"d": None, "d/l": b"target"}),
    ],
}


@pytest.mark.parametrize("name", SCENARIOS)
async def test_every_point(points: Points, autojump_clock: MockClock, name: str) -> None:
    await run(points, SCENARIOS[name], keep=True)


@pytest.mark.parametrize(
    "name",
    [
        "stored",
        "unlinked when it is stored",
        "made again",
        "made again, and empty, while the bytes of the removed one are here",
    ],
)
async def test_every_point_where_the_kernel_remembers_nothing(
    points: Points, autojump_clock: MockClock, name: str
) -> None:
    """Clean inodes go at once, and their numbers come again."""
    await run(points, SCENARIOS[name], keep=False)
