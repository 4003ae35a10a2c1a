"""Large bodies from the server straight into memory that is used again.

The CRT grows a buffer for each answer and copies it into a Python object under the GIL; per GiB that costs about two
seconds of CPU, most of it for memory that is new to the process.  Here a thread reads from a blocking socket into a
slab: 0.4 s/GiB, a few system calls per body, the GIL released in all of them.  Connections are kept for the next
range.

One attempt is one request, as in `transport`; retries are the caller's.  A thread never outlives the call that it
serves.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import select
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar, cast

import trio
from awscrt.auth import AwsSigningConfig, aws_sign_request
from awscrt.exceptions import AwsCrtError
from awscrt.http import HttpRequest

from b2fs.core.slabs import SLABS
from b2fs.errors import StoreError, TimedOut, Unavailable
from b2fs.store.s3.config import S3Config
from b2fs.store.s3.faults import Response, error_of, error_of_crt
from b2fs.store.s3.waiting import wait_future
from b2fs.store.s3.wire import Call

T = TypeVar("T")

#: Connections that are kept without work, and how long: servers close idle ones after a minute or less.
_IDLE_CONNECTIONS = 16
_IDLE_S = 20.0
#: Reads for at least so much ask the kernel for all of it in one call; smaller ones are the heads of answers.
_WHOLE_READ_BYTES = 64 << 10
#: The body of an error is read up to here.
_ERROR_BYTES = 64 << 10


class NotTheRange(StoreError):
    """A success that is not the range that was asked for; nothing of its body was taken."""


class _Unanswered(ConnectionError):
    """The connection ended before the server answered anything."""


class BulkConnections:
    """Kept connections to one endpoint, each used by one thread at a time."""

    def __init__(self, config: S3Config) -> None:
        self._address = config.connect_address
        self._connect_timeout_s = config.connect_timeout_s
        self._stall_timeout_s = config.stall_timeout_s
        self._tls = ssl.create_default_context(cafile=config.ca_bundle) if config.tls else None
        self._idle: deque[tuple[float, Connection]] = deque()  # latest last
        self._idle_lock = threading.Lock()
        self._closed = False

    @property
    def has_idle(self) -> bool:
        """Whether a connection is kept that may still be good."""
        with self._idle_lock:
            return bool(self._idle) and self._idle[-1][0] > time.monotonic() - _IDLE_S

    async def send(self, call: Call, request: HttpRequest, signing: AwsSigningConfig) -> Response:
        """Send a GET once and return its answer, the body in `content`.

        Raises a StoreError for everything but a success, NotTheRange for one whose length is not call.expected_bytes.
        Cancellation ends the connection, and returns when nothing writes into the body any more.
        """
        try:
            await wait_future(aws_sign_request(request, signing))
        except AwsCrtError as error:
            raise error_of_crt(error.name, error.message) from error
        exchange = _Exchange(self, _head_of(request), call.expected_bytes)
        response = await wait_future(_in_thread(exchange.run), exchange.cancel)
        if 200 <= response.status < 300:
            return response
        raise error_of(response, has_body=call.has_body)

    def take_idle(self) -> Connection | None:
        """A kept connection on which the server has neither said anything nor hung up."""
        while True:
            with self._idle_lock:
                if not self._idle:
                    return None
                kept_at, connection = self._idle.pop()
            if kept_at > time.monotonic() - _IDLE_S and connection.silent():
                return connection
            connection.close()

    def connect(self) -> Connection:
        """A new connection.  Raises OSError."""
        plain = socket.create_connection(self._address, timeout=self._connect_timeout_s)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is None:
                _bound_waits(plain, self._stall_timeout_s)
                return Connection(plain, socket.MSG_WAITALL)
            secured = self._tls.wrap_socket(plain, server_hostname=self._address[0])
            secured.settimeout(self._stall_timeout_s)
            return Connection(secured, 0)
        except BaseException:
            plain.close()
            raise

    def keep(self, connection: Connection) -> None:
        """Take back a connection that can be used again; too many and too old ones are closed."""
        now = time.monotonic()
        with self._idle_lock:
            self._idle.append((now, connection))
            surplus = [self._idle.popleft() for _ in range(self._surplus(now))]
        for _, old in surplus:
            old.close()

    def _surplus(self, now: float) -> int:
        if self._closed:
            return len(self._idle)
        old = sum(kept_at <= now - _IDLE_S for kept_at, _ in self._idle)
        return max(old, len(self._idle) - _IDLE_CONNECTIONS)

    def close(self) -> None:
        """Close what is kept, and what comes back later."""
        with self._idle_lock:
            self._closed = True
            kept = list(self._idle)
            self._idle.clear()
        for _, connection in kept:
            connection.close()


class Connection:
    """A blocking socket that speaks HTTP/1.1."""

    def __init__(self, sock: socket.socket, whole_flag: int) -> None:
        self._socket = sock
        self._whole_flag = whole_flag

    def ask(self, head: bytes, length: int) -> tuple[Response, bool]:
        """Send a request and read its answer; the second value says whether the connection can be used again.

        Raises OSError, http.client.HTTPException, NotTheRange; then it cannot.
        """
        answer = http.client.HTTPResponse(cast(Any, _Source(self._socket, self._whole_flag)))
        with contextlib.closing(answer):
            try:
                self._socket.sendall(head)
                answer.begin()
            except ConnectionError as error:
                raise _Unanswered(str(error)) from error
            headers = {name.lower(): value for name, value in answer.getheaders()}
            if not 200 <= answer.status < 300:
                body = answer.read(_ERROR_BYTES)
                return Response(answer.status, headers, body), answer.isclosed() and not answer.will_close
            if answer.length != length:
                raise NotTheRange(f"the answer has {answer.length} bytes instead of {length}")
            target = SLABS.take(length)
            got = answer.readinto(target)
            if got != length:
                raise http.client.IncompleteRead(b"", length - got)
            return Response(answer.status, headers, b"", target), not answer.will_close

    def silent(self) -> bool:
        """Whether nothing waits to be read: neither bytes nor the end."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def shut(self) -> None:
        """End the connection from another thread than the one that reads: that one finds the end of the stream."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # that of SSLSocket would pull its object away

    def close(self) -> None:
        self._socket.close()


class _Source(io.RawIOBase):
    """What http.client reads from: its buffer passes reads that are larger than itself on, into the caller's memory."""

    def __init__(self, sock: socket.socket, whole_flag: int) -> None:
        super().__init__()
        self._socket = sock
        self._whole_flag = whole_flag

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        flags = self._whole_flag if len(target) >= _WHOLE_READ_BYTES else 0
        try:
            return self._socket.recv_into(target, 0, flags)
        except BlockingIOError as error:
            raise TimeoutError("no byte arrived in time") from error


class _Exchange:
    """One request on its way, in a thread; `cancel` is called from another one."""

    def __init__(self, connections: BulkConnections, head: bytes, length: int) -> None:
        self._connections = connections
        self._head = head
        self._length = length
        self._lock = threading.Lock()
        self._current: Connection | None = None
        self._cancelled = False

    def run(self) -> Response:
        """Raises StoreError."""
        try:
            kept = self._connections.take_idle()
            if kept is not None:
                with contextlib.suppress(_Unanswered):  # it was closed while it lay there
                    return self._ask(kept)
            return self._ask(self._connections.connect())
        except (OSError, http.client.HTTPException) as error:
            raise _error_of(error) from error

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            if self._current is not None:
                self._current.shut()

    def _ask(self, connection: Connection) -> Response:
        reusable = False
        try:
            self._use(connection)
            response, reusable = connection.ask(self._head, self._length)
            return response
        finally:
            with self._lock:
                self._current = None
            if reusable:
                self._connections.keep(connection)
            else:
                connection.close()

    def _use(self, connection: Connection) -> None:
        with self._lock:
            if self._cancelled:
                raise ConnectionAbortedError("the request was cancelled")
            self._current = connection


def _head_of(request: HttpRequest) -> bytes:
    lines = [f"{request.method} {request.path} HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers)]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _in_thread(work: Callable[[], T]) -> Future[T]:
    """Start work in a thread of trio's cache; unlike trio.to_thread it can be waited for with a say in cancellation."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001  # it is raised where the future is waited for
            future.set_exception(error)

    trio.lowlevel.start_thread_soon(run, lambda _: None)
    return future


def _bound_waits(sock: socket.socket, seconds: float) -> None:
    """Bound every wait of a blocking socket, in the kernel: Python's own time limit would not let it wait for all."""
    sock.settimeout(None)
    limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def _error_of(error: OSError | http.client.HTTPException) -> StoreError:
    """The exception for a fault below HTTP; all of these may pass."""
    if isinstance(error, TimeoutError):
        return TimedOut(f"the server was silent for too long ({error})")
    if isinstance(error, ssl.SSLCertVerificationError):
        return Unavailable(f"the server's certificate was not accepted: {error.verify_message}")
    if isinstance(error, socket.gaierror):
        return Unavailable(f"the endpoint's host name is unknown ({error.strerror})")
    return Unavailable(f"the connection failed: {error or type(error).__name__}")
