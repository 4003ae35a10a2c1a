"""OwnVersions: what we made under which key and when, and the removal of what nobody needs.

Keeps B2's rule for successive calls (I10): versions of a key that are made within the same second may be ordered
wrongly, so the next one waits, or the earlier one is removed by its ID before the later one is reported durable.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

import trio

from b2fs.cache.ledger_rows import Remote
from b2fs.cache.parallel import for_each
from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.cache.writeback.doubts import LOOK_S, Doubts
from b2fs.cache.writeback.pending import Pending
from b2fs.core.types import ObjectRef, VersionId
from b2fs.errors import AccessDenied, InvalidRequest, NotFound, StoreError, Unavailable
from b2fs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

#: A server may go on with a request whose sender was killed, so one request is not long.
REMOVE_BATCH = 100


@dataclass(slots=True)
class _Last:
    """The last version-creating call on a key: when it was answered and what it made."""

    at: float
    version: VersionId | None


class OwnVersions:
    """See the module.  is_needed(key, version): whether somebody still needs that version's content."""

    def __init__(
        self,
        store: ObjectStore,
        config: WriteBackConfig,
        doubts: Doubts,
        is_needed: Callable[[str, VersionId], bool],
    ) -> None:
        self._store = store
        self._doubts = doubts
        self._config = config
        self._is_needed = is_needed
        self._last: dict[str, _Last] = {}
        self._can_delete = True

    def answered(self, key: str, version: VersionId | None) -> None:
        """A version-creating call on the key was answered now (or may have been, before a restart)."""
        self._last[key] = _Last(trio.current_time(), version)

    def made(self, p: Pending, ref: ObjectRef) -> None:
        """Our new version is in the bucket; the ones that it replaces are to be removed if they are as young."""
        now = trio.current_time()
        last = self._last.get(p.key)
        if not p.key:
            # The root of a bucket has no key; its attributes are in a side object, whose versions do not matter.
            p.remote = Remote(True, ref)
            self.answered(p.key, None)
            return
        if p.newest is not None and now - p.newest_at < self._config.supersede_s:
            p.superseded.append(p.newest)
        elif last is not None and last.version and now - last.at < 2 * self._config.spacing_s:
            # Put in the same second or so as an earlier version of ours: leave no tie to be ordered wrongly.
            p.superseded.append(last.version)
        elif p.newest is not None:
            p.layered = True  # that one is history by now
        p.newest, p.newest_at = ref.version_id, now
        p.remote = Remote(True, ref)
        self.answered(p.key, ref.version_id)

    def seconds_ago(self, key: str) -> float:
        """How long ago we made a version of this key; infinity if we did not."""
        last = self._last.get(key)
        return float("inf") if last is None or last.version is None else trio.current_time() - last.at

    def journaled(self, p: Pending) -> Remote:
        """What the ledger is to say of the bucket: a key that is doubted, or in a request, is doubted after a crash."""
        return Remote(False, p.remote.ref) if p.running or self._doubts.threaten(p) else p.remote

    def earliest(self, p: Pending) -> float:
        """When the next call for the key may be made, in trio time."""
        after_a_second = self._after_a_second(p)
        if not self._doubts.threaten(p):
            return after_a_second
        if p.inode is None:
            return after_a_second if p.gone_at is None else p.gone_at + LOOK_S
        if p.holds(p.inode):
            return p.newest_at + LOOK_S
        return max(self._doubts.quiet_at(p.key), after_a_second)

    def _after_a_second(self, p: Pending) -> float:
        """When the next version-creating call on the key may be made, in trio time."""
        last = self._last.get(p.key)
        if last is None or self._may_hasten(p, last):
            return float("-inf")
        return last.at + self._config.spacing_s

    def _may_hasten(self, p: Pending, last: _Last) -> bool:
        """A waiting fsync need not keep the second: our own tied version is removed by its ID."""
        if not self._can_delete or not self._store.capabilities.versioning:
            return False
        if p.inode is None:
            return self.removes_by_version(p)
        return p.urgent and last.version is not None and not self._is_needed(p.key, last.version)

    def removes_by_version(self, p: Pending) -> bool:
        """Whether making the key absent is to remove our versions rather than to hide: nothing else was ever there.

        That takes their IDs, which some servers do not tell, or not of directories' markers.  A folder has none.
        """
        if p.key.endswith("/") and self._store.capabilities.folders:
            return False
        if not (p.made_here and p.remote.known and self._can_delete):
            return False
        if p.remote.ref is not None and p.remote.ref.version_id is None:
            return False
        return not any(version is not None and self._is_needed(p.key, version) for version in (*p.superseded, p.newest))

    async def remove_superseded(self, p: Pending) -> None:
        """Remove versions of ours that a newer one has replaced, unless somebody still needs their content."""
        while p.superseded and self._can_delete:
            version = p.superseded[0]
            if p.needs(version) or self._is_needed(p.key, version):
                p.layered = True
            else:
                try:
                    await self._store.delete_version(p.key, version)
                except AccessDenied as error:
                    p.layered = True
                    self._may_not_delete(error)
            p.superseded.pop(0)

    async def remove(self, batch: list[Pending], side_keys: Callable[[str], list[str]]) -> dict[str, StoreError]:
        """Make every key of the batch absent, with few calls; the errors of those that could not be.

        side_keys(key): other keys that go away with it.
        """
        targets: list[tuple[str, VersionId | None]] = []
        replaced = await self._replaced([p.key for p in batch if p.key.endswith("/")])
        for p in batch:
            if self.removes_by_version(p):
                targets.extend((p.key, version) for version in (*p.superseded, p.newest) if version is not None)
            elif p.key not in replaced:
                targets.append((p.key, None))
            targets.extend((side, None) for side in side_keys(p.key))
        failed: dict[str, StoreError] = {}
        for i in range(0, len(targets), REMOVE_BATCH):
            answers = await self._delete(targets[i : i + REMOVE_BATCH])
            for (key, version), answer in zip(targets[i : i + REMOVE_BATCH], answers, strict=True):
                if isinstance(answer, AccessDenied) and version is not None:
                    # They are to be hidden instead, but not within a second of what we put.
                    self._may_not_delete(answer)
                    failed[key] = Unavailable("its versions may not be removed; it will be hidden")
                elif isinstance(answer, StoreError):
                    failed[key] = answer
                elif version is None:
                    self.answered(key, None)

        async def look(key: str) -> None:
            if await self._is_absent(key):
                del failed[key]

        await for_each([p.key for p in batch if isinstance(failed.get(p.key), AccessDenied)], look)
        return failed

    async def _replaced(self, directories: list[str]) -> set[str]:
        """The directories that are none any more where `a` and `a/` are one, since a file was stored in their place.

        To remove them would remove the file, if it is empty (SeaweedFS).
        """
        if not self._store.capabilities.keys_are_paths:
            return set()
        replaced: set[str] = set()

        async def look(key: str) -> None:
            with contextlib.suppress(NotFound):
                await self._store.head(key[:-1])
                replaced.add(key)

        await for_each(directories, look)
        return replaced

    async def _is_absent(self, key: str) -> bool:
        """Whether the bucket shows nothing under a key that may not be removed: then nothing is left to be done."""
        try:
            await self._store.head(key)
        except NotFound:
            return True
        except StoreError:
            return False  # as long as that is not known it is asked again
        return False

    async def _delete(self, targets: list[tuple[str, VersionId | None]]) -> list[VersionId | StoreError | None]:
        """As delete_many; a server that refuses all because of one is asked for each."""
        try:
            return await self._store.delete_many(targets)
        except AccessDenied as error:
            return [error] * len(targets)
        except InvalidRequest as error:
            if len(targets) == 1:
                return [error]
        return [answer for target in targets for answer in await self._delete([target])]

    def _may_not_delete(self, error: AccessDenied) -> None:
        """Object Lock, or a key without deleteFiles: from now on fsyncs keep the second and removals hide."""
        if self._can_delete:
            self._can_delete = False
            log.warning("older versions of ours stay in the bucket: %s", error)

    def forget_old(self) -> None:
        """Drop what no rule needs any more."""
        if len(self._last) > 4096:
            now = trio.current_time()
            self._last = {k: s for k, s in self._last.items() if now - s.at < 5 * self._config.spacing_s}
