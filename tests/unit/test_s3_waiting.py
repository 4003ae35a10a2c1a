"""Waiting for what another thread finishes, and for what it does not."""

from __future__ import annotations

from concurrent.futures import Future

import pytest
import trio
from trio.testing import MockClock

from b2fs.store.s3.waiting import PATIENCE_S, Completion, wait_future


async def test_a_cancellation_waits_until_the_operation_is_over(autojump_clock: MockClock) -> None:
    """And then its result stands, if it has one."""
    future: Future[str] = Future()
    cancelled: list[float] = []

    async def finish() -> None:
        await trio.sleep(PATIENCE_S / 2)
        future.set_result("done")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(finish)
        with trio.move_on_after(1) as scope:
            assert await wait_future(future, lambda: cancelled.append(trio.current_time())) == "done"
    assert len(cancelled) == 1
    assert not scope.cancelled_caught


async def test_what_came_to_nothing_is_cancelled(autojump_clock: MockClock) -> None:
    future: Future[str] = Future()
    with trio.move_on_after(1) as scope:
        await wait_future(future, lambda: future.set_exception(ConnectionError()))
    assert scope.cancelled_caught


async def test_an_operation_that_does_not_end_when_it_is_cancelled_is_given_up(autojump_clock: MockClock) -> None:
    future: Future[str] = Future()
    began = trio.current_time()
    with trio.move_on_after(1) as scope:
        await wait_future(future)
    assert scope.cancelled_caught
    assert trio.current_time() - began == pytest.approx(1 + PATIENCE_S)
    future.set_result("late")  # is heard by nobody, and harms nobody
    await trio.testing.wait_all_tasks_blocked()


async def test_nothing_is_left_behind_when_it_ends_in_time(autojump_clock: MockClock) -> None:
    completion, tasks = Completion(), trio.lowlevel.current_statistics().tasks_living
    with trio.move_on_after(1) as scope:
        await completion.wait_done(completion.finish, lambda: True)
    assert scope.cancelled_caught
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == tasks
