"""A mount before the program is loaded: it is there, and it answers what its root is like.

Loading libfuse, the event loop and the core takes longer than all else until a mount answers.  So the filesystem is
mounted here first, with fusermount3, and the kernel gets the answer to its first request that libfuse gave it the last
time (fuse.agreements).  Until everything is loaded one thread answers the one question that needs nothing else, the one
that programs ask which wait for a mount.  It stops at the first request of another kind.  That one is handed over with
the mount, and all others wait in the kernel.

INVARIANT: of an early mount either `hand_over` or `abandon` is called, and nothing that was asked stays unanswered.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable
from typing import NamedTuple

from b2fs.core import latelog
from b2fs.fuse.agreements import Agreements
from b2fs.fuse.wire import BATCH_FORGET, FORGET, GETATTR, INTERRUPT, ROOT_NODE, max_write, operation_of

#: More than the kernel's first request has; it refuses to write into less than this.
BUFFER_BYTES = 1 << 16
#: The kernel sends its first request at once.
_FIRST_REQUEST_MS = 5000
_COMMAND = "fusermount3"
#: fusermount3's descriptor of the socket by which it returns that of the mount.
_SOCKET_FD = 3
#: Questions that want no answer.  A request that is given up was answered by us, or the kernel has it still.
_SILENT = frozenset((FORGET, BATCH_FORGET, INTERRUPT))


class Begun(NamedTuple):
    """A mount that is there, whose requests nobody reads now."""

    device: int
    #: The kernel's first request, and what it was told; None if it waits for its answer still.
    request: bytes
    told: bytes | None
    #: A request that was read and has to be answered.
    kept: bytes | None


class EarlyMount:
    """One mount, from its making until libfuse takes it over."""

    def __init__(self, mountpoint: str, device: int, request: bytes, told: bytes | None) -> None:
        self._mountpoint = mountpoint
        self._device = device
        self._request = request
        self._told = told
        self._kept: bytes | None = None
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)

    def answer(self, root: Callable[[bytes], bytes]) -> None:
        """Answer questions for the root's attributes by root(question) until `stop`, or until there is another one."""
        if self._told is None:
            return
        room = max_write(self._told) + BUFFER_BYTES  # the kernel asks for room for the largest write
        poll = select.poll()
        poll.register(self._device, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        os.set_blocking(self._device, False)
        try:
            while self._stop not in dict(poll.poll()):
                request = _read(self._device, room)
                if request is None:
                    return
                operation, node = operation_of(request)
                answered = (operation, node) == (GETATTR, ROOT_NODE) and _write(self._device, root(request))
                if request and not answered and operation not in _SILENT:
                    self._kept = request
                    return
        finally:
            os.set_blocking(self._device, True)

    def stop(self) -> None:
        """Have `answer` return, from another thread."""
        os.eventfd_write(self._stop, 1)

    def hand_over(self) -> Begun:
        """From now on the mount is the caller's; `answer` has returned."""
        os.close(self._stop)
        return Begun(self._device, self._request, self._told, self._kept)

    def abandon(self) -> None:
        """Take the mount away; who waits for an answer gets an error.  `answer` has returned."""
        os.close(self._stop)
        detach(self._mountpoint)
        os.close(self._device)


def begin(mountpoint: str, options: set[str], agreements: Agreements) -> EarlyMount | None:
    """Mount at a directory that can be mounted on, and answer the kernel's first request if it is known how.

    None if that fails for any reason: whoever tries again hears why.
    """
    device = _mounted(mountpoint, options)
    if device is None:
        return None
    try:
        poll = select.poll()
        poll.register(device, select.POLLIN)
        request = os.read(device, BUFFER_BYTES) if poll.poll(_FIRST_REQUEST_MS) else b""
        told = agreements.recall(request)
        if told is not None:
            os.write(device, told)
        return EarlyMount(mountpoint, device, request, told)
    except BaseException as error:
        detach(mountpoint)
        os.close(device)
        if isinstance(error, OSError):
            latelog.debug(__name__, "nothing is mounted early: %s", error)
            return None
        raise


def _mounted(mountpoint: str, options: set[str]) -> int | None:
    """The kernel's side of a new mount."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            words = ("-o", ",".join(sorted(options)), "--", mountpoint)
            if _run(words, theirs.fileno()) != 0:
                return None
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    for device in descriptors:
        os.set_inheritable(device, False)
        return device
    return None


def detach(mountpoint: str) -> None:
    """Take a mount away, even while processes still stand in it."""
    _run(("-u", "-z", "--", mountpoint), None)


def _run(words: tuple[str, ...], channel: int | None) -> int:
    """fusermount3's exit status.  It says nothing: what is wrong is told by those who try again."""
    actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]]
    actions = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(_SOCKET_FD)]
    environ = dict(os.environ)
    if channel is not None:
        actions.append((os.POSIX_SPAWN_DUP2, channel, _SOCKET_FD))
        environ["_FUSE_COMMFD"] = str(_SOCKET_FD)
    try:
        child = os.posix_spawnp(_COMMAND, (_COMMAND, *words), environ, file_actions=actions)
    except OSError:
        return -1
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _read(device: int, room: int) -> bytes | None:
    """The next request; nothing if it was given up meanwhile, None if the mount is gone."""
    try:
        return os.read(device, room)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.ENOENT):
            return b""
        return None


def _write(device: int, answer: bytes) -> bool:
    """Whether nobody waits for an answer any more."""
    try:
        os.write(device, answer)
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ENODEV)  # given up, or the mount is gone
    return True
