"""ForeignAttributes: what objects carry that other programs stored, with few requests.

A listing does not show mode, owner and times.  Most programs store none, so where a sample of a directory carries
none, the rest is taken as plain: shown with the defaults, and asked for when it is read or changed.  What was seen in
several directories of a tree counts for the others of that tree: for all when the tree is walked, else for those of
which one object was looked at, too.  A small directory is judged by one or two objects when a whole tree is walked,
and else by all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio
from cachetools import TTLCache

from b2fs.cache.parallel import for_each
from b2fs.cache.remote import Listing
from b2fs.cache.remote.listing import unpack
from b2fs.core.attrs import carries_posix
from b2fs.core.keys import split_key
from b2fs.core.types import ObjectInfo
from b2fs.errors import NotFound
from b2fs.vfs.core import Core

#: A directory with more unknown objects than this is judged by a sample: its first ones and some spread evenly.
_FEW = 32
_FIRST = 8
_SPREAD = 16
#: So many plain objects make a directory plain; so many, in so many of its subdirectories, a tree.
_EVIDENCE = 24
_TREE_EVIDENCE = 3
_BRANCHES = 2
_DIRECTORIES = 10_000
#: Evidence is gathered anew after this time.
_BELIEVED_S = 900.0


@dataclass(slots=True)
class _Seen:
    """What was found at and below a directory; branches are its components in which plain objects were."""

    plain: int = 0
    own: int = 0
    carrying: bool = False
    branches: set[str] = field(default_factory=set)


class ForeignAttributes:
    """See the module."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._seen: TTLCache[str, _Seen] = TTLCache(_DIRECTORIES, _BELIEVED_S, timer=trio.current_time)
        #: How often a directory turned out to have objects that carry attributes, so that what was taken as plain
        #: anywhere may not be.
        self.turns = 0

    async def one(self, prefix: str, info: ObjectInfo) -> ObjectInfo | None:
        """One object of a directory: with metadata, or without if it is taken as plain; None if it is gone by now."""
        await self._core.remote.load_attributes(prefix)
        known = self._core.remote.head_nowait(info)
        if known is not None or self._is_plain(prefix):
            return known or info
        return await self._ask(prefix, info)

    async def all(self, listing: Listing, names: Sequence[str]) -> tuple[dict[str, ObjectInfo], set[str]]:
        """The listed files of a directory that carry metadata, by name, and the names of those that are gone by now.

        The others are taken as plain.
        """
        prefix = listing.prefix
        found: dict[str, ObjectInfo] = {}
        unknown = self._known(listing, names, found)
        if unknown and await self._core.remote.load_attributes(prefix):
            unknown = self._known(listing, unknown, found)
        if any(carries_posix(full.metadata or {}) for full in found.values()):
            self._note(prefix, carrying=True)
        return found, await self._learn(listing, unknown, found)

    def _known(self, listing: Listing, names: Sequence[str], found: dict[str, ObjectInfo]) -> list[str]:
        """Put into `found` what is known without asking; the names of the others."""
        prefix, known = listing.prefix, self._core.remote.known
        unknown: list[str] = []
        for name in names:
            row, listed = known.row(prefix + name), listing.row(name)
            full = known.complete(unpack(prefix + name, listed)) if row is not None and listed is not None else None
            if full is None:
                unknown.append(name)
            else:
                found[name] = full
        return unknown

    # ---- over a remount -----------------------------------------------------------------------------------------

    def saved(self) -> list[object]:
        """What was found about trees, for `restore` of the next mount."""
        return [[place, s.plain, s.own, s.carrying, sorted(s.branches)] for place, s in self._seen.items()]

    def restore(self, saved: list[object]) -> None:
        """Take up what an earlier mount found; what has another form is left out."""
        for item in saved:
            match item:
                case [str(place), int(plain), int(own), bool(carrying), list(branches)]:
                    self._seen[place] = _Seen(plain, own, carrying, set(map(str, branches)))

    def forget(self) -> None:
        """Judge every directory anew."""
        self._seen.clear()

    def noted(self, info: ObjectInfo) -> None:
        """An object that was taken as plain turned out to carry this."""
        self._note(split_key(info.key)[0], carrying=carries_posix(info.metadata or {}))

    async def _learn(self, listing: Listing, unknown: Sequence[str], found: dict[str, ObjectInfo]) -> set[str]:
        """Put into `found` what is asked for; the names of those that turn out to be gone."""
        prefix = listing.prefix
        gone: set[str] = set()

        async def ask(name: str) -> None:
            row = listing.row(name)
            full = await self._ask(prefix, unpack(prefix + name, row)) if row is not None else None
            if full is not None:
                found[name] = full
            else:
                gone.add(name)

        async def ask_nearby(info: ObjectInfo) -> None:
            await self._ask(split_key(info.key)[0], info)

        sample = self._sample(prefix, unknown)
        nearby = self._nearby(prefix) if 0 < len(sample) < len(unknown) else []
        questions = [*(partial(ask, name) for name in sample), *(partial(ask_nearby, info) for info in nearby)]
        await for_each(questions, lambda question: question())
        judged = len(sample) > 0 and not self._carries(prefix)
        if not judged and not self._is_plain(prefix):
            await for_each([name for name in unknown if name not in found and name not in gone], ask)
        return gone

    def _sample(self, prefix: str, unknown: Sequence[str]) -> Sequence[str]:
        """The names that a directory is to be judged by; none if it is not to be judged, or was."""
        if not self._samples or not unknown or self._carries(prefix) or self._is_plain(prefix):
            return ()
        if self._tree_is_plain(prefix):
            return unknown[len(unknown) // 2 :][:1]
        if len(unknown) > _FEW:
            return _spread(unknown)
        if not self._core.remote.walks.is_walked(prefix):
            return ()
        return unknown[len(unknown) // 2 :][:1] if self._is_near(prefix) else unknown[:: max(1, len(unknown) // 2)][:2]

    def _nearby(self, prefix: str) -> list[ObjectInfo]:
        """Objects elsewhere in a tree that is walked: with them one round of questions is enough to judge it."""
        if self._is_near(prefix) or not self._core.remote.walks.is_walked(prefix):
            return []
        known = self._core.remote.known
        return [info for info in self._core.remote.walks.nearby(prefix) if known.complete(info) is None]

    def _is_near(self, prefix: str) -> bool:
        """Whether plain objects were found anywhere around."""
        return any((seen := self._seen.get(directory)) is not None and seen.plain for directory, _ in _upwards(prefix))

    async def _ask(self, prefix: str, info: ObjectInfo) -> ObjectInfo | None:
        try:
            full = await self._core.remote.head(info)
        except NotFound:
            self._core.remote.note_absent(info.key)
            return None
        self._note(prefix, carrying=carries_posix(full.metadata or {}))
        return full

    # ---- evidence -----------------------------------------------------------------------------------------------

    @property
    def _samples(self) -> bool:
        return self._core.config.foreign_attrs == "sample"

    def _is_plain(self, prefix: str) -> bool:
        """Whether what is unknown in a directory is to be taken as plain."""
        if not self._samples:
            return False
        seen = self._seen.get(prefix)
        own = seen.own if seen is not None and not seen.carrying else 0
        if own >= _EVIDENCE:
            return True
        return (own > 0 or self._core.remote.walks.is_walked(prefix)) and self._tree_is_plain(prefix)

    def _tree_is_plain(self, prefix: str) -> bool:
        """Whether plain objects were found in several directories around, and none that carries attributes."""
        around = [seen for directory, _ in _upwards(prefix) if (seen := self._seen.get(directory)) is not None]
        return any(
            not seen.carrying and seen.plain >= _TREE_EVIDENCE and len(seen.branches) >= _BRANCHES for seen in around
        )

    def _carries(self, prefix: str) -> bool:
        """Whether an object at or below a directory was found to carry attributes."""
        seen = self._seen.get(prefix)
        return seen is not None and seen.carrying

    def _note(self, prefix: str, *, carrying: bool) -> None:
        for directory, branch in _upwards(prefix):
            seen = self._seen.setdefault(directory, _Seen())
            if carrying:
                self.turns += not seen.carrying
                seen.carrying = True
                continue
            seen.plain += 1
            if directory == prefix:
                seen.own += 1
            elif len(seen.branches) < _BRANCHES:
                seen.branches.add(branch)


def _upwards(prefix: str) -> Iterator[tuple[str, str]]:
    """(directory, its component that leads to prefix) of a directory and of all above it; prefix itself comes first."""
    branch = ""
    while True:
        yield prefix, branch
        if not prefix:
            return
        prefix, branch = split_key(prefix)


def _spread(names: Sequence[str]) -> list[str]:
    spread = len(names) - _FIRST
    return [*names[:_FIRST], *(names[_FIRST + spread * step // _SPREAD] for step in range(_SPREAD))]
