"""Load: one directory being listed page by page, shared by all who want it.

Pages may be used while later ones are on their way.  What we change ourselves meanwhile is put into the listing at
once, and again behind a page that was asked for before, since that page may not show it.

Each page tells where the next one begins, so they come one after the other.  Of a long listing some are asked for
*ahead*, behind names that are guessed or known from before.  A page that was asked for ahead is taken when the listing
has gone past the name where it begins; until then the listing goes on by itself, so a wrong guess loses no name.
Servers differ in where they put directories among files; files are in order with all of them, so only these tell how
far a listing has gone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import trio

from b2fs.cache.remote.guess import extrapolated, remembered
from b2fs.cache.remote.listing import Listing, pack
from b2fs.core.types import ListPage
from b2fs.errors import StoreError
from b2fs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

Patch = Callable[[Listing], None]

#: Names on a page.
PAGE = 1000
#: A listing of so many pages is long; so many pages are asked for ahead at first, and at most.
_LONG = 2
_FIRST, _MOST = 2, 4
#: The same where the names are known from before.
_MOST_KNOWN = 8


class Page(NamedTuple):
    """What it has, as Listing.entries gives it, and how far the listing went with it: None to the end."""

    entries: list[str]
    until: str | None


class Ahead:
    """A page that is asked for ahead: what comes behind the name `after`."""

    __slots__ = ("after", "asked_at", "done", "page", "patches", "scope")

    def __init__(self, after: str, patches: int) -> None:
        self.after = after
        self.patches = patches
        self.asked_at = trio.current_time()
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        #: None, when it is done, if it could not be had.
        self.page: ListPage | None = None


class Load:
    """See the module.

    begun: the listing has some names already, which are the first page.  readers counts who wants to go on.
    patched: the listing may have names that are on no page.
    """

    def __init__(self, listing: Listing, *, begun: bool) -> None:
        self.listing = listing
        self.pages: list[Page] = []
        self.readers = 0
        self.patched = False
        #: Pages up to this one are wanted soon.
        self.wanted = 0
        #: Set while a page is on its way; whoever wants more waits for it first.
        self.loading: trio.Event | None = None
        #: Our own changes since the oldest page that is on its way was asked for.
        self._patches: list[Patch] = []
        #: By where they begin.
        self._aheads: list[Ahead] = []
        #: How many may be asked for ahead; more while guesses are right, one when one was not, none after a fault.
        self._trust = _FIRST
        #: Every so many-th name that was there some time ago.
        self._known: tuple[Sequence[str], int] = ((), 1)
        #: The last file that was listed.
        self._passed = ""
        #: Names that were on no page when the load began, as we made them ourselves.
        self._early: frozenset[str] = frozenset()
        if begun:
            entries, until = listing.entries(), listing.until
            self.pages.append(Page(entries, until))
            self._passed = max(listing.files, default="")
            self._early = frozenset(entry for entry in entries if until is not None and entry > until)

    @property
    def complete(self) -> bool:
        return bool(self.pages) and self.listing.until is None

    def patch(self, patch: Patch) -> None:
        """We changed the directory ourselves."""
        self.patched = True
        patch(self.listing)
        if self.loading is not None or self._aheads:
            self._patches.append(patch)

    async def advance(self, store: ObjectStore) -> None:
        """Ask for one more page.  Not while `loading`, and not when `complete`."""
        self.loading = trio.Event()
        try:
            if not await self._take_ahead():
                await self._ask(store)
        finally:
            if not self._aheads:
                self._patches.clear()
            self.loading.set()
            self.loading = None

    async def _ask(self, store: ObjectStore) -> None:
        """Ask for the page that comes behind what is there."""
        listing, asked_at, patches = self.listing, trio.current_time(), len(self._patches)
        after = listing.prefix + listing.until if listing.until is not None and listing.token is None else None
        try:
            page = await store.list_objects(listing.prefix, delimiter="/", start_after=after, token=listing.token)
        except StoreError:
            listing.token = None  # it may be what was wrong: the listing goes on behind the last name
            raise
        again = self.pages[-1].entries if after is not None else ()  # a directory where the page ended comes again
        self._take(page, asked_at, patches, self._early.union(again))

    def _take(self, page: ListPage, asked_at: float, patches: int, had: Collection[str]) -> None:
        entries = _put(self.listing, page, asked_at, had)
        self.pages.append(Page(entries, self.listing.until))
        for patch in self._patches[patches:]:
            patch(self.listing)
        if page.objects:
            self._passed = max(self._passed, page.objects[-1].key[len(self.listing.prefix) :])
        if self.complete:
            self.drop_aheads()

    # ---- pages that are asked for ahead -------------------------------------------------------------------------

    def know(self, names: Sequence[str], stride: int) -> None:
        """Every stride-th of the directory's files some time ago, in key order."""
        if len(names) * stride > len(self._known[0]) * self._known[1]:
            self._known = (names, stride)
            self._trust = _MOST_KNOWN

    def aheads(self) -> list[Ahead]:
        """Pages that are to be asked for ahead now, by `fetch`; they count as on their way."""
        most = _MOST_KNOWN if self._known[0] else _MOST
        room = min(self._trust, most, self.wanted - len(self.pages) - 1) - len(self._aheads)
        if room <= 0 or self.complete or not self._passed:
            return []
        behind = max(self._passed, self._aheads[-1].after if self._aheads else "")
        found = [Ahead(name, len(self._patches)) for name in self._starts(behind, room)]
        self._aheads += found
        return found

    def _starts(self, behind: str, count: int) -> list[str]:
        """Where pages begin, but for the one that follows `behind`: that is on its way already, or the next anyway."""
        if self._known[0]:
            return remembered(*self._known, behind, count, PAGE)
        if len(self.pages) < _LONG:
            return []
        files = [entry for entry in self.pages[-1].entries if not entry.endswith("/")]
        return extrapolated(files, behind, count, PAGE) if len(files) >= PAGE // 2 else []

    async def fetch(self, ahead: Ahead, store: ObjectStore) -> None:
        """Ask for a page ahead.  Its failure means that the listing comes to it by itself."""
        after = self.listing.prefix + ahead.after
        try:
            with ahead.scope:
                page = await store.list_objects(self.listing.prefix, delimiter="/", start_after=after)
                if all(info.key > after for info in page.objects):  # a server may know no start
                    ahead.page = page
        except StoreError as error:
            log.debug("a page that was asked for ahead is not used: %s", error)
        finally:
            ahead.done.set()

    def drop_aheads(self) -> None:
        """None of them is needed any more."""
        for ahead in self._aheads:
            ahead.scope.cancel()
        self._aheads.clear()

    async def _take_ahead(self) -> bool:
        """Take a page that begins before where the listing is by now; False if there is none."""
        begun = [ahead for ahead in self._aheads if ahead.after <= self._passed]
        if not begun:
            return False
        for ahead in begun[:-1]:  # there were fewer names than was thought
            self._trust = 1
            ahead.scope.cancel()
            self._aheads.remove(ahead)
        ahead = begun[-1]
        await ahead.done.wait()
        if ahead in self._aheads:
            self._aheads.remove(ahead)
        if not self._goes_on(ahead.page):
            self._trust = 0
            return False
        assert ahead.page is not None
        directories = (name + "/" for name in self.listing.dirs)
        self._take(ahead.page, ahead.asked_at, ahead.patches, self._early.union(self.pages[-1].entries, directories))
        self._trust *= 2
        return True

    def _goes_on(self, page: ListPage | None) -> bool:
        """Whether a page that was asked for ahead leads further than the listing is."""
        if page is None or page.next_token is None:
            return page is not None
        return bool(page.objects) and page.objects[-1].key > self.listing.prefix + self._passed


def _put(listing: Listing, page: ListPage, asked_at: float, had: Collection[str]) -> list[str]:
    """Put a page into its listing; what it has, in order, but for what was handed out already."""
    cut, files = len(listing.prefix), listing.files
    entries: list[str] = []
    for info in page.objects:
        component = info.key[cut:]
        if component:
            files[component] = pack(info)
        else:
            listing.marker = info
        if (component or info.size) and entries[-1:] != [component]:  # some server may name it twice
            entries.append(component)
    if page.prefixes:
        dirs = {prefix[cut:] for prefix in page.prefixes}
        listing.dirs.update(name[:-1] for name in dirs)
        entries = sorted([*entries, *dirs])
    listing.token = page.next_token
    if page.next_token is None:
        listing.reach(None, asked_at)
    else:
        # Without the slash: a server may put the directory `a/` where `a` stands, and list `a-b` behind it.
        ends = (*(info.key for info in page.objects[-1:]), *(prefix[:-1] for prefix in page.prefixes[-1:]))
        listing.reach(max(listing.until or "", max(ends)[cut:] if ends else ""), asked_at)
    return [entry for entry in entries if entry not in had] if had else entries
