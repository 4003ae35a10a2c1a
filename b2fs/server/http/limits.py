"""What a client may take: time, bytes of head, connections."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one listener.

    A body may pause for stall_s, and over its whole length must come at body_bytes_per_s at least, after grace_s.
    When max_connections are open, the one that has been idle longest makes room for a new one.
    """

    head_bytes: int = 64 << 10
    idle_s: float = 75.0
    handshake_s: float = 20.0
    head_s: float = 20.0
    stall_s: float = 60.0
    send_s: float = 120.0
    grace_s: float = 60.0
    body_bytes_per_s: int = 1024
    max_connections: int = 12_000
