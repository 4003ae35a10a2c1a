"""Connections: their bound, where the one that has been idle longest makes room, slow ones, and TLS."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from b2fs.server.http.connection import RECEIVE_INTO
from b2fs.server.http.limits import Limits
from b2fs.server.http.listener import Front
from b2fs.server.http.tlsstream import TlsStream
from tests.server.harness import Authority

Event = MutableMapping[str, Any]
Into = Callable[[memoryview], Awaitable[int | None]]


async def read_body(scope: Event, receive: Callable[[], Awaitable[Event]]) -> bool:
    """Take the whole body, /into by the front's extension; whether it came to its end."""
    into: Into | None = scope.get("extensions", {}).get(RECEIVE_INTO)
    if scope["path"] == "/into" and into is not None:
        buffer = memoryview(bytearray(1000))
        while count := await into(buffer):
            pass
        return count is not None
    while (event := await receive())["type"] == "http.request":
        if not event["more_body"]:
            return True
    return False


@asynccontextmanager
async def serving(
    limits: Limits, gate: trio.Event, bodies: list[bool] | None = None
) -> AsyncIterator[tuple[Front, int]]:
    """A front whose application answers /slow when the gate opens, and everything else when it has the body.

    bodies gets to know which of them were whole.
    """

    async def app(
        scope: Event, receive: Callable[[], Awaitable[Event]], send: Callable[[Event], Awaitable[None]]
    ) -> None:
        if scope["path"] == "/slow":
            await gate.wait()
        whole = await read_body(scope, receive)
        if bodies is not None:
            bodies.append(whole)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    front = Front(app, limits)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(front.serve, listeners)
        yield front, listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def wait_connections(front: Front, count: int) -> None:
    with trio.fail_after(10):
        while front.connections != count:
            await trio.lowlevel.checkpoint()


async def test_the_longest_idle_connection_makes_room() -> None:
    gate = trio.Event()
    async with serving(Limits(max_connections=2), gate) as (front, port):
        busy = await trio.open_tcp_stream("127.0.0.1", port)
        await busy.send_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await wait_connections(front, 1)
        idle = await trio.open_tcp_stream("127.0.0.1", port)
        await wait_connections(front, 2)
        fresh = await trio.open_tcp_stream("127.0.0.1", port)
        with trio.fail_after(10):
            assert await idle.receive_some() == b""
            await fresh.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await fresh.receive_some()).endswith(b"ok")
            gate.set()
            assert (await busy.receive_some()).endswith(b"ok")
        for stream in (busy, idle, fresh):
            await stream.aclose()


async def test_slow_clients_are_closed() -> None:
    limits = Limits(idle_s=0.1, head_s=0.1, stall_s=0.1)
    async with serving(limits, trio.Event()) as (front, port):
        silent = await trio.open_tcp_stream("127.0.0.1", port)
        slow = await trio.open_tcp_stream("127.0.0.1", port)
        await slow.send_all(b"GET / HTTP/1.1\r\nX: ")
        with trio.fail_after(10):
            assert await silent.receive_some() == b""
            assert await slow.receive_some() == b""
        await wait_connections(front, 0)
        await silent.aclose()
        await slow.aclose()


def body_head(path: str, size: int) -> bytes:
    return f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()


@pytest.mark.parametrize("path", ["/pieces", "/into"])
async def test_a_body_that_stops_ends_as_if_the_client_had_left(path: str) -> None:
    bodies: list[bool] = []
    async with serving(Limits(stall_s=0.1), trio.Event(), bodies) as (_, port):
        client = await trio.open_tcp_stream("127.0.0.1", port)
        await client.send_all(body_head(path, 5000) + b"x" * 10)
        with trio.fail_after(10):
            while await client.receive_some():
                pass  # what the application says to that; then the connection ends
        assert bodies == [False]
        await client.aclose()


@pytest.mark.parametrize("path", ["/pieces", "/into"])
async def test_a_body_that_trickles_does_so_too(path: str) -> None:
    bodies: list[bool] = []
    limits = Limits(grace_s=0.0, body_bytes_per_s=1 << 40)  # whatever comes is too slow
    async with serving(limits, trio.Event(), bodies) as (_, port):
        client = await trio.open_tcp_stream("127.0.0.1", port)
        await client.send_all(body_head(path, 1 << 40))
        with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):
            while True:
                await client.send_all(b"x")
        assert bodies == [False]
        await client.aclose()


@pytest.mark.parametrize("path", ["/pieces", "/into"])
async def test_whole_bodies_leave_the_connection_usable(path: str) -> None:
    bodies: list[bool] = []
    async with serving(Limits(), trio.Event(), bodies) as (_, port):
        client = await trio.open_tcp_stream("127.0.0.1", port)
        with trio.fail_after(10):
            for _ in range(2):
                await client.send_all(body_head(path, 5000) + b"x" * 5000)
                answer = b""
                while not answer.endswith(b"ok"):
                    answer += await client.receive_some()
        assert bodies == [True, True]
        await client.aclose()


@asynccontextmanager
async def tls_echo(authority: Authority) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A TlsStream that answers what it was sent, twice as long, until the peer ends; what it got is in the list."""
    context, got = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), list[bytes]()
    context.load_cert_chain(authority.cert_file, authority.key_file)

    async def serve(transport: trio.SocketStream) -> None:
        stream = TlsStream(transport, context)
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError:
            got.append(b"refused")
            return
        buffer = memoryview(bytearray(100_000))
        while count := await stream.receive_into(buffer):
            got.append(bytes(buffer[:count]))
            await stream.send_all(got[-1] * 2)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        yield listeners[0].socket.getsockname()[1], got
        nursery.cancel_scope.cancel()


async def tls_client(authority: Authority, port: int) -> trio.SSLStream[trio.SocketStream]:
    context = ssl.create_default_context(cafile=authority.ca_file)
    transport = await trio.open_tcp_stream("127.0.0.1", port)
    return trio.SSLStream(transport, context, server_hostname="127.0.0.1")


async def test_tls_takes_many_records_at_once(authority: Authority) -> None:
    async with tls_echo(authority) as (port, got):
        client = await tls_client(authority, port)
        body = os.urandom(3_000_000)
        answer = bytearray()
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send_all, body)
                while len(answer) < 2 * len(body):
                    answer += await client.receive_some()
            assert b"".join(got) == body
            assert len(answer) == 2 * len(body)
            assert max(map(len, got)) > 16 << 10  # more than one record
            await client.aclose()  # waits for the server's closing alert


@pytest.mark.parametrize("polite", [True, False])
async def test_tls_ends_with_or_without_the_closing_alert(authority: Authority, polite: bool) -> None:
    async with tls_echo(authority) as (port, got):
        client = await tls_client(authority, port)
        with trio.fail_after(60):
            await client.send_all(b"hello")
            assert await client.receive_some() == b"hellohello"
            if polite:
                transport, _ = await client.unwrap()  # waits for the server's closing alert
            else:
                transport = client.transport_stream
                await transport.send_eof()
                while await transport.receive_some():
                    pass  # the server's closing alert, and its end
            await transport.aclose()
        assert got == [b"hello"]


async def test_tls_refuses_what_is_no_tls(authority: Authority) -> None:
    async with tls_echo(authority) as (port, got):
        client = await trio.open_tcp_stream("127.0.0.1", port)
        with trio.fail_after(60):
            await client.send_all(b"GET / HTTP/1.1\r\n\r\n")
            while await client.receive_some():
                pass
        await client.aclose()
        assert got == [b"refused"]
