"""Unseen: what somebody else has put under a key that is to be removed here.

Who removes a name means the version that it was seen with.  If another client has stored another one since, that one
stays: nobody has asked for its removal, and without versions it would be gone for good.
"""

from __future__ import annotations

from collections.abc import Iterable

from b2fs.cache.parallel import for_each
from b2fs.cache.writeback.conflicts import ConflictGuard
from b2fs.cache.writeback.pending import Pending
from b2fs.core.keys import common_prefix, just_before
from b2fs.core.longkeys import is_long
from b2fs.core.types import ObjectInfo, ObjectRef
from b2fs.errors import AccessDenied, NotFound, StoreError
from b2fs.store.protocol import ObjectStore

#: Up to so many keys are looked at one by one: at B2 a page of a listing costs as much as ten of these calls.
_FEW = 10


class Unseen:
    """See the module."""

    def __init__(self, store: ObjectStore, conflicts: ConflictGuard) -> None:
        self._store = store
        self._conflicts = conflicts

    async def find(self, batch: Iterable[Pending]) -> tuple[dict[str, ObjectInfo], dict[str, StoreError]]:
        """What is under these keys, which are to be removed, and neither ours nor what was seen there, by key.

        And the errors of those that cannot be looked at.  Keys of which nothing certain is known are not looked at,
        nor are those of directories, whose objects have no content.  One of a key that this mount may not read is no
        error: nobody could ever say more.
        """
        expected = {
            p.key: p.remote.ref
            for p in batch
            if p.remote.known and p.remote.ref is not None and p.key[-1:] not in ("", "/")
        }
        found: dict[str, ObjectInfo] = {}
        failed: dict[str, StoreError] = {}

        async def look(key: str) -> None:
            try:
                info = await self._store.head(key)
            except (NotFound, AccessDenied):
                return
            except StoreError as error:
                failed[key] = error
                return
            if not expected[key].is_version(info.ref) and not self._conflicts.is_signed(info):
                found[key] = info

        await for_each(await self._not_listed(expected), look)
        return found, failed

    async def _not_listed(self, expected: dict[str, ObjectRef]) -> list[str]:
        """Those of the keys of which pages of a listing, where they cover many, do not show the expected version."""
        keys = sorted(key for key in expected if not is_long(key))
        unsure = [key for key in expected if is_long(key)]  # they are no part of listings
        while len(keys) > _FEW:
            prefix = common_prefix(keys)
            try:
                page = await self._store.list_objects(prefix, start_after=just_before(keys[0], prefix))
            except StoreError:
                break
            listed = {info.key: info.ref for info in page.objects}
            end = page.objects[-1].key if page.next_token is not None and page.objects else keys[-1]
            covered = [key for key in keys if key <= end]
            unsure += [key for key in covered if key in listed and not expected[key].is_version(listed[key])]
            keys = keys[len(covered) :]
            if len(covered) <= _FEW:
                break
        return unsure + keys
