"""The access log: one JSON line per request, enough to count what a client costs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One request.  Sizes are bodies in bytes, duration is in milliseconds."""

    client: str
    method: str
    path: str
    operation: str
    status: int
    error: str | None
    cost_class: str
    bytes_in: int
    bytes_out: int
    duration_ms: float
    key_id: str
    request_id: str

    def line(self, now_s: float) -> str:
        values = asdict(self)
        values["class"] = values.pop("cost_class")
        return json.dumps({"time": round(now_s, 3), **values}, ensure_ascii=False) + "\n"


class AccessLog:
    """Writes entries to a sink; without one it costs nothing."""

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self._write = write

    @property
    def enabled(self) -> bool:
        return self._write is not None

    def add(self, entry: Entry) -> None:
        """Write one line."""
        if self._write is not None:
            self._write(entry.line(time.time()))
