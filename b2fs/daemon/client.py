"""The command line's side of the control socket; plain blocking calls."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

from b2fs.daemon.messages import Reply, Request
from b2fs.daemon.sockets import socket_path
from b2fs.errors import B2fsError, ConfigError

#: A healthy daemon sends progress several times a second; one that is silent for so long hangs.
_SILENCE_S = 60.0
#: A daemon that has said that it stops is gone within this time, or something holds it that is not worth a wait.
_EXIT_S = 10.0
_PEER = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


class NoDaemon(ConfigError):
    """Nobody answers at the control socket: no daemon, or a killed one."""


class DeadlinePassed(B2fsError):
    """The time that the user gave is over."""


def ask(
    mountpoint: str, uid: int, request: Request, *, timeout_s: float | None = None, silence_s: float = _SILENCE_S
) -> Generator[Reply, None, None]:
    """Send one request to the mount that user uid has at this canonical mountpoint; yields replies to the last one.

    When the last reply says that the daemon has stopped, its process is gone as well.
    Raises NoDaemon when nobody answers, DeadlinePassed after timeout_s, ConfigError when the daemon hangs or ends.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(silence_s)
        _connect(connection, mountpoint, uid)
        try:
            connection.sendall(request.encode())
            with connection.makefile("rb") as lines, _end_of_peer(connection) as wait_gone:
                for line in lines:
                    reply = Reply.decode(line)
                    if reply.kind == "stopped":
                        wait_gone()
                    yield reply
                    if reply.is_last:
                        return
                    if deadline is not None and time.monotonic() >= deadline:
                        raise DeadlinePassed(f"not finished within {timeout_s:g} s")
        except TimeoutError:
            raise ConfigError(f"The daemon of {mountpoint} has not answered for {silence_s:g} s") from None
        except (ConnectionError, ValueError):
            pass  # as an end of the stream without a last reply
    raise ConfigError(f"The daemon of {mountpoint} ended without an answer")


@contextmanager
def _end_of_peer(connection: socket.socket) -> Iterator[Callable[[], object]]:
    """A call that waits until the process at the other end has gone; it returns at once where nobody can tell."""
    pid, _, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    try:
        process = os.pidfd_open(pid) if pid != os.getpid() else None
    except OSError:  # it has gone, or is in another PID namespace
        process = None
    if process is None:
        yield lambda: None
        return
    try:
        waiting = select.poll()
        waiting.register(process, select.POLLIN)
        yield lambda: waiting.poll(_EXIT_S * 1000)
    finally:
        os.close(process)


def _connect(connection: socket.socket, mountpoint: str, uid: int) -> None:
    path = socket_path(mountpoint, uid)
    try:
        connection.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        raise NoDaemon(f"No b2fs daemon answers for {mountpoint}") from None
    except PermissionError:
        raise ConfigError(f"The mount at {mountpoint} belongs to another user") from None
    except OSError as error:
        raise ConfigError(f"The daemon of {mountpoint} cannot be reached: {error.strerror}") from None
