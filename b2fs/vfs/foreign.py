"""ForeignAttributes: what objects carry that other programs stored, with few requests.

A listing does not show mode, owner and times.  Most programs store none, so where a sample of a directory carries
none, the rest is taken as plain: shown with the defaults, and asked for when it is read or changed.  What was seen in
several directories of a tree counts for the others of that tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import trio
from cachetools import TTLCache

from b2fs.cache.parallel import for_each
from b2fs.core.attrs import carries_posix
from b2fs.core.keys import split_key
from b2fs.core.types import ObjectInfo
from b2fs.errors import NotFound
from b2fs.vfs.core import Core

#: A directory with more unknown objects than this is judged by a sample: its first ones and some spread evenly.
_FEW = 32
_FIRST = 8
_SPREAD = 16
#: So many plain objects, in so many of its subdirectories, make a tree plain.
_EVIDENCE = 24
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

    async def one(self, prefix: str, info: ObjectInfo) -> ObjectInfo | None:
        """One object of a directory: with metadata, or without if it is taken as plain; None if it is gone by now."""
        await self._core.remote.attributes.load(prefix)
        known = self._core.remote.head_nowait(info)
        if known is not None or self._is_plain(prefix):
            return known or info
        return await self._ask(prefix, info)

    async def all(self, prefix: str, infos: Iterable[ObjectInfo]) -> dict[str, ObjectInfo]:
        """The objects of a directory, by key, as `one` gives them; those that are gone by now are left out."""
        await self._core.remote.attributes.load(prefix)
        found: dict[str, ObjectInfo] = {}
        unknown: list[ObjectInfo] = []
        carrying = False
        for info in infos:
            known = self._core.remote.head_nowait(info)
            if known is None:
                unknown.append(info)
            else:
                found[info.key] = known
                carrying = carrying or carries_posix(known.metadata or {})
        if carrying:
            self._note(prefix, carrying=True)
        found.update(await self._learn(prefix, unknown))
        return found

    def forget(self) -> None:
        """Judge every directory anew."""
        self._seen.clear()

    def noted(self, info: ObjectInfo) -> None:
        """An object that was taken as plain turned out to carry this."""
        self._note(split_key(info.key)[0], carrying=carries_posix(info.metadata or {}))

    async def _learn(self, prefix: str, unknown: Sequence[ObjectInfo]) -> dict[str, ObjectInfo]:
        found: dict[str, ObjectInfo] = {}
        gone: set[str] = set()

        async def ask(info: ObjectInfo) -> None:
            full = await self._ask(prefix, info)
            if full is not None:
                found[info.key] = full
            else:
                gone.add(info.key)

        if self._samples and len(unknown) > _FEW and not self._is_plain(prefix):
            await for_each(_sample(unknown), ask)
        left = [info for info in unknown if info.key not in found and info.key not in gone]
        if self._is_plain(prefix):
            found.update((info.key, info) for info in left)
        else:
            await for_each(left, ask)
        return found

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
        if not self._samples:
            return False
        for directory, _ in _upwards(prefix):
            seen = self._seen.get(directory)
            if seen is None or seen.carrying:
                continue
            if directory == prefix and seen.own >= _EVIDENCE:
                return True
            if seen.plain >= _EVIDENCE and len(seen.branches) >= _BRANCHES:
                return True
        return False

    def _note(self, prefix: str, *, carrying: bool) -> None:
        for directory, branch in _upwards(prefix):
            seen = self._seen.setdefault(directory, _Seen())
            if carrying:
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


def _sample(infos: Sequence[ObjectInfo]) -> list[ObjectInfo]:
    spread = len(infos) - _FIRST
    return [*infos[:_FIRST], *(infos[_FIRST + spread * step // _SPREAD] for step in range(_SPREAD))]
