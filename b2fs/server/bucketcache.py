"""Buckets by name without a query per request.

What this process changes is seen at once; what another process does to the same store after CACHE_S, as with keys.  A
change of objects looks at the bucket's row in its own transaction, so nothing is ever put into a bucket that is gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from b2fs.store.embedded.engine import Engine
from b2fs.store.embedded.rows import BucketRow

CACHE_S: Final = 1.0
_MAX_ENTRIES: Final = 1000


class _Entry(NamedTuple):
    row: BucketRow
    until_s: float
    changes: int


class BucketCache:
    """The buckets of one engine.  Thread-safe as far as the GIL goes: entries are replaced, never changed."""

    def __init__(self, engine: Engine, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock_s = clock_s
        self._entries: dict[str, _Entry] = {}

    def find(self, name: str) -> BucketRow:
        """The bucket of this name.  Raises NoSuchBucket."""
        # Read before the query: a change that comes in between makes the entry stale from the start.
        changes, now_s = self._engine.bucket_changes, self._clock_s()
        entry = self._entries.get(name)
        if entry is not None and entry.changes == changes and now_s < entry.until_s:
            return entry.row
        row = self._engine.bucket(name)
        if len(self._entries) >= _MAX_ENTRIES:
            self._entries.clear()
        self._entries[name] = _Entry(row, now_s + CACHE_S, changes)
        return row
