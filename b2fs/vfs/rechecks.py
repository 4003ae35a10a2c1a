"""Rechecks: whether somebody else has changed the attributes of a directory that is known here.

The listing above a directory tells that it is there, and nothing of what it carries; that its own object tells, whose
time is another one then.  It comes with the directory's own listing.  With the second that is looked at in a directory
all beside it are asked about: by flat pages as far as one tells of many, and one by one then.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from b2fs.cache.inode import Inode
from b2fs.cache.parallel import for_each
from b2fs.cache.remote.listing import NS
from b2fs.core.keys import split_key
from b2fs.core.types import ObjectInfo
from b2fs.errors import NotFound, StoreError
from b2fs.vfs.core import Core
from b2fs.vfs.entering import Entering

#: Questions at a time.
_IN_FLIGHT = 16


class Rechecks:
    """See the module.

    ask(key): what carries a directory's attributes.  learn(directory, info): take these.
    """

    def __init__(
        self,
        core: Core,
        entering: Entering,
        ask: Callable[[str], Awaitable[ObjectInfo | None]],
        learn: Callable[[Inode, ObjectInfo], None],
    ) -> None:
        self._core = core
        self._entering = entering
        self._ask = ask
        self._learn = learn

    async def check(self, parent: Inode, directory: Inode) -> float:
        """Have the attributes of a directory in parent as the bucket has them; when that was so, in trio time.

        Infinite if it needs not be known.  Checkpoints unless its own object is known.
        """
        remote = self._core.remote
        if directory.pending:
            return math.inf
        key = directory.prefix
        if not remote.marker(key)[0]:
            siblings = self._entering.begin(key)
            if siblings:
                await self._check_together(parent, [key, *siblings])
                return directory.validated_at
            await remote.enter(key)
        known, marker = remote.marker(key)
        return await self._take(directory, key, marker, remote.marker_seen_at(key)) if known else math.inf

    async def _check_together(self, parent: Inode, keys: list[str]) -> None:
        remote = self._core.remote
        await remote.survey(split_key(keys[0])[0], keys)
        children = (parent.children or {}).values()
        here = {child.prefix: child for child in children if child.is_dir and child.links}

        async def check(key: str) -> None:
            with suppress(StoreError):  # what cannot be asked about stays as it was, and is asked about again
                seen_at, (known, marker) = remote.marker_seen_at(key), remote.marker(key)
                if not known:
                    seen_at, marker = trio.current_time(), await self._head(key)
                seen_at = await self._take(here[key], key, marker, seen_at)
                if not math.isinf(seen_at):
                    here[key].validated_at = max(here[key].validated_at, seen_at)

        await for_each([key for key in keys if key in here], check, _IN_FLIGHT)

    async def _head(self, key: str) -> ObjectInfo | None:
        try:
            return await self._core.store.head(key)
        except NotFound:
            return None

    async def _take(self, directory: Inode, key: str, marker: ObjectInfo | None, seen_at: float) -> float:
        """Learn what is new; when it was so."""
        if directory.pending or not directory.links or directory.prefix != key:
            return math.inf
        if marker is None:
            return seen_at
        changed = self._is_changed(directory, marker)
        tells = marker.metadata is not None and self._core.store.capabilities.marker_metadata
        if tells:
            self._core.remote.learned(marker)
        if changed:
            info = marker if tells else await self._ask(key)
            if info is None or directory.pending or not directory.links:
                return math.inf
            self._learn(directory, info)
        directory.base_modified_ns = marker.modified_ns
        return seen_at

    def _is_changed(self, directory: Inode, marker: ObjectInfo) -> bool:
        """Whether a directory's own object is not the one that its attributes come from."""
        if directory.base_modified_ns == 0:
            # Ours: the answer to an upload does not tell when the bucket says that it was made.
            return self._core.remote.known.complete(marker) is None
        return directory.base_modified_ns // NS != marker.modified_ns // NS
