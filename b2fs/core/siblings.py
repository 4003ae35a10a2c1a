"""SiblingTracker: which small files of a directory to fetch ahead while a program walks through it.  Pure.

cp -r, tar, grep -r and rsync open the files of a directory in listing order, one after the other, and each would cost a
round trip.  The tracker is told of every open by its index in listing order and answers with the range of indexes to
fetch now.  A run of opens in order earns a window that doubles up to `window_files`; an open out of order ends it.
Programs that walk one directory usually walk the next one too, so a directory opened from its beginning right after a
successful walk starts with a window at once; guesses that came to nothing take that credit away.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

from b2fs.core.types import ObjectRef


class SiblingHint(NamedTuple):
    """The files that will probably be read after the one that is opened now, nearest first."""

    upcoming: tuple[ObjectRef, ...]


class SiblingConfig(NamedTuple):
    """Counts of files, except where said."""

    first_window_files: int = 8
    window_files: int = 64
    #: An open up to this many indexes ahead still counts as "in order": directories and large files are skipped.
    slack: int = 4
    #: Opens in order that make a walk when nothing else speaks for one.
    streak: int = 3
    #: How many directories are remembered.
    directories: int = 256


@dataclass(slots=True)
class _Walk:
    """Where a directory's reader stands."""

    last: int
    streak: int = 1
    window: int = 0
    #: Indexes below this were handed out.
    warmed: int = 0
    #: Indexes that were handed out and not opened yet.
    pending: set[int] = field(default_factory=set)
    #: How many of those handed out were opened.
    used: int = 0


class SiblingTracker:
    """Follows the opens of all directories; every method is quick and does no I/O."""

    def __init__(self, config: SiblingConfig | None = None) -> None:
        self._config = config or SiblingConfig()
        self._walks: OrderedDict[Hashable, _Walk] = OrderedDict()
        # How well guesses went lately, in [-8, 4]: at 1 or more a new directory is believed to be walked.
        self._credit = 0

    def opened(self, directory_id: Hashable, index: int, count: int | None = None) -> range:
        """Note that the file at `index` (listing order) was opened; return the indexes to fetch ahead, often none.

        count is the length of the listing where it is known; without it the range may reach behind the last file and
        the caller cuts it.  The caller also leaves out what is not a small file.
        """
        walk = self._walks.get(directory_id)
        if walk is None:
            walk = self._enter(directory_id, index)
        else:
            self._walks.move_to_end(directory_id)
            self._step(walk, index)
        if self._is_walk(walk):
            return self._extend(walk, count)
        return range(0)

    def forget(self, directory_id: Hashable) -> None:
        """The directory's listing changed or is gone: indexes mean nothing any more."""
        self._walks.pop(directory_id, None)

    def _enter(self, directory_id: Hashable, index: int) -> _Walk:
        walk = _Walk(index, warmed=index + 1)
        if index > self._config.slack:
            walk.streak = 0  # not from the beginning: more evidence is needed
        self._walks[directory_id] = walk
        if len(self._walks) > self._config.directories:
            _, old = self._walks.popitem(last=False)
            self._judge(old)
        return walk

    def _step(self, walk: _Walk, index: int) -> None:
        if index in walk.pending:
            walk.pending.discard(index)
            walk.used += 1
            self._credit = min(4, self._credit + 1)
        if walk.last < index <= walk.last + 1 + self._config.slack:
            walk.streak += 1
            walk.last = index
        elif index < walk.last and walk.last - index <= self._config.slack:
            return  # a parallel reader, slightly behind
        elif index != walk.last:
            self._judge(walk)
            walk.last, walk.streak, walk.window, walk.warmed = index, 0, 0, index + 1

    def _judge(self, walk: _Walk) -> None:
        """A walk ended: guesses cost credit if few of them were used (subdirectories among them never are)."""
        if len(walk.pending) > walk.used:
            self._credit = max(-8, self._credit - 1 - len(walk.pending) // self._config.first_window_files)
        walk.pending.clear()
        walk.used = 0

    def _is_walk(self, walk: _Walk) -> bool:
        if walk.window:
            return True
        if self._credit > 0 and walk.streak >= 1:
            return True
        # After wrong guesses a longer streak is asked for.
        return walk.streak >= self._config.streak + max(0, -self._credit)

    def _extend(self, walk: _Walk, count: int | None) -> range:
        """Hand out the next indexes once half of the window is used."""
        config = self._config
        start = max(walk.warmed, walk.last + 1)
        ahead = start - walk.last - 1
        if walk.window and 2 * ahead > walk.window:
            return range(0)
        walk.window = min(2 * walk.window, config.window_files) if walk.window else config.first_window_files
        stop = walk.last + 1 + walk.window
        if count is not None:
            stop = min(stop, count)
        if stop <= start:
            return range(0)
        walk.warmed = stop
        walk.pending.update(range(start, stop))
        return range(start, stop)
