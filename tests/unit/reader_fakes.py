"""What tests of the reader share: a store in memory behind a round trip, and programs that read."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
import trio.testing

from b2fs.cache.reader import Reader, ReaderConfig, Stream
from b2fs.core.types import Capabilities, ETag, ObjectInfo, ObjectRef, VersionId
from b2fs.errors import (
    InvalidRange,
    PreconditionFailed,
)

KIB, MIB = 1 << 10, 1 << 20
ROUND_TRIP_S = 0.02
BIG = random.Random(1).randbytes(24 * MIB + 4321)
Get = tuple[str, int, int]


class FakeStore:
    """Objects in memory behind a round trip; answers can be spoilt by `fault`, called with (key, start, end)."""

    def __init__(self, *, conditional: bool = True, versions: bool = True) -> None:
        self.capabilities = Capabilities(conditional_get=conditional, versioning=versions)
        self.objects: dict[str, list[bytes]] = {}
        self._etags: dict[int, ETag] = {}
        self.gets: list[Get] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.round_trip_s = ROUND_TRIP_S
        #: Nobody is answered before so many requests have been in flight at a time.
        self.answers_at = 0
        self._reached = trio.Event()
        self.fault: Callable[[str, int, int], BaseException | bytes | None] = lambda key, start, end: None

    def put(self, key: str, content: bytes) -> ObjectRef:
        """Make a version; the answer is a ref as a PUT gives it."""
        self.objects.setdefault(key, []).append(content)
        version = VersionId(f"{key}-v{len(self.objects[key])}") if self.capabilities.versioning else None
        return ObjectRef(key, version, self._etag(content), len(content))

    def _etag(self, content: bytes) -> ETag:
        if id(content) not in self._etags:
            self._etags[id(content)] = ETag(hashlib.md5(content, usedforsecurity=False).hexdigest())
        return self._etags[id(content)]

    async def get(
        self,
        key: str,
        *,
        version_id: VersionId | None = None,
        start: int = 0,
        end: int | None = None,
        if_match: ETag | None = None,
    ) -> tuple[ObjectInfo, bytes]:
        versions = self.objects[key]
        number = len(versions) if version_id is None else int(version_id.rpartition("-v")[2])
        content = versions[number - 1]
        end = len(content) if end is None else min(end, len(content))
        self.gets.append((key, start, end))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.most_in_flight >= self.answers_at:
                self._reached.set()
            await self._reached.wait()
            await trio.sleep(self.round_trip_s)
        finally:
            self.in_flight -= 1
        fault = self.fault(key, start, end)
        if isinstance(fault, BaseException):
            raise fault
        if if_match is not None and self.capabilities.conditional_get and if_match != self._etag(content):
            raise PreconditionFailed("If-Match")
        if start >= len(content) > 0:
            raise InvalidRange("behind the end")
        version = VersionId(f"{key}-v{number}") if self.capabilities.versioning else None
        ref = ObjectRef(key, version, self._etag(content), len(content))
        return ObjectInfo(ref, 0, {"mode": "33188"}), content[start:end] if fault is None else fault


@asynccontextmanager
async def reading(store: FakeStore, config: ReaderConfig | None = None) -> AsyncIterator[Reader]:
    reader = Reader(store, None, config)
    async with trio.open_nursery() as nursery:
        await nursery.start(reader.run)
        try:
            yield reader
            reader.check_invariants()
        finally:
            nursery.cancel_scope.cancel()


async def read(stream: Stream, start: int, end: int) -> bytes:
    data = stream.read_nowait(start, end)
    if data is None:
        data = await stream.read(start, end)
    assert len(data) == end - start
    return bytes(data)


async def read_all(stream: Stream, length: int) -> bytes:
    """Read from start to end in requests of `length`, yielding in between as the kernel does."""
    parts = []
    for start in range(0, stream.ref.size, length):
        parts.append(await read(stream, start, min(stream.ref.size, start + length)))
        await trio.lowlevel.checkpoint()
    return b"".join(parts)
