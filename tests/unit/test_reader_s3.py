"""Reader, block cache and S3 store together, before a server that misbehaves: never a wrong byte, never without end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from b2fs.cache.blocks import BlockCache, BlockCacheConfig
from b2fs.cache.reader import Reader, ReaderConfig
from b2fs.core.types import Capabilities, ETag, ObjectRef
from b2fs.errors import PreconditionFailed, RetryableError, StoreError, TimedOut
from b2fs.store.s3 import RetryPolicy, S3Config, S3Store
from tests.unit.s3_scripted import EMPTY_LISTING, Reply, Request, Script, ScriptedServer, error_reply

MIB = 1 << 20
CONTENT = random.Random(11).randbytes(20 * MIB + 77)
REF = ObjectRef("a", None, ETag("0123-2"), len(CONTENT))
HEADERS = {"ETag": '"0123-2"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
QUICK = RetryPolicy(attempts=4, base_delay_s=0.01, max_delay_s=0.05, deadline_s=20.0)


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def part(request: Request) -> Reply:
    first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
    body = CONTENT[int(first) : int(last) + 1]
    return Reply(206, {**HEADERS, "Content-Range": f"bytes {first}-{last}/{len(CONTENT)}"}, body)


@contextmanager
def scripted(script: Script) -> Iterator[ScriptedServer]:
    def reply(request: Request) -> Reply | None:
        return Reply(body=EMPTY_LISTING) if "list-type=2" in request.query else script(request)

    with ScriptedServer(reply).running() as server:
        yield server


@asynccontextmanager
async def reading(
    server: ScriptedServer, directory: Path, config: ReaderConfig | None = None, **options: Any
) -> AsyncIterator[Reader]:
    options.setdefault("retry", QUICK)
    blocks = BlockCache(BlockCacheConfig(str(directory / "blocks")))
    async with S3Store(S3Config("bucket", server.endpoint, **options), Capabilities()) as store:
        server.requests.clear()
        reader = Reader(store, blocks, config)
        async with trio.open_nursery() as nursery:
            await nursery.start(reader.run)
            yield reader
            reader.check_invariants()
            nursery.cancel_scope.cancel()
    blocks.close()


async def read_all(reader: Reader) -> None:
    stream = reader.open(REF)
    for start in range(0, REF.size, MIB):
        end = min(REF.size, start + MIB)
        data = stream.read_nowait(start, end)
        if data is None:
            data = await stream.read(start, end)
        assert data == CONTENT[start:end]
    stream.close()


class Misbehaving:
    """Every third range goes wrong, in one of many ways; from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self.faults = 0

    def __call__(self, request: Request) -> Reply | None:
        good = part(request)
        with self._lock:
            self._count += 1
            if self._count % 3:
                return good
            self.faults += 1
            kind = self.faults % 6
        if kind == 0:
            return None  # hangs up
        if kind == 1:
            return error_reply(503, "SlowDown")
        if kind == 2:
            return error_reply(500, "InternalError")
        cut = replace(good, body=good.body[: len(good.body) // 2])
        if kind == 3:
            return replace(cut, declared=len(good.body), close=True)
        if kind == 4:
            return cut  # complete by its own lights, but not by the range that it names
        return replace(good, headers={**good.headers, "Content-Range": f"bytes 7-{6 + len(good.body)}/{len(CONTENT)}"})


async def test_every_byte_is_right_whatever_the_server_does(tmp_path: Path) -> None:
    misbehaving = Misbehaving()
    with scripted(misbehaving) as server:
        async with reading(server, tmp_path, max_connections=4) as reader:
            await read_all(reader)
            assert reader.stats.failures == 0
    assert misbehaving.faults >= 3
    with scripted(lambda request: error_reply(503, "SlowDown")) as gone:
        async with reading(gone, tmp_path) as reader:
            await read_all(reader)
            assert reader.stats.fetched_bytes == 0, "what is cached needs no server"
            assert gone.requests == []


async def test_a_stalled_server_is_an_error_in_bounded_time(tmp_path: Path) -> None:
    with scripted(part) as server:
        config = ReaderConfig(timeout_s=2.0)
        async with reading(server, tmp_path, config, stall_timeout_s=0.2, min_bytes_per_s=1 << 40) as reader:
            stream = reader.open(REF)
            assert await stream.read(0, MIB) == CONTENT[:MIB]
            server.hold()
            began = time.monotonic()
            with pytest.raises(TimedOut):
                await stream.read(8 * MIB, 16 * MIB)
            assert time.monotonic() - began < 15
            assert stream.read_nowait(0, MIB) == CONTENT[:MIB], "what is here stays readable"
            server.release()
            assert await stream.read(8 * MIB, 16 * MIB) == CONTENT[8 * MIB : 16 * MIB], "and the rest, when it is back"


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (
            lambda request: replace(part(request), headers={**part(request).headers, "ETag": '"4567-2"'}),
            PreconditionFailed,
        ),
        (lambda request: error_reply(412, "PreconditionFailed"), PreconditionFailed),
        (lambda request: None, RetryableError),
    ],
    ids=["another etag", "refused", "hangs up"],
)
async def test_what_is_not_this_content_is_never_served(tmp_path: Path, script: Script, kind: type[StoreError]) -> None:
    with scripted(script) as server:
        async with reading(server, tmp_path) as reader:
            with pytest.raises(kind):
                await reader.open(REF).read(4 * MIB, 8 * MIB)
            assert reader.memory_used == 0
            assert reader.stats.served_bytes == 0
