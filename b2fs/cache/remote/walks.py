"""Walks: directories that are read as parts of a tree walk, filled from flat listings of many directories at once."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import trio
from cachetools import TTLCache

from b2fs.cache.remote.listing import Listing
from b2fs.cache.remote.loading import Patch
from b2fs.cache.remote.walk import Walk
from b2fs.core.keys import split_key
from b2fs.core.types import ObjectInfo
from b2fs.errors import StoreError
from b2fs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

#: A directory that is listed within this time after its parent is part of a tree walk, in seconds.
_WALK_S = 10.0
_WALKS = 4
#: A page of a listing costs as much as this many single questions.
_WORTH_A_PAGE = 10
#: A directory of so many files is listed by itself, page by page, instead of as a part of a tree.
LARGE = 1500


class Known(NamedTuple):
    """The listings that walks fill.  peek: the one of a prefix, if it is trusted; keep: put one in its place."""

    peek: Callable[[str], Listing | None]
    keep: Callable[[Listing], None]
    ttl_left: Callable[[float], float]


class Walks:
    """See the module.  skipped: the prefix of keys that are left out."""

    def __init__(self, store: ObjectStore, known: Known, skipped: str, ttl_s: float) -> None:
        self._store = store
        self._known = known
        self._skipped = skipped
        self._ttl_s = ttl_s
        #: Directories that were listed as a whole lately, and flat listings that may go on.
        self._scanned: TTLCache[str, None] = TTLCache(4096, _WALK_S, timer=trio.current_time)
        self._walks: deque[Walk] = deque(maxlen=_WALKS)
        #: Those with a page on its way: who waits for it gets it, also of a walk that goes on no more.
        self._asking: list[Walk] = []

    def __bool__(self) -> bool:
        return bool(self._walks or self._asking)

    def forget(self) -> None:
        """None of the flat listings goes on."""
        self._walks.clear()

    def patch(self, prefix: str, patch: Patch) -> None:
        """We changed a directory ourselves."""
        for walk in {*self._walks, *self._asking}:
            walk.patch(prefix, patch)

    def open_listings(self, prefix: str) -> Iterator[Listing]:
        """What flat listings have of a directory that is not complete."""
        for walk in self._walks:
            listing = walk.open_listing(prefix)
            if listing is not None:
                yield listing

    # ---- reading trees ------------------------------------------------------------------------------------------

    def is_walked(self, prefix: str) -> bool:
        """Whether a directory is probably listed as a part of a tree walk."""
        return self._tree(prefix) is not None

    def _tree(self, prefix: str) -> str | None:
        """The topmost of the directories above prefix that were listed lately one below the other."""
        top: str | None = None
        while prefix and self._ttl_s >= 1:
            prefix = split_key(prefix)[0]
            if prefix not in self._scanned:
                break
            top = prefix
        return top

    async def read(self, prefix: str, *, known: bool) -> Listing | None:
        """A directory is being read, whose listing is known or not: if a tree is walked, the one by flat pages.

        None where it is known, or another way is cheaper.  Raises StoreError.
        """
        top = self._tree(prefix)
        self._scanned[prefix] = None
        return await self._go_to(prefix, top) if top is not None and not known else None

    async def _go_to(self, prefix: str, top: str) -> Listing | None:
        walk = next((walk for walk in self._walks if self._goes_on(walk, prefix)), None)
        if walk is None:
            walk = Walk(top, prefix, self._skipped)
            self._walks.append(walk)
        while True:
            if walk.loading is not None:
                await walk.loading.wait()
                listing = self._known.peek(prefix)
            else:
                listing = next((done for done in await self._advance(walk) if done.prefix == prefix), None)
            if listing is not None and listing.until is None:
                return listing
            if walk not in self._walks:
                return None  # between two pages it hears of no changes any more
            large = walk.hand_over(prefix, LARGE) if walk.loading is None else None
            if large is not None:
                self._known.keep(large)
                return large
            if walk.loading is None and (walk.open_listing(prefix) is None or walk.is_deep(prefix)):
                return None

    def _goes_on(self, walk: Walk, prefix: str) -> bool:
        listing = walk.open_listing(prefix)
        return listing is not None and self._known.ttl_left(listing.seen_at) > 0

    async def _advance(self, walk: Walk) -> list[Listing]:
        self._asking.append(walk)
        try:
            completed = await walk.advance(self._store)
        finally:
            self._asking.remove(walk)
        if walk in self._walks:
            for listing in completed:
                known = self._known.peek(listing.prefix)
                if known is None or known.seen_at <= listing.seen_at:
                    self._known.keep(listing)
        return completed

    # ---- ahead --------------------------------------------------------------------------------------------------

    def go_on(self, prefix: str, nursery: trio.Nursery | None) -> None:
        """A directory is being read: have the next page of a walk that has come past it asked for, if it is due."""
        for walk in self._walks:
            if walk.opened(prefix) and nursery is not None:
                nursery.start_soon(self._ahead, walk)
                return

    async def _ahead(self, walk: Walk) -> None:
        try:
            if walk.loading is None and not walk.done:
                await self._advance(walk)
        except StoreError as error:
            log.debug("a page of a tree is asked for again when it is wanted: %s", error)

    def nearby(self, prefix: str) -> list[ObjectInfo]:
        """Objects of other directories that were listed along with this one, far apart, to judge the tree by."""
        found: list[ObjectInfo] = []
        for walk in self._walks:
            others = list(walk.latest) if prefix.startswith(walk.root) else []
            for other in (others[len(others) // 2], others[-1]) if others else ():
                listing = self._known.peek(other)
                info = listing.info(next(iter(listing.files))) if listing is not None and listing.files else None
                found += [info] if info is not None else []
        return found[:2]

    async def fill(self, prefix: str, directories: Collection[str]) -> None:
        """List what is below a prefix flat, one page, for directories in it that will be entered one by one.

        Where the page is all there is, those of them that it does not show are empty.
        """
        walk = Walk(prefix, prefix, self._skipped)
        self._walks.append(walk)
        asked_at = trio.current_time()
        try:
            await self._advance(walk)
        except StoreError as error:
            log.debug("directories are listed one by one: %s", error)
            return
        if walk.done and walk in self._walks:
            for directory in directories:
                if directory not in walk.changed and self._known.peek(directory) is None:
                    self._known.keep(Listing(directory, asked_at))

    async def survey(self, prefix: str, unknown: Collection[str], left: Callable[[], Collection[str]]) -> None:
        """List what is below a prefix flat, as long as each page tells of many of the unknown keys.

        left says which of them are unknown still.
        """
        walk = Walk(prefix, prefix, self._skipped)
        self._walks.append(walk)
        while len(unknown) >= _WORTH_A_PAGE and not walk.done:
            await self._advance(walk)
            before, unknown = unknown, left()
            if len(before) - len(unknown) < _WORTH_A_PAGE:
                break
