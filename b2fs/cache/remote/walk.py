"""Walk: a flat listing that fills the listings of many directories.

Keys below one prefix stand together, so a directory is complete when the listing has gone past its last key.  Of `a/x`
and `a-b` either may come first: S3 puts the slash among the other characters, some servers (SeaweedFS) list directory
by directory.  So a page is taken as a set, and a directory is complete if it is not the last one in either order.  The
others are *open*.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        self.root = root
        self._skipped = skipped
        self._after: str | None = start or None
        self._token: str | None = None
        self.done = False
        #: What the latest page completed and nobody has opened yet, and how much it was.
        self.latest: dict[str, None] = {}
        self._completed = 0
        #: Set while a page is on its way; whoever wants more waits for it first.
        self.loading: trio.Event | None = None
        #: Our own changes since the page on its way was asked for.
        self._patches: list[tuple[str, Patch]] = []
        #: The directories in which we made changes while the latest page was on its way.
        self.changed: set[str] = set()
        now = trio.current_time()
        #: By prefix.
        self._open = {prefix: _Open(Listing(prefix, now), False) for prefix in _between(root, start)}
        self._open[start] = _Open(Listing(start, now, marker_seen=not start), True)
        #: The last key of the latest page, in either order.
        self._ends = (start, start)

    def open_listing(self, prefix: str) -> Listing | None:
        """The listing of a directory that was entered at its beginning and is not complete yet."""
        entry = self._open.get(prefix)
        return entry.listing if entry is not None and entry.whole and not self.done else None

    def opened(self, prefix: str) -> bool:
        """A directory is being read; whether enough of the latest page was used now to ask for the next one."""
        if prefix not in self.latest:
            return False
        del self.latest[prefix]
        return not self.done and self.loading is None and 4 * len(self.latest) <= 3 * self._completed

    def hand_over(self, prefix: str, least: int) -> Listing | None:
        """The listing of an open directory to be gone on with by itself, if so many names of it came without a subtree.

        That ends the walk.
        """
        listing = self.open_listing(prefix)
        if listing is None or len(listing.files) < least or listing.dirs:
            return None
        if not all(split_key(end)[0] == prefix for end in self._ends):
            return None
        self.done = True
        self._open = {}  # the walk is remembered for a while, and a large listing with it
        listing.until = self._ends[0][len(prefix) :]
        return listing

    def is_deep(self, prefix: str) -> bool:
        """Whether the walk may be in a subdirectory of an open directory."""
        return any(end.startswith(prefix) and "/" in end[len(prefix) :] for end in self._ends)

    def patch(self, prefix: str, patch: Patch) -> None:
        """We changed a directory ourselves."""
        entry = self._open.get(prefix)
        if entry is not None:
            patch(entry.listing)
        if self.loading is not None:
            self._patches.append((prefix, patch))
            self.changed.add(prefix)

    async def advance(self, store: ObjectStore) -> list[Listing]:
        """Ask for one more page; the listings that it completed.  Not while `loading`, and not when `done`."""
        self.loading = trio.Event()
        self.changed.clear()
        asked_at = trio.current_time()
        try:
            page = await store.list_objects(
                self.root, start_after=self._after if self._token is None else None, token=self._token
            )
            self._take(page.objects, asked_at)
            self._token = page.next_token
            if self._skipped and all(end.startswith(self._skipped) for end in self._ends):
                self._after, self._token = self._skipped + _LAST, None
            self.done = page.next_token is None
            for prefix, patch in self._patches:
                entry = self._open.get(prefix)
                if entry is not None:
                    patch(entry.listing)
            completed = self._leave()
            self.latest = dict.fromkeys(listing.prefix for listing in completed)
            self._completed = len(completed)
            return completed
        finally:
            self._patches.clear()
            self.loading.set()
            self.loading = None

    def _take(self, objects: Sequence[ObjectInfo], asked_at: float) -> None:
        """Put objects where they belong."""
        prefix, listing = None, Listing("", 0.0)
        for info in objects:
            key = info.key
            cut = key.rfind("/") + 1
            if prefix is None or cut != len(prefix) or not key.startswith(prefix):
                prefix = key[:cut]
                listing = self._enter(prefix, asked_at)
            if cut == len(key):
                listing.marker = info
            else:
                listing.files[key[cut:]] = pack(info)
        if objects:
            self._ends = objects[-1].key, max((info.key for info in objects), key=_by_component)

    def _enter(self, prefix: str, asked_at: float) -> Listing:
        """The listing of a directory, which is open from now on, as those are that lead to it."""
        entry = self._open.get(prefix)
        if entry is None:
            entry = self._open[prefix] = _Open(Listing(prefix, asked_at), True)
            if prefix != self.root:
                above, component = split_key(prefix)
                self._enter(above, asked_at).dirs.add(component[:-1])
        return entry.listing

    def _leave(self) -> list[Listing]:
        """Close the directories that are complete, and return their listings as far as they are whole."""
        left = [prefix for prefix in self._open if self.done or not any(end.startswith(prefix) for end in self._ends)]
        closed = [self._open.pop(prefix) for prefix in left]
        return [entry.listing for entry in closed if entry.whole]


def _by_component(key: str) -> list[str]:
    return key.split("/")


def _between(root: str, prefix: str) -> list[str]:
    """The directories from root (included) down to prefix (not included), outermost first."""
    found: list[str] = []
    while prefix != root:
        prefix = split_key(prefix)[0]
        found.append(prefix)
    return found[::-1]
