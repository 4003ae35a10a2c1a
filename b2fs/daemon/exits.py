"""Exit statuses of the program; part of its interface (README)."""

from __future__ import annotations

EXIT_OK = 0
#: The mount could not be made, or broke.
EXIT_FAILED = 1
#: The command line or the settings are wrong.
EXIT_USAGE = 2
#: The mount ended in order, but files are left in the cache and not in the bucket.
EXIT_LEFT = 3

#: What is said of a mount that was told to stop while it came up.
STOPPED_EARLY = "stopped before the bucket was mounted"
