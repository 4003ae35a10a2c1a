"""Turns at reading the kernel's requests: nobody is forgotten, and everything else gets its turn."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import pyfuse3
import pytest
import trio

from b2fs.errors import FsError
from b2fs.fuse.config import FuseConfig
from b2fs.fuse.operations import Shell, handler
from b2fs.fuse.turns import Turns
from b2fs.vfs.api import FileSystem


class Waits:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


class Asked(Shell):
    """A shell with one operation more: whatever it is given."""

    def __init__(self, waits: Waits) -> None:
        super().__init__(cast(FileSystem, None), FuseConfig(), waits)

    @handler
    async def do(self: Shell, work: Callable[[], Awaitable[Any]]) -> Any:
        return await work()


@pytest.fixture
def readable() -> Iterator[int]:
    """A descriptor that always has something to read."""
    reading, writing = os.pipe()
    os.write(writing, b"request")
    yield reading
    os.close(reading)
    os.close(writing)


async def test_work_that_waits_for_nothing_keeps_the_turn() -> None:
    async def work() -> str:
        return "done"

    waits = Waits()
    assert await Asked(waits).do(work) == "done"
    assert not waits.count


async def test_an_error_without_a_wait_is_passed_on() -> None:
    async def work() -> None:
        raise FsError(errno.EXDEV)

    waits = Waits()
    with pytest.raises(pyfuse3.FUSEError):
        await Asked(waits).do(work)
    assert not waits.count


async def test_work_that_waits_says_so_once_and_gets_its_answers(autojump_clock: trio.testing.MockClock) -> None:
    async def work() -> float:
        await trio.sleep(1)
        with trio.move_on_after(2):
            await trio.sleep_forever()
        return trio.current_time()

    waits, start = Waits(), trio.current_time()
    assert await Asked(waits).do(work) == pytest.approx(start + 3)
    assert waits.count == 1


async def test_cancelling_reaches_the_work() -> None:
    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    ended = trio.Event()
    with trio.CancelScope() as scope:
        scope.cancel()
        await Asked(Waits()).do(work)
    assert scope.cancelled_caught
    assert ended.is_set()


async def test_an_error_thrown_in_reaches_the_work() -> None:
    async def work() -> str:
        try:
            await trio.lowlevel.checkpoint()
        except KeyError:
            return "told"
        return "not told"

    running = Asked(Waits()).do(work)
    running.send(None)
    with pytest.raises(StopIteration) as done:
        running.throw(KeyError("x"))
    assert done.value.value == "told"


async def test_requests_without_end_leave_turns_to_other_tasks(readable: int) -> None:
    turns, other = Turns(), trio.Event()
    turns.soon_s = 1e9

    async def another() -> None:
        other.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(another)
        with trio.fail_after(20):
            while not other.is_set():
                await turns.wait_readable(readable)


async def test_after_an_answer_at_once_the_next_request_needs_no_event_loop(readable: int) -> None:
    turns = Turns()
    turns.burst_s = turns.soon_s = 1e9
    await turns.wait_readable(readable)
    await turns.wait_readable(readable)
    with trio.CancelScope() as scope:
        scope.cancel()
        await turns.wait_readable(readable)
        turns.waits()
        await turns.wait_readable(readable)
        pytest.fail("after a request that had to wait the event loop has its turn")
    assert scope.cancelled_caught


async def test_the_turn_goes_to_another_task_when_a_request_waits() -> None:
    turns, order = Turns(), []

    async def reader(name: str) -> None:
        async with turns.Lock():
            order.append(name)

    async with trio.open_nursery() as nursery:
        async with turns.Lock():
            nursery.start_soon(reader, "second")
            await trio.testing.wait_all_tasks_blocked()
        # Let go of, but kept for the next request.
        await trio.testing.wait_all_tasks_blocked()
        assert not order
        async with turns.Lock():
            order.append("first")
        turns.waits()
    assert order == ["first", "second"]


async def test_the_turn_goes_to_another_task_when_one_ends() -> None:
    turns, order = Turns(), []

    async def reader(name: str) -> None:
        async with turns.Lock():
            order.append(name)

    async with trio.open_nursery() as outer:
        async with turns.Lock():
            outer.start_soon(reader, "second")
            await trio.testing.wait_all_tasks_blocked()
        async with turns.open_nursery() as workers:
            workers.start_soon(reader, "first", name="first")
    assert order == ["first", "second"]


def test_all_else_is_trios() -> None:
    turns = Turns()
    assert turns.ClosedResourceError is trio.ClosedResourceError
    assert turns.lowlevel.notify_closing is trio.lowlevel.notify_closing
