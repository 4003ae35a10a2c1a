"""Large ranges on connections of their own: the right bytes, and what happens when they do not come."""

from __future__ import annotations

import random
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from b2fs.core.types import Capabilities, ETag
from b2fs.errors import AccessDenied, CorruptBody, PreconditionFailed, SlowDown, TimedOut, Unavailable
from b2fs.store.s3 import RetryPolicy, S3Config, S3Store
from b2fs.store.s3.reads import BULK_BYTES
from b2fs.store.s3.sockets import Connection, Connections
from tests.unit.s3_scripted import EMPTY_LISTING, Reply, Request, Script, ScriptedServer, error_reply

QUICK = RetryPolicy(attempts=3, base_delay_s=0.01, max_delay_s=0.05, deadline_s=20.0)
ONCE = RetryPolicy(attempts=1, base_delay_s=0.01, deadline_s=20.0)
MIB = 1 << 20
CONTENT = random.Random(7).randbytes(8 * MIB)
HEADERS = {"ETag": '"0123-2"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def part(request: Request) -> Reply:
    """The range that was asked for, as a server should answer it."""
    first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
    body = CONTENT[int(first) : int(last) + 1]
    headers = {**HEADERS, "Content-Range": f"bytes {first}-{int(first) + len(body) - 1}/{len(CONTENT)}"}
    return Reply(206, headers, body)


@contextmanager
def scripted(script: Script) -> Iterator[ScriptedServer]:
    def reply(request: Request) -> Reply | None:
        return Reply(body=EMPTY_LISTING) if "list-type=2" in request.query else script(request)

    with ScriptedServer(reply).running() as server:
        yield server


@asynccontextmanager
async def store_on(server: ScriptedServer, **options: Any) -> AsyncIterator[S3Store]:
    options.setdefault("retry", QUICK)
    async with S3Store(S3Config("bucket", server.endpoint, **options), Capabilities()) as store:
        server.requests.clear()
        while server.arrived.acquire(blocking=False):
            pass
        yield store


async def get(store: S3Store, start: int, end: int) -> bytes:
    info, body = await store.get("a", start=start, end=end, if_match=ETag("0123-2"))
    assert info.ref.size == len(CONTENT)
    return bytes(body)


async def test_ranges_arrive_on_one_kept_connection() -> None:
    threads: list[threading.Thread] = []  # the server has one for each connection

    def script(request: Request) -> Reply:
        threads.append(threading.current_thread())
        assert request.headers["authorization"].startswith("AWS4-HMAC-SHA256")
        assert request.headers["if-match"] == '"0123-2"'
        return part(request)

    with scripted(script) as server:
        async with store_on(server) as store:
            assert await get(store, 0, 4 * MIB) == CONTENT[: 4 * MIB]
            assert await get(store, 4 * MIB + 1, 8 * MIB) == CONTENT[4 * MIB + 1 :]
            assert await get(store, 5, 5 + BULK_BYTES) == CONTENT[5 : 5 + BULK_BYTES]
            assert store.gate.in_flight == 0
    assert len(threads) == 3
    assert len(set(threads)) == 1


async def test_many_at_once() -> None:
    with scripted(part) as server:
        async with store_on(server) as store:
            async with trio.open_nursery() as nursery:

                async def one(start: int) -> None:
                    assert await get(store, start, start + 3 * MIB) == CONTENT[start : start + 3 * MIB]

                for number in range(12):
                    nursery.start_soon(one, number * 400_000)
            assert server.count("GET") == 12


@pytest.mark.parametrize("cut", [0, 1, 3 * MIB])
async def test_a_cut_body_is_fetched_again(cut: int) -> None:
    seen = []

    def script(request: Request) -> Reply:
        seen.append(request)
        whole = part(request)
        if len(seen) > 1:
            return whole
        return replace(whole, body=whole.body[:cut], declared=len(whole.body), close=True)

    with scripted(script) as server:
        async with store_on(server) as store:
            assert await get(store, 0, 4 * MIB) == CONTENT[: 4 * MIB]
            assert store.calls.retries == 1


async def test_a_body_that_is_always_cut_is_never_served() -> None:
    def script(request: Request) -> Reply:
        whole = part(request)
        return replace(whole, body=whole.body[:-1], declared=len(whole.body), close=True)

    with scripted(script) as server:
        async with store_on(server) as store:
            with pytest.raises(Unavailable):
                await get(store, 0, 4 * MIB)


async def test_another_range_is_never_served() -> None:
    def script(request: Request) -> Reply:
        headers = {**HEADERS, "Content-Range": f"bytes 0-{4 * MIB - 1}/{len(CONTENT)}"}
        return Reply(206, headers, CONTENT[: 4 * MIB])

    with scripted(script) as server:
        async with store_on(server) as store:
            with pytest.raises(CorruptBody):
                await get(store, MIB, 5 * MIB)


async def test_a_silent_server_is_given_up() -> None:
    with scripted(part) as server:
        async with store_on(server, retry=ONCE, stall_timeout_s=0.3, min_bytes_per_s=1 << 40) as store:
            server.hold()
            began = time.monotonic()
            with pytest.raises(TimedOut):
                await get(store, 0, 4 * MIB)
            assert time.monotonic() - began < 10
            server.release()


async def test_a_connection_that_was_closed_while_it_lay_there_is_no_fault() -> None:
    def script(request: Request) -> Reply:
        return replace(part(request), close=True)

    with scripted(script) as server:
        async with store_on(server, retry=ONCE) as store:
            for _ in range(3):
                assert await get(store, 0, 4 * MIB) == CONTENT[: 4 * MIB]
            assert server.count("GET") == 3


async def test_a_server_that_ignores_ranges_is_understood() -> None:
    with scripted(lambda request: Reply(200, HEADERS, CONTENT)) as server:
        async with store_on(server) as store:
            assert await get(store, MIB, 4 * MIB) == CONTENT[MIB : 4 * MIB]


async def test_over_tls(tmp_path: Path) -> None:
    authority, context, bundle = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tmp_path / "ca.pem"
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(bundle))

    def script(request: Request) -> Reply:
        return Reply(body=EMPTY_LISTING) if "list-type=2" in request.query else part(request)

    with ScriptedServer(script, context).running() as server:
        async with store_on(server, ca_bundle=str(bundle)) as store:
            for start in (0, MIB):
                assert await get(store, start, start + 4 * MIB) == CONTENT[start : start + 4 * MIB]
    assert {request.headers["x-amz-content-sha256"] for request in server.requests} == {"UNSIGNED-PAYLOAD"}


async def test_refusals_are_told_as_they_are() -> None:
    replies = [error_reply(403, "AccessDenied"), error_reply(412, "PreconditionFailed")]
    with scripted(lambda request: replies.pop(0)) as server:
        async with store_on(server) as store:
            with pytest.raises(AccessDenied):
                await get(store, 0, 4 * MIB)
            with pytest.raises(PreconditionFailed):
                await get(store, 0, 4 * MIB)
            assert server.count("GET") == 2


async def test_retry_after_is_seen_at_once() -> None:
    with scripted(lambda request: error_reply(503, "SlowDown", **{"Retry-After": "7"})) as server:
        async with store_on(server, retry=ONCE) as store:
            with pytest.raises(SlowDown) as caught:
                await get(store, 0, 4 * MIB)
            assert caught.value.retry_after_s == 7
            assert store.gate.slowdowns == 1


async def test_a_cancelled_get_ends_with_its_thread() -> None:
    with scripted(part) as server:
        async with store_on(server, stall_timeout_s=60) as store:
            server.hold()
            began = time.monotonic()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(get, store, 0, 4 * MIB)
                await trio.to_thread.run_sync(server.arrived.acquire)
                nursery.cancel_scope.cancel()
            assert time.monotonic() - began < 30, "it does not wait for the server"
            assert store.gate.in_flight == 0
            server.release()
            assert await get(store, 0, 4 * MIB) == CONTENT[: 4 * MIB]


class Pretended(Connection):
    """A connection without a socket, good for ever."""

    def __init__(self) -> None:
        self.closed = 0

    def silent(self) -> bool:
        return True

    def close(self) -> None:
        self.closed += 1


def test_kept_connections_belong_to_one_thread_at_a_time() -> None:
    connections = Connections(S3Config("bucket", "http://127.0.0.1:1"))
    made = [Pretended() for _ in range(40)]
    wrong: list[object] = []
    in_use: set[Connection] = set()

    def work(number: int) -> None:
        own: Connection = made[number]
        for _ in range(300):
            connections.keep(own)
            taken = connections.take_idle()
            if taken is None:
                return  # the others have them all
            if taken in in_use:
                wrong.append(taken)
            in_use.add(taken)
            connections.has_idle  # noqa: B018  # looked at by the trio thread while others take and keep
            in_use.discard(taken)
            own = taken
        connections.keep(own)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    for connection in made[8:]:
        connections.keep(connection)
    assert sum(connection.closed for connection in made) == len(made) - 16, "not more than sixteen are kept"
    connections.close()
    connections.keep(made[0])
    assert all(connection.closed for connection in made)
    assert not connections.has_idle
