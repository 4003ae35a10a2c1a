"""What all users of SQLite in this process share."""

from __future__ import annotations

import sqlite3
from collections import deque


def register_plain_types() -> None:
    """Tell sqlite3 that None, bool and bytes need no adapting: else it searches for a way with each such value.

    It knows the types of a whole process.  The adapters are C functions that hand on what they get.
    """
    sqlite3.register_adapter(type(None), deque[None](maxlen=0).append)
    sqlite3.register_adapter(bool, int)
    sqlite3.register_adapter(bytes, bytes)
