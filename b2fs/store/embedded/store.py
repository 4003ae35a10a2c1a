"""EmbeddedStore: one bucket of an Engine as an ObjectStore.

Small calls go to the engine from the event loop itself: a lookup in the page cache takes some 20 microseconds, less
than the way to a worker thread and back, and small changes are handed to the engine's committing thread.  Everything
that reads or writes a body of size, or walks a listing, runs in worker threads with a limiter of their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final, TypeVar
from urllib.parse import quote

import trio

from b2fs.core.content import CONTENT_HEADERS
from b2fs.core.types import (
    Capabilities,
    ETag,
    ListPage,
    ObjectInfo,
    ObjectRef,
    PartInfo,
    UploadId,
    UploadInfo,
    VersionId,
    VersionInfo,
    VersionPage,
)
from b2fs.errors import InvalidRequest, NoSuchBucket, NoSuchUpload, StoreError, Unsupported
from b2fs.store.embedded.engine import Engine, EngineConfig
from b2fs.store.embedded.errors import BucketExists
from b2fs.store.embedded.rows import (
    Attributes,
    BucketRow,
    BucketSpec,
    ContentHeaders,
    Deleted,
    PartClaim,
    UploadRow,
    VersionRow,
    readable,
)
from b2fs.store.protocol import Body

T = TypeVar("T")

_MAX_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class EmbeddedConfig:
    """Which bucket in which directory.

    create: make the bucket when it is missing.  hazard_seed, durable: see EngineConfig.  conditional_put: offer
    If-Match and If-None-Match on PUT, which B2 itself does not.
    """

    directory: str
    bucket: str
    create: bool = True
    hazard_seed: int | None = None
    durable: bool = True
    conditional_put: bool = True
    worker_threads: int = 16


class EmbeddedStore:
    """See ObjectStore.  With an engine given, it is used and left open; otherwise one is opened on entry."""

    def __init__(self, config: EmbeddedConfig, *, engine: Engine | None = None) -> None:
        self._config = config
        self._limiter = trio.CapacityLimiter(config.worker_threads)
        self._capabilities = Capabilities(conditional_put=config.conditional_put)
        self._given = engine
        self._opened: Engine | None = None
        self._bucket_row: BucketRow | None = None

    async def __aenter__(self) -> EmbeddedStore:
        await self._in_thread(self._open)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._given is None and self._opened is not None:
            # Also when cancelled: what was submitted is committed, and the threads end.
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._opened.close)

    def _open(self) -> None:
        config = self._config
        engine = self._given
        if engine is None:
            if not config.create and not os.path.isdir(config.directory):
                raise NoSuchBucket(f"{config.directory} does not exist")
            engine = Engine(EngineConfig(config.directory, hazard_seed=config.hazard_seed, durable=config.durable))
        try:
            self._bucket_row = _find_or_create(engine, config)
        except BaseException:
            if self._given is None:
                engine.close()
            raise
        self._opened = engine

    @property
    def _engine(self) -> Engine:
        if self._opened is None:
            raise Unsupported("the store is not open")
        return self._opened

    @property
    def _bucket(self) -> int:
        if self._bucket_row is None:
            raise Unsupported("the store is not open")
        return self._bucket_row.id

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def wait_known(self) -> None:
        """What this store can do is known from the start."""

    def watch_lost(self, lost: Callable[[str], None]) -> None:
        """No answer is lost."""

    @property
    def identity(self) -> str:
        return f"file://{quote(os.path.abspath(self._config.directory))}/{quote(self._config.bucket)}"

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(call, limiter=self._limiter)

    # --- Listings

    async def list_objects(
        self,
        prefix: str,
        *,
        delimiter: str | None = None,
        start_after: str | None = None,
        token: str | None = None,
        max_keys: int = 1000,
    ) -> ListPage:
        def ask() -> ListPage:
            page = self._engine.list_objects(
                self._bucket,
                prefix,
                delimiter=delimiter,
                start_after=start_after,
                token=token,
                max_keys=min(max_keys, _MAX_PAGE),
            )
            return ListPage(tuple(map(_listed, page.rows)), tuple(page.prefixes), page.next_token)

        return await self._in_thread(ask)

    async def list_versions(
        self,
        prefix: str,
        *,
        delimiter: str | None = None,
        key_marker: str | None = None,
        version_marker: str | None = None,
        max_keys: int = 1000,
    ) -> VersionPage:
        def ask() -> VersionPage:
            page = self._engine.list_versions(
                self._bucket,
                prefix,
                delimiter=delimiter,
                key_marker=key_marker,
                version_marker=version_marker,
                max_keys=min(max_keys, _MAX_PAGE),
            )
            versions = tuple(map(_version, page.rows))
            return VersionPage(versions, tuple(page.prefixes), page.next_key_marker, page.next_version_marker)

        return await self._in_thread(ask)

    # --- Objects

    async def head(self, key: str, *, version_id: VersionId | None = None) -> ObjectInfo:
        await trio.lowlevel.checkpoint()
        return _info(self._engine.head(self._bucket, key, version_id))

    async def get(
        self,
        key: str,
        *,
        version_id: VersionId | None = None,
        start: int = 0,
        end: int | None = None,
        if_match: ETag | None = None,
    ) -> tuple[ObjectInfo, bytes | memoryview]:
        await trio.lowlevel.checkpoint()
        small = self._engine.read_inline(self._bucket, key, version_id, start, end, if_match=if_match)
        if small is None:
            read = partial(self._engine.read, self._bucket, key, version_id, start, end, if_match=if_match)
            small = await self._in_thread(read)
        return _info(small[0]), small[1]

    async def put(
        self,
        key: str,
        body: Body,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
        if_match: ETag | None = None,
        if_none_match: bool = False,
    ) -> ObjectInfo:
        if (if_match is not None or if_none_match) and not self._capabilities.conditional_put:
            raise Unsupported("the store has no conditional PUT")
        submit = partial(
            self._engine.put_nowait,
            self._bucket,
            key,
            body,
            _attributes(metadata, content_type),
            if_match=if_match,
            if_none_match=if_none_match,
        )
        if len(body) <= self._engine.config.inline_max:
            return _info(await _committed(submit))
        return _info(await self._in_thread(lambda: submit().result()))

    async def copy(
        self,
        source: ObjectRef,
        key: str,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> ObjectInfo:
        attributes = None if metadata is None else _attributes(metadata, content_type)
        submit = partial(
            self._engine.copy_nowait,
            self._bucket,
            source.key,
            source.version_id,
            self._bucket,
            key,
            attributes=attributes,
            if_match=_pinned_etag(source),
        )
        return _info(await _committed(submit))

    async def hide(self, key: str) -> VersionId | None:
        row = await _committed(partial(self._engine.hide_nowait, self._bucket, key))
        return row.version_id

    async def delete_version(self, key: str, version_id: VersionId) -> None:
        await _committed(partial(self._engine.delete_version_nowait, self._bucket, key, version_id))

    async def delete_many(self, targets: Sequence[tuple[str, VersionId | None]]) -> list[VersionId | StoreError | None]:
        if len(targets) > _MAX_PAGE:
            raise InvalidRequest(f"{len(targets)} targets, {_MAX_PAGE} are allowed")

        def remove() -> list[VersionId | StoreError | None]:
            started = [self._start_delete(key, version_id) for key, version_id in targets]
            return [finish() for finish in started]

        return await self._in_thread(remove)

    def _start_delete(self, key: str, version_id: VersionId | None) -> Callable[[], VersionId | StoreError | None]:
        """Submit one deletion; the answer waits for what came of it."""
        try:
            if version_id is None:
                hidden = self._engine.hide_nowait(self._bucket, key)
                return lambda: _outcome(lambda: hidden.result().version_id)
            removed = self._engine.delete_version_nowait(self._bucket, key, version_id)
            return lambda: _outcome(lambda: _nothing(removed))
        except StoreError as error:
            refused = error
            return lambda: refused

    # --- Multipart uploads

    async def create_upload(
        self, key: str, *, metadata: Mapping[str, str] | None = None, content_type: str | None = None
    ) -> UploadId:
        create = partial(self._engine.create_upload, self._bucket, key, _attributes(metadata, content_type))
        return (await self._in_thread(create)).upload_id

    async def upload_part(self, key: str, upload_id: UploadId, number: int, body: Body) -> PartInfo:
        part = await self._in_thread(partial(self._engine.put_part, self._bucket, key, upload_id, number, body))
        return PartInfo(part.number, part.etag, part.size)

    async def copy_part(
        self, key: str, upload_id: UploadId, number: int, source: ObjectRef, start: int, end: int
    ) -> PartInfo:
        copy = partial(
            self._engine.copy_part,
            self._bucket,
            key,
            upload_id,
            number,
            self._bucket,
            source.key,
            source.version_id,
            start,
            end,
            if_match=_pinned_etag(source),
        )
        part = await self._in_thread(copy)
        return PartInfo(part.number, part.etag, part.size)

    async def complete_upload(self, key: str, upload_id: UploadId, parts: Sequence[PartInfo]) -> ObjectInfo:
        claims = [PartClaim(part.number, part.etag) for part in parts]
        return _info(await self._in_thread(partial(self._engine.complete_upload, self._bucket, key, upload_id, claims)))

    async def abort_upload(self, key: str, upload_id: UploadId) -> None:
        try:
            await self._in_thread(partial(self._engine.abort_upload, self._bucket, key, upload_id))
        except NoSuchUpload:
            pass  # one that is gone is what was asked for

    async def list_uploads(self, prefix: str) -> list[UploadInfo]:
        return [_upload(row) for row in await self._in_thread(partial(self._all_uploads, prefix))]

    def _all_uploads(self, prefix: str) -> list[UploadRow]:
        page = self._engine.list_uploads(self._bucket, prefix)
        rows = list(page.rows)
        while page.next_key_marker is not None:
            page = self._engine.list_uploads(
                self._bucket, prefix, key_marker=page.next_key_marker, upload_marker=page.next_upload_marker
            )
            rows += page.rows
        return rows

    async def list_parts(self, key: str, upload_id: UploadId) -> list[PartInfo]:
        parts = await self._in_thread(partial(self._engine.list_parts, self._bucket, key, upload_id))
        return [PartInfo(part.number, part.etag, part.size) for part in parts]


def _find_or_create(engine: Engine, config: EmbeddedConfig) -> BucketRow:
    try:
        return engine.bucket(config.bucket)
    except NoSuchBucket:
        if not config.create:
            raise
    try:
        return engine.create_bucket(BucketSpec(config.bucket), strict_name=False)
    except BucketExists:  # another process was quicker
        return engine.bucket(config.bucket)


async def _committed(submit: Callable[[], Future[T]]) -> T:
    """Submit a change and wait for it.  Cancelled while it waits, the change is made all the same."""
    await trio.lowlevel.checkpoint_if_cancelled()
    future = submit()
    task = trio.lowlevel.current_task()
    token = trio.lowlevel.current_trio_token()
    waiting = True

    def wake() -> None:
        nonlocal waiting
        if waiting:
            waiting = False
            trio.lowlevel.reschedule(task)

    def done(_: Future[T]) -> None:
        try:
            token.run_sync_soon(wake)
        except trio.RunFinishedError:
            pass  # nobody is left who could be woken

    def abort(_: Callable[[], None]) -> trio.lowlevel.Abort:
        nonlocal waiting
        waiting = False
        return trio.lowlevel.Abort.SUCCEEDED

    future.add_done_callback(done)
    await trio.lowlevel.wait_task_rescheduled(abort)
    return future.result()


def _nothing(future: Future[Deleted]) -> None:
    """Wait for a removal; B2 does not tell whether there was anything to remove."""
    future.result()


def _outcome(wait: Callable[[], VersionId | None]) -> VersionId | StoreError | None:
    try:
        return wait()
    except StoreError as error:
        return error


#: Of each header of an object's content its field in ContentHeaders.
_FIELDS = {name: name.lower().replace("-", "_") for name in CONTENT_HEADERS}


def _attributes(metadata: Mapping[str, str] | None, content_type: str | None) -> Attributes:
    if not metadata:
        return Attributes(headers=ContentHeaders(content_type=content_type))
    headers = {field: metadata[name] for name, field in _FIELDS.items() if name in metadata}
    lowered = {name.lower(): value for name, value in metadata.items() if name not in _FIELDS}
    return Attributes(headers=ContentHeaders(content_type=content_type, **headers), metadata=lowered)


def _pinned_etag(source: ObjectRef) -> ETag | None:
    """The ETag that a source must have; one with a version ID is pinned already."""
    return None if source.version_id else source.etag


def _modified_ns(row: VersionRow) -> int:
    """Whole seconds, as B2 tells them."""
    return row.modified_ms // 1000 * 1_000_000_000


def _ref(row: VersionRow) -> ObjectRef:
    return ObjectRef(row.key, row.version_id, row.etag, row.size)


def _info(row: VersionRow) -> ObjectInfo:
    attributes = row.attributes
    kind = attributes.headers.content_type
    metadata = {name: readable(value) for name, value in attributes.metadata.items()}
    for name, field in _FIELDS.items():
        value = getattr(attributes.headers, field)
        if value is not None:
            metadata[name] = readable(value)
    return ObjectInfo(_ref(row), _modified_ns(row), metadata, None if kind is None else readable(kind))


def _listed(row: VersionRow) -> ObjectInfo:
    """As S3 lists an object: without version ID and metadata."""
    return ObjectInfo(ObjectRef(row.key, None, row.etag, row.size), _modified_ns(row))


def _version(row: VersionRow) -> VersionInfo:
    return VersionInfo(_ref(row), _modified_ns(row), bool(row.is_latest), bool(row.is_hide_marker))


def _upload(row: UploadRow) -> UploadInfo:
    return UploadInfo(row.key, row.upload_id, row.started_ms // 1000 * 1_000_000_000)
