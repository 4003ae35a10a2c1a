"""The machine: which of its starts this is.  What was in its page cache in an earlier one is gone."""

from __future__ import annotations


def boot_id() -> str | None:
    """What is another one after each start of the machine; None if it is not told."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None
