"""RemoteView: what the bucket holds, as last seen, by directory.

Knows nothing of local changes.  A listing is authoritative for its time to live, so a name that it does not have is
known to be absent without a request; our own finished changes are written into it.  "Unknown" is never "absent" (I4):
a listing that fails raises, and nothing is remembered.
Prefixes are full keys that end in '/' (or the empty string); components are single key components.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import trio
from cachetools import LRUCache, TTLCache

from b2fs.cache.parallel import open_flat_nursery
from b2fs.cache.remote.known import KnownAttributes
from b2fs.cache.remote.listing import NS, Found, Listing, pack
from b2fs.core.keys import split_key
from b2fs.core.types import ObjectInfo, ObjectRef
from b2fs.errors import NotFound
from b2fs.store.protocol import ObjectStore

#: How many versions of a key are looked through for one that was replaced.
_VERSIONS = 1000
#: What an empty listing costs of the rows that are remembered.
_LISTING_ROWS = 4


@dataclass(frozen=True, slots=True)
class RemoteConfig:
    """ttl_s: how long a listing is trusted.  The others: how much is remembered.

    max_rows: names in listings; a million of them take about 250 MB.
    max_points: answers for single names.  max_attributes: objects whose metadata is known.
    """

    ttl_s: float = 60.0
    max_rows: int = 1_200_000
    max_points: int = 50_000
    max_attributes: int = 200_000


_Patch = Callable[[Listing], None]


@dataclass(slots=True)
class _Load:
    """A listing under way, shared by all who wait for it; patches are our own changes made meanwhile."""

    started_at: float
    whole: bool
    done: trio.Event = field(default_factory=trio.Event)
    patches: list[_Patch] = field(default_factory=list)


class RemoteView:
    """See the module."""

    def __init__(self, store: ObjectStore, config: RemoteConfig) -> None:
        self._store = store
        self._config = config
        self._listings: LRUCache[str, Listing] = LRUCache(
            config.max_rows, getsizeof=lambda listing: min(len(listing) + _LISTING_ROWS, config.max_rows)
        )
        self._points: TTLCache[str, Found] = TTLCache(config.max_points, config.ttl_s, timer=trio.current_time)
        self._known = KnownAttributes(config.max_attributes)
        self._loads: dict[str, _Load] = {}

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
        """The whole directory."""
        listing = self.peek(prefix)
        if listing is not None and listing.until is None:
            return listing
        return await self._load(prefix, whole=True)

    async def head(self, info: ObjectInfo) -> ObjectInfo:
        """The same version with its metadata; asks for it unless it is known.

        Raises NotFound if the object is gone by now.
        """
        known = self.head_nowait(info)
        if known is not None:
            return known
        full = await self._store.head(info.key, version_id=info.ref.version_id)
        self._known.learn(full)
        return full

    def learned(self, info: ObjectInfo) -> None:
        """An answer other than to `head` told an object's metadata."""
        self._known.learn(info)

    def head_nowait(self, info: ObjectInfo) -> ObjectInfo | None:
        """The same version with its metadata if that is known."""
        return info if info.metadata is not None else self._known.complete(info)

    # ---- our own finished changes -------------------------------------------------------------------------------

    def note_object(self, info: ObjectInfo) -> None:
        """The bucket holds this version now: our upload or copy has been confirmed."""
        if info.metadata is not None:
            self._known.learn(info, uploaded=True)
        self._patch(info.key, lambda listing, component: listing.add(component, info))

    def note_absent(self, key: str) -> None:
        """The key was hidden or removed by us."""
        self._known.forget(key)
        self._patch(key, Listing.drop)

    def note_new_directory(self, prefix: str) -> None:
        """A directory that did not exist before was made here: nobody else's keys are below it."""
        self._listings[prefix] = Listing(prefix, trio.current_time())

    def forget(self, prefix: str) -> None:
        """Trust nothing below prefix any more: the next question goes to the bucket."""
        for known in [p for p in self._listings if p.startswith(prefix)]:
            del self._listings[known]
        for point in [p for p in self._points if p.startswith(prefix)]:
            del self._points[point]

    def _patch(self, key: str, patch: Callable[[Listing, str], None]) -> None:
        prefix, component = split_key(key)
        self._points.pop(key.removesuffix("/"), None)
        listing = self._listings.get(prefix)
        if listing is not None:
            patch(listing, component)
        load = self._loads.get(prefix)
        if load is not None:
            load.patches.append(lambda listing: patch(listing, component))

    # ---- asking the bucket --------------------------------------------------------------------------------------

    async def _load(self, prefix: str, *, whole: bool) -> Listing:
        load = self._loads.get(prefix)
        if load is not None and (load.whole or not whole):
            await load.done.wait()
            listing = self._listings.get(prefix)
            if listing is not None and listing.seen_at >= load.started_at:
                return listing
        return await self._load_alone(prefix, whole)

    async def _load_alone(self, prefix: str, whole: bool) -> Listing:
        load = _Load(trio.current_time(), whole)
        self._loads[prefix] = load
        try:
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
        listing = Listing(prefix, load.started_at)
        token: str | None = None
        cut = len(prefix)
        while True:
            page = await self._store.list_objects(prefix, delimiter="/", token=token)
            for info in page.objects:
                if info.key == prefix:
                    listing.marker = info
                else:
                    listing.files[info.key[cut:]] = pack(info)
            listing.dirs.update(p[cut:-1] for p in page.prefixes)
            token = page.next_token
            if token is None:
                return listing
            if not whole:
                listing.until = max(k[cut:] for k in (*(o.key for o in page.objects[-1:]), *page.prefixes[-1:]))
                return listing

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
