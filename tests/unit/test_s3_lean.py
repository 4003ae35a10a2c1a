"""Small requests within the event loop: what counts as an answer, and what happens when none comes."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from b2fs.core.types import Capabilities
from b2fs.errors import AccessDenied, NotFound, SlowDown, StoreError, TimedOut, Unavailable
from b2fs.store.s3 import RetryPolicy, S3Config, S3Store, lean
from b2fs.store.s3.greeting import greet
from b2fs.store.s3.nearby import Frozen
from b2fs.store.s3.sockets import Connections, signed_question
from b2fs.store.s3.transport import LEAN_BYTES
from b2fs.store.s3.wire import Call
from tests.unit.s3_raw import RawServer, whole

ONCE = RetryPolicy(attempts=1, base_delay_s=0.01, deadline_s=30.0)


@dataclass(frozen=True)
class Secured:
    """What TLS needs, or nothing."""

    server: dict[str, Any]
    store: dict[str, Any]


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.fixture(scope="module", params=["plain", "tls"])
def secured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Secured:
    """With and without TLS."""
    if request.param == "plain":
        return Secured({}, {})
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    bundle = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    return Secured({"tls": context}, {"ca_bundle": str(bundle)})


@contextmanager
def answering(*answers: bytes | tuple[bytes, bool], **options: Any) -> Iterator[RawServer]:
    """A server that gives these answers in turn, the last one for ever; (answer, True) hangs up behind it."""
    left = [answer if isinstance(answer, tuple) else (answer, False) for answer in answers]
    with RawServer(lambda _: left.pop(0) if len(left) > 1 else left[0], **options).running() as server:
        yield server


@asynccontextmanager
async def store_on(server: RawServer, **options: Any) -> AsyncIterator[S3Store]:
    options.setdefault("retry", ONCE)
    async with S3Store(S3Config("bucket", server.endpoint, **options), Capabilities()) as store:
        yield store


async def test_many_requests_need_few_connections_and_no_runtime() -> None:
    with answering(whole()) as server:
        async with store_on(server, max_connections=4) as store, trio.open_nursery() as nursery:
            for number in range(250):
                nursery.start_soon(store.put, f"a{number}", bytes(number * 300))
        assert len(server.asked) == 250
        assert server.connections <= 1 + 4  # one more looks whether there is a server
        assert not [asked for asked in server.asked if b"user-agent" in asked.head.lower()]  # as the runtime sends it
        assert not [asked for asked in server.asked if b"expect:" in asked.head.lower()]


HEAD = b'HTTP/1.1 200 OK\r\nETag: "0123"\r\nContent-Length: 3\r\n\r\nabc'


@pytest.mark.parametrize("length", [0, 1, 12, 16, 30, 50, len(HEAD) - 4, len(HEAD) - 1])
async def test_a_cut_answer_is_none(length: int, secured: Secured) -> None:
    with answering((HEAD[:length], True), **secured.server) as server:
        async with store_on(server, **secured.store) as store:
            with pytest.raises(Unavailable):
                await store.put("a", b"x")
            with pytest.raises(Unavailable):
                await store.get("a", start=0, end=3)
            assert len(server.asked) == 2


@pytest.mark.parametrize(
    "answer", [b"220 ready\r\n\r\n", b"\x16\x03\x01\x02\x00" * 40_000, b"HTTP/1.1 200 OK\r\n:\r\n\r\n"]
)
async def test_what_is_no_http_is_no_success(answer: bytes) -> None:
    with answering((answer, True)) as server:
        async with store_on(server) as store:
            with pytest.raises(Unavailable):
                await store.put("a", b"x")


async def test_answers_in_pieces_and_interim_ones(secured: Secured) -> None:
    chunked = b'HTTP/1.1 200 OK\r\nETag: "0123"\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n'
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    with answering(interim + whole(), whole(200, bytes(300_000)), chunked, **secured.server) as server:
        async with store_on(server, **secured.store) as store:
            assert (await store.put("a", b"x")).ref.etag == "0123"
            assert (await store.get("a", start=0, end=300_000))[1] == bytes(300_000)
            with pytest.raises(StoreError, match="5 bytes arrived"):  # without a length a GET tells no size
                await store.get("a", start=0, end=5)
        assert len({asked.connection for asked in server.asked}) == 1


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, LEAN_BYTES])
async def test_bodies_arrive_whole(size: int, secured: Secured) -> None:
    with answering(whole(), **secured.server) as server:
        async with store_on(server, **secured.store) as store:
            await store.put("a", memoryview(bytes(size)))
        [asked] = server.asked
        assert asked.body_bytes == size


async def test_a_connection_that_was_closed_while_it_lay_there_is_no_fault(secured: Secured) -> None:
    with answering((whole(), True), **secured.server) as server:
        async with store_on(server, **secured.store) as store:
            for _ in range(3):
                await store.put("a", b"x")
                await trio.to_thread.run_sync(server.wait_over, server.asked[-1].connection)
        assert len({asked.connection for asked in server.asked}) == 3


async def test_what_only_asks_is_asked_again_when_a_kept_connection_ends_without_an_answer(secured: Secured) -> None:
    with answering(whole(), (b"", True), whole(), **secured.server) as server:
        async with store_on(server, **secured.store) as store:
            await store.put("a", b"x")
            assert (await store.head("a")).ref.etag == "0123"
        assert [asked.method for asked in server.asked] == ["PUT", "HEAD", "HEAD"]


async def test_what_changes_something_is_not_sent_twice_in_silence(secured: Secured) -> None:
    with answering(whole(), (b"", True), whole(), **secured.server) as server:
        async with store_on(server, **secured.store) as store:
            await store.put("a", b"x")
            with pytest.raises(Unavailable):
                await store.put("a", b"y")
        assert len(server.asked) == 2


async def test_an_answer_that_comes_twice_is_heard_once(secured: Secured) -> None:
    with answering(whole() + whole(404), whole(403), **secured.server) as server:
        async with store_on(server, **secured.store) as store:
            await store.put("a", b"x")
            with pytest.raises(AccessDenied):
                await store.put("a", b"x")
        assert len({asked.connection for asked in server.asked}) == 2


async def test_old_connections_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean, "IDLE_S", 0.0)
    with answering(whole()) as server:
        async with store_on(server) as store:
            for _ in range(3):
                await store.put("a", b"x")
        assert len({asked.connection for asked in server.asked}) == 3


async def test_a_refusal_before_the_body_was_sent_is_heard(secured: Secured) -> None:
    with answering((whole(403), True), early=True, **secured.server) as server:
        async with store_on(server, **secured.store) as store:
            with pytest.raises(AccessDenied):
                await store.put("a", bytes(LEAN_BYTES))


async def test_a_success_before_the_body_was_sent_is_none(secured: Secured) -> None:
    with answering((whole(), True), early=True, **secured.server) as server:
        async with store_on(server, **secured.store) as store:
            with pytest.raises(Unavailable):
                await store.put("a", bytes(LEAN_BYTES))


async def test_retry_after_is_seen_at_once() -> None:
    with answering(whole(503, b"<Error><Code>SlowDown</Code></Error>", "Retry-After: 7")) as server:
        async with store_on(server) as store:
            with pytest.raises(SlowDown) as caught:
                await store.put("a", b"x")
            assert caught.value.retry_after_s == 7


async def test_a_missing_object_is_missing() -> None:
    with answering(whole(404)) as server:
        async with store_on(server) as store:
            with pytest.raises(NotFound):
                await store.head("a")


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", whole(200, b"abc")[:-1]])
async def test_a_silent_server_is_given_up(begun: bytes, secured: Secured) -> None:
    with answering(begun, **secured.server) as server:
        async with store_on(server, **secured.store, stall_timeout_s=0.2) as store:
            began = time.monotonic()
            with pytest.raises(TimedOut):
                await store.get("a", start=0, end=3)
            assert time.monotonic() - began < 20
            assert store.gate.in_flight == 0


async def test_a_cancelled_request_sends_nothing_more(secured: Secured) -> None:
    with answering(whole(), **secured.server) as server:
        server.go_on.clear()
        async with store_on(server, **secured.store) as store:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.put, "a", bytes(LEAN_BYTES))
                await trio.to_thread.run_sync(server.arrived.acquire)
                nursery.cancel_scope.cancel()
            assert store.gate.in_flight == 0
            server.go_on.set()
            await trio.to_thread.run_sync(server.wait_over, server.asked[0].connection)
            assert server.asked[0].body_bytes < LEAN_BYTES
            fault = server.over[server.asked[0].connection]
            assert isinstance(fault, ConnectionResetError) or secured.server, "what the kernel still has is not sent"
            assert (await store.put("a", b"x")).ref.etag == "0123"
        assert len({asked.connection for asked in server.asked}) == 2


async def test_the_connections_of_the_first_questions_are_taken_over() -> None:
    with answering(whole()) as server:
        config = S3Config("bucket", server.endpoint, retry=ONCE)
        greeting = greet(config)
        assert greeting is not None
        async with S3Store(config, Capabilities(), greeting) as store:
            assert greeting.versioned is not None
            await trio.to_thread.run_sync(greeting.versioned.result)
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(store.head, "a")
            assert server.connections == 2


async def test_over_tls(tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    body = bytes(range(256)) * 2000
    with answering(whole(), whole(200, body), whole(403), tls=context) as server:
        async with store_on(server, ca_bundle=str(tmp_path / "ca.pem")) as store:
            await store.put("a", b"x")
            assert (await store.get("a", start=0, end=len(body)))[1] == body
            with pytest.raises(AccessDenied):
                await store.put("a", b"x")
        assert len({asked.connection for asked in server.asked}) == 1
        assert all(b"UNSIGNED-PAYLOAD" in asked.head for asked in server.asked)


async def test_a_server_that_cannot_be_told_from_others_is_sent_nothing(tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    with answering(whole(), tls=context) as server:
        config = S3Config("bucket", server.endpoint, ca_bundle=str(tmp_path / "other.pem"))
        connections = lean.LeanConnections(config, Connections(config))
        question = signed_question(config, Frozen("key", "secret", None), Call("PutObject", "PUT", "/a"), "x", None)
        with pytest.raises(Unavailable, match="certificate was not accepted"):
            await connections.ask(question, 10.0)
        assert not server.asked
