"""The bound on connections: the one that has been idle longest makes room, one that works is left alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import trio

from b2fs.server.http.limits import Limits
from b2fs.server.http.listener import Front

Event = MutableMapping[str, Any]


@asynccontextmanager
async def serving(limits: Limits, gate: trio.Event) -> AsyncIterator[tuple[Front, int]]:
    """A front whose application answers /slow when the gate opens, and everything else at once."""

    async def app(
        scope: Event, receive: Callable[[], Awaitable[Event]], send: Callable[[Event], Awaitable[None]]
    ) -> None:
        if scope["path"] == "/slow":
            await gate.wait()
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
