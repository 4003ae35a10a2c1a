"""The kernel's first request, answered with features that pyfuse3 and libfuse have no word for.

FUSE_INIT agrees on what daemon and kernel do for each other.  libfuse answers it from a list of features that it knows,
and pyfuse3 opens few of these.  So the filesystem is mounted here, through fusermount3 as libfuse does it for users;
libfuse gets one end of a socket in the place of the kernel, and its answer passes through here and gets the missing
bits.  Then the kernel's descriptor takes the place of the socket, and nobody is in between any more.

Without fusermount3 nothing is gained or lost: libfuse mounts, and the features stay off.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from b2fs.fuse.agreements import Agreements
from b2fs.fuse.early import BUFFER_BYTES, Begun
from b2fs.fuse.wire import Feature, amended, is_answer_to, offered

log = logging.getLogger(__name__)

#: A first request that is not answered in this time never will be, in seconds.
_TIMEOUT_S = 20.0


async def mount_device(mountpoint: str, options: set[str]) -> int | None:
    """Mount, and return the descriptor of the kernel's side; None if there is no fusermount3.

    Raises OSError if it refuses; it has written the reason to stderr.  Checkpoint: yes.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = theirs.fileno()
        environ = {**os.environ, "_FUSE_COMMFD": str(number)}
        command = ["fusermount3", "-o", ",".join(sorted(options)), "--", mountpoint]
        try:
            done = await trio.run_process(command, env=environ, pass_fds=[number], check=False)
        except FileNotFoundError:
            return None
        theirs.close()
        if done.returncode:
            raise OSError(errno.EPERM, "fusermount3 refuses to mount", mountpoint)
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        raise OSError(errno.EPERM, "fusermount3 gave no descriptor", mountpoint)
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


class Disagreement(Exception):
    """libfuse does not answer as the kernel was told that it would."""


class Handshake:
    """One first request: libfuse is told to use `path` as its mountpoint, `run` has it answered.

    After an early mount (fuse.early) the kernel has its answer already, and libfuse's is compared with that.
    """

    def __init__(
        self, device: int, wanted: Feature, begun: Begun | None = None, agreements: Agreements | None = None
    ) -> None:
        """device is begun's, if that is given.  What is agreed is kept in agreements."""
        self._device = device
        self._wanted = wanted
        self._begun = begun
        self._agreements = agreements
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        #: libfuse's descriptor from now on, which it closes itself.
        self.number = theirs.detach()
        self.agreed = Feature(0)

    @property
    def path(self) -> str:
        """How libfuse is told of a descriptor that is mounted already."""
        return f"/dev/fd/{self.number}"

    async def run(self, serve: Callable[[], Awaitable[None]]) -> bool:
        """Have the first request answered by serve(), a loop that goes on until cancelled, and hand the kernel over.

        False if one more request lies in libfuse's descriptor: when that was read, `take_over` is to be called.
        Raises OSError if that fails, and Disagreement.  The loop runs in a thread and a trio run of its own: no loop
        that is to go on may have seen the socket.
        """
        begun = self._begun
        request = begun.request if begun else b""
        if not request:
            request = await trio.to_thread.run_sync(os.read, self._device, BUFFER_BYTES)
        self._ours.send(request)
        try:
            answer = await trio.to_thread.run_sync(trio.run, self._answer, serve)
        except trio.TooSlowError as error:
            raise OSError(errno.ETIMEDOUT, "libfuse does not answer the kernel") from error
        self._agree(request, self._amended(request, answer), begun.told if begun else None)
        if begun is not None and begun.kept is not None:
            self._ours.send(begun.kept)
            return False
        self.take_over()
        return True

    def take_over(self) -> None:
        """Put the kernel in the place of the socket.  What libfuse has answered there until now is passed on."""
        os.dup2(self._device, self.number, inheritable=False)
        with suppress(BlockingIOError):
            while answer := self._ours.recv(BUFFER_BYTES, socket.MSG_DONTWAIT):
                with suppress(FileNotFoundError):  # whoever asked has given up
                    os.write(self._device, answer)
        self.close()

    def close(self) -> None:
        """Let go of what is not libfuse's, if that is not done; any number of calls is one."""
        if self._device >= 0:
            self._ours.close()
            os.close(self._device)
            self._device = -1

    def _agree(self, request: bytes, answer: bytes, told: bytes | None) -> None:
        """Tell the kernel, unless it was told; raises Disagreement if it was told something else."""
        if told is None:
            os.write(self._device, answer)
            if self._agreements is not None and is_answer_to(answer, request):
                self._agreements.remember(request, answer)
        elif told != answer:
            if self._agreements is not None:
                self._agreements.forget(request)
            raise Disagreement("libfuse answers the kernel otherwise than the last time")

    async def _answer(self, serve: Callable[[], Awaitable[None]]) -> bytes:
        with trio.fail_after(_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                await trio.lowlevel.wait_readable(self._ours)
                nursery.cancel_scope.cancel()
        return self._ours.recv(BUFFER_BYTES)

    def _amended(self, request: bytes, answer: bytes) -> bytes:
        """libfuse's answer with the wanted features that the kernel offers; untouched if it is anything else."""
        if not is_answer_to(answer, request):
            log.warning("the kernel's first request was not what was expected; it is served without further features")
            return answer
        self.agreed = self._wanted & offered(request)
        return amended(answer, self.agreed)


def is_over(device: int) -> bool:
    """Whether the kernel has taken the mount away."""
    poll = select.poll()
    poll.register(device, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))
