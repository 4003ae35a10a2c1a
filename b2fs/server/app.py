"""The ASGI application: the S3 service behind one HTTP interface.

Runs on any ASGI server; our own front (http1) and hypercorn's trio worker are the ones that are tested.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import trio

from b2fs.server.ids import request_ids
from b2fs.server.ops.call import Stream
from b2fs.server.service import Answer, S3Service
from b2fs.server.wire.errors import S3Error
from b2fs.server.wire.request import Request, fold_headers

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

#: What is read and thrown away of a refused request's body, so that the client sees the answer and may go on.
_DRAIN_BYTES: Final = 256 << 10


class AsgiBody:
    """A request's body from ASGI events."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

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
                return data
        return b""


def _encode_header(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape").replace(b"\r", b" ").replace(b"\n", b" ")


class Application:
    """ASGI 3."""

    def __init__(self, service: S3Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = AsgiBody(receive)
        client = scope.get("client") or ("", 0)
        raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        request = Request(
            scope["method"],
            raw_path.decode("latin-1"),
            scope["query_string"].decode("latin-1"),
            fold_headers(scope["headers"]),
            body,
            scope["scheme"],
            client[0],
        )
        answer = await self._service.handle(request)
        try:
            await _respond(answer, request, body, send)
        finally:
            if not isinstance(answer.body, bytes):
                answer.body.close()


async def _respond(answer: Answer, request: Request, body: AsgiBody, send: Send) -> None:
    headers = [(name.encode("latin-1"), _encode_header(value)) for name, value in (*answer.headers, *request_ids())]
    if not await _drain(request, body):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if isinstance(answer.body, bytes):
        await send({"type": "http.response.body", "body": answer.body})
    else:
        await _stream(answer.body, send)


async def _stream(stream: Stream, send: Send) -> None:
    left = stream.size
    while left > 0:
        piece = await trio.to_thread.run_sync(stream.read) if left > (64 << 10) else stream.read()
        if not piece:
            # The head promised more: breaking the connection is the only way to say that something is wrong.
            raise ConnectionAbortedError("the stored body is shorter than its size")
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
