"""SideObjects: which directories have their attributes beside them, on servers that drop them from markers.

One listing of the place of side objects tells it for all directories, where the alternative is a HEAD for each.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from b2fs.cache.remote.listing import pack, unpack
from b2fs.core.types import ObjectInfo
from b2fs.store.protocol import ObjectStore

#: With more side objects than fit on so many pages, the keys behind them are asked for one by one.
_PAGES = 4


class SideObjects:
    """See the module.  place is the prefix of all side objects; is_lacking says that there are none but new ones."""

    def __init__(self, store: ObjectStore, place: str, ttl_s: float, is_lacking: Callable[[], bool]) -> None:
        self._store = store
        self._place = place
        self._ttl_s = ttl_s
        self._is_lacking = is_lacking
        self._rows: dict[str, bytes] = {}
        #: Keys up to this one are known, whichever way the server sorts directories (see `walk`); None if all are.
        self._until: tuple[str, list[str]] | None = "", []
        self._listed_at = float("-inf")
        #: Written here since the listing was asked for.
        self._touched: set[str] = set()
        self._lock = trio.Lock()

    async def find(self, key: str) -> tuple[bool, ObjectInfo | None]:
        """Whether it is known what is under a key, and the object there.  Checkpoint: only if it asks."""
        if self._is_lacking():
            return key not in self._touched, None
        await self.load()
        return self._found(key)

    def find_nowait(self, key: str) -> tuple[bool, ObjectInfo | None]:
        """The same, from what is known by now."""
        if self._is_lacking():
            return key not in self._touched, None
        return (False, None) if self._is_old() else self._found(key)

    def _found(self, key: str) -> tuple[bool, ObjectInfo | None]:
        if key in self._touched or not self._reaches(key):
            return False, None
        row = self._rows.get(key)
        return True, unpack(key, row) if row is not None else None

    async def load(self) -> None:
        """Learn which side objects there are, unless that is known.  Raises StoreError."""
        if self._is_old():
            async with self._lock:  # held over the request: who waits wants this very answer
                if self._is_old():
                    await self._list()

    def touched(self, key: str) -> None:
        """We wrote or removed this side object."""
        self._touched.add(key)

    def refresh(self) -> None:
        """Look anew with the next question."""
        self._listed_at = float("-inf")

    def _reaches(self, key: str) -> bool:
        return self._until is None or (key <= self._until[0] and key.split("/") <= self._until[1])

    def _is_old(self) -> bool:
        return trio.current_time() - self._listed_at > self._ttl_s

    async def _list(self) -> None:
        asked_at = trio.current_time()
        touched, self._touched = self._touched, set()
        rows: dict[str, bytes] = {}
        token: str | None = None
        until: tuple[str, list[str]] | None = "", []
        try:
            for _ in range(_PAGES):
                page = await self._store.list_objects(self._place, token=token)
                rows.update((info.key, pack(info)) for info in page.objects)
                token = page.next_token
                keys = [info.key for info in page.objects]
                until = (max(keys), max(key.split("/") for key in keys)) if token is not None and keys else None
                if token is None:
                    break
        except BaseException:
            self._touched |= touched
            raise
        self._rows, self._until, self._listed_at = rows, until, asked_at
