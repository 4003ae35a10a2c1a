"""AttributeIndex: the attributes of many objects in few of our own objects, since listings do not carry them.

One index object holds the rows of a directory and of everything below it, as far as no deeper index object does; a
tree that grows large is split.  So a small tree is one request, and a large directory too.

An index is only a cache of what the objects carry.  Each row is tied to the version that it describes and is not used
for any other; an index that is missing, damaged or of another format is as good as none and is written anew with the
next change.  Nothing here raises a StoreError to who reads, and nobody waits for an index to be written.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

import trio
from cachetools import LRUCache

from b2fs.cache.attrindex_codec import MAX_PACKED_BYTES, Rows, UnreadableIndex, count, decode, encode, split
from b2fs.cache.remote.known import KnownAttributes, Row
from b2fs.core.keys import KEY_MAX, split_key
from b2fs.core.types import VersionId
from b2fs.errors import AccessDenied, NotFound, StoreError
from b2fs.store.protocol import ObjectStore

log = logging.getLogger(__name__)
A = TypeVar("A")
T = TypeVar("T")

#: The last component of an index object's key; the ones before are the directory that it is about.
_NAME = "index"
#: Work on more than this is done in a worker thread.
_INLINE_ROWS = 500
_INLINE_BYTES = 32 << 10
#: Of directories with so many names every so many-th is remembered, and so many of them together.
_LARGE, _STRIDE, _NAMES = 2000, 10, 100_000
#: At the end of a mount the attribute index may take this long, in seconds.
_FINISH_S = 10.0


class AttrIndexConfig(NamedTuple):
    """root: the mount's key prefix; place: the prefix of the index objects.  Times in seconds.

    quiet_s, most_s: the index is written when nothing has changed for quiet_s, or for most_s something has.
    split_rows, least_rows: a larger index is split, into parts of at least so many rows.
    most_rows: a directory with more names is not indexed.  spacing_s: between two versions of one key.
    """

    root: str
    place: str
    ttl_s: float = 60.0
    writes: bool = True
    quiet_s: float = 5.0
    most_s: float = 60.0
    split_rows: int = 20_000
    least_rows: int = 256
    most_rows: int = 200_000
    spacing_s: float = 1.0
    #: So many changes are not kept waiting.
    flush_rows: int = 50_000
    #: So many rows of indexes are remembered as loaded; fewer than KnownAttributes holds.
    loaded_rows: int = 120_000


@dataclass(slots=True)
class _Object:
    """An index object as last seen: its content, and when we made it (trio time)."""

    etag: str
    version: VersionId | None = None
    made_at: float = -1e9


class AttributeIndex:
    """See the module.  `run` must be running for changes to be written."""

    def __init__(self, store: ObjectStore, known: KnownAttributes, config: AttrIndexConfig) -> None:
        self._store = store
        self._known = known
        self._config = config
        #: The index objects that there are, by directory; None until they were listed.
        self._objects: dict[str, _Object] | None = None
        self._listed_at = 0.0
        #: Index objects whose rows are in `known`: directory -> (ETag, how many), oldest first.
        self._loaded: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._loading: dict[str, trio.Event] = {}
        #: Every _STRIDE-th file of large directories.
        self._names: LRUCache[str, list[str]] = LRUCache(_NAMES, getsizeof=len)
        #: Rows that are to be written; None: the name is gone.
        self._changed: dict[str, dict[str, Row | None]] = {}
        self._changes = 0
        self._first_at = self._last_at = 0.0
        self._wake = trio.Event()
        self._flushing = trio.Lock()
        self._may_delete = True

    # ---- reading ------------------------------------------------------------------------------------------------

    async def load(self, prefix: str) -> None:
        """Make what the index has of a directory known.  Checkpoint: only if it asks the bucket."""
        if self._objects is None or trio.current_time() - self._listed_at > self._config.ttl_s:
            await self._once("", self._list)
        found = self._find(prefix)
        if found is not None:
            directory, seen = found
            if self._loaded.get(directory, ("",))[0] != seen.etag:
                await self._once(directory, partial(self._read_known, directory))
            else:
                self._loaded.move_to_end(directory)

    def names(self, prefix: str) -> tuple[Sequence[str], int]:
        """As AttributeSource.names; as of when the index was read."""
        return self._names.get(prefix, ()), _STRIDE

    def refresh(self) -> None:
        """Look for newer indexes with the next question."""
        self._listed_at = -self._config.ttl_s

    async def _once(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do a piece of reading that several may want at the same time; its failure means having no index."""
        done = self._loading.get(what)
        if done is not None:
            await done.wait()
            return
        done = self._loading[what] = trio.Event()
        try:
            await work()
        except StoreError as error:
            log.info("the attribute index cannot be read: %s", error)
        finally:
            del self._loading[what]
            done.set()

    async def _list(self) -> None:
        """See which index objects there are."""
        self._listed_at = trio.current_time()
        place = self._config.place
        found: dict[str, _Object] = {}
        token: str | None = None
        while True:
            page = await self._store.list_objects(place, token=token)
            for info in page.objects:
                directory, name = split_key(info.key[len(place) :])
                if name == _NAME and info.size <= MAX_PACKED_BYTES:
                    known = (self._objects or {}).get(directory)
                    same = known is not None and known.etag == info.ref.etag
                    found[directory] = known if known is not None and same else _Object(info.ref.etag)
            token = page.next_token
            if token is None:
                self._objects = found
                return

    def _find(self, prefix: str) -> tuple[str, _Object] | None:
        """The index object that has the rows of a directory, if there is one."""
        directory = prefix[len(self._config.root) :]
        while self._objects:
            found = self._objects.get(directory)
            if found is not None:
                return directory, found
            if not directory:
                break
            directory = split_key(directory)[0]
        return None

    async def _read_known(self, directory: str) -> None:
        rows, seen = await self._read(directory)
        root = self._config.root
        for below, names in rows.items():
            changed = self._changed.get(below, {})
            for name, row in names.items():
                if name not in changed:
                    # The bytes are those of the ETag, whatever version somebody has put here.
                    self._known.put(f"{root}{below}{name}", row._replace(version_id=None))
            if _LARGE <= len(names) <= self._config.most_rows:
                self._names[root + below] = sorted(name for name in names if not name.endswith("/"))[::_STRIDE]
        self._remember(directory, seen.etag, count(rows))

    def _remember(self, directory: str, etag: str, rows: int) -> None:
        self._loaded.pop(directory, None)
        self._loaded[directory] = (etag, rows)
        while len(self._loaded) > 1 and sum(size for _, size in self._loaded.values()) > self._config.loaded_rows:
            self._loaded.popitem(last=False)

    async def _read(self, directory: str) -> tuple[Rows, _Object]:
        """The rows of an index object on its directory and below; none if it is missing or cannot be read."""
        try:
            info, body = await self._store.get(self._key(directory))
        except NotFound:
            if self._objects is not None:
                self._objects.pop(directory, None)
            return {}, _Object("")
        seen = _Object(info.ref.etag, info.ref.version_id)
        if self._objects is not None:
            known = self._objects.get(directory)
            if known is not None:
                seen.made_at = known.made_at
            self._objects[directory] = seen
        try:
            rows = await _off_thread(len(body) > _INLINE_BYTES, decode, bytes(body))
            return {below: names for below, names in rows.items() if below.startswith(directory)}, seen
        except UnreadableIndex as error:
            log.warning("%s is ignored and will be written anew: %s", info.key, error)
            return {}, seen

    def _key(self, directory: str) -> str:
        return f"{self._config.place}{directory}{_NAME}"

    # ---- writing ------------------------------------------------------------------------------------------------

    def note(self, key: str, row: Row | None) -> None:
        """An object is known to carry this now, or is gone; the index is written some time later."""
        root, place = self._config.root, self._config.place
        if not self._config.writes or len(key) <= len(root) or not key.startswith(root) or key.startswith(place):
            return
        directory, name = split_key(key[len(root) :])
        now = trio.current_time()
        if not self._changes:
            self._first_at = now
            self._wake.set()
        self._last_at = now
        self._changes += 1
        self._changed.setdefault(directory, {})[name] = row

    async def run(self) -> None:
        """Write changes behind everything else, until cancelled."""
        while True:
            await self._wake.wait()
            await self._wait_quiet()
            try:
                await self.flush()
            except StoreError as error:
                log.info("the attribute index is written later: %s", error)
                await trio.sleep(self._config.most_s)

    async def _wait_quiet(self) -> None:
        config = self._config
        while self._changes < config.flush_rows:
            due = min(self._last_at + config.quiet_s, self._first_at + config.most_s)
            if due <= trio.current_time():
                return
            await trio.sleep_until(min(due, trio.current_time() + config.quiet_s))

    async def flush(self) -> None:
        """Write what has changed.  Raises StoreError; what could not be written is kept for the next time."""
        async with self._flushing:
            changed, self._changed = self._changed, {}
            self._changes, self._wake = 0, trio.Event()
            try:
                if changed and self._objects is None:
                    await self._list()
                await self._write(changed)
            except BaseException:
                self._take_back(changed)
                raise

    async def finish(self) -> None:
        """As flush, at the end of a mount: what cannot be written soon is only found more slowly."""
        try:
            with trio.move_on_after(_FINISH_S):
                await self.flush()
        except StoreError as error:
            log.info("the attribute index is not up to date: %s", error)

    def _take_back(self, changed: dict[str, dict[str, Row | None]]) -> None:
        """Changes stay to be written; what happened meanwhile is newer."""
        for directory, names in changed.items():
            self._changed[directory] = names | self._changed.get(directory, {})
            self._changes += len(names)
        if self._changes:
            self._first_at = self._last_at = trio.current_time()
            self._wake.set()

    async def _write(self, changed: dict[str, dict[str, Row | None]]) -> None:
        """Bring the index objects that the changes belong to up to date, and drop what is done from `changed`."""
        groups: dict[str, list[str]] = {}
        for directory in changed:
            found = self._find(self._config.root + directory)
            groups.setdefault(found[0] if found is not None else "", []).append(directory)
        for top, directories in groups.items():
            await self._update(top, {directory: changed[directory] for directory in directories})
            for directory in directories:
                del changed[directory]

    async def _update(self, top: str, changes: dict[str, dict[str, Row | None]]) -> None:
        rows, _ = await self._read(top)
        for directory, names in changes.items():
            present = rows.setdefault(directory, {})
            for name, row in names.items():
                if row is None:
                    present.pop(name, None)
                else:
                    present[name] = row
        config = self._config
        rows = {directory: names for directory, names in rows.items() if 0 < len(names) <= config.most_rows}
        parts = split(rows, top, config.split_rows, config.least_rows)
        # The parts that are taken out come first, so that no row is missing in between.
        for directory in sorted(parts, key=lambda directory: directory == top):
            if len(self._key(directory).encode()) <= KEY_MAX:
                await self._put(directory, parts[directory])

    async def _put(self, directory: str, rows: Rows) -> None:
        body = await _off_thread(count(rows) > _INLINE_ROWS, encode, rows)
        assert self._objects is not None
        before = self._objects.get(directory)
        if before is not None:
            await trio.sleep_until(before.made_at + self._config.spacing_s)
        info = await self._store.put(self._key(directory), body, content_type="application/octet-stream")
        self._objects[directory] = _Object(info.ref.etag, info.ref.version_id, trio.current_time())
        # Our own rows are known already, and those of others were read when they were needed.
        if directory in self._loaded:
            self._remember(directory, info.ref.etag, count(rows))
        if before is not None and before.version is not None and self._may_delete:
            await self._remove(directory, before.version)

    async def _remove(self, directory: str, version: VersionId) -> None:
        """An older version of an index is of no use to anybody."""
        try:
            await self._store.delete_version(self._key(directory), version)
        except AccessDenied as error:
            self._may_delete = False
            log.info("older versions of the attribute index stay: %s", error)


async def _off_thread(is_large: bool, work: Callable[[A], T], argument: A) -> T:
    """Do work in another thread if it is large."""
    return await trio.to_thread.run_sync(work, argument) if is_large else work(argument)
