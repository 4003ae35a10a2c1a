"""What a server was found to be able to do, kept between runs, so that a mount need not try it out before it answers.

A remembered answer is a belief: the store tries the server out again behind the mount's back, and whatever relies on
the belief to change the bucket waits for that (see `proof`).
"""

from __future__ import annotations

import contextlib
import json
import os
import time

from b2fs.core.types import Capabilities

_FORMAT = 1
#: Older than this, a belief is not worth having.
MAX_AGE_S = 30 * 86_400.0


class CapabilityFile:
    """One small file for one bucket.  Damage, another server or another format mean that nothing is remembered."""

    def __init__(self, path: str) -> None:
        self._path = path

    def load(self, server: str) -> Capabilities | None:
        """What was found out about the bucket, if it was behind a server that called itself the same."""
        try:
            with open(self._path, encoding="utf-8") as file:
                kept = json.load(file)
            fresh = 0 <= time.time() - float(kept["time"]) < MAX_AGE_S
            if kept["format"] != _FORMAT or kept["server"] != server or not fresh:
                return None
            return _capabilities(kept["capabilities"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, server: str, capabilities: Capabilities) -> None:
        """Keep it, atomically; a disk that refuses only makes the next mount slower."""
        kept = {
            "format": _FORMAT,
            "time": time.time(),
            "server": server,
            "capabilities": capabilities._asdict(),
        }
        temporary = self._path + ".new"
        with contextlib.suppress(OSError):
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(kept, file)
            os.replace(temporary, self._path)


def _capabilities(values: object) -> Capabilities:
    """Raises ValueError for anything but a whole set of this version's capabilities."""
    usual = Capabilities()._asdict()
    if (
        not isinstance(values, dict)
        or values.keys() != usual.keys()
        or any(type(values[name]) is not type(usual[name]) for name in usual)
    ):
        raise ValueError("other capabilities than this version knows")
    return Capabilities(**values)
