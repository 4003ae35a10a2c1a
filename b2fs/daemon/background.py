"""The way of a mount into the background: a fork before anything else happens.

The command forks when its words are checked and nothing heavy is loaded yet: no thread runs, neither trio nor the AWS
runtime has a descriptor open, so the child is as good as a fresh interpreter, and the interpreter starts only once.
It keeps our stderr until it is ready, so its errors reach the user unchanged, and it says "ready" on a pipe; when the
pipe closes without that, it has failed.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from b2fs.daemon.exits import EXIT_FAILED, EXIT_OK, STOPPED_EARLY
from b2fs.daemon.signals import STOPPING

_READY = b"ready\n"


def in_background(run: Callable[[int], int]) -> int:
    """Call run(ready_fd) in a child process that outlives us; the exit status, in either process.

    In the parent it returns when the child has said that it is ready, or has ended.  In the child it returns what
    `run` returns: callers hand the status on and do nothing else.
    """
    if threading.active_count() != 1:
        raise RuntimeError("a process with threads cannot go into the background by fork")
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    # None of these between the fork and the moment at which the parent would end the child.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        os.close(reading)
        _leave_terminal()
        return run(writing)
    os.close(writing)
    return _wait_ready(child, reading)


def say_ready(ready_fd: int) -> None:
    """In the child: let the parent return, and let go of its stderr."""
    with suppress(BrokenPipeError):  # whoever started us did not wait, and the mount is good all the same
        os.write(ready_fd, _READY)
    os.close(ready_fd)
    _to_null(0, 1, 2)


def _leave_terminal() -> None:
    os.setsid()
    os.chdir("/")
    _to_null(0, 1)


def _to_null(*fds: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in fds:
        os.dup2(null, fd)
    if null not in fds:
        os.close(null)


def _wait_ready(child: int, reading: int) -> int:
    try:
        with os.fdopen(reading, "rb", buffering=0) as pipe, _interruptible() as interrupted:
            while reading not in select.select([reading, interrupted], [], [])[0]:
                os.read(interrupted, 1)
            if pipe.read(len(_READY)) == _READY:
                return EXIT_OK
    except KeyboardInterrupt:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
        if os.WIFSIGNALED(os.waitpid(child, 0)[1]):  # it had not come so far as to say so itself
            sys.stderr.write(f"b2fs: {STOPPED_EARLY}\n")
        return EXIT_FAILED
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        sys.stderr.write(f"b2fs: the daemon was ended by signal {-status} before the mount was ready\n")
    return status if status > 0 else EXIT_FAILED


@contextmanager
def _interruptible() -> Iterator[int]:
    """What stops the command, and with it a daemon that is not ready, is a KeyboardInterrupt herein.

    Yields a descriptor that can be read when such a signal has come.
    Without that, one that comes just before a system call that waits would be heeded when the call returns.
    """
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    try:
        for number, handler in handlers.items():
            if handler is not signal.SIG_IGN:  # nohup
                signal.signal(number, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        yield reading
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)
