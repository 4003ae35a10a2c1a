"""Request heads: bytes up to the empty line, into an ASGI scope.  No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import httptools

END: Final = b"\r\n\r\n"


class BadHead(Exception):
    """The head cannot be read; status and code are for the answer."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


@dataclass(slots=True)
class Head:
    """A parsed head.  content_length counts only without chunked."""

    method: str = ""
    target: bytes = b""
    version: str = "1.1"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    content_length: int = 0
    chunked: bool = False
    expects_continue: bool = False
    keep_alive: bool = True

    @property
    def has_body(self) -> bool:
        return self.chunked or self.content_length > 0


class HeadParser:
    """Parses one head.  Bodies are not its business: their bytes need not pass through callbacks."""

    def __init__(self) -> None:
        self.head = Head()
        self._hosts = 0
        self._parser = httptools.HttpRequestParser(self)

    # --- callbacks of httptools

    def on_url(self, url: bytes) -> None:
        self.head.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        lowered = name.lower()
        self.head.headers.append((lowered, value))
        if lowered == b"content-length":
            # httptools has checked that these are digits, and that there is one such header.
            self.head.content_length = int(value)
        elif lowered == b"transfer-encoding":
            if value.strip().lower() != b"chunked":
                raise ValueError("only chunked is known")
            self.head.chunked = True
        elif lowered == b"host":
            self._hosts += 1
        elif lowered == b"expect":
            self.head.expects_continue = value.strip().lower() == b"100-continue"

    # --- use

    def parse(self, data: bytes) -> Head:
        """The head in data, which ends with the empty line.  Raises BadHead."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            raise BadHead(400, "InvalidRequest") from error
        except (httptools.HttpParserError, ValueError) as error:
            raise BadHead(400, "InvalidRequest") from error
        head = self.head
        if not head.target.startswith(b"/") and head.target != b"*":
            head.target = _origin_form(head.target)
        head.method = self._parser.get_method().decode("latin-1")
        head.version = self._parser.get_http_version()
        if self._hosts != 1 and (self._hosts or head.version == "1.1"):
            raise BadHead(400, "InvalidRequest")  # RFC 9112, 3.2
        head.keep_alive = self._parser.should_keep_alive()
        return head


def _origin_form(target: bytes) -> bytes:
    """The path of `http://host/path`, as proxies' clients write it."""
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        raise BadHead(400, "InvalidURI")
    _, slash, path = rest.partition(b"/")
    return slash + path or b"/"
