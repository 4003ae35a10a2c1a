"""The command line's side of the control socket; plain blocking calls."""

from __future__ import annotations

import socket
import time
from collections.abc import Generator

from b2fs.daemon.messages import Reply, Request
from b2fs.daemon.sockets import socket_path
from b2fs.errors import B2fsError, ConfigError

#: A healthy daemon sends progress several times a second; one that is silent for so long hangs.
_SILENCE_S = 60.0


class NoDaemon(ConfigError):
    """Nobody answers at the control socket: no daemon, or a killed one."""


class DeadlinePassed(B2fsError):
    """The time that the user gave is over."""


def ask(
    mountpoint: str, uid: int, request: Request, *, timeout_s: float | None = None, silence_s: float = _SILENCE_S
) -> Generator[Reply, None, None]:
    """Send one request to the mount that user uid has at this canonical mountpoint; yields replies to the last one.

    Raises NoDaemon when nobody answers, DeadlinePassed after timeout_s, ConfigError when the daemon hangs or ends.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(silence_s)
        _connect(connection, mountpoint, uid)
        try:
            connection.sendall(request.encode())
            with connection.makefile("rb") as lines:
                for line in lines:
                    reply = Reply.decode(line)
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
