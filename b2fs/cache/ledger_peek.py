"""A look into a ledger that nobody has open, by whoever holds its directory's lock; it changes nothing there."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote


def may_hold_entry(path: Path, key: str) -> bool:
    """Whether something may wait there to be stored under the key.

    Also where that cannot be told without changing the ledger: it is damaged, or a killed daemon has left a log.
    """
    if _bytes(f"{path}-wal"):
        return True
    if not _bytes(str(path)):
        return False
    import sqlite3  # not where the cache is new

    try:
        # Without a log the file is all there is, and nobody else may open it.
        connection = sqlite3.connect(f"file:{quote(str(path))}?immutable=1", uri=True)
        try:
            return connection.execute("SELECT 1 FROM entry WHERE key = ?", (key,)).fetchone() is not None
        finally:
            connection.close()
    except sqlite3.Error:
        return True


def _bytes(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
