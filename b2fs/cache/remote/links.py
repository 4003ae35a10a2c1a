"""LinkNames: the names of every hard-linked file, so that each of them leads to all the others.

For each name there is an empty object `.b2fs/links/<identity>/<path>`, put before the name's own object is.  One
listing of that place tells of all groups; where there are very many, a group is listed by itself.  What stands there
proves nothing: a name belongs to a file only if its own object says so.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

import trio

from b2fs.errors import AccessDenied
from b2fs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

#: With more names than fit on so many pages, the groups behind them are asked for one by one.
_PAGES = 8
_IDENTITY = re.compile(r"[0-9a-f]{32}")


class LinkNames:
    """See the module.  root is the mount's key prefix; paths are keys without it.  Belongs to the trio thread."""

    def __init__(self, store: ObjectStore, root: str, ttl_s: float) -> None:
        self._store = store
        self._root = root
        self._place = f"{root}.b2fs/links/"
        self._ttl_s = ttl_s
        self._paths: dict[str, set[str]] = {}
        self._ids: dict[str, str] = {}
        #: Keys up to this one are known; "" if none, None if all are.
        self._until: str | None = ""
        self._listed_at = float("-inf")
        self._lock = trio.Lock()

    # ---- asking -------------------------------------------------------------------------------------------------

    async def names(self, identity: str) -> list[str]:
        """The keys of all names that a hard-linked file may have.  Checkpoint: only if it asks.  Raises StoreError."""
        if not _IDENTITY.fullmatch(identity):
            return []
        await self.load()
        place = f"{self._place}{identity}/"
        if self._until is not None and place > self._until:
            self._take(info.key for info in (await self._store.list_objects(place)).objects)
        return [self._root + path for path in sorted(self._paths.get(identity, ()))]

    async def load(self) -> None:
        """Learn which groups there are, unless that is known."""
        if self._is_old():
            async with self._lock:  # held over the request: who waits wants this very answer
                if self._is_old():
                    try:
                        await self._list()
                    except AccessDenied as error:
                        self._refused(error)

    def identity_of(self, key: str) -> str | None:
        """The group that a key is said to belong to, as far as is known without asking."""
        return self._ids.get(key[len(self._root) :])

    def refresh(self) -> None:
        """Look anew with the next question."""
        self._listed_at = float("-inf")

    def _is_old(self) -> bool:
        return trio.current_time() - self._listed_at > self._ttl_s

    async def _list(self) -> None:
        asked_at = trio.current_time()
        keys: list[str] = []
        token: str | None = None
        until: str | None = None
        for _ in range(_PAGES):
            page = await self._store.list_objects(self._place, token=token)
            keys.extend(info.key for info in page.objects)
            token = page.next_token
            until = keys[-1] if token is not None and keys else None
            if token is None:
                break
        # What is gone by now stays among the names until somebody looks at it: it proves nothing.
        self._take(keys)
        self._until, self._listed_at = until, asked_at

    def _take(self, keys: Iterable[str]) -> None:
        for key in keys:
            identity, _, path = key[len(self._place) :].partition("/")
            if path and _IDENTITY.fullmatch(identity):
                self._add(identity, path)

    def _add(self, identity: str, path: str) -> None:
        self._paths.setdefault(identity, set()).add(path)
        self._ids[path] = identity

    # ---- our own changes ----------------------------------------------------------------------------------------

    async def put(self, identity: str, key: str) -> None:
        """A file with this identity is about to be stored under the key.  Raises StoreError."""
        path = key[len(self._root) :]
        if not _IDENTITY.fullmatch(identity) or self._ids.get(path) == identity:
            return
        try:
            await self._store.put(f"{self._place}{identity}/{path}", b"")
        except AccessDenied as error:
            self._refused(error)
        self._add(identity, path)

    def _refused(self, error: AccessDenied) -> None:
        """A key that may not use this place: hard links are then known by those of their names that are looked at."""
        log.info("the names of hard-linked files are not kept together: %s", error)
        self._until, self._listed_at = None, trio.current_time()

    def removed(self, key: str) -> list[str]:
        """The object that names the key, which is about to go away with it."""
        path = key[len(self._root) :]
        identity = self._ids.pop(path, None)
        if identity is None:
            return []
        self._paths[identity].discard(path)
        return [f"{self._place}{identity}/{path}"]
