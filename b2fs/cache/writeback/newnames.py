"""NewNames: two clients that make the same new name are told, although neither could ask for it before.

A key of which a listing says that nothing is there is put without a question, for a question each would double the
requests of everybody who makes files.  Where the server does not mind conditions (B2), and for copies and uploads in
parts, one look for many follows: when a burst of new names is over, a listing of versions tells what was under ours.  A
version of somebody else there, with no hide marker between, was visible when ours was put on top: that is a conflict.

One look takes a page for a directory, or for 1,000 names, and a few more where other names lie between.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.cache.writeback.conflicts import ConflictGuard
from b2fs.core.keys import common_prefix, just_before, split_key
from b2fs.core.longkeys import is_long
from b2fs.core.types import ObjectRef, VersionId, VersionInfo, VersionPage
from b2fs.errors import AccessDenied, NotFound, StoreError, Unsupported
from b2fs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

_PAGE = 1000
#: So many pages more than there are directories are asked for because other names lie between ours.
_JUMPS = 8
#: A look that fails so many times in a row is given up.
_TRIES = 3
#: So many versions that we never heard of are looked through for one of somebody else.
_UNHEARD = 3


class NewNames:
    """See the module.  All methods belong to the trio thread."""

    def __init__(self, store: ObjectStore, conflicts: ConflictGuard, config: WriteBackConfig) -> None:
        self._store = store
        self._conflicts = conflicts
        self._config = config
        #: Keys that were believed to be free, and the versions that we have made of them since.
        self._new: dict[str, list[VersionId]] = {}
        self._arrived = trio.Event()
        self._turn = trio.Lock()
        self._able = True
        self._failures = 0
        self._stored_at = self._looked_at = float("-inf")

    def stored(self, ref: ObjectRef) -> None:
        """A key that was believed to be free holds this version of ours."""
        # Without versions nothing is left of what was there.  Long keys are no part of listings.
        if self._able and ref.version_id is not None and not is_long(ref.key):
            self._new.setdefault(ref.key, []).append(ref.version_id)
            self._stored_at = trio.current_time()
            self._arrived.set()

    def stored_again(self, ref: ObjectRef) -> None:
        """We have made another version of a key: the first one may go before anybody looks."""
        if ref.key in self._new and ref.version_id is not None:
            self._new[ref.key].append(ref.version_id)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._arrived.wait()
            await self._wait_calm()
            await self._look()

    async def finish(self) -> None:
        """Return when every new name was looked at, or cannot be: the mount ends."""
        await self._look()

    async def _wait_calm(self) -> None:
        """Return when the burst is over, or lasts."""
        quiet_s, rest_s = self._config.look_quiet_s, self._config.look_rest_s
        latest = trio.current_time() + rest_s
        while True:
            due = max(min(self._stored_at + quiet_s, latest), self._looked_at + rest_s)
            if due <= trio.current_time():
                return
            await trio.sleep_until(due)

    async def _look(self) -> None:
        async with self._turn:
            if not self._new:
                return
            keys = sorted(self._new)
            self._arrived = trio.Event()
            self._looked_at = trio.current_time()
            try:
                await self._look_at(keys)
                self._failures = 0
            except StoreError as error:
                self._failed(keys, error)

    def _failed(self, keys: Sequence[str], error: StoreError) -> None:
        self._failures += 1
        if isinstance(error, AccessDenied | Unsupported):
            self._able = False
        elif self._failures < _TRIES:
            self._arrived.set()
            return
        log.warning("whether somebody else made %d names at the same time cannot be seen: %s", len(keys), error)
        self._forget(keys)

    def _forget(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._new.pop(key, None)

    # ---- the listing --------------------------------------------------------------------------------------------

    async def _look_at(self, keys: Sequence[str]) -> None:
        """keys: in the order of listings."""
        directories = len({split_key(key)[0] for key in keys})
        prefix, delimiter = common_prefix(keys), "/" if directories == 1 else None
        pages, done = directories + len(keys) // _PAGE + _JUMPS, 0
        while done < len(keys) and pages:
            page = await self._store.list_versions(
                prefix,
                delimiter=delimiter,
                key_marker=just_before(keys[done], prefix),
                max_keys=_PAGE,
            )
            done += max(1, await self._judge_page(keys[done:], page))
            pages -= 1
        self._forget(keys[done:])

    async def _judge_page(self, keys: Sequence[str], page: VersionPage) -> int:
        """How many of the keys were within the page, which begins with the first of them."""
        rows: dict[str, list[VersionInfo]] = {}
        for row in page.versions:
            if row.ref.key in self._new:
                rows.setdefault(row.ref.key, []).append(row)
        end = max((*(row.ref.key for row in page.versions[-1:]), *page.prefixes[-1:]), default="")
        for index, key in enumerate(keys):
            # The last key of a page may go on in the next one.
            if page.next_key_marker is not None and (key > end or (key == end and index)):
                return index
            await self._judge(key, rows.get(key, []))
        return len(keys)

    async def _judge(self, key: str, rows: Sequence[VersionInfo]) -> None:
        """rows: the versions of a key, newest first."""
        ours = self._new.get(key, [])
        made = [index for index, row in enumerate(rows) if row.ref.version_id in ours]
        for below in rows[made[-1] + 1 :][:_UNHEARD] if made else ():
            same = (below.ref.etag, below.ref.size) == (rows[made[-1]].ref.etag, rows[made[-1]].ref.size)
            if below.is_hide_marker or same or await self._is_settled(below.ref):
                break
        self._new.pop(key, None)

    async def _is_settled(self, ref: ObjectRef) -> bool:
        """Whether a version that ours has replaced is seen to: it was somebody else's, and is kept and told of."""
        try:
            info = await self._store.head(ref.key, version_id=ref.version_id)
        except NotFound:
            return True
        if self._conflicts.is_signed(info):
            return False  # ours, of which we never heard
        await self._conflicts.keep(ref)
        return True
