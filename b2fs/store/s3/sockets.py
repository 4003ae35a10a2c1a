"""Requests on blocking sockets of our own, each made by one thread: HTTP/1.1, kept connections, bodies into slabs.

Knows neither the event loop nor the AWS runtime, so that it works before either is loaded.  One attempt is one request;
retries are the caller's.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from b2fs.errors import ConfigError, StoreError, TimedOut, Unavailable
from b2fs.store.s3.answers import AnswerReader, BadAnswer, Response
from b2fs.store.s3.config import S3Config
from b2fs.store.s3.nearby import Frozen
from b2fs.store.s3.sigv4 import signed
from b2fs.store.s3.wire import Call

if TYPE_CHECKING:
    import ssl

    from b2fs.store.protocol import Body

#: Connections that are kept without work, and how long: servers close idle ones after a minute or less.
_IDLE_CONNECTIONS = 16
IDLE_S = 20.0
#: Heads and small bodies come with one read of this size.
_READ_BYTES = 64 << 10


class _Unanswered(ConnectionError):
    """The connection ended before the server answered anything."""


class Question(NamedTuple):
    """A signed request.  length is what a success must bring, into a slab; None takes what comes, into bytes.

    slabs: where an answer is read within the event loop, the body of a success that tells its length may be a slab too.
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: Body = b""
    length: int | None = None
    slabs: bool = False

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent again without anybody knowing, when a kept connection turns out to be closed."""
        return self.method in ("GET", "HEAD")

    def head(self) -> bytes:
        """What goes over the wire before the body."""
        lines = "".join([f"{name}: {value}\r\n" for name, value in self.headers])
        return f"{self.method} {self.target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")

    def sent(self) -> bytes:
        """What goes over the wire, in one piece."""
        return b"".join((self.head(), self.body))


class Asker:
    """Makes questions to one endpoint out of calls."""

    def __init__(self, config: S3Config) -> None:
        self._host = config.host_header
        self._region = config.signing_region

    def question(self, keys: Frozen, call: Call, payload: str, length: int | None) -> Question:
        """The call as it is sent; payload is what is signed of its body (see sigv4), length that of Question."""
        headers = call.sent_headers(self._host)
        whole = signed(call.method, call.path, headers, payload, keys, self._region, time.time())
        return Question(call.method, call.path, tuple(whole), call.body, length, call.operation == "GetObject")


class Connections:
    """Kept connections to one endpoint, each used by one thread at a time."""

    def __init__(self, config: S3Config) -> None:
        """Raises ConfigError if the CA bundle cannot be read."""
        self._address = config.connect_address
        self._connect_timeout_s = config.connect_timeout_s
        self._stall_timeout_s = config.stall_timeout_s
        self.tls = _tls_context(config) if config.tls else None
        #: Whether the server can be told from others: without TLS, or with certificates to check it with.
        self.verify = self.tls is None or _has_certificates(config)
        self._idle: deque[tuple[float, Connection]] = deque()  # latest last
        self._idle_lock = threading.Lock()
        self._closed = False

    @property
    def has_idle(self) -> bool:
        """Whether a connection is kept that may still be good."""
        with self._idle_lock:
            return bool(self._idle) and self._idle[-1][0] > time.monotonic() - IDLE_S

    def take_idle(self) -> Connection | None:
        """A kept connection on which the server has neither said anything nor hung up."""
        while True:
            with self._idle_lock:
                if not self._idle:
                    return None
                kept_at, connection = self._idle.pop()
            if kept_at > time.monotonic() - IDLE_S and connection.silent():
                return connection
            connection.close()

    def give_away(self) -> socket.socket | None:
        """The socket of a kept connection, for somebody else's use."""
        connection = self.take_idle()
        return None if connection is None else connection.socket

    def connect(self) -> Connection:
        """A new connection.  Raises OSError."""
        host, port = self._address
        # Text would be encoded by a codec that takes longer to load than a near server to answer.  getaddrinfo, which
        # gets the name as it is, takes bytes as well; only what typeshed says of create_connection is narrower.
        name = host.encode("ascii") if host.isascii() else host
        plain = socket.create_connection((name, port), timeout=self._connect_timeout_s)  # type: ignore[arg-type]  # above
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is None:
                _bound_waits(plain, self._stall_timeout_s)
                return Connection(plain, socket.MSG_WAITALL)
            secured = self.tls.wrap_socket(plain, server_hostname=self._address[0])
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
        old = sum(kept_at <= now - IDLE_S for kept_at, _ in self._idle)
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
        self.socket = sock
        self._whole_flag = whole_flag

    def ask(self, question: Question) -> tuple[Response, bool]:
        """Send a request and read its answer; the second value says whether the connection can be used again.

        Raises OSError, BadAnswer, NotTheRange; then it cannot.
        """
        reader = AnswerReader(question.method, length=question.length)
        try:
            self.socket.sendall(question.sent())
            data = self._receive()
        except ConnectionError as error:
            raise _Unanswered(str(error)) from error
        if not data:
            raise _Unanswered("the server hung up")
        reader.feed(data)
        while not reader.complete:
            room = reader.room
            if room is not None and (got := self._receive_into(room)):
                reader.received(got)
            elif room is None and (data := self._receive()):
                reader.feed(data)
            else:
                reader.finish()
        return reader.response(), reader.reusable

    def _receive(self) -> bytes:
        """What has arrived, b"" at the end of the stream."""
        try:
            return self.socket.recv(_READ_BYTES)
        except BlockingIOError as error:
            raise TimeoutError("no byte arrived in time") from error

    def _receive_into(self, room: memoryview) -> int:
        """How many bytes have arrived and are in room now, 0 at the end of the stream.  Waits for all, if it can."""
        try:
            return self.socket.recv_into(room, 0, self._whole_flag)
        except BlockingIOError as error:
            raise TimeoutError("no byte arrived in time") from error

    def silent(self) -> bool:
        """Whether nothing waits to be read: neither bytes nor the end."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return not poll.poll(0)

    def shut(self) -> None:
        """End the connection from another thread than the one that reads: that one finds the end of the stream."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)  # that of SSLSocket would pull its object away

    def close(self) -> None:
        self.socket.close()


class Exchange:
    """One request on its way, in a thread; `cancel` is called from another one."""

    def __init__(self, connections: Connections, question: Question) -> None:
        self._connections = connections
        self._question = question
        self._lock = threading.Lock()
        self._current: Connection | None = None
        self._cancelled = False

    def run(self) -> Response:
        """The answer, whatever its status.  Raises StoreError."""
        try:
            kept = self._connections.take_idle()
            if kept is not None:
                try:
                    return self._ask(kept)
                except _Unanswered:  # it was closed while it lay there
                    if not self._question.repeatable:
                        raise
            return self._ask(self._connections.connect())
        except (OSError, BadAnswer) as error:
            raise error_of_connection(error) from error

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            if self._current is not None:
                self._current.shut()

    def _ask(self, connection: Connection) -> Response:
        reusable = False
        try:
            self._use(connection)
            response, reusable = connection.ask(self._question)
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


def signed_question(config: S3Config, keys: Frozen, call: Call, payload: str, length: int | None) -> Question:
    """The call as it is sent; payload is what is signed of its body (see sigv4), length that of Question."""
    return Asker(config).question(keys, call, payload, length)


def _tls_context(config: S3Config) -> ssl.SSLContext:
    import ssl  # takes longer to load than a server on this machine to answer

    try:
        return ssl.create_default_context(cafile=config.ca_bundle)
    except OSError as error:
        raise ConfigError(f"cannot read the CA bundle {config.ca_bundle}: {error}") from error


def _has_certificates(config: S3Config) -> bool:
    import ssl

    paths = ssl.get_default_verify_paths()
    return bool(config.ca_bundle or paths.cafile or paths.capath)


def _bound_waits(sock: socket.socket, seconds: float) -> None:
    """Bound every wait of a blocking socket, in the kernel: Python's own time limit would not let it wait for all."""
    sock.settimeout(None)
    limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def error_of_connection(error: OSError | BadAnswer) -> StoreError:
    """The exception for a fault below HTTP; all of these may pass."""
    if isinstance(error, TimeoutError):
        return TimedOut(f"the server was silent for too long ({error})")
    import ssl  # not where nothing fails

    if isinstance(error, ssl.SSLCertVerificationError):
        return Unavailable(f"the server's certificate was not accepted: {error.verify_message}")
    if isinstance(error, socket.gaierror):
        return Unavailable(f"the endpoint's host name is unknown ({error.strerror})")
    return Unavailable(f"the connection failed: {error or type(error).__name__}")
