"""Answers of HTTP/1.1, from bytes to a Response: a strict parser for what a lean connection reads.

Pure: bytes in, a Response out.  An answer is complete only if its head is whole and its body as long as the head says;
what is cut, or is no HTTP, raises BadAnswer.  httptools would call into Python for each header; here a head is split
in a few operations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from b2fs.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from b2fs.core.slabs import Slabs

#: A head may have this much.  S3's metadata are at most 7,000 bytes.
MAX_HEAD_BYTES = 64 << 10
#: The body of an error is read up to here.
MAX_ERROR_BYTES = 64 << 10
#: A line between chunks: a number in hexadecimal, and extensions that nobody uses.
_MAX_LINE_BYTES = 4 << 10
_DIGITS = frozenset("0123456789")
_HEX_DIGITS = frozenset(b"0123456789abcdefABCDEF")


class Response(NamedTuple):
    """A complete answer: header names are lower-case; the body is as long as the server announced."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    #: A large body, in memory that is used again when this is gone; then `body` is empty.
    large: memoryview | None = None

    @property
    def content(self) -> bytes | memoryview:
        """The body, wherever it is."""
        return self.body if self.large is None else self.large


class BadAnswer(Exception):
    """What arrived is no answer of HTTP, or only the beginning of one."""


class NotTheRange(StoreError):
    """A success that is not the range that was asked for; nothing of its body was taken."""


class AnswerReader:
    """Takes one answer together, piece by piece.

    reusable says, once it is complete, whether the connection may carry another request.
    slabs: the body of a success that tells its length is a slab, if it is one of the sizes that are used again.
    length: what a success has to have; it comes into a slab.
    """

    __slots__ = (
        "_body",
        "_chunks",
        "_head",
        "_headers",
        "_large",
        "_length",
        "_method",
        "_missing",
        "_slabs",
        "_status",
        "begun",
        "complete",
        "reusable",
    )

    def __init__(self, method: str, *, slabs: bool = False, length: int | None = None) -> None:
        self._method = method
        self._slabs = slabs
        self._length = length
        self._head: bytes = b""
        self._status = 0
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._chunks: _Chunks | None = None
        self._large: memoryview | None = None
        #: Bytes of the body that are still to come; None without a length: up to the end of the stream.
        self._missing: int | None = 0
        #: Whether anything has arrived.
        self.begun = False
        self.complete = False
        self.reusable = False

    @property
    def missing(self) -> int:
        """How many bytes are to come at least, as far as is known."""
        return self._missing or 0

    @property
    def room(self) -> memoryview | None:
        """Where the rest of the body may be received, to be told by `received`; None if it is to be fed."""
        return None if self._large is None or not self._missing else self._large[-self._missing :]

    def received(self, size: int) -> None:
        """So many bytes were put into `room`, which may not be all of it."""
        assert self._missing is not None
        self._missing -= size
        self.complete = not self._missing

    def feed(self, data: bytes) -> None:
        """Take what has arrived.  Raises BadAnswer, NotTheRange."""
        while not self._status:
            self.begun = True
            head = self._head + data if self._head else data
            end = head.find(b"\r\n\r\n")
            if end < 0:
                if len(head) > MAX_HEAD_BYTES:
                    raise BadAnswer("the head has no end")
                self._head = head
                return
            self._head = b""
            self._status = self._parse(head[:end])
            data = head[end + 4 :]
            if not self._status and not data:
                return
        self._feed_body(data)

    def finish(self) -> None:
        """The stream has ended.  Raises BadAnswer if the answer is not complete by that."""
        if not self._status or self._chunks is not None or self._missing:
            raise BadAnswer("the answer is cut")
        self.complete = True

    def response(self) -> Response:
        """The answer, when it is complete."""
        if self._large is not None:
            return Response(self._status, self._headers, b"", self._large)
        body = self._body
        return Response(self._status, self._headers, body[0] if len(body) == 1 else b"".join(body))

    def _parse(self, head: bytes) -> int:
        """Read a head; the status, 0 if it is an interim one and another head follows."""
        first, *lines = head.decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        code = rest[:3]
        if version not in ("HTTP/1.1", "HTTP/1.0") or not _DIGITS.issuperset(code) or rest[3:4] not in ("", " "):
            raise BadAnswer(f"the answer begins with {first[:40]!r}")
        status = int(code or 0)
        if not 100 <= status <= 599 or status == 101:
            raise BadAnswer(f"the answer has the status {code!r}")
        headers = self._headers = _headers(lines)
        connection = headers.get("connection", "").lower()
        self.reusable = "close" not in connection if version == "HTTP/1.1" else "keep-alive" in connection
        if status < 200:
            return 0
        self._frame(status, headers)
        return status

    def _frame(self, status: int, headers: dict[str, str]) -> None:
        """How long the body is."""
        coding, length = headers.get("transfer-encoding"), headers.get("content-length")
        if self._method == "HEAD" or status in (204, 304):
            self._missing = 0
        elif coding is not None:
            if coding.lower() != "chunked":
                raise BadAnswer(f"the answer comes as {coding!r}")
            self._chunks = _Chunks()
            self.reusable = self.reusable and length is None
        elif length is not None:
            self._missing = _number(length)
            if self._slabs and status < 300 and _shelf().recycles(self._missing):
                self._large = _shelf().take(self._missing)
        else:
            self._missing = None
            self.reusable = False
        if self._length is not None and status < 300:
            if self._chunks is not None or self._missing != self._length:
                raise NotTheRange(f"the answer has {length or 'an unknown number of'} bytes instead of {self._length}")
            self._large = _shelf().take(self._length)
        if status >= 300 and self._missing is not None and self._missing > MAX_ERROR_BYTES:
            self._missing = MAX_ERROR_BYTES
            self.reusable = False

    def _feed_body(self, data: bytes) -> None:
        if self._chunks is not None:
            self._feed_chunks(self._chunks, data)
        elif self._missing is None:
            self._body.append(data)
        else:
            surplus = len(data) - self._missing
            if surplus > 0:  # what nobody asked for: what follows on this connection cannot be trusted
                data = data[: self._missing]
                self.reusable = False
            if (room := self.room) is not None:
                room[: len(data)] = data
            elif data:
                self._body.append(data)
            self.received(len(data))

    def _feed_chunks(self, chunks: _Chunks, data: bytes) -> None:
        self._body += chunks.take(data)
        if chunks.done:
            self._chunks = None
            self.complete = True
            self.reusable = self.reusable and not chunks.surplus
        elif self._status >= 300 and sum(map(len, self._body)) > MAX_ERROR_BYTES:
            self.complete = True
            self.reusable = False


class _Chunks:
    """A chunked body."""

    __slots__ = ("_buffer", "_size", "done", "surplus")

    def __init__(self) -> None:
        self._buffer = bytearray()
        #: Of the chunk that is being read; None between chunks, 0 after the last one.
        self._size: int | None = None
        self.done = False
        #: Whether something came behind the end.
        self.surplus = False

    def take(self, data: bytes) -> list[bytes]:
        """What has arrived of the body.  Raises BadAnswer."""
        self._buffer += data
        found: list[bytes] = []
        while not self.done:
            if not self._size:
                line = self._line()
                if line is None:
                    break
                self._between(line)
            elif len(self._buffer) < self._size + 2:
                break
            else:
                found.append(self._chunk(self._size))
        return found

    def _between(self, line: bytes) -> None:
        if self._size is None:
            self._size = _hex_number(line.partition(b";")[0].strip(b" \t"))
        elif not line:  # the end of the trailers
            self.done = True
            self.surplus = bool(self._buffer)

    def _chunk(self, size: int) -> bytes:
        chunk = bytes(memoryview(self._buffer)[:size])
        if self._buffer[size : size + 2] != b"\r\n":
            raise BadAnswer("a chunk is longer than it says")
        del self._buffer[: size + 2]
        self._size = None
        return chunk

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n", 0, _MAX_LINE_BYTES)
        if end < 0:
            if len(self._buffer) >= _MAX_LINE_BYTES:
                raise BadAnswer("a line between chunks has no end")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line


def _shelf() -> Slabs:
    from b2fs.core.slabs import SLABS  # loads ctypes: not before a mount answers

    return SLABS


def _headers(lines: list[str]) -> dict[str, str]:
    """By lower-case name; of several of one name the last counts, but two lengths are none."""
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name[0] in " \t" or name[-1] in " \t":  # lines that go on are long obsolete
            raise BadAnswer(f"the head has the line {line[:40]!r}")
        name, value = name.lower(), value.strip(" \t")
        if name == "content-length" and headers.get(name, value) != value:
            raise BadAnswer("the head tells two lengths")
        headers[name] = value
    return headers


def _number(text: str) -> int:
    if not text or len(text) > 18 or not _DIGITS.issuperset(text):
        raise BadAnswer(f"the length is {text[:20]!r}")
    return int(text)


def _hex_number(text: bytes) -> int:
    if not text or len(text) > 15 or not _HEX_DIGITS.issuperset(text):
        raise BadAnswer(f"a chunk has the length {text[:20]!r}")
    return int(text, 16)
