"""Small requests within the event loop: non-blocking sockets, kept connections, no other thread.

Most requests are one system call to send and one to receive, with a wait in between.  Where threads (`bulk`) and the
AWS runtime (`crt`) each hand over twice for a request, here the task that asks does everything itself.

INVARIANTS: a connection belongs to one task at a time.  One is kept only after a complete answer to a request that was
sent whole; every other end of an exchange, cancellation too, resets it before `ask` returns, so that nothing of the
request goes out later.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
from collections import deque
from typing import Final

import trio

from b2fs.store.protocol import Body
from b2fs.store.s3.answers import AnswerReader, BadAnswer, Response
from b2fs.store.s3.config import S3Config
from b2fs.store.s3.sockets import IDLE_S, Connections, Question, error_of_connection

#: Heads and small bodies come with one read of this size; a larger body is read in pieces of the second, and after so
#: much others have their turn.
_READ_BYTES: Final = 64 << 10
_LARGE_READ_BYTES: Final = 256 << 10
#: Bodies up to this size are sent together with the head, in one piece.
_JOINED_BYTES: Final = 64 << 10
#: How exactly time limits are kept, in seconds.
_LOOK_S: Final = 0.5
#: How a connection that the peer has ended makes itself known.
_HUNG_UP: Final = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
#: Nothing that is not yet out goes out any more: the peer is told at once.
_RESET = struct.pack("ii", 1, 0)


class _Unanswered(ConnectionError):
    """The connection ended before the server answered anything."""


class _Unsent(_Unanswered):
    """It ended before anything was sent."""


class _Line:
    """One connection, non-blocking."""

    __slots__ = ("_hidden", "_poll", "kept_at", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        #: When it was last put away, in trio time.
        self.kept_at = 0.0
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        #: How much was received and waits in the TLS library, where the kernel does not see it.
        self._hidden = sock.pending if isinstance(sock, ssl.SSLSocket) else None

    def silent(self) -> bool:
        """Whether nothing waits to be read: neither bytes nor the end."""
        return not self._poll.poll(0) and not (self._hidden is not None and self._hidden())

    def reset(self) -> None:
        """End it, with everything that is not yet sent."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.sock.close()

    async def send(self, data: Body) -> None:
        """Send all of it.  Raises OSError, and _Unsent if nothing has gone out.  Checkpoint: only when waiting."""
        try:
            sent = self._send(data)
        except _HUNG_UP as error:
            raise _Unsent(str(error)) from error
        rest = memoryview(data)[sent:]
        while rest:
            await trio.lowlevel.wait_writable(self.sock)
            rest = rest[self._send(rest) :]

    def _send(self, data: Body) -> int:
        try:
            return self.sock.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError):
            return 0

    async def receive(self, size: int, *, wait: bool) -> bytes:
        """Bytes that have arrived, b"" at the end of the stream; wait says that there are none yet.  Raises OSError."""
        while True:
            if wait:
                await trio.lowlevel.wait_readable(self.sock)
            try:
                return self.sock.recv(size)
            except (BlockingIOError, ssl.SSLWantReadError):
                wait = True

    async def receive_into(self, room: memoryview) -> int:
        """How many bytes have arrived and are in room now, 0 at the end of the stream.  Raises OSError."""
        while True:
            try:
                return self.sock.recv_into(room)
            except (BlockingIOError, ssl.SSLWantReadError):
                await trio.lowlevel.wait_readable(self.sock)


class _Watch:
    """Wakes those who wait for longer than they may.

    One task for all looks at the time once in a while: a cancel scope for each request would be a tenth of its cost.
    """

    def __init__(self) -> None:
        self._deadlines: dict[_Line, float] = {}
        self._awake = False

    def begin(self, line: _Line, limit_s: float) -> None:
        """From now on a wait on this connection that lasts beyond the limit ends with ClosedResourceError."""
        self._deadlines[line] = trio.current_time() + limit_s
        if not self._awake:
            self._awake = True
            trio.lowlevel.spawn_system_task(self._look, name="time limits of requests")

    def end(self, line: _Line) -> None:
        del self._deadlines[line]

    async def _look(self) -> None:
        try:
            while self._deadlines:
                await trio.sleep(_LOOK_S)
                now = trio.current_time()
                for line in [line for line, deadline in self._deadlines.items() if deadline <= now]:
                    trio.lowlevel.notify_closing(line.sock)
        finally:
            self._awake = False


class LeanConnections:
    """Connections to one endpoint, for requests that are made within the event loop.

    There are never more than there were requests under way at a time, which the gate bounds.
    """

    def __init__(self, config: S3Config, early: Connections) -> None:
        """early has the connections that were opened before the event loop ran: what lies idle there is taken over."""
        self._address = config.connect_address
        self._connect_timeout_s = config.connect_timeout_s
        self._tls = early.tls
        self._early: Connections | None = early
        self._idle: deque[_Line] = deque()  # latest last
        self._watch = _Watch()
        self._closed = False

    async def ask(self, question: Question, limit_s: float) -> Response:
        """Send a request once and return the answer, whatever its status.

        Raises StoreError, TimedOut if the answer is not complete limit_s after it was begun to be sent.  When it is
        cancelled the request is over: what is not sent will not be.
        """
        try:
            kept = self._take_idle()
            if kept is not None:
                try:
                    return await self._exchange(kept, question, limit_s)
                except _Unsent:  # it was closed while it lay there
                    pass
                except _Unanswered:
                    if not question.repeatable:
                        raise
            return await self._exchange(await self._connect(), question, limit_s)
        except (OSError, BadAnswer) as error:
            raise error_of_connection(error) from error

    async def _exchange(self, line: _Line, question: Question, limit_s: float) -> Response:
        reader = AnswerReader(question.method, slabs=question.slabs)
        keep = False
        self._watch.begin(line, limit_s)
        try:
            whole = await _send(line, question)
            await _receive(line, reader)
            keep = whole and reader.reusable
        except trio.ClosedResourceError as error:
            raise TimeoutError("no complete answer in time") from error
        finally:
            self._watch.end(line)
            if keep:
                self._keep(line)
            else:
                line.reset()
        response = reader.response()
        if not whole and response.status < 300:
            raise BadAnswer("the answer came before the request was sent")
        return response

    def _take_idle(self) -> _Line | None:
        """A kept connection on which the server has neither said anything nor hung up."""
        while self._idle:
            line = self._idle.pop()
            if line.kept_at > trio.current_time() - IDLE_S and line.silent():
                return line
            line.sock.close()
        return None

    def _keep(self, line: _Line) -> None:
        line.kept_at = trio.current_time()
        self._idle.append(line)
        if self._closed or self._idle[0].kept_at < line.kept_at - IDLE_S:
            self._idle.popleft().sock.close()

    async def _connect(self) -> _Line:
        """A connection; at first those that are there already.  Raises OSError."""
        if self._early is not None:
            sock = self._early.give_away()
            if sock is not None:
                sock.setblocking(False)
                return _Line(sock)
            self._early = None
        with trio.move_on_after(self._connect_timeout_s):
            stream = await trio.open_tcp_stream(*self._address)
            sock = socket.socket(fileno=stream.socket.detach())
            sock.setblocking(False)
            return _Line(sock if self._tls is None else await _secured(sock, self._tls, self._address[0]))
        raise TimeoutError("no connection was made")

    def close(self) -> None:
        """Close what is kept, and what comes back later."""
        self._closed = True
        while self._idle:
            self._idle.pop().sock.close()


async def _secured(sock: socket.socket, context: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    """The connection with TLS on it.  Raises OSError."""
    secured = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    try:
        while True:
            try:
                secured.do_handshake()
                return secured
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(secured)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(secured)
    except BaseException:
        secured.close()
        raise


async def _send(line: _Line, question: Question) -> bool:
    """Send a request; False if the server hung up on the way, perhaps after it has answered."""
    head, body = question.head(), question.body
    if memoryview(body).nbytes <= _JOINED_BYTES:
        head, body = head + body, b""
    await line.send(head)
    if body:
        try:
            await line.send(body)
        except _HUNG_UP:
            return False
    return True


async def _receive(line: _Line, reader: AnswerReader) -> None:
    """Read one answer to its end."""
    wait, size, hurried = True, _READ_BYTES, 0
    while not reader.complete:
        if hurried >= _LARGE_READ_BYTES:
            await trio.lowlevel.checkpoint()
            hurried = 0
        if (room := reader.room) is not None:
            got = await line.receive_into(room[:_LARGE_READ_BYTES])
            if not got:
                reader.finish()
            reader.received(got)
            hurried += got
            continue
        try:
            data = await line.receive(size, wait=wait)
        except _HUNG_UP as error:
            if reader.begun:
                raise
            raise _Unanswered(str(error)) from error
        if data:
            reader.feed(data)
        elif reader.begun:
            reader.finish()
        else:
            raise _Unanswered("the server hung up")
        wait, size = False, max(_READ_BYTES, min(reader.missing, _LARGE_READ_BYTES))
        hurried += len(data)
