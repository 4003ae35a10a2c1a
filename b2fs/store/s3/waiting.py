"""From the CRT's threads to trio: wait for something that another thread finishes, with cancellation that is honest.

`wait_done` returns only when the other side is really finished, also when cancelled: an operation that can still have
an effect is not yet over.  But one that does not end when it is asked to is given up after a while: nothing may hang on
it, and whoever is cancelled does not know anyway what became of it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import trio

T = TypeVar("T")

#: How long an operation that was cancelled may take to end, in seconds.
PATIENCE_S = 10.0


class Completion:
    """A one-shot signal from any thread to one trio task."""

    __slots__ = ("_done", "_given_up", "_over", "_task", "_token")

    def __init__(self) -> None:
        self._done = False
        self._given_up = False
        self._over = trio.Event()
        self._task: trio.lowlevel.Task | None = None
        self._token = trio.lowlevel.current_trio_token()

    def finish(self) -> None:
        """Signal, from any thread."""
        try:
            self._token.run_sync_soon(self._wake)
        except trio.RunFinishedError:
            pass  # the loop ended without waiting for us, as after an internal error of trio

    def _wake(self) -> None:
        self._done = True
        self._over.set()
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    async def _lose_patience(self) -> None:
        with trio.move_on_after(PATIENCE_S):
            await self._over.wait()
            return
        self._given_up = True
        self._wake()

    async def wait_done(self, cancel: Callable[[], object], was_undone: Callable[[], bool]) -> None:
        """Wait for `finish`.

        On cancellation `cancel` is called once, the wait goes on, and when the operation is over Cancelled is raised if
        `was_undone()` says that it came to nothing.  Otherwise its result stands, and the cancellation is delivered at
        the next checkpoint.  If it is not over PATIENCE_S later, Cancelled is raised all the same.
        """
        if self._done:
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        raise_cancel: Callable[[], Any] | None = None

        def abort(deliver: Callable[[], Any]) -> trio.lowlevel.Abort:
            nonlocal raise_cancel
            raise_cancel = deliver
            cancel()
            trio.lowlevel.spawn_system_task(self._lose_patience)
            return trio.lowlevel.Abort.FAILED

        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)
        if raise_cancel is not None and (self._given_up or was_undone()):
            raise_cancel()


async def wait_future(future: Future[T], cancel: Callable[[], object] = lambda: None) -> T:
    """The result of a future that another thread completes; its exception is raised here."""
    completion = Completion()
    future.add_done_callback(lambda _: completion.finish())
    await completion.wait_done(cancel, lambda: future.exception() is not None)
    return future.result()
