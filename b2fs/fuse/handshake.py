"""The kernel's first request, answered with features that pyfuse3 and libfuse have no word for.

FUSE_INIT agrees on what daemon and kernel do for each other.  libfuse answers it from a list of features that it knows,
and pyfuse3 opens few of these.  So the filesystem is mounted here, through fusermount3 as libfuse does it for users;
libfuse gets one end of a socket in the place of the kernel, and its answer passes through here and gets the missing
bits.  Then the kernel's descriptor takes the place of the socket, and nobody is in between any more.

Without fusermount3 nothing is gained or lost: libfuse mounts, and the features stay off.
"""

from __future__ import annotations

import enum
import errno
import logging
import os
import select
import socket
import struct
from collections.abc import Awaitable, Callable

import trio

log = logging.getLogger(__name__)

#: More than the kernel's first request has; it refuses to write into less than this.
_BUFFER_BYTES = 1 << 16
#: A first request that is not answered in this time never will be, in seconds.
_TIMEOUT_S = 20.0
_INIT = 26
#: struct fuse_in_header up to the operation, and struct fuse_init_in up to the flags behind that header.
_REQUEST = struct.Struct("<IIQ")
_REQUEST_INIT = struct.Struct("<IIII")
_REQUEST_HEADER_BYTES = 40
#: struct fuse_out_header, and struct fuse_init_out up to the flags behind it.
_ANSWER = struct.Struct("<IiQ")
_ANSWER_FLAGS = struct.Struct("<I")
_ANSWER_FLAGS_AT = 16 + 12


class Feature(enum.IntFlag):
    """Bits of FUSE_INIT, from the kernel's include/uapi/linux/fuse.h."""

    #: The kernel leaves the umask to us: a default ACL of the directory counts in its place.
    DONT_MASK = 1 << 6
    #: The kernel checks access control lists.
    POSIX_ACL = 1 << 20
    #: The kernel drops pages only when we tell it to.  Else it drops them whenever it learns of another mtime, that of
    #: the program's own latest write among them.
    EXPLICIT_INVAL_DATA = 1 << 25
    #: We take set-id bits and capabilities away from a file that is written, truncated or given to somebody else, so
    #: the kernel need not ask before every single write whether there are any.
    HANDLE_KILLPRIV_V2 = 1 << 28


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


#: FUSE_AUTO_INVAL_DATA, which libfuse agrees to by itself, and which would come before EXPLICIT_INVAL_DATA.
_AUTO_INVAL_DATA = 1 << 12


class Handshake:
    """One first request: libfuse is told to use `path` as its mountpoint, `run` has it answered."""

    def __init__(self, device: int, wanted: Feature) -> None:
        self._device = device
        self._wanted = wanted
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        #: libfuse's descriptor from now on, which it closes itself.
        self.number = theirs.detach()
        self.agreed = Feature(0)

    @property
    def path(self) -> str:
        """How libfuse is told of a descriptor that is mounted already."""
        return f"/dev/fd/{self.number}"

    async def run(self, serve: Callable[[], Awaitable[None]]) -> None:
        """Have the first request answered by serve(), a loop that goes on until cancelled, and hand the kernel over.

        Raises OSError if that fails.  The loop runs in a thread and a trio run of its own: no loop that is to go on may
        have seen the socket.
        """
        request = await trio.to_thread.run_sync(os.read, self._device, _BUFFER_BYTES)
        self._ours.send(request)
        try:
            answer = await trio.to_thread.run_sync(trio.run, self._answer, serve)
        except trio.TooSlowError as error:
            raise OSError(errno.ETIMEDOUT, "libfuse does not answer the kernel") from error
        os.write(self._device, self._amended(request, answer))
        os.dup2(self._device, self.number, inheritable=False)

    def close(self) -> None:
        """Let go of what is not libfuse's; after `run` that is the kernel's side under its first number."""
        self._ours.close()
        os.close(self._device)

    async def _answer(self, serve: Callable[[], Awaitable[None]]) -> bytes:
        with trio.fail_after(_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                await trio.lowlevel.wait_readable(self._ours)
                nursery.cancel_scope.cancel()
        return self._ours.recv(_BUFFER_BYTES)

    def _amended(self, request: bytes, answer: bytes) -> bytes:
        """libfuse's answer with the wanted features that the kernel offers; untouched if it is anything else."""
        _, operation, unique = _REQUEST.unpack_from(request)
        _, error, answered = _ANSWER.unpack_from(answer)
        if operation != _INIT or error or answered != unique or len(answer) < _ANSWER_FLAGS_AT + _ANSWER_FLAGS.size:
            log.warning("the kernel's first request was not what was expected; it is served without further features")
            return answer
        offered = _REQUEST_INIT.unpack_from(request, _REQUEST_HEADER_BYTES)[3]
        (flags,) = _ANSWER_FLAGS.unpack_from(answer, _ANSWER_FLAGS_AT)
        self.agreed = self._wanted & offered
        if Feature.EXPLICIT_INVAL_DATA in self.agreed:
            flags &= ~_AUTO_INVAL_DATA
        amended = bytearray(answer)
        _ANSWER_FLAGS.pack_into(amended, _ANSWER_FLAGS_AT, flags | self.agreed)
        return bytes(amended)


def is_over(device: int) -> bool:
    """Whether the kernel has taken the mount away."""
    poll = select.poll()
    poll.register(device, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))
