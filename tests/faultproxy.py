"""FaultProxy: stands on loopback between a client of S3 and a real server, and does harm on command.

Requests and answers pass through whole, so a fault strikes at a known place: before the request, in the middle of
its body, after the server has carried it out, in the middle of the answer.  Rules choose the victims by the S3 name of
the call; the same seed and the same requests meet the same faults.  What passed is counted, byte for byte.
"""

from __future__ import annotations

import http.client
import random
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

#: Against hanging; nothing is measured by it.
PATIENCE_S = 60.0

#: Calls that change the bucket.
WRITES = (
    "PutObject",
    "CopyObject",
    "CreateMultipartUpload",
    "UploadPart",
    "UploadPartCopy",
    "CompleteMultipartUpload",
    "DeleteObject",
    "DeleteObjects",
)
READS = ("GetObject", "HeadObject", "ListObjectsV2")


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it arrived: operation is the S3 name of the call, key is decoded, header names are lower-case.

    at is when its head had arrived, by the monotonic clock.
    """

    operation: str
    method: str
    target: str
    key: str
    headers: dict[str, str]
    body_bytes: int
    head: tuple[tuple[str, str], ...]
    at: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, without the headers that are about the connection.

    declared is the Content-Length to tell, if that is not the body's.
    """

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    declared: int | None = None

    def with_header(self, name: str, value: str) -> Answer:
        """The same answer with another value of one header."""
        kept = tuple(pair for pair in self.headers if pair[0].lower() != name.lower())
        return replace(self, headers=(*kept, (name, value)))

    def header(self, name: str) -> str:
        return next((value for given, value in self.headers if given.lower() == name.lower()), "")


class Gone(Exception):
    """The connection to the client is over."""


class Fault(Protocol):
    """What happens to one request; raises Gone when the connection is over."""

    def strike(self, way: Way) -> None: ...


class Way:
    """One request on its way: what faults are made of."""

    def __init__(self, proxy: FaultProxy, client: socket.socket, stream: BinaryIO, request: Request) -> None:
        self._proxy = proxy
        self._client = client
        self._stream = stream
        self._body: bytes | None = None
        self.request = request

    def body(self) -> bytes:
        """The request's body, read from the client at the first call."""
        if self._body is None:
            self._body = self._stream.read(self.request.body_bytes)
            self._proxy.count_up(self.request, len(self._body))
            if len(self._body) < self.request.body_bytes:
                raise Gone
        return self._body

    def skip_half_of_body(self) -> None:
        self._stream.read(self.request.body_bytes // 2)

    def ask(self) -> Answer:
        """Let the server carry the request out; its answer."""
        return self._proxy.ask_server(self.request, self.body())

    def answer(self, answer: Answer) -> None:
        """Send a whole answer."""
        self._send(_render(answer, self.request.method))

    def answer_half(self, answer: Answer) -> None:
        """Send an answer up to the middle of its body, or of its head where it has none."""
        whole = _render(answer, self.request.method)
        has_body = answer.body and self.request.method != "HEAD"
        head = whole.index(b"\r\n\r\n") + 4
        self._send(whole[: head + len(answer.body) // 2] if has_body else whole[: head // 2])

    def _send(self, data: bytes) -> None:
        self._proxy.count_down(len(data))
        try:
            self._client.sendall(data)
        except OSError as error:
            raise Gone from error

    def reset(self) -> None:
        """End the connection with RST."""
        with suppress(OSError):
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Gone

    def close(self) -> None:
        """End the connection with FIN."""
        with suppress(OSError):
            self._client.shutdown(socket.SHUT_RDWR)
        raise Gone

    def wait_left(self) -> None:
        """Do nothing until the client has given up."""
        poll = select.poll()
        poll.register(self._client, select.POLLRDHUP)
        if not poll.poll(PATIENCE_S * 1000):
            raise TimeoutError("the client waits for ever")


# --- Faults


def error_body(code: str, message: str = "on command") -> bytes:
    """An error as S3 tells it."""
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


@dataclass(frozen=True, slots=True)
class Refuse:
    """An error instead of the call."""

    status: int
    code: str
    message: str = "on command"
    headers: tuple[tuple[str, str], ...] = ()

    def strike(self, way: Way) -> None:
        way.body()
        headers = (("Content-Type", "application/xml"), *self.headers)
        way.answer(Answer(self.status, "Refused", headers, error_body(self.code, self.message)))


class ResetUpload:
    """The connection breaks in the middle of the request's body; the server never hears of it."""

    def strike(self, way: Way) -> None:
        way.skip_half_of_body()
        way.reset()


class LoseAnswer:
    """The server carries the call out, and the connection breaks before a byte of the answer."""

    def strike(self, way: Way) -> None:
        way.ask()
        way.reset()


class ResetAnswer:
    """The connection breaks in the middle of the answer."""

    def strike(self, way: Way) -> None:
        way.answer_half(way.ask())
        way.reset()


class TruncateAnswer:
    """The answer ends in the middle, as if that were its end."""

    def strike(self, way: Way) -> None:
        way.answer_half(way.ask())
        way.close()


class StallUpload:
    """In the middle of the request's body nobody reads any more, until the client gives up."""

    def strike(self, way: Way) -> None:
        way.skip_half_of_body()
        way.wait_left()
        way.close()


class StallAnswer:
    """In the middle of the answer nothing comes any more, until the client gives up."""

    def strike(self, way: Way) -> None:
        way.answer_half(way.ask())
        way.wait_left()
        way.close()


class Delay:
    """The request reaches the server only after its sender has given up on it: a duplicate of what is sent again."""

    def strike(self, way: Way) -> None:
        way.body()
        way.wait_left()
        way.ask()
        way.close()


@dataclass(frozen=True, slots=True)
class Rewrite:
    """The call is carried out, and its answer changed."""

    change: Callable[[Request, Answer], Answer]

    def strike(self, way: Way) -> None:
        answer = way.ask()
        changed = self.change(way.request, answer)
        way.answer(changed)
        if changed.declared is not None:
            way.close()


@dataclass(slots=True)
class _Rule:
    fault: Fault
    operations: frozenset[str]
    times: int | None
    probability: float
    matches: Callable[[Request], bool]


# --- The proxy


@dataclass
class FaultProxy:
    """See the module.  Use `running`."""

    upstream: str
    seed: int = 0
    endpoint: str = ""
    #: What arrived, in order.
    seen: list[Request] = field(default_factory=list)
    #: Bodies of requests, and answers with their heads, in bytes.
    bytes_up: Counter[str] = field(default_factory=Counter)
    bytes_down: int = 0
    struck: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._rules: list[_Rule] = []
        self._changed = threading.Condition()
        self._clients: set[socket.socket] = set()
        self._servers = threading.local()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def harm(
        self,
        fault: Fault,
        operations: str | Iterable[str],
        *,
        times: int | None = 1,
        probability: float = 1.0,
        matches: Callable[[Request], bool] = lambda request: True,
    ) -> None:
        """Let a fault strike the next `times` requests of these operations, or (None) all from now on.

        Of several rules that fit a request the oldest strikes.
        """
        chosen = frozenset([operations] if isinstance(operations, str) else operations)
        with self._changed:
            self._rules.append(_Rule(fault, chosen, times, probability, matches))

    def harm_each(self, fault: Fault, operations: Iterable[str], *, times: int = 1) -> None:
        """Let a fault strike the next `times` requests of every one of these operations."""
        for operation in operations:
            self.harm(fault, operation, times=times)

    def heal(self) -> None:
        """Forget all faults; what has been struck stays so."""
        with self._changed:
            self._rules.clear()

    def count(self, operation: str, key: str | None = None) -> int:
        """How many requests of an operation (for a key) have arrived."""
        with self._changed:
            return sum(r.operation == operation and key in (None, r.key) for r in self.seen)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Return when the condition holds, which is looked at after every request."""
        end = time.monotonic() + PATIENCE_S
        with self._changed:
            while not condition():
                if not self._changed.wait(min(0.5, max(0.0, end - time.monotonic()))):
                    assert time.monotonic() < end, f"not within {PATIENCE_S:g} s: {what}"

    @contextmanager
    def running(self) -> Iterator[FaultProxy]:
        accepting = threading.Thread(target=self._accept)
        accepting.start()
        try:
            yield self
        finally:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            self._listener.close()
            for client in list(self._clients):
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
            for thread in self._threads:
                thread.join()

    # ---- what ways use

    def count_up(self, request: Request, size: int) -> None:
        with self._changed:
            self.bytes_up[request.operation] += size

    def count_down(self, size: int) -> None:
        with self._changed:
            self.bytes_down += size

    def ask_server(self, request: Request, body: bytes) -> Answer:
        """Carry a request out."""
        server = getattr(self._servers, "connection", None)
        if server is None:
            parts = urlsplit(self.upstream)
            server = self._servers.connection = http.client.HTTPConnection(
                parts.hostname or "", parts.port, timeout=PATIENCE_S
            )
        server.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
        for name, value in request.head:
            server.putheader(name, value)
        server.endheaders(body or None)
        response = server.getresponse()
        own = ("transfer-encoding", "connection", "keep-alive")
        headers = tuple((name, value) for name, value in response.getheaders() if name.lower() not in own)
        return Answer(response.status, response.reason, headers, response.read())

    # ---- connections

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,))
            self._clients.add(client)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, client.makefile("rb") as stream:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while (request := _read_request(client, stream)) is not None:
                    self._pass(Way(self, client, stream, request))
        except (Gone, OSError):
            pass  # connections that break are what this is for
        finally:
            self._clients.discard(client)
            server: http.client.HTTPConnection | None = getattr(self._servers, "connection", None)
            if server is not None:
                server.close()

    def _pass(self, way: Way) -> None:
        with self._changed:
            self.seen.append(way.request)
            fault = self._choose(way.request)
            self._changed.notify_all()
        if fault is None:
            way.answer(way.ask())
        else:
            fault.strike(way)

    def _choose(self, request: Request) -> Fault | None:
        for rule in self._rules:
            if request.operation not in rule.operations or rule.times == 0 or not rule.matches(request):
                continue
            if rule.probability < 1 and self._random.random() >= rule.probability:
                continue
            if rule.times is not None:
                rule.times -= 1
            self.struck[request.operation] += 1
            return rule.fault
        return None


# --- HTTP


def _read_request(client: socket.socket, stream: BinaryIO) -> Request | None:
    """The head of the next request; None at the end of the connection."""
    first = stream.readline().decode("latin-1").split()
    if len(first) != 3:
        return None
    head: list[tuple[str, str]] = []
    while line := stream.readline().decode("latin-1").strip():
        name, _, value = line.partition(":")
        head.append((name, value.strip()))
    headers = {name.lower(): value for name, value in head}
    if headers.get("expect", "").lower() == "100-continue":
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        head = [pair for pair in head if pair[0].lower() != "expect"]
    method, target, _ = first
    operation, key = classify(method, target, headers)
    return Request(
        operation, method, target, key, headers, int(headers.get("content-length", 0)), tuple(head), time.monotonic()
    )


def _render(answer: Answer, method: str) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} {answer.reason}"]
    lines += [f"{name}: {value}" for name, value in answer.headers if name.lower() != "content-length"]
    length = answer.header("content-length") if method == "HEAD" else str(len(answer.body))
    if answer.status not in (204, 304):
        lines.append(f"Content-Length: {length if answer.declared is None else answer.declared}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if method == "HEAD" else answer.body)


def classify(method: str, target: str, headers: dict[str, str]) -> tuple[str, str]:
    """The S3 name of a call in path addressing, and its key ("" for one on the bucket)."""
    parts = urlsplit(target)
    query = parse_qs(parts.query, keep_blank_values=True)
    key = unquote(parts.path.lstrip("/").partition("/")[2])
    if not key:
        return _bucket_operation(method, query), ""
    copies = "x-amz-copy-source" in headers
    if "uploadId" in query:
        part = "UploadPartCopy" if copies else "UploadPart"
        named = {"PUT": part, "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload", "GET": "ListParts"}
        return named[method], key
    if method == "POST":
        return "CreateMultipartUpload", key
    put = "CopyObject" if copies else "PutObject"
    return {"PUT": put, "GET": "GetObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}[method], key


def _bucket_operation(method: str, query: dict[str, list[str]]) -> str:
    if method == "POST" and "delete" in query:
        return "DeleteObjects"
    if method == "GET":
        for name, operation in (
            ("versions", "ListObjectVersions"),
            ("uploads", "ListMultipartUploads"),
            ("list-type", "ListObjectsV2"),
        ):
            if name in query:
                return operation
    return f"{method} bucket"
