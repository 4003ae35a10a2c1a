"""Entering: directories that are entered one after the other are asked about together.

A program that writes a tree over an old one enters each directory by its name, without listing the one above.  With the
second that is entered in a directory all others count as wanted.
"""

from __future__ import annotations

import trio
from cachetools import TTLCache

from b2fs.cache.remote import RemoteView
from b2fs.core.keys import split_key

#: Directories that are entered within this time belong together, in seconds.
_TOGETHER_S = 10.0
#: Parents that are remembered.
_PARENTS = 256
#: More than so many siblings are asked about in turns.
_AT_ONCE = 64


class Entering:
    """See the module."""

    def __init__(self, remote: RemoteView) -> None:
        self._remote = remote
        #: By parent: what was entered or asked about.
        self._met: TTLCache[str, set[str]] = TTLCache(_PARENTS, _TOGETHER_S, timer=trio.current_time)

    def begin(self, prefix: str) -> list[str]:
        """A directory is being entered whose names are not known; the ones that should be asked about along with it."""
        parent = split_key(prefix)[0]
        met = self._met.setdefault(parent, set())
        alone = not met or prefix in met
        met.add(prefix)
        listing = None if alone else self._remote.peek(parent)
        if listing is None:
            return []
        others = sorted(parent + component + "/" for component in listing.dirs)
        # Those behind it first: most programs go through names in order.
        others.sort(key=lambda other: other < prefix)
        chosen = [other for other in others if other not in met][:_AT_ONCE]
        met.update(chosen)
        return chosen
