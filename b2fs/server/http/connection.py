"""One connection: heads in, the application's answers out, one request after the other.

INVARIANT: whatever is read ahead of its request stays in `_buffer`, which never holds more than one head and one read.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, Protocol

import trio

from b2fs.server.http.chunks import BadChunk, ChunkDecoder
from b2fs.server.http.head import END, BadHead, Head, HeadParser
from b2fs.server.http.limits import Limits
from b2fs.server.http.tlsstream import TlsStream
from b2fs.server.ids import request_ids
from b2fs.server.wire.errors import S3Error

READ_BYTES: Final = 256 << 10
#: An extension of ASGI that this front offers: a coroutine function that puts the body's next bytes at the start of a
#: buffer and answers how many they are, 0 at the end, None when the client has left.
RECEIVE_INTO: Final = "b2fs.receive_into"
_HEAD_READ_BYTES: Final = 64 << 10
#: Up to this size head and body of an answer go out in one call.
_JOIN_BYTES: Final = 64 << 10
_LINGER_S: Final = 5.0
_LINGER_BYTES: Final = 64 << 20

Event = MutableMapping[str, Any]
App = Callable[[Event, Callable[[], Awaitable[Event]], Callable[[Event], Awaitable[None]]], Awaitable[None]]


class Stream(Protocol):
    """What trio's socket and TLS streams have in common."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...

    async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...


class ClientGone(Exception):
    """The peer closed or broke the connection, or was too slow."""


@lru_cache(maxsize=64)
def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


@lru_cache(maxsize=2)
def _date(second: int) -> bytes:
    return b"date: " + formatdate(second, usegmt=True).encode() + b"\r\nserver: b2fs\r\n"


def _filler(stream: Stream) -> Callable[[memoryview], Awaitable[int]] | None:
    """What puts a stream's next bytes straight into a buffer."""
    if isinstance(stream, trio.SocketStream):
        return stream.socket.recv_into
    return stream.receive_into if isinstance(stream, TlsStream) else None


class Connection:
    """Serves requests until the client or a limit ends it."""

    def __init__(self, stream: Stream, app: App, limits: Limits, scheme: str, client: tuple[str, int]) -> None:
        self._stream = stream
        self._app = app
        self._limits = limits
        self._scheme = scheme
        self._client = client
        self._fill = _filler(stream)
        self._buffer = b""
        #: Whether the connection waits for a request and may be closed to make room.
        self.idle = True

    async def run(self) -> None:
        """Serve until the end.  Errors of the peer end it quietly."""
        try:
            while await self._serve_one():
                pass
        except (ClientGone, trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def read(self, max_bytes: int, timeout_s: float) -> bytes:
        """The next bytes from the peer; b"" when it has closed.  Raises ClientGone when it is silent too long."""
        with trio.move_on_after(timeout_s) as scope:
            data = await self._stream.receive_some(max_bytes)
        if scope.cancelled_caught:
            raise ClientGone
        return bytes(data)

    @property
    def fills(self) -> bool:
        """Whether read_into can be used."""
        return self._fill is not None

    async def read_into(self, buffer: memoryview, timeout_s: float) -> int:
        """As read, but into a buffer: how many bytes, 0 when the peer has closed.  Raises ClientGone."""
        assert self._fill is not None
        try:
            with trio.move_on_after(timeout_s) as scope:
                count = await self._fill(buffer)
        except OSError as error:
            raise ClientGone from error
        if scope.cancelled_caught:
            raise ClientGone
        return count

    async def write(self, data: bytes) -> None:
        """Send all of it.  Raises ClientGone when the peer does not take it in time."""
        with trio.move_on_after(self._limits.send_s) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            raise ClientGone

    async def _serve_one(self) -> bool:
        try:
            raw = await self._read_head()
            if raw is None:
                return False
            head = HeadParser().parse(raw)
        except BadHead as error:
            await self._refuse(error)
            await self._linger()
            return False
        exchange = Exchange(self, head, self._buffer, self._limits)
        self._buffer = b""
        try:
            scope = self._scope(head)
            if self.fills and not head.chunked:
                scope["extensions"] = {RECEIVE_INTO: exchange.receive_into}
            await self._app(scope, exchange.receive, exchange.send)
        except (ClientGone, trio.BrokenResourceError, trio.ClosedResourceError, ConnectionAbortedError):
            return False
        self._buffer = exchange.leftover()
        self.idle = True
        if exchange.refused_body:
            await self._linger()
        return exchange.reusable

    async def _linger(self) -> None:
        """Take what the client is still sending, for a while: closing at once would reset the answer away."""
        taken = 0
        with trio.move_on_after(_LINGER_S):
            while taken < _LINGER_BYTES and (data := await self._stream.receive_some(READ_BYTES)):
                taken += len(data)

    def _scope(self, head: Head) -> Event:
        path, _, query = head.target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": head.version,
            "method": head.method,
            "scheme": self._scheme,
            "path": path.decode("latin-1"),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": head.headers,
            "client": self._client,
        }

    async def _read_head(self) -> bytes | None:
        """The bytes of the next head; None when the client has nothing more to ask."""
        data = self._buffer.lstrip(b"\r\n")
        deadline_s = trio.current_time() + (self._limits.head_s if data else self._limits.idle_s)
        while (end := data.find(END)) < 0:
            if len(data) > self._limits.head_bytes:
                raise BadHead(400, "RequestHeaderSectionTooLarge")
            fresh = await self.read(_HEAD_READ_BYTES, deadline_s - trio.current_time())
            if not fresh:
                return None
            if not data:
                self.idle = False
                fresh = fresh.lstrip(b"\r\n")
                deadline_s = trio.current_time() + self._limits.head_s
            data += fresh
        if end > self._limits.head_bytes:
            raise BadHead(400, "RequestHeaderSectionTooLarge")
        self.idle = False
        self._buffer = data[end + len(END) :]
        return data[: end + len(END)]

    async def _refuse(self, error: BadHead) -> None:
        ids = request_ids()
        body = S3Error(error.code).to_xml(ids[0][1])
        headers = [
            *ids,
            ("content-type", "application/xml"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        head = "".join(f"{name}: {value}\r\n" for name, value in headers).encode()
        await self.write(_status_line(error.status) + _date(int(time.time())) + head + b"\r\n" + body)


class Exchange:
    """One request and its answer, as ASGI's receive and send."""

    def __init__(self, connection: Connection, head: Head, buffer: bytes, limits: Limits) -> None:
        self._connection = connection
        self._head = head
        self._chunks = ChunkDecoder() if head.chunked else None
        self._buffer = buffer
        self._limits = limits
        self._left = head.content_length
        self._started_s = trio.current_time()
        self._received = 0
        self._continue = head.expects_continue
        self._body_done = not head.has_body
        self._pending: bytes | None = None
        self._answered = False
        self._close = not head.keep_alive

    @property
    def reusable(self) -> bool:
        """Whether the connection can take another request."""
        return self._answered and self._body_done and not self._close

    @property
    def refused_body(self) -> bool:
        """Whether the answer was sent while the client was still sending."""
        return self._answered and not self._body_done and not self._continue

    def leftover(self) -> bytes:
        """Bytes behind this request that were read with it."""
        return self._buffer

    # --- the request's body

    async def receive(self) -> Event:
        """ASGI receive: a piece of the body, or the peer's leaving."""
        if self._body_done:
            if self._answered:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._invite()
        try:
            data = await (self._receive_plain() if self._chunks is None else self._receive_chunked(self._chunks))
        except (BadChunk, ClientGone, trio.BrokenResourceError):
            self._body_done = self._close = True
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": data, "more_body": not self._body_done}

    async def receive_into(self, buffer: memoryview) -> int | None:
        """The extension RECEIVE_INTO; for bodies of a declared length."""
        if self._body_done:
            return 0
        room = buffer[: self._left]
        try:
            await self._invite()
            if self._buffer:
                data, self._buffer = self._buffer[: len(room)], self._buffer[len(room) :]
                count = len(data)
                room[:count] = data
            else:
                count = await self._connection.read_into(room, self._limits.stall_s)
                self._note(count)
        except (ClientGone, trio.BrokenResourceError):
            self._body_done = self._close = True
            return None
        self._left -= count
        self._body_done = self._left == 0
        return count

    async def _invite(self) -> None:
        """Tell a client that waits for it that its body is wanted."""
        if self._continue:
            self._continue = False
            await self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def _read(self, max_bytes: int) -> bytes:
        if self._buffer:
            data, self._buffer = self._buffer[:max_bytes], self._buffer[max_bytes:]
            return data
        data = await self._connection.read(max_bytes, self._limits.stall_s)
        self._note(len(data))
        return data

    def _note(self, count: int) -> None:
        """Count what came.  Raises ClientGone for nothing, and for a body that comes too slowly."""
        self._received += count
        waited_s = trio.current_time() - self._started_s
        if not count or (waited_s > self._limits.grace_s and self._received < waited_s * self._limits.body_bytes_per_s):
            raise ClientGone

    async def _receive_plain(self) -> bytes:
        data = await self._read(min(READ_BYTES, self._left))
        self._left -= len(data)
        self._body_done = self._left == 0
        return data

    async def _receive_chunked(self, chunks: ChunkDecoder) -> bytes:
        while True:
            data = chunks.feed(await self._read(READ_BYTES))
            if chunks.complete:
                self._body_done = True
                self._buffer = chunks.rest + self._buffer
            if data or self._body_done:
                return data

    # --- the answer

    async def send(self, event: Event) -> None:
        """ASGI send.  The head waits for the first piece of body, to leave with it."""
        if event["type"] == "http.response.start":
            self._pending = self._format(event["status"], event["headers"])
            return
        body: bytes = event.get("body", b"")
        more = event.get("more_body", False)
        if self._head.method == "HEAD":
            body = b""
        if self._pending is not None:
            head, self._pending = self._pending, None
            if len(body) <= _JOIN_BYTES:
                await self._connection.write(head + body)
                body = b""
            else:
                await self._connection.write(head)
        if body:
            await self._connection.write(body)
        self._answered = self._answered or not more

    def _format(self, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        parts = [_status_line(status), _date(int(time.time()))]
        has_length = status in (204, 304)
        for name, value in headers:
            parts.append(name + b": " + value + b"\r\n")
            if name == b"content-length":
                has_length = True
            elif name == b"connection" and value == b"close":
                self._close = True
        if not has_length and self._head.method != "HEAD":
            # Only the end of the connection can end this body.
            self._close = True
            parts.append(b"connection: close\r\n")
        elif self._close:
            parts.append(b"connection: close\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)
