"""An HTTP request as the server's layers share it: head parsed and decoded, body still to come."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Protocol
from urllib.parse import unquote_to_bytes

from b2fs.server.wire.errors import S3Error

META: Final = "x-amz-meta-"


class Body(Protocol):
    """The bytes behind a request's head, in order, once; a reader uses one of the two ways."""

    async def receive(self) -> bytes:
        """The next bytes, or b"" at the end.  Raises S3Error IncompleteBody when the client stops early."""
        ...

    async def receive_into(self, buffer: memoryview) -> int:
        """Put the next bytes at the buffer's start: how many, 0 only at the end.  Raises what receive raises."""
        ...


class PiecewiseBody(ABC):
    """A body that comes in pieces of its own sizes: what a buffer has no room for waits for the next one."""

    def __init__(self) -> None:
        self._rest = memoryview(b"")

    @abstractmethod
    async def receive(self) -> bytes: ...

    async def receive_into(self, buffer: memoryview) -> int:
        if not self._rest:
            self._rest = memoryview(await self.receive())
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


class NoBody(PiecewiseBody):
    """The body of a request that has none."""

    async def receive(self) -> bytes:
        return b""


def decode_text(raw: str) -> str:
    """Percent-decoded UTF-8; InvalidURI for anything else."""
    if "%" not in raw and raw.isascii():
        return raw
    try:
        return unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError as error:
        raise S3Error("InvalidURI") from error


def parse_query(raw: str) -> list[tuple[str, str]]:
    """The pairs of a query string in their order; `+` is a blank, as forms write it."""
    if not raw:
        return []
    pairs = []
    for item in raw.split("&"):
        if item:
            name, _, value = item.partition("=")
            pairs.append((decode_text(name.replace("+", " ")), decode_text(value.replace("+", " "))))
    return pairs


#: Headers that a version keeps and gives back, beside its metadata.
_KEPT: Final = frozenset(
    ["content-type", "cache-control", "content-disposition", "content-encoding", "content-language", "expires"]
)


def fold_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by lower-case name, repeated ones joined with a comma.

    Values are UTF-8 where they are valid as that.  Of those that a version keeps, other bytes are escaped (see
    kept_bytes), so that they come back as they were sent; all others are read as Latin-1.
    """
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name = raw_name.decode("latin-1").lower()
        stripped = raw_value.strip(b" \t")
        try:
            value = stripped.decode("utf-8")
        except UnicodeDecodeError:
            kept = name in _KEPT or name.startswith(META)
            value = stripped.decode("utf-8", "surrogateescape") if kept else stripped.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def kept_bytes(value: str) -> bytes:
    """The bytes in which a header came: UTF-8, and the surrogates that stand for single bytes of other texts."""
    return value.encode("utf-8", "surrogateescape")


@dataclass
class Request:
    """One request.  raw_path is percent-encoded as sent, headers are folded, query is decoded."""

    method: str
    raw_path: str
    raw_query: str
    headers: Mapping[str, str]
    body: Body = field(default_factory=NoBody)
    scheme: str = "https"
    client: str = ""
    #: As the answer's headers name it.
    request_id: str = ""

    @cached_property
    def path(self) -> str:
        return decode_text(self.raw_path)

    @cached_property
    def query(self) -> list[tuple[str, str]]:
        return parse_query(self.raw_query)

    @cached_property
    def params(self) -> dict[str, str]:
        """The query by name; the first of repeated ones counts."""
        return dict(reversed(self.query))

    @property
    def host(self) -> str:
        """The host that the client named, without the port, lower-case."""
        text = self.headers.get("host", "").lower()
        if text.startswith("["):
            return text.partition("]")[0] + "]"
        return text.partition(":")[0]

    @cached_property
    def content_length(self) -> int | None:
        """The declared length of the body; None where none is declared (chunked, or no body).

        Raises InvalidArgument for a length that is no number.
        """
        text = self.headers.get("content-length")
        if text is None:
            return None
        if not (text.isascii() and text.isdigit()) or len(text) > 18:
            raise S3Error("InvalidArgument", "The Content-Length header is not a number")
        return int(text)
