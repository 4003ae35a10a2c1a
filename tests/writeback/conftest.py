"""Fixtures: a clock that jumps, a bucket that follows it, and mounts of it."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from b2fs.core.types import Capabilities
from tests.writeback.harness import Place
from tests.writeback.tiny import tiny

__all__ = ["tiny"]  # a fixture

log = logging.getLogger(__name__)

#: While a worker thread works the clock stands still, but a wait that no thread will end may not hold a test for ever.
_PATIENCE_S = 1.0
#: A thread that works for so long on a few megabytes is worth a line of the log, with what it does.
_LONG_S = 20.0


class Jobs:
    """What worker threads are asked to do and have not done yet."""

    def __init__(self) -> None:
        self._since: dict[object, tuple[float, str]] = {}
        self._over = threading.Event()

    def __len__(self) -> int:
        return len(self._since)

    @contextmanager
    def job(self, work: object) -> Iterator[None]:
        mark = object()
        self._since[mark] = (time.monotonic(), repr(work))
        try:
            yield
        finally:
            del self._since[mark]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Tell of jobs that last, for whoever has to explain a test that hangs."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_LONG_S):
            now = time.monotonic()
            lasting = [work for since, work in list(self._since.values()) if now - since > _LONG_S]
            if lasting:
                stacks = ["".join(traceback.format_stack(frame)) for frame in sys._current_frames().values()]
                log.warning("%s last; the threads are at\n%s", lasting, "\n".join(stacks))


@pytest.fixture
def autojump_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[MockClock]:
    """Time passes at once when all tasks wait, but not while a worker thread works: that wait is no waiting."""
    clock = MockClock(autojump_threshold=0)
    clock.jump(1_000_000)  # a real clock is never near 0
    in_thread = trio.to_thread.run_sync
    jobs = Jobs()

    async def run_sync(work: Any, *args: Any, **options: Any) -> object:
        with jobs.job(work):
            clock.autojump_threshold = _PATIENCE_S
            try:
                return await in_thread(work, *args, **options)
            finally:
                if len(jobs) == 1:  # this one
                    clock.autojump_threshold = 0

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    with jobs.watched():
        yield clock


@pytest.fixture
def place(autojump_clock: MockClock, tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(params=["versions", "no versions"])
def any_place(request: pytest.FixtureRequest, place: Place) -> Place:
    """A server with versions and one without; neither minds conditions, as B2: what is put twice is there twice."""
    versioning = request.param == "versions"
    place.capabilities = Capabilities(versioning=versioning, copy_from_version=versioning)
    return place
