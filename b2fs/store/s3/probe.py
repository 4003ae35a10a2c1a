"""Finding out what a server can do.

Backblaze and Amazon are known by their host names.  Any other server is tried out with tiny objects under `.b2fs/`,
which are removed again; what it does is looked at, not what it answers, because some servers say yes and do something
else.  A read-only store tries nothing that writes and assumes the least.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Awaitable, Callable

import trio

from b2fs.core.types import Capabilities, ETag, ObjectInfo, VersionId
from b2fs.errors import (
    AccessDenied,
    CorruptBody,
    NotFound,
    PreconditionFailed,
    RetryableError,
    StoreError,
    Unsupported,
)
from b2fs.store.protocol import ObjectStore
from b2fs.store.s3.caller import Caller
from b2fs.store.s3.config import S3Config
from b2fs.store.s3.entry import greeted
from b2fs.store.s3.greeting import Answer, ask_versioning
from b2fs.store.s3.wire import Call, Paths

#: The answer of a question that was asked before, or None if it was not, or came to nothing.
Early = Answer | None

#: What a store allows itself while it is being probed.
EVERYTHING = Capabilities(conditional_put=True)
_B2 = Capabilities(conditional_put=False, min_part_bytes=5_000_000)
_AMAZON = Capabilities(conditional_put=True)
_LEAST = Capabilities(
    versioning=False,
    conditional_get=False,
    conditional_put=False,
    copy=False,
    copy_from_version=False,
    part_copy=False,
    marker_metadata=False,
)
#: The one field of an answer that is asked for at each mount, before the parser is loaded.
_ENABLED = re.compile(rb"<(?:\w+:)?Status>\s*Enabled\s*</")
_OTHER_ETAG = ETag("0" * 32)
_CLEANUP_TIMEOUT_S = 20.0
_META = {"probe": "1"}


async def known_capabilities(calls: Caller, config: S3Config, early: Early) -> Capabilities:
    """What can be known without trying: of Backblaze and Amazon, and the least of a bucket that may only be read.

    Raises RetryableError if the server cannot be asked now.
    """
    if config.is_backblaze:
        return _B2
    if config.is_amazon:
        return _AMAZON._replace(versioning=await is_versioned(calls, config, early))
    return _LEAST._replace(versioning=await is_versioned(calls, config, early))


async def is_versioned(calls: Caller, config: S3Config, early: Early) -> bool:
    """Whether the bucket keeps versions now: it can be switched on and off, so this is asked every time.

    early is the answer to come, where it was asked before.
    """
    response = None if early is None else await greeted(early)
    if response is None:
        try:
            response = await calls.call(ask_versioning(config))
        except (Unsupported, NotFound, AccessDenied):
            return False
    return _ENABLED.search(response.body) is not None


class Trial:
    """Tries a server out under one random prefix and remembers what to remove."""

    def __init__(self, store: ObjectStore, calls: Caller, config: S3Config, versioning: bool) -> None:
        """store must allow everything (`EVERYTHING`): what is forbidden there cannot be tried.  calls are its calls."""
        self._store = store
        self._calls = calls
        self._paths = Paths(config.bucket, virtual=config.addressing == "virtual")
        self._versioning = versioning
        self._prefix = f".b2fs/probe-{secrets.token_hex(8)}"
        self._made: list[tuple[str, VersionId | None]] = []

    async def run(self) -> Capabilities:
        """What the server can do; `remove` has to follow, whatever comes of it.  Raises RetryableError.

        The trials do not touch each other's objects, so they are made at the same time: a user waits for them.
        """
        least = _LEAST._replace(versioning=self._versioning)
        try:
            source = await self._put("/a", b"first")
        except (AccessDenied, Unsupported):
            return least  # no right to write: nothing will be copied or put either
        trials: dict[str, Callable[[ObjectInfo], Awaitable[bool]]] = {
            "conditional_get": self._conditional_get,
            "conditional_put": self._conditional_put,
            "copy": self._copy,
            "part_copy": self._part_copy,
            "marker_metadata": self._marker_metadata,
            "folders": self._folders,
        }
        if self._versioning:
            trials["copy_from_version"] = self._copy_from_version
        return least._replace(**await self._all(trials, source))

    async def _all(
        self, trials: dict[str, Callable[[ObjectInfo], Awaitable[bool]]], source: ObjectInfo
    ) -> dict[str, bool]:
        found: dict[str, bool] = {}
        faults: list[RetryableError] = []

        async def one(name: str, trial: Callable[[ObjectInfo], Awaitable[bool]]) -> None:
            try:
                found[name] = await self._holds(trial, source)
            except RetryableError as error:
                faults.append(error)

        async with trio.open_nursery() as nursery:
            for name, trial in trials.items():
                nursery.start_soon(one, name, trial)
        if faults:
            raise faults[0]
        return found

    async def _holds(self, trial: Callable[[ObjectInfo], Awaitable[bool]], source: ObjectInfo) -> bool:
        """Whether a trial succeeds; a refusal is a no, a fault that may pass is not an answer."""
        try:
            return await trial(source)
        except CorruptBody:
            return False  # it answers nonsense, for instance nothing at all where there must be a result
        except RetryableError:
            raise
        except StoreError:
            return False

    async def _conditional_get(self, source: ObjectInfo) -> bool:
        path = self._paths.key(source.key)
        for operation, method in (("GetObject", "GET"), ("HeadObject", "HEAD")):
            headers = (("If-Match", f'"{_OTHER_ETAG}"'),)
            try:
                await self._calls.call(Call(operation, method, path, headers, has_body=method == "GET"))
            except PreconditionFailed:
                continue
            return False
        return True

    async def _conditional_put(self, source: ObjectInfo) -> bool:
        key = source.key.removeprefix(self._prefix) + "-cond"
        first = await self._put(key, b"1", if_none_match=True)
        second = await self._put(key, b"2", if_match=first.ref.etag)
        if await self._was_done(key, if_none_match=True) or await self._was_done(key, if_match=first.ref.etag):
            return False
        return (await self._store.head(second.key)).ref.etag == second.ref.etag

    async def _was_done(self, key: str, *, if_match: ETag | None = None, if_none_match: bool = False) -> bool:
        """Whether the server carries out a PUT whose condition does not hold."""
        try:
            await self._put(key, b"3", if_match=if_match, if_none_match=if_none_match)
        except PreconditionFailed:
            return False
        return True

    async def _copy(self, source: ObjectInfo) -> bool:
        made = await self._store.copy(source.ref, self._prefix + "/copy")
        self._made.append((made.key, made.ref.version_id))
        info, body = await self._store.get(made.key)
        return body == b"first" and info.metadata == _META

    async def _copy_from_version(self, source: ObjectInfo) -> bool:
        old = await self._put("/b", b"first")
        await self._put("/b", b"second")
        made = await self._store.copy(old.ref, self._prefix + "/old")
        self._made.append((made.key, made.ref.version_id))
        return (await self._store.get(made.key))[1] == b"first"

    async def _part_copy(self, source: ObjectInfo) -> bool:
        key = self._prefix + "/parts"
        upload = await self._store.create_upload(key)
        done = False
        try:
            part = await self._store.copy_part(key, upload, 1, source.ref, 1, 4)
            made = await self._store.complete_upload(key, upload, [part])
            done = True
        finally:
            if not done:
                with trio.move_on_after(_CLEANUP_TIMEOUT_S, shield=True), contextlib.suppress(StoreError):
                    await self._store.abort_upload(key, upload)
        self._made.append((key, made.ref.version_id))
        return (await self._store.get(key))[1] == b"irs"

    async def _marker_metadata(self, source: ObjectInfo) -> bool:
        made = await self._put("/dir/", b"")
        return (await self._store.head(made.key)).metadata == _META

    async def _folders(self, source: ObjectInfo) -> bool:
        made = await self._put("/folder/file", b"")
        await self._remove(made.key, made.ref.version_id)
        page = await self._store.list_objects(self._prefix + "/", delimiter="/")
        if self._prefix + "/folder/" not in page.prefixes:
            return False
        self._made[:0] = [(self._prefix + "/", None), (self._prefix + "/folder/", None)]
        return True

    async def _put(
        self, name: str, body: bytes, *, if_match: ETag | None = None, if_none_match: bool = False
    ) -> ObjectInfo:
        info = await self._store.put(
            self._prefix + name, body, metadata=_META, if_match=if_match, if_none_match=if_none_match
        )
        self._made.append((info.key, info.ref.version_id))
        return info

    async def remove(self) -> None:
        """Remove what was made, the newest first; what cannot be removed is tiny and stays.  Not to be cancelled."""
        with trio.move_on_after(_CLEANUP_TIMEOUT_S, shield=True):
            for key, version in dict.fromkeys(reversed(self._made)):
                with contextlib.suppress(StoreError):
                    await self._remove(key, version)

    async def _remove(self, key: str, version: VersionId | None) -> None:
        if version is None:
            await self._store.hide(key)
        else:
            await self._store.delete_version(key, version)
