"""RemoteView: what the bucket holds, as last seen, by directory.

Knows nothing of local changes.  A listing is authoritative for its time to live, so a name that it does not have is
known to be absent without a request; our own finished changes are written into it.  "Unknown" is never "absent" (I4):
a listing that fails raises, and nothing is remembered.
Prefixes are full keys that end in '/' (or the empty string); components are single key components.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple

import trio
from cachetools import LRUCache, TTLCache

from b2fs.cache.parallel import open_flat_nursery
from b2fs.cache.remote.history import find_version
from b2fs.cache.remote.known import AttributeSource, KnownAttributes, NoAttributes
from b2fs.cache.remote.links import LinkNames
from b2fs.cache.remote.listing import Found, Listing
from b2fs.cache.remote.loading import Load, Patch
from b2fs.cache.remote.saved import Saved
from b2fs.cache.remote.sides import SideObjects
from b2fs.cache.remote.walks import LARGE, Known, Walks
from b2fs.core.attrs import carries_posix
from b2fs.core.keys import split_key
from b2fs.core.types import ObjectInfo, ObjectRef
from b2fs.errors import NotFound, StoreError
from b2fs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

#: So many pages are asked for before somebody wants them.
_AHEAD = 8
#: What an empty listing costs of the rows that are remembered.
_LISTING_ROWS = 4


class RemoteConfig(NamedTuple):
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


class RemoteView:
    """See the module."""

    def __init__(self, store: ObjectStore, config: RemoteConfig) -> None:
        self._store = store
        self._config = config
        self._listings: LRUCache[str, Listing] = LRUCache(
            config.max_rows, getsizeof=lambda listing: min(listing.count + _LISTING_ROWS, config.max_rows)
        )
        self._points: TTLCache[str, Found] = TTLCache(config.max_points, config.ttl_s, timer=trio.current_time)
        #: Keys that are being asked for by themselves, and of each the question whose answer is to be remembered.
        self._asked: dict[str, object] = {}
        self.known = KnownAttributes(config.max_attributes)
        self.attributes: AttributeSource = NoAttributes()
        self.links = LinkNames(store, config.reserved.removesuffix(".b2fs/"), config.ttl_s)
        self.sides = SideObjects(store, f"{config.reserved}dirs/", config.ttl_s, partial(self._lacks, "dirs"))
        #: What is being read: all loads of a directory, and the one that the next reader joins.
        self._reading: dict[str, list[Load]] = {}
        self._loads: dict[str, Load] = {}
        self._nursery: trio.Nursery | None = None
        self.walks = Walks(store, Known(self.peek, self._keep, self.ttl_left), config.reserved, config.ttl_s)

    # ---- questions ----------------------------------------------------------------------------------------------

    def peek(self, prefix: str) -> Listing | None:
        """The listing of prefix if it is still trusted."""
        listing = self._listings.get(prefix)
        return listing if listing is not None and self._is_trusted(listing.seen_at) else None

    def last(self, prefix: str) -> Listing | None:
        """The listing of prefix that was seen last, however old it is."""
        return self._listings.get(prefix)

    def _keep(self, listing: Listing) -> None:
        self._listings[listing.prefix] = listing

    def _is_trusted(self, seen_at: float) -> bool:
        return trio.current_time() - seen_at <= self._config.ttl_s

    def ttl_left(self, seen_at: float) -> float:
        return max(0.0, seen_at + self._config.ttl_s - trio.current_time())

    def find_nowait(self, prefix: str, component: str) -> Found | None:
        """What the name stands for if that is known without a request."""
        listing = self._listings.get(prefix)
        found = listing.find(component) if listing is not None else None
        if found is not None and self._is_trusted(found.seen_at):
            return found
        return self._points.get(prefix + component)

    async def find(self, prefix: str, component: str) -> Found:
        """What the name stands for.  One listing page answers it and its siblings; checkpoints unless known."""
        found = self.find_nowait(prefix, component)
        if found is not None:
            return found
        if self.peek(prefix) is None:
            found = (await self._begin(prefix)).find(component)
            if found is not None:
                return found
        return await self._find_point(prefix, component)

    async def listing(self, prefix: str) -> Listing:
        """The whole directory."""
        load = await self.open(prefix)
        try:
            while not load.complete:
                await self.more(load, len(load.pages))
            return load.listing
        finally:
            self.close(load)

    async def open(self, prefix: str) -> Load:
        """A directory to be read page by page; give it to `close` in the end.

        When its parent was listed just before, a whole tree is probably being walked.
        """
        known = self.peek(prefix)
        begun = known is not None and (known.until is None or len(known.files) >= LARGE // 2)
        # What is known may be forgotten while the walk is waited for, and hears of no changes then.
        known = await self.walks.read(prefix, known=begun) or self.peek(prefix)
        self.walks.go_on(prefix, self._nursery)
        load = self._join(prefix, known)
        try:
            await self._first(load)
            await self.more(load, 0)
        except BaseException:
            self.close(load)
            raise
        return load

    async def more(self, load: Load, have: int) -> None:
        """Wait until a load is complete or has more than so many pages; the next ones are asked for behind it."""
        load.wanted = max(load.wanted, have + 1 + _AHEAD)
        await self._wait_page(load, have)
        if self._nursery is not None and load.loading is None and not load.complete:
            self._nursery.start_soon(self._run_ahead, load)

    def close(self, load: Load) -> None:
        """Somebody who opened a directory needs no more pages."""
        load.readers -= 1
        self._drop_if_unused(load)

    def _drop_if_unused(self, load: Load) -> None:
        """A load with a page on its way is kept: another one on the same listing would not hear of that page."""
        prefix = load.listing.prefix
        if load.readers or load.loading is not None or load not in self._reading.get(prefix, ()):
            return
        self._reading[prefix].remove(load)
        if not self._reading[prefix]:
            del self._reading[prefix]
        if self._loads.get(prefix) is load:
            del self._loads[prefix]
        load.drop_aheads()

    async def run(self) -> None:
        """Ask ahead for pages of long listings, until cancelled; without it each is asked for when it is wanted."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def look_ahead(self, prefix: str) -> None:
        """Ask for what whoever enters the root will need first; nothing if that is known from before."""
        if self.peek(prefix) is not None:
            return
        try:
            async with open_flat_nursery() as nursery:
                # What stands at the place of our own objects mostly is known by now.
                if self.find_nowait(self._config.reserved, "attrs") is None:
                    await self._begin(prefix)
                else:
                    nursery.start_soon(self._begin, prefix)
                nursery.start_soon(self.load_attributes, prefix)
                nursery.start_soon(self._load_sides)
        except StoreError as error:
            log.debug("the root is listed when somebody asks for it: %s", error)

    async def _load_sides(self) -> None:
        if self._lacks("dirs"):
            return
        await self._store.wait_known()
        if not self._store.capabilities.marker_metadata:
            await self.sides.load()

    async def enter(self, prefix: str, siblings: Collection[str] = ()) -> None:
        """Find out about a directory's marker, and its first names along with it: who enters it needs them next.

        siblings are directories beside it that will probably be entered as well.
        """
        if self.marker(prefix)[0]:
            return
        unknown = [sibling for sibling in siblings if not self.marker(sibling)[0]]
        if not unknown:
            await self._begin(prefix)
            return
        async with open_flat_nursery() as nursery:
            nursery.start_soon(self.walks.fill, split_key(prefix)[0], unknown)
            await self._begin(prefix)

    def marker(self, prefix: str) -> tuple[bool, ObjectInfo | None]:
        """Whether it is known if a directory has an object of its own, and that object."""
        listing = self._marker_listing(prefix)
        return (True, listing.marker) if listing is not None else (False, None)

    def marker_seen_at(self, prefix: str) -> float:
        """When what `marker` tells was so, in trio time; minus infinity if it is not known."""
        listing = self._marker_listing(prefix)
        return listing.seen_at if listing is not None else -math.inf

    def _marker_listing(self, prefix: str) -> Listing | None:
        """The listing that tells whether a directory has an object of its own."""
        listing = self.peek(prefix) or next(self.walks.open_listings(prefix), None)
        return listing if listing is not None and listing.marker_seen else None

    async def survey(self, prefix: str, markers: Collection[str]) -> None:
        """Find out about the markers of many directories below prefix, as long as a flat listing tells of many."""
        await self.walks.survey(prefix, markers, lambda: [key for key in markers if not self.marker(key)[0]])

    async def load_attributes(self, prefix: str) -> bool:
        """Make what there is about a directory's entries beside the objects known; False if that is certainly nothing.

        Checkpoint: only if it asks.
        """
        if self._lacks("attrs"):
            return False
        await self.attributes.load(prefix)
        return True

    def _lacks(self, place: str) -> bool:
        """Whether the bucket is known to hold none of our own objects of a kind, so that none needs to be asked for."""
        prefix, component = split_key(self._config.reserved)
        found = self.find_nowait(prefix, component[:-1]) if component else None
        if found is None or found.is_dir:
            found = self.find_nowait(self._config.reserved, place)
        return found is not None and not found.is_dir

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

    # ---- over a remount -----------------------------------------------------------------------------------------

    def listings(self) -> list[Listing]:
        """The whole listings that are trusted, the latest first."""
        whole = [known for known in self._listings.values() if known.until is None and self._is_trusted(known.seen_at)]
        return sorted(whole, key=lambda listing: -listing.seen_at)

    def restore(self, saved: Saved) -> None:
        """Take up what an earlier mount knew; listings count from now on by their age."""
        now = trio.current_time()
        for listing in reversed(saved.listings):
            listing.seen_at += now
            if self._is_trusted(listing.seen_at):
                self._listings[listing.prefix] = listing
        for key, row in saved.rows.items():
            self.known.put(key, row)

    # ---- our own finished changes -------------------------------------------------------------------------------

    def note_object(self, info: ObjectInfo) -> None:
        """The bucket holds this version now: our upload or copy has been confirmed."""
        if info.metadata is not None:
            self.attributes.note(info.key, self.known.learn(info, uploaded=True))
        self._patch(info.key, lambda listing, component: listing.add(component, info))
        self._note_above(info)
        if info.key.endswith("/"):
            self._patch_listing(info.key, partial(_set_marker, info))
            self._touch_side(info.key)

    def _note_above(self, info: ObjectInfo) -> None:
        """The directories above a key are there, also those that have no object of their own."""
        directory, _ = split_key(info.key)
        while directory:
            parent, component = split_key(directory)
            listing = self._listings.get(parent)
            known = listing is not None and component[:-1] in listing.dirs
            if not known or self._reading or self.walks:
                self._patch(directory, lambda listing, component: listing.add(component, info))
            directory = parent

    def note_absent(self, key: str) -> None:
        """The key was hidden or removed by us."""
        self.known.forget(key)
        self.attributes.note(key, None)
        self._patch(key, Listing.drop)
        if key.endswith("/"):
            self._patch_listing(key, partial(_set_marker, None))
            self._touch_side(key)

    def note_kept(self, key: str) -> None:
        """The bucket still holds what it held under a key that we had taken for gone: the next listing shows it."""
        prefix, _ = split_key(key)
        for directory in (prefix, key):
            self._listings.pop(directory, None)
            self._loads.pop(directory, None)
        self._forget_point(key.removesuffix("/"))
        self.walks.forget()

    def note_new_directory(self, prefix: str) -> None:
        """A directory that did not exist before was made here: nobody else's keys are below it."""
        self._listings[prefix] = Listing(prefix, trio.current_time())
        self._loads.pop(prefix, None)
        self.walks.forget()

    def forget_name(self, prefix: str, component: str) -> None:
        """Trust nothing about one name and what is below it any more."""
        self._listings.pop(prefix, None)
        self._loads.pop(prefix, None)
        self._forget_point(prefix + component)
        self.forget(f"{prefix}{component}/")

    def forget(self, prefix: str) -> None:
        """Trust nothing below prefix any more: the next question goes to the bucket."""
        for known in [p for p in self._listings if p.startswith(prefix) or p == self._config.reserved]:
            del self._listings[known]
        for loading in [p for p in self._loads if p.startswith(prefix)]:
            del self._loads[loading]  # who reads it goes on with it, and nobody else
        for point in [p for p in (*self._points, *self._asked) if p.startswith(prefix)]:
            self._forget_point(point)
        self.sides.refresh()
        self.links.refresh()
        self.walks.forget()

    def _patch(self, key: str, patch: Callable[[Listing, str], None]) -> None:
        prefix, component = split_key(key)
        self._forget_point(key.removesuffix("/"))
        self._patch_listing(prefix, lambda listing: patch(listing, component))

    def _forget_point(self, key: str) -> None:
        """Whatever was, or will be, answered to questions for one key until now says nothing any more."""
        self._points.pop(key, None)
        self._asked.pop(key, None)

    def _touch_side(self, key: str) -> None:
        self.sides.touched(f"{self._config.reserved}dirs/{key[:-1]}")

    def _patch_listing(self, prefix: str, patch: Patch) -> None:
        listing = self._listings.get(prefix)
        if listing is not None:
            patch(listing)
        for load in self._reading.get(prefix, ()):
            load.patch(patch)
        self.walks.patch(prefix, patch)

    # ---- asking the bucket --------------------------------------------------------------------------------------

    async def _begin(self, prefix: str) -> Listing:
        """The first page of a directory, or all of it."""
        load = self._join(prefix, self.peek(prefix))
        try:
            await self._first(load)
            return load.listing
        finally:
            self.close(load)

    def _join(self, prefix: str, known: Listing | None) -> Load:
        """The load of a directory that is under way, or a new one that goes on from what is known."""
        load = self._loads.get(prefix)
        if known is not None and known.until is None:
            load = Load(known, begun=True)
        elif load is None or not self._is_trusted(load.listing.seen_at):
            load = Load(known or Listing(prefix, trio.current_time()), begun=known is not None)
            old = self._listings.get(prefix)
            if old is not None and old.until is None and old is not known:
                load.know(sorted(old.files), 1)
            self._loads[prefix] = load
        load.readers += 1
        reading = self._reading.setdefault(prefix, [])
        if load not in reading:
            reading.append(load)
        return load

    async def _first(self, load: Load) -> None:
        prefix = load.listing.prefix
        if load.pages:
            return
        if self._config.reserved.startswith(prefix):
            await self._wait_page(load, 0)  # it says whether there is anything of ours
            return
        async with open_flat_nursery() as nursery:
            nursery.start_soon(self.load_attributes, prefix)
            await self._wait_page(load, 0)

    async def _wait_page(self, load: Load, have: int) -> None:
        while len(load.pages) <= have and not load.complete:
            if load.loading is not None:
                await load.loading.wait()
            else:
                await self._advance_load(load)

    async def _advance_load(self, load: Load) -> None:
        try:
            await load.advance(self._store)
        finally:
            self._drop_if_unused(load)
        if self._loads.get(load.listing.prefix) is load:
            self._keep(load.listing)  # anew with each page, since its size counts

    async def _run_ahead(self, load: Load) -> None:
        load.know(*self.attributes.names(load.listing.prefix))
        try:
            while load.readers and load.loading is None and not load.complete and len(load.pages) < load.wanted:
                for ahead in load.aheads():
                    if self._nursery is not None:
                        self._nursery.start_soon(load.fetch, ahead, self._store)
                await self._advance_load(load)
        except StoreError as error:
            log.debug("a page is asked for again when it is wanted: %s", error)

    # ---- single keys --------------------------------------------------------------------------------------------

    async def find_version(self, ref: ObjectRef, modified_ns: int) -> ObjectRef:
        """As history.find_version."""
        return await find_version(self._store, ref, modified_ns)

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

        question = self._asked[key] = object()
        try:
            async with open_flat_nursery() as nursery:
                nursery.start_soon(find_file)
                nursery.start_soon(find_dir)
            found = Found(file, is_dir, seen_at)
            if self._asked.get(key) is question:
                self._points[key] = found  # nothing was changed meanwhile
            return found
        finally:
            if self._asked.get(key) is question:
                del self._asked[key]


def _set_marker(info: ObjectInfo | None, listing: Listing) -> None:
    listing.marker, listing.marker_seen = info, True
