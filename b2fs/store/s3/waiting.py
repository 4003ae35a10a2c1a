"""From the CRT's threads to trio: wait for something that another thread finishes, with cancellation that is honest.

`wait_done` returns only when the other side is really finished, also when cancelled: an operation that can still have
an effect is not yet over.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import trio

T = TypeVar("T")


class Completion:
    """A one-shot signal from any thread to one trio task."""

    __slots__ = ("_done", "_task", "_token")

    def __init__(self) -> None:
        self._done = False
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
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)

    async def wait_done(self, cancel: Callable[[], object], was_undone: Callable[[], bool]) -> None:
        """Wait for `finish`.

        On cancellation `cancel` is called once, the wait goes on, and when the operation is over Cancelled is raised if
        `was_undone()` says that it came to nothing.  Otherwise its result stands, and the cancellation is delivered at
        the next checkpoint.
        """
        if self._done:
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        raise_cancel: Callable[[], Any] | None = None

        def abort(deliver: Callable[[], Any]) -> trio.lowlevel.Abort:
            nonlocal raise_cancel
            raise_cancel = deliver
            cancel()
            return trio.lowlevel.Abort.FAILED

        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)
        if raise_cancel is not None and was_undone():
            raise_cancel()


async def wait_future(future: Future[T], cancel: Callable[[], object] = lambda: None) -> T:
    """The result of a future that another thread completes; its exception is raised here."""
    completion = Completion()
    future.add_done_callback(lambda _: completion.finish())
    await completion.wait_done(cancel, lambda: future.exception() is not None)
    return future.result()
