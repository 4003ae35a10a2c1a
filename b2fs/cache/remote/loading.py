"""Load: one directory being listed page by page, shared by all who want it.

Pages may be used while later ones are on their way.  What we change ourselves meanwhile is put into the listing at
once, and again behind a page that was asked for before, since that page may not show it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import trio

from b2fs.cache.remote.listing import Listing, pack
from b2fs.core.types import ListPage
from b2fs.errors import StoreError
from b2fs.store.protocol import ObjectStore

Patch = Callable[[Listing], None]


class Page(NamedTuple):
    """What it has, as Listing.entries gives it, and how far the listing went with it: None to the end."""

    entries: list[str]
    until: str | None


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
        self._patches: list[Patch] = []
        if begun:
            self.pages.append(Page(listing.entries(), listing.until))

    @property
    def complete(self) -> bool:
        return bool(self.pages) and self.listing.until is None

    def patch(self, patch: Patch) -> None:
        """We changed the directory ourselves."""
        self.patched = True
        patch(self.listing)
        if self.loading is not None:
            self._patches.append(patch)

    async def advance(self, store: ObjectStore) -> None:
        """Ask for one more page.  Not while `loading`, and not when `complete`."""
        self.loading = trio.Event()
        listing, asked_at = self.listing, trio.current_time()
        after = listing.prefix + listing.until if listing.until is not None and listing.token is None else None
        try:
            page = await store.list_objects(listing.prefix, delimiter="/", start_after=after, token=listing.token)
            self.pages.append(Page(_take(listing, page, asked_at), listing.until))
            for patch in self._patches:
                patch(listing)
        except StoreError:
            listing.token = None  # it may be what was wrong: the listing goes on behind the last name
            raise
        finally:
            self._patches.clear()
            self.loading.set()
            self.loading = None


def _take(listing: Listing, page: ListPage, asked_at: float) -> list[str]:
    """Put a page into its listing; what it has, in order."""
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
        ends = (*(info.key for info in page.objects[-1:]), *page.prefixes[-1:])
        listing.reach(max(ends)[cut:] if ends else listing.until or "", asked_at)
    return entries
