"""RemoteView: what the bucket holds, as last seen, by directory.

Knows nothing of local changes.  A listing is authoritative for its time to live, so a name that it does not have is
known to be absent without a request; our own finished changes are written into it.  "Unknown" is never "absent" (I4):
a listing that fails raises, and nothing is remembered.
Prefixes are full keys that end in '/' (or the empty string); components are single key components.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import trio
from cachetools import LRUCache, TTLCache

from b2fs.cache.parallel import open_flat_nursery
from b2fs.cache.remote.known import KnownAttributes, Row
from b2fs.cache.remote.links import LinkNames
from b2fs.cache.remote.listing import NS, Found, Listing, pack
from b2fs.cache.remote.sides import SideObjects
from b2fs.cache.remote.walk import Patch, Walk
from b2fs.core.attrs import carries_posix
from b2fs.core.keys import split_key
from b2fs.core.types import ObjectInfo, ObjectRef
from b2fs.errors import NotFound
from b2fs.store.protocol import ObjectStore

#: How many versions of a key are looked through for one that was replaced.
_VERSIONS = 1000
#: A directory that is listed within this time after its parent is part of a tree walk, in seconds.
_WALK_S = 10.0
_WALKS = 4
#: A page of a listing costs as much as this many single questions.
_WORTH_A_PAGE = 10
#: What an empty listing costs of the rows that are remembered.
_LISTING_ROWS = 4


@dataclass(frozen=True, slots=True)
class RemoteConfig:
    """ttl_s: how long a listing is trusted.  The others: how much is remembered.

    max_rows: names in listings; a million of them take about 250 MB.
    max_points: answers for single names.  max_attributes: objects whose metadata is known.
    reserved: the prefix of our own objects, which tree walks leave out.
    """

    ttl_s: float = 60.0
    max_rows: int = 1_200_000
    max_points: int = 50_000
    max_attributes: int = 200_000
    reserved: str = ""


@dataclass(slots=True)
class _Load:
    """A listing under way, shared by all who wait for it; patches are our own changes made meanwhile."""

    started_at: float
    whole: bool
    done: trio.Event = field(default_factory=trio.Event)
    patches: list[Patch] = field(default_factory=list)


class AttributeSource(Protocol):
    """Where attributes come from beside the objects themselves."""

    async def load(self, prefix: str) -> None:
        """Make what is there about a directory's entries known; never fails."""
        ...

    def note(self, key: str, row: Row | None) -> None:
        """An object is known to carry this, or (None) is gone."""
        ...


class NoAttributes:
    """There is nothing but the objects."""

    async def load(self, prefix: str) -> None:
        """Nothing is known."""

    def note(self, key: str, row: Row | None) -> None:
        """Nobody wants to know."""


class RemoteView:
    """See the module."""

    def __init__(self, store: ObjectStore, config: RemoteConfig) -> None:
        self._store = store
        self._config = config
        self._listings: LRUCache[str, Listing] = LRUCache(
            config.max_rows, getsizeof=lambda listing: min(listing.count + _LISTING_ROWS, config.max_rows)
        )
        self._points: TTLCache[str, Found] = TTLCache(config.max_points, config.ttl_s, timer=trio.current_time)
        self.known = KnownAttributes(config.max_attributes)
        self.attributes: AttributeSource = NoAttributes()
        self.links = LinkNames(store, config.reserved.removesuffix(".b2fs/"), config.ttl_s)
        self.sides = SideObjects(store, f"{config.reserved}dirs/", config.ttl_s)
        self._loads: dict[str, _Load] = {}
        #: Directories that were listed as a whole lately, and flat listings that may go on.
        self._scanned: TTLCache[str, None] = TTLCache(4096, _WALK_S, timer=trio.current_time)
        self._walks: deque[Walk] = deque(maxlen=_WALKS)

    # ---- questions ----------------------------------------------------------------------------------------------

    def peek(self, prefix: str) -> Listing | None:
        """The listing of prefix if it is still trusted."""
        listing = self._listings.get(prefix)
        if listing is None or trio.current_time() - listing.seen_at > self._config.ttl_s:
            return None
        return listing

    def ttl_left(self, seen_at: float) -> float:
        return max(0.0, seen_at + self._config.ttl_s - trio.current_time())

    def find_nowait(self, prefix: str, component: str) -> Found | None:
        """What the name stands for if that is known without a request."""
        listing = self.peek(prefix)
        found = listing.find(component) if listing is not None else None
        return found if found is not None else self._points.get(prefix + component)

    async def find(self, prefix: str, component: str) -> Found:
        """What the name stands for.  One listing page answers it and its siblings; checkpoints unless known."""
        found = self.find_nowait(prefix, component)
        if found is not None:
            return found
        if self.peek(prefix) is None:
            listing = await self._load(prefix, whole=False)
            found = listing.find(component)
            if found is not None:
                return found
        return await self._find_point(prefix, component)

    async def listing(self, prefix: str) -> Listing:
        """The whole directory.  When its parent was listed just before, a whole tree is probably being walked."""
        listing = self.peek(prefix)
        top = self._walked_tree(prefix)
        self._scanned[prefix] = None
        if listing is not None and listing.until is None:
            return listing
        if top is not None:
            listing = await self._walk_to(prefix, top)
            if listing is not None:
                return listing
        return await self._load(prefix, whole=True)

    async def enter(self, prefix: str) -> None:
        """Find out about a directory's marker, and its first names along with it: who enters it needs them next."""
        if not self.marker(prefix)[0]:
            await self._load(prefix, whole=False)

    def marker(self, prefix: str) -> tuple[bool, ObjectInfo | None]:
        """Whether it is known if a directory has an object of its own, and that object."""
        listing = self.peek(prefix)
        for walk in self._walks if listing is None else ():
            listing = listing or walk.open_listing(prefix)
        return (True, listing.marker) if listing is not None and listing.marker_seen else (False, None)

    async def survey(self, prefix: str, markers: Collection[str]) -> None:
        """Find out about the markers of many directories below prefix, as long as a flat listing tells of many."""
        walk = Walk(prefix, prefix, self._config.reserved)
        self._walks.append(walk)
        unknown = set(markers)
        while len(unknown) >= _WORTH_A_PAGE and not walk.done:
            await self._advance(walk)
            left = {key for key in unknown if not self.marker(key)[0]}
            if len(unknown) - len(left) < _WORTH_A_PAGE:
                break
            unknown = left

    async def head(self, info: ObjectInfo) -> ObjectInfo:
        """The same version with its metadata; asks for it unless it is known.

        Raises NotFound if the object is gone by now.
        """
        known = self.head_nowait(info)
        if known is not None:
            return known
        full = await self._store.head(info.key, version_id=info.ref.version_id)
        self.learned(full)
        return full

    def learned(self, info: ObjectInfo) -> None:
        """An answer told an object's metadata, which is not None."""
        row = self.known.learn(info)
        if carries_posix(info.metadata or {}):
            self.attributes.note(info.key, row)

    def head_nowait(self, info: ObjectInfo) -> ObjectInfo | None:
        """The same version with its metadata if that is known."""
        return info if info.metadata is not None else self.known.complete(info)

    # ---- our own finished changes -------------------------------------------------------------------------------

    def note_object(self, info: ObjectInfo) -> None:
        """The bucket holds this version now: our upload or copy has been confirmed."""
        if info.metadata is not None:
            self.attributes.note(info.key, self.known.learn(info, uploaded=True))
        self._patch(info.key, lambda listing, component: listing.add(component, info))
        if info.key.endswith("/"):
            self._patch_listing(info.key, partial(_set_marker, info))
            self._touch_side(info.key)

    def note_absent(self, key: str) -> None:
        """The key was hidden or removed by us."""
        self.known.forget(key)
        self.attributes.note(key, None)
        self._patch(key, Listing.drop)
        if key.endswith("/"):
            self._patch_listing(key, partial(_set_marker, None))
            self._touch_side(key)

    def note_new_directory(self, prefix: str) -> None:
        """A directory that did not exist before was made here: nobody else's keys are below it."""
        self._listings[prefix] = Listing(prefix, trio.current_time())
        self._walks.clear()

    def forget_name(self, prefix: str, component: str) -> None:
        """Trust nothing about one name and what is below it any more."""
        self._listings.pop(prefix, None)
        self._points.pop(prefix + component, None)
        self.forget(f"{prefix}{component}/")

    def forget(self, prefix: str) -> None:
        """Trust nothing below prefix any more: the next question goes to the bucket."""
        for known in [p for p in self._listings if p.startswith(prefix)]:
            del self._listings[known]
        for point in [p for p in self._points if p.startswith(prefix)]:
            del self._points[point]
        self.sides.refresh()
        self.links.refresh()
        self._walks.clear()

    def _patch(self, key: str, patch: Callable[[Listing, str], None]) -> None:
        prefix, component = split_key(key)
        self._points.pop(key.removesuffix("/"), None)
        self._patch_listing(prefix, lambda listing: patch(listing, component))

    def _touch_side(self, key: str) -> None:
        self.sides.touched(f"{self._config.reserved}dirs/{key[:-1]}")

    def _patch_listing(self, prefix: str, patch: Patch) -> None:
        listing = self._listings.get(prefix)
        if listing is not None:
            patch(listing)
        load = self._loads.get(prefix)
        if load is not None:
            load.patches.append(patch)
        for walk in self._walks:
            walk.patch(prefix, patch)

    # ---- asking the bucket --------------------------------------------------------------------------------------

    async def _load(self, prefix: str, *, whole: bool) -> Listing:
        load = self._loads.get(prefix)
        if load is not None and (load.whole or not whole):
            await load.done.wait()
            listing = self.peek(prefix)
            if listing is not None and (listing.until is None or not whole):
                return listing
        return await self._load_alone(prefix, whole)

    async def _load_alone(self, prefix: str, whole: bool) -> Listing:
        load = _Load(trio.current_time(), whole)
        self._loads[prefix] = load
        try:
            async with open_flat_nursery() as nursery:
                nursery.start_soon(self.attributes.load, prefix)
                listing = await self._fetch(prefix, load, whole)
            for patch in load.patches:
                patch(listing)
            self._listings[prefix] = listing
            return listing
        finally:
            if self._loads.get(prefix) is load:
                del self._loads[prefix]
            load.done.set()

    async def _fetch(self, prefix: str, load: _Load, whole: bool) -> Listing:
        known = self.peek(prefix)
        goes_on = whole and known is not None and known.token is not None
        listing = known if goes_on and known is not None else Listing(prefix, load.started_at)
        cut = len(prefix)
        while True:
            page = await self._store.list_objects(prefix, delimiter="/", token=listing.token)
            for info in page.objects:
                if info.key == prefix:
                    listing.marker = info
                else:
                    listing.files[info.key[cut:]] = pack(info)
            listing.dirs.update(p[cut:-1] for p in page.prefixes)
            listing.token = page.next_token
            if page.next_token is None:
                listing.until = None
                return listing
            listing.until = max(k[cut:] for k in (*(o.key for o in page.objects[-1:]), *page.prefixes[-1:]))
            if not whole:
                return listing

    # ---- flat listings ------------------------------------------------------------------------------------------

    def _walked_tree(self, prefix: str) -> str | None:
        """The topmost of the directories above prefix that were listed lately one below the other."""
        top: str | None = None
        while prefix and self._config.ttl_s >= 1:
            prefix = split_key(prefix)[0]
            if prefix not in self._scanned:
                break
            top = prefix
        return top

    async def _walk_to(self, prefix: str, top: str) -> Listing | None:
        """The listing of a directory by flat pages; None where another way is cheaper."""
        walk = next((walk for walk in self._walks if self._goes_on(walk, prefix)), None)
        if walk is None:
            walk = Walk(top, prefix, self._config.reserved)
            self._walks.append(walk)
        while True:
            if walk.loading is not None:
                await walk.loading.wait()
                listing = self.peek(prefix)
            else:
                listing = next((done for done in await self._advance(walk) if done.prefix == prefix), None)
            if listing is not None and listing.until is None:
                return listing
            if walk.loading is None and (walk.open_listing(prefix) is None or walk.is_deep(prefix)):
                return None

    def _goes_on(self, walk: Walk, prefix: str) -> bool:
        listing = walk.open_listing(prefix)
        return listing is not None and self.ttl_left(listing.seen_at) > 0

    async def _advance(self, walk: Walk) -> list[Listing]:
        completed = await walk.advance(self._store)
        if walk in self._walks:
            for listing in completed:
                known = self._listings.get(listing.prefix)
                if known is None or known.seen_at <= listing.seen_at:
                    self._listings[listing.prefix] = listing
        return completed

    # ---- single keys --------------------------------------------------------------------------------------------

    async def find_version(self, ref: ObjectRef, modified_ns: int) -> ObjectRef:
        """The version that a listing once showed as ref, which is not the current one any more.

        Raises NotFound if it is gone for good, or the server keeps no versions.
        """
        gone = f"{ref.key}: the version that was seen is gone"
        if not self._store.capabilities.versioning:
            raise NotFound(gone)
        page = await self._store.list_versions(ref.key, max_keys=_VERSIONS)
        fitting = [
            version
            for version in page.versions
            if not version.is_hide_marker
            and (version.ref.key, version.ref.etag, version.ref.size) == (ref.key, ref.etag, ref.size)
        ]
        exact = [version for version in fitting if version.modified_ns // NS == modified_ns // NS]
        for version in (*exact, *fitting):
            return version.ref
        raise NotFound(gone)

    async def _find_point(self, prefix: str, component: str) -> Found:
        key = prefix + component
        seen_at = trio.current_time()
        file: ObjectInfo | None = None
        is_dir = False

        async def find_file() -> None:
            nonlocal file
            try:
                file = await self._store.head(key)
            except NotFound:
                file = None

        async def find_dir() -> None:
            nonlocal is_dir
            is_dir = bool((await self._store.list_objects(key + "/", max_keys=1)).objects)

        async with open_flat_nursery() as nursery:
            nursery.start_soon(find_file)
            nursery.start_soon(find_dir)
        found = Found(file, is_dir, seen_at)
        self._points[key] = found
        return found


def _set_marker(info: ObjectInfo | None, listing: Listing) -> None:
    listing.marker, listing.marker_seen = info, True
