"""Names of hosts."""

from __future__ import annotations

import socket

_ONE = bytes(15) + b"\1"


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be this machine.  Asks nobody."""
    if host == "localhost":
        return True
    try:
        if ":" in host:
            return socket.inet_pton(socket.AF_INET6, host) == _ONE
        return socket.inet_pton(socket.AF_INET, host).startswith(b"\x7f")
    except OSError:
        return False
