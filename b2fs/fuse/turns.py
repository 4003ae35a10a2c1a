"""Turns: whose turn it is to read the kernel's next request, and when everything else gets one.

pyfuse3 answers requests with several tasks that take turns at reading.  Left to itself it wakes another task for each
request, and asks trio's event loop whether there is one.  Most requests are answered from memory without waiting for
anything; after such a one the task that answered it goes on reading, straight from the kernel, for a while.  Only a
task that has to wait gives the turn to another.

pyfuse3 looks trio up as its own `trio`, which may be another module (its asyncio support is made so); Turns takes that
place and hands on what it does not do itself.

INVARIANT: while a task waits for its turn, another one reads, or works on a request without having waited yet.
"""

from __future__ import annotations

import select
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import pyfuse3
import trio

R = TypeVar("R")

#: For so long the event loop is not asked, however quickly requests follow each other, in seconds.
BURST_S = 0.001
#: The next request is waited for directly for so long, in seconds, if the one before came within SOON_S.
_NEXT_S = 0.0001
SOON_S = 0.0003
#: select(2) takes no descriptor from here on.
_FD_SETSIZE = 1024


class _Lock:
    """Held by the task that reads; it does not go to the next one by itself when it is let go of."""

    __slots__ = ("_taken", "_waiting")

    def __init__(self) -> None:
        self._taken = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        while self._taken:
            await self._waiting.park()
        self._taken = True

    async def __aexit__(self, *_: object) -> None:
        self._taken = False

    def pass_on(self) -> None:
        """Somebody else is to read, if nobody does."""
        if not self._taken:
            self._waiting.unpark()


class Turns:
    """What pyfuse3 takes for trio; see the module.  All methods belong to the thread of the mount."""

    def __init__(self) -> None:
        self._lock = _Lock()
        #: Requests come one right after the other, and the last one was answered without waiting for anything.
        self._quick = False
        self._asked_at = float("-inf")
        self.burst_s = BURST_S
        self.soon_s = SOON_S
        self.lowlevel = self
        #: What is to be done when a request that lies in the descriptor already has been read.
        self._when_read: Callable[[], None] | None = None
        self._first_is_read = False

    def install(self) -> None:
        """From now on pyfuse3 asks this for trio's things; before pyfuse3.init."""
        pyfuse3.trio = self  # type: ignore[attr-defined]  # a module-level name of its compiled code

    @staticmethod
    def uninstall() -> None:
        pyfuse3.trio = trio  # type: ignore[attr-defined]  # as in install

    def first_lies_ready(self, when_read: Callable[[], None]) -> None:
        """The first request is in the descriptor already, which is not the kernel's yet; when_read() makes it so."""
        self._when_read = when_read

    # ---- what pyfuse3 calls ------------------------------------------------------------------------------------------

    def Lock(self) -> _Lock:
        return self._lock

    @asynccontextmanager
    async def open_nursery(self) -> AsyncIterator[_Workers]:
        async with trio.open_nursery() as nursery:
            yield _Workers(nursery, self._lock)

    async def wait_readable(self, fd: int) -> None:
        """Return when the kernel has a request; a checkpoint at least every now and then."""
        if self._when_read is not None:
            if not self._first_is_read:
                self._first_is_read = True  # trio must not see a descriptor that is about to become another one
                return
            when_read, self._when_read = self._when_read, None
            when_read()
        began = time.perf_counter()
        if self._quick and fd < _FD_SETSIZE:
            if began - self._asked_at >= self.burst_s:
                # All else gets its turn, in a third of the time that trio takes to wait for a descriptor.
                await trio.lowlevel.checkpoint()
                began = self._asked_at = time.perf_counter()
            if select.select((fd,), (), (), _NEXT_S)[0]:
                return
        await trio.lowlevel.wait_readable(fd)
        self._asked_at = time.perf_counter()
        self._quick = self._asked_at - began < self.soon_s

    def __getattr__(self, name: str) -> Any:
        """All else is trio's."""
        return getattr(trio, name) if hasattr(trio, name) else getattr(trio.lowlevel, name)

    # ---- what the handlers of requests call --------------------------------------------------------------------------

    def waits(self) -> None:
        """A request has to wait for something: another task is to read the next one."""
        self._quick = False
        self._lock.pass_on()


class _Workers:
    """A nursery whose tasks pass the turn on when they end."""

    __slots__ = ("_lock", "_nursery")

    def __init__(self, nursery: trio.Nursery, lock: _Lock) -> None:
        self._nursery = nursery
        self._lock = lock

    def start_soon(self, worker: Callable[..., Awaitable[None]], *args: object, name: str) -> None:
        self._nursery.start_soon(self._run, worker, args, name=name)

    async def _run(self, worker: Callable[..., Awaitable[None]], args: tuple[object, ...]) -> None:
        try:
            # pyfuse3's loop hands the nursery on to the loops that it starts.
            await worker(*args)
        finally:
            self._lock.pass_on()


def going_on(work: Coroutine[Any, Any, R], trap: Any) -> Generator[Any, Any, R]:
    """Await the rest of work, whose first step has asked for trap."""
    while True:
        try:
            answer = yield trap
        except BaseException as error:  # noqa: BLE001  # not caught: handed on to the work
            resume = partial(work.throw, error)
        else:
            resume = partial(work.send, answer)
        try:
            trap = resume()
        except StopIteration as done:
            result: R = done.value
            return result
