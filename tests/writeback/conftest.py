"""Fixtures: a clock that jumps, a bucket that follows it, and mounts of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.writeback.harness import Place
from tests.writeback.tiny import tiny

__all__ = ["tiny"]

#: While a worker thread works the clock stands still, but a wait that no thread will end may not hold a test for ever.
_PATIENCE_S = 1.0


@pytest.fixture
def autojump_clock(monkeypatch: pytest.MonkeyPatch) -> MockClock:
    """Time passes at once when all tasks wait, but not while a worker thread works: that wait is no waiting."""
    clock = MockClock(autojump_threshold=0)
    clock.jump(1_000_000)  # a real clock is never near 0
    in_thread = trio.to_thread.run_sync
    busy = 0

    async def run_sync(*args: Any, **options: Any) -> object:
        nonlocal busy
        busy += 1
        clock.autojump_threshold = _PATIENCE_S
        try:
            return await in_thread(*args, **options)
        finally:
            busy -= 1
            if not busy:
                clock.autojump_threshold = 0

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    return clock


@pytest.fixture
def place(autojump_clock: MockClock, tmp_path: Path) -> Place:
    return Place(tmp_path)
