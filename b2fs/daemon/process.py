"""The process around a run: logging, memory, and errors taken out of their groups."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType

import trio

from b2fs.config.settings import MountSettings
from b2fs.daemon.background import say_ready
from b2fs.daemon.early import SWITCH_INTERVAL_S
from b2fs.daemon.logs import configure_logging
from b2fs.daemon.notify import Notifier
from b2fs.daemon.parts import Parts
from b2fs.daemon.run import Events, Outcome, run_mount, run_recover
from b2fs.daemon.signals import heeded
from b2fs.daemon.state import MountState
from b2fs.errors import B2fsError

log = logging.getLogger(__name__)

#: The log of a background mount without --log-file, in its identity directory.
LOG_NAME = "b2fs.log"


def serve(settings: MountSettings, parts: Parts, events: Events, ready_fd: int | None = None) -> Outcome | None:
    """Run a mount in this process until it ends; None if it was stopped before it was mounted.

    Raises B2fsError when the mount cannot be made.
    """
    os.umask(0o077)  # cache, log and sockets are nobody else's business
    notifier = Notifier.from_environment(os.environ)
    state = MountState(settings)
    ready = events.ready
    if ready_fd is None:
        configure_logging(settings.log_level, settings.log_file, os.environ)
    else:
        # Until the mount is ready the user sees what goes wrong; from then on there is only the file.
        configure_logging("warning", settings.log_file, os.environ)
        ready = partial(_detach, state, ready_fd)

    def answers() -> None:
        ready()
        _collect_garbage()

    events = Events(ready=answers, draining=events.draining)
    try:
        outcome = _run(lambda noted: run_mount(state, parts, notifier, events, noted))
    except B2fsError as error:
        if state.mounted:
            log.error("%s", error)  # a background mount has nobody else to tell
        raise
    finally:
        notifier.close()
    return outcome if state.mounted or outcome.left_files or outcome.reason else None


#: Parameters of mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
#: What a program writes comes in pieces of up to 1 MiB.  Memory for these is used again: mapping it page by page cost
#: more than the write itself.
_MOST_KEPT_BYTES = (1 << 20) + (128 << 10)
_KEPT_BYTES = 8 << 20


def recover(settings: MountSettings, parts: Parts, events: Events) -> Outcome:
    """Drain the identity directory of settings in this process.  Raises B2fsError when that cannot begin."""
    os.umask(0o077)
    configure_logging("warning", settings.log_file, os.environ)
    return _run(lambda noted: run_recover(MountState(settings), parts, events, noted))


def _run(main: Callable[[Sequence[int]], Awaitable[Outcome]]) -> Outcome:
    """trio.run of what main makes of the signals noted so far, as this process's last work.

    A deliberate error is taken out of the groups that nurseries wrap it in.  Any other error goes to the log with its
    traceback and becomes a sentence that says so.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _give_memory_back()
    try:
        with _ending_once() as noted:
            return trio.run(main, noted)
    except B2fsError:
        raise
    except Exception as error:
        deliberate, others = error.split(B2fsError) if isinstance(error, ExceptionGroup) else (None, error)
        if deliberate is not None and others is None:
            raise _first_leaf(deliberate) from None
        log.critical("the daemon has ended", exc_info=True)
        raise B2fsError("The daemon has ended by an error that nobody foresaw; its log has the details") from error


@contextmanager
def _ending_once() -> Iterator[Sequence[int]]:
    """A run, around which a request to end never ends the process: how it ended is what its exit status says.

    Before the run listens, requests are noted in what this yields (or by an early start); behind it they are ignored
    for good, by what the interpreter's own end does not undo.
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)

    numbers = heeded()
    for number in numbers:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, note)
    try:
        yield noted
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)


def _collect_garbage() -> None:
    """From now on, but not in what was loaded: it stays, and going through it would hold up requests."""
    gc.freeze()
    gc.enable()


def _give_memory_back() -> None:
    """Have the C library return big buffers to the system at once, and keep few heaps for the many threads.

    Bodies of megabytes pass through many threads; without this each thread's heap keeps its largest.
    """
    with suppress(OSError, AttributeError):  # not glibc: then its defaults stay
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _MOST_KEPT_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_ARENA_MAX, 2)


def _first_leaf(group: ExceptionGroup[B2fsError]) -> B2fsError:
    error: BaseException = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, B2fsError)
    return error


def _detach(state: MountState, ready_fd: int) -> None:
    """Report on the pipe, let go of the terminal and log into a file."""
    settings = state.settings
    configure_logging(settings.log_level, settings.log_file or os.path.join(state.cache_dir, LOG_NAME), os.environ)
    say_ready(ready_fd)
