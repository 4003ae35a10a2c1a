"""The gate of all requests of a store."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from b2fs.errors import TimedOut
from b2fs.store.s3.gate import Gate

FOREVER = 10**6


async def _hold(gate: Gate, size: int, started: list[int], label: int = 0, seconds: float = FOREVER) -> None:
    async with gate.admitted(size):
        started.append(label)
        gate.check_invariants()
        await trio.sleep(seconds)


async def test_requests_in_flight_are_bounded(autojump_clock: MockClock) -> None:
    gate = Gate(3, 1000)
    started: list[int] = []
    async with trio.open_nursery() as nursery:
        for label in range(7):
            nursery.start_soon(_hold, gate, 1, started, label, 1.0)
        await wait_all_tasks_blocked()
        assert len(started) == 3
        assert gate.in_flight == 3
    assert len(started) == 7
    assert trio.current_time() >= 3
    assert (gate.in_flight, gate.buffered_bytes) == (0, 0)


async def test_bytes_are_bounded_and_a_big_body_is_not_overtaken(autojump_clock: MockClock) -> None:
    gate = Gate(10, 100)
    started: list[int] = []
    async with trio.open_nursery() as nursery:
        for label, size in enumerate([60, 80, 30]):
            nursery.start_soon(_hold, gate, size, started, label, 1.0)
            await wait_all_tasks_blocked()
        assert started == [0]
        assert gate.buffered_bytes == 60
    assert started == [0, 1, 2]


async def test_a_body_beyond_the_budget_passes_alone(autojump_clock: MockClock) -> None:
    gate = Gate(10, 100)
    started: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_hold, gate, 10_000, started, 0, 1.0)
        await wait_all_tasks_blocked()
        nursery.start_soon(_hold, gate, 1, started, 1, 1.0)
        await wait_all_tasks_blocked()
        assert started == [0]
    assert started == [0, 1]


async def test_giving_up_while_waiting_lets_the_next_pass(autojump_clock: MockClock) -> None:
    gate = Gate(10, 100)
    started: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_hold, gate, 60, started, 0, 5.0)
        await wait_all_tasks_blocked()
        with trio.move_on_after(1):
            await _hold(gate, 80, started, 1)
        await _hold(gate, 10, started, 2, 0.0)
        assert trio.current_time() < 5
    assert started == [0, 2]
    gate.check_invariants()
    assert gate.in_flight == 0


async def test_cancelled_in_the_step_of_admission_leaves_nothing_behind() -> None:
    gate = Gate(1, 100)
    scope = trio.CancelScope()
    started: list[int] = []

    async def waiter() -> None:
        with scope:
            await _hold(gate, 1, started)

    async with trio.open_nursery() as nursery, gate.admitted(1):
        nursery.start_soon(waiter)
        await wait_all_tasks_blocked()
        scope.cancel()
        # Leaving admitted the waiter after its cancellation, before it ran.
    assert gate.in_flight == 0
    assert started == []


async def test_slow_down_halves_once_for_requests_that_were_out_together(autojump_clock: MockClock) -> None:
    gate = Gate(64, 1000)
    sent = trio.current_time()
    await trio.sleep(1)
    for _ in range(10):
        gate.slow_down(sent, None)
    assert gate.limit == 32
    assert gate.slowdowns == 10
    await trio.sleep(1)
    gate.slow_down(trio.current_time(), None)
    assert gate.limit == 16


async def test_the_limit_never_falls_below_one_and_recovers(autojump_clock: MockClock) -> None:
    gate = Gate(8, 1000)
    for _ in range(10):
        await trio.sleep(1)
        gate.slow_down(trio.current_time(), None)
    assert gate.limit == 1
    for _ in range(100):
        gate.succeeded()
    assert gate.limit == 8


@pytest.mark.parametrize("waiting", [1, 3])
async def test_retry_after_holds_everybody_back(autojump_clock: MockClock, waiting: int) -> None:
    gate = Gate(8, 1000)
    gate.slow_down(trio.current_time(), 5.0)
    begin = trio.current_time()
    started: list[int] = []
    async with trio.open_nursery() as nursery:
        for label in range(waiting):
            nursery.start_soon(_hold, gate, 1, started, label, 0.0)
    assert len(started) == waiting
    assert trio.current_time() - begin == pytest.approx(5.0, abs=0.1)


async def test_a_pause_that_is_made_longer_meanwhile(autojump_clock: MockClock) -> None:
    gate = Gate(8, 1000)
    begin = trio.current_time()
    gate.slow_down(begin, 2.0)
    started: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_hold, gate, 1, started, 0, 0.0)
        await trio.sleep(1)
        gate.slow_down(begin, 6.0)
    assert trio.current_time() - begin == pytest.approx(7.0, abs=0.1)


async def test_nobody_waits_longer_than_it_may(autojump_clock: MockClock) -> None:
    """A server has asked to slow down and then fallen silent: one request after the other stalls."""
    gate = Gate(4, 1000)
    started: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_hold, gate, 1, started, 0, 30.0)
        await wait_all_tasks_blocked()
        for _ in range(3):
            gate.slow_down(trio.current_time(), None)
        for label in (1, 2):
            nursery.start_soon(_hold, gate, 1, started, label, 30.0)
            await wait_all_tasks_blocked()
        with pytest.raises(TimedOut):
            async with gate.admitted(1, deadline=trio.current_time() + 45):
                raise AssertionError("admitted")
        assert trio.current_time() == 45
        assert started == [0, 1]
    assert started == [0, 1, 2]
    assert (gate.in_flight, gate.buffered_bytes) == (0, 0)


async def test_a_pause_that_is_longer_than_one_may_wait(autojump_clock: MockClock) -> None:
    gate = Gate(4, 1000)
    gate.slow_down(trio.current_time(), 600.0)
    with pytest.raises(TimedOut):
        async with gate.admitted(1, deadline=trio.current_time() + 45):
            raise AssertionError("admitted")
    assert trio.current_time() == 45
    async with gate.admitted(1):
        assert trio.current_time() == 600
