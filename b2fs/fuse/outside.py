"""Asking the kernel about a mount that this process answers for itself.

A thread that waits for the answer cannot be killed once the request has been read, and while it lives the process's
descriptors stay open.  One of them is the mount's: a daemon that is killed in that moment would leave a mount that
nobody answers for and nobody takes away, and a process that never ends.  So the asking thread has a table of
descriptors of its own, in which the mount's is closed.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")

_CLONE_FILES = 0x400  # of unshare(2)
_FIRST_FD = 3


async def ask_kernel(ask: Callable[[str], T], path: str) -> T:
    """ask(path), which may wait for an answer of our own.  Raises its OSError.

    A cancellation leaves it alone with that.
    """
    answers: list[T] = []
    failures: list[OSError] = []

    def run() -> None:
        _close_descriptors()
        try:
            answers.append(ask(path))
        except OSError as failure:
            failures.append(failure)

    # Not a thread of trio's, which go on with other work; nor can it wake trio, without descriptors.
    thread = threading.Thread(target=run, name="b2fs-ask", daemon=True)
    thread.start()
    await trio.to_thread.run_sync(thread.join, abandon_on_cancel=True)
    for failure in failures:
        raise failure
    return answers[0]


def _close_descriptors() -> None:
    """From now on this thread has no descriptors but the standard ones; the process keeps all of its own."""
    if ctypes.CDLL(None).unshare(_CLONE_FILES) == 0:  # it may be forbidden: then all is as with any thread
        os.closerange(_FIRST_FD, os.sysconf("SC_OPEN_MAX"))
