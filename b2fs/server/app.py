"""The ASGI application: the S3 service and the native API behind one HTTP interface.

Runs on any ASGI server; our own front (http) and hypercorn's trio worker are the ones that are tested.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, Protocol

import trio

from b2fs.server.accesslog import AccessLog, Entry
from b2fs.server.classes import transaction_class
from b2fs.server.faults import Breakage
from b2fs.server.http.connection import RECEIVE_INTO
from b2fs.server.ids import request_ids
from b2fs.server.ops.call import Stream
from b2fs.server.service import Answer
from b2fs.server.wire.errors import S3Error
from b2fs.server.wire.request import PiecewiseBody, Request, fold_headers, kept_bytes

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ReceiveInto = Callable[[memoryview], Awaitable[int | None]]


#: What is read and thrown away of a refused request's body, so that the client sees the answer and may go on.
_DRAIN_BYTES: Final = 256 << 10
#: Pieces up to this size are read from the store on the event loop: they are in the page cache or one disk read away.
_QUICK_BYTES: Final = 64 << 10


class Service(Protocol):
    """One of the two doors."""

    async def handle(self, request: Request) -> Answer: ...


class AsgiBody(PiecewiseBody):
    """A request's body from ASGI events, or straight into buffers where the front offers that."""

    def __init__(self, receive: Receive, into: ReceiveInto | None = None) -> None:
        super().__init__()
        self._receive = receive
        self._into = into
        self.ended = False
        self.received = 0

    async def receive(self) -> bytes:
        """The next bytes; b"" at the end.  Raises IncompleteBody when the client is gone."""
        while not self.ended:
            event = await self._receive()
            if event["type"] != "http.request":
                self.ended = True
                raise S3Error("IncompleteBody")
            self.ended = not event.get("more_body", False)
            data: bytes = event.get("body", b"")
            if data:
                self.received += len(data)
                return data
        return b""

    async def receive_into(self, buffer: memoryview) -> int:
        if self._into is None:
            return await super().receive_into(buffer)
        count = None if self.ended else await self._into(buffer)
        if count is None:
            self.ended = True
            raise S3Error("IncompleteBody")
        self.ended = count == 0
        self.received += count
        return count


class Application:
    """ASGI 3.  choose tells which door a request is for."""

    def __init__(self, choose: Callable[[Request], Service], log: AccessLog) -> None:
        self._choose = choose
        self._log = log
        self._active = 0
        self._quiet = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            self._active += 1
            try:
                await self._serve(scope, receive, send)
            finally:
                self._active -= 1
                if self._active == 0:
                    self._quiet.set()
                    self._quiet = trio.Event()

    async def wait_quiet(self) -> None:
        """Return when no request is under way."""
        if self._active:
            await self._quiet.wait()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_s = time.perf_counter()
        body = AsgiBody(receive, scope.get("extensions", {}).get(RECEIVE_INTO))
        client = scope.get("client") or ("", 0)
        raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        ids = request_ids()
        request = Request(
            scope["method"],
            raw_path.decode("latin-1"),
            scope["query_string"].decode("latin-1"),
            fold_headers(scope["headers"]),
            body,
            scope["scheme"],
            client[0],
            ids[0][1],
        )
        answer = await self._choose(request).handle(request)
        sent = None
        try:
            sent = await _respond(answer, ids, request, body, send)
        finally:
            if not isinstance(answer.body, bytes):
                answer.body.close()
            if self._log.enabled:
                self._log.add(_entry(request, answer, ids[0][1], body.received, sent, time.perf_counter() - started_s))


def _entry(
    request: Request, answer: Answer, request_id: str, bytes_in: int, bytes_out: int | None, took_s: float
) -> Entry:
    """bytes_out None: the answer did not reach the client as a whole."""
    return Entry(
        request.client,
        request.method,
        request.raw_path,
        answer.operation,
        answer.status,
        "Aborted" if bytes_out is None else answer.error_code,
        transaction_class(answer.operation),
        bytes_in,
        bytes_out or 0,
        round(took_s * 1000, 3),
        answer.key_id,
        request_id,
    )


def _encode_header(text: str) -> bytes:
    return kept_bytes(text).replace(b"\r", b" ").replace(b"\n", b" ")


async def _respond(answer: Answer, ids: list[tuple[str, str]], request: Request, body: AsgiBody, send: Send) -> int:
    """Send the answer; the number of bytes of its body.  Raises ConnectionAbortedError for a broken one."""
    if answer.breakage in (Breakage.LOST, Breakage.RESET):
        raise ConnectionAbortedError("a fault on demand")
    headers = [(name.encode("latin-1"), _encode_header(value)) for name, value in (*answer.headers, *ids)]
    if not await _drain(request, body):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if isinstance(answer.body, bytes):
        await send({"type": "http.response.body", "body": answer.body})
        return len(answer.body)
    await _stream(answer.body, send, cut=answer.breakage is Breakage.CUT)
    return answer.body.size


async def _stream(stream: Stream, send: Send, *, cut: bool) -> None:
    left = stream.size
    while left > 0:
        piece = await trio.to_thread.run_sync(stream.read) if left > _QUICK_BYTES else stream.read()
        if cut:
            await send({"type": "http.response.body", "body": piece[: len(piece) // 2], "more_body": True})
        if not piece or cut:
            # The head promised more: breaking the connection is the only way to say that something is wrong.
            raise ConnectionAbortedError("the body ends too early")
        left -= len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
    if stream.size == 0:
        await send({"type": "http.response.body", "body": b""})


async def _drain(request: Request, body: AsgiBody) -> bool:
    """Read what is left of the body if that is little; whether the connection can be used again."""
    if body.ended:
        return True
    declared = request.headers.get("content-length", "")
    if not declared and "transfer-encoding" not in request.headers:
        return True
    if "expect" in request.headers or not declared.isdigit() or int(declared) > _DRAIN_BYTES:
        return False
    try:
        while await body.receive():
            pass
    except S3Error:
        return False
    return True


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        event = await receive()
        await send({"type": f"{event['type']}.complete"})
        if event["type"] == "lifespan.shutdown":
            return
