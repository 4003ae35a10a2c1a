"""The clock that files are marked by: the kernel's own for files, not that of the programs.

The kernel marks files with a coarse time, up to some milliseconds behind, unless two marks that somebody has seen would
then be the same.  It does so for a mounted filesystem too where a program asks for the present: `touch` on a file that
is there.  If other marks came from the exact time, a file that is touched after another one was written would be the
older of the two, and make would do its work again and again.  So the time is taken from a file that the kernel marks.
"""

from __future__ import annotations

import os
from functools import cache

_MODE = 0o600


@cache
def _marked() -> int:
    """The descriptor of a file in memory, for as long as the process lives."""
    return os.memfd_create("b2fs-clock")


def now_ns() -> int:
    """The present as the kernel would mark a file now; later than every earlier answer where the kernel can tell."""
    number = _marked()
    os.fchmod(number, _MODE)  # marks the ctime
    return os.fstat(number).st_ctime_ns  # and from now on the kernel knows that this mark was seen
