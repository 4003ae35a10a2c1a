"""Messages to the service manager (sd_notify(3)), without a library.

A Notifier without a socket does nothing, so callers need not ask whether systemd is there.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping


class Notifier:
    """Sends state lines to the datagram socket that $NOTIFY_SOCKET names."""

    def __init__(self, address: str | None, watchdog_interval_s: float | None = None) -> None:
        """address is a path, or "@name" for the abstract namespace; None sends nothing.

        watchdog_interval_s is how often `watchdog` has to be called, or None if nobody watches.
        """
        self._address = "\0" + address[1:] if address and address.startswith("@") else address
        self._socket: socket.socket | None = None
        self.watchdog_interval_s = watchdog_interval_s if address else None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Read and remove the variables, so that no child process speaks in our name."""
        interval = _watchdog_interval_s(environ)
        address = environ.pop("NOTIFY_SOCKET", None)
        environ.pop("WATCHDOG_USEC", None)
        environ.pop("WATCHDOG_PID", None)
        return cls(address, interval)

    def ready(self, text: str) -> None:
        self._send("READY=1", f"STATUS={text}")

    def stopping(self, text: str) -> None:
        self._send("STOPPING=1", f"STATUS={text}")

    def status(self, text: str) -> None:
        self._send(f"STATUS={text}")

    def extend_timeout(self, seconds: float) -> None:
        """Ask for this much time, from now, before the manager loses patience with a start or stop."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> None:
        if self._socket is None or self._address is None:
            return
        message = "\n".join(line.replace("\n", " ") for line in lines)
        try:
            self._socket.sendto(message.encode(), socket.MSG_DONTWAIT, self._address)
        except OSError:
            # The mount is worth more than the message: a manager that went away or is behind must not stop it.
            return


def _watchdog_interval_s(environ: Mapping[str, str]) -> float | None:
    """Half of the time that systemd allows, as sd_watchdog_enabled(3) recommends."""
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not usec.isdecimal() or int(usec) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 2_000_000
