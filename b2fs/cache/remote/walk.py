"""Walk: a flat listing in key order that fills the listings of many directories.

Keys below one prefix stand together, so a directory is complete when the listing has gone past its last key.  The
directories that the present key is in are *open*: a stack, outermost first.
"""

from __future__ import annotations

from dataclasses import dataclass

import trio

from b2fs.cache.remote.listing import Listing, pack
from b2fs.cache.remote.loading import Patch
from b2fs.core.keys import split_key
from b2fs.core.types import ObjectInfo
from b2fs.store.protocol import ObjectStore

#: Sorts behind every key that is in use.
_LAST = "\U0010fffd"


@dataclass(slots=True)
class _Open:
    """A directory that the walk is in; whole: it was entered at its beginning."""

    listing: Listing
    whole: bool


class Walk:
    """See the module.

    root is the prefix that is listed, start the directory in it where the walk begins; keys below skipped are left out.
    """

    def __init__(self, root: str, start: str, skipped: str) -> None:
        self._root = root
        self._skipped = skipped
        self._after: str | None = start or None
        self._token: str | None = None
        self.done = False
        #: Set while a page is on its way; whoever wants more waits for it first.
        self.loading: trio.Event | None = None
        #: Our own changes since the page on its way was asked for.
        self._patches: list[tuple[str, Patch]] = []
        now = trio.current_time()
        self._open = [_Open(Listing(prefix, now), False) for prefix in _between(root, start)]
        self._open.append(_Open(Listing(start, now, marker_seen=not start), True))
        self._last = start

    def open_listing(self, prefix: str) -> Listing | None:
        """The listing of a directory that was entered at its beginning and is not complete yet."""
        if self.done:
            return None
        return next((o.listing for o in self._open if o.whole and o.listing.prefix == prefix), None)

    def hand_over(self, prefix: str, least: int) -> Listing | None:
        """The listing of an open directory to be gone on with by itself, if so many names of it came without a subtree.

        That ends the walk.
        """
        listing = self.open_listing(prefix)
        if listing is None or len(listing.files) < least or listing.dirs or self.is_deep(prefix):
            return None
        self.done = True
        self._open = []  # the walk is remembered for a while, and a large listing with it
        listing.until = self._last[len(prefix) :]
        return listing

    def is_deep(self, prefix: str) -> bool:
        """Whether the walk is in a subdirectory of an open directory."""
        return "/" in self._last[len(prefix) :]

    def patch(self, prefix: str, patch: Patch) -> None:
        """We changed a directory ourselves."""
        for entry in self._open:
            if entry.listing.prefix == prefix:
                patch(entry.listing)
        if self.loading is not None:
            self._patches.append((prefix, patch))

    async def advance(self, store: ObjectStore) -> list[Listing]:
        """Ask for one more page; the listings that it completed.  Not while `loading`."""
        self.loading = trio.Event()
        asked_at = trio.current_time()
        try:
            page = await store.list_objects(
                self._root, start_after=self._after if self._token is None else None, token=self._token
            )
            completed = [listing for info in page.objects for listing in self._take(info, asked_at)]
            self._token = page.next_token
            if self._skipped and self._last.startswith(self._skipped):
                self._after, self._token = self._skipped + _LAST, None
            if page.next_token is None:
                self.done = True
                completed.extend(self._leave(""))
            for prefix, patch in self._patches:
                for listing in (*completed, *(entry.listing for entry in self._open)):
                    if listing.prefix == prefix:
                        patch(listing)
            return completed
        finally:
            self._patches.clear()
            self.loading.set()
            self.loading = None

    def _take(self, info: ObjectInfo, asked_at: float) -> list[Listing]:
        """Put one object where it belongs; the listings that end before it."""
        key = self._last = info.key
        cut = key.rfind("/") + 1
        completed: list[Listing] = []
        if cut != len(self._open[-1].listing.prefix) or not key.startswith(self._open[-1].listing.prefix):
            completed = self._enter(key[:cut], asked_at)
        listing = self._open[-1].listing
        if cut == len(key):
            listing.marker = info
        else:
            listing.files[key[cut:]] = pack(info)
        return completed

    def _enter(self, prefix: str, asked_at: float) -> list[Listing]:
        """Leave the directories that prefix is not in, and enter those that lead to it."""
        completed = self._leave(prefix)
        for below in [*_between(self._open[-1].listing.prefix, prefix)[1:], prefix]:
            above = self._open[-1].listing
            if below != above.prefix:
                above.dirs.add(below[len(above.prefix) : -1])
                self._open.append(_Open(Listing(below, asked_at), True))
        return completed

    def _leave(self, prefix: str) -> list[Listing]:
        completed: list[Listing] = []
        while self._open and not (prefix and prefix.startswith(self._open[-1].listing.prefix)):
            if len(self._open) == 1 and not self.done:
                break
            entry = self._open.pop()
            if entry.whole:
                completed.append(entry.listing)
        return completed


def _between(root: str, prefix: str) -> list[str]:
    """The directories from root (included) down to prefix (not included), outermost first."""
    found: list[str] = []
    while prefix != root:
        prefix = split_key(prefix)[0]
        found.append(prefix)
    return found[::-1]
