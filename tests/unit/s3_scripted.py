"""An HTTP server on loopback whose answers a test scripts, byte by byte if it wants."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

EMPTY_LISTING = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"


@dataclass(frozen=True)
class Request:
    """What the server received; header names are lower-case, path is decoded and without the query."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Reply:
    """What it answers.  declared overrides Content-Length; close ends the connection after the body."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    declared: int | None = None
    close: bool = False


#: Returns the answer, or None to end the connection without one.
Script = Callable[[Request], Reply | None]


def error_reply(status: int, code: str, message: str = "no reason", **headers: str) -> Reply:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Reply(status, {"Content-Type": "application/xml", **headers}, body.encode())


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections that break are what the tests are about."""


class ScriptedServer:
    """Answers by `script`, records what it gets, and holds answers back while `hold` is set."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.arrived = threading.Semaphore(0)
        self._release = threading.Event()
        self._release.set()
        self._httpd = _QuietServer(("127.0.0.1", 0), self._handler())
        if tls is not None:
            self._httpd.socket = tls.wrap_socket(self._httpd.socket, server_side=True, do_handshake_on_connect=False)
        scheme, host = ("http", "127.0.0.1") if tls is None else ("https", "localhost")
        self.endpoint = f"{scheme}://{host}:{self._httpd.server_address[1]}"

    def hold(self) -> None:
        """Answer nothing until `release`."""
        self._release.clear()

    def release(self) -> None:
        self._release.set()

    def count(self, method: str) -> int:
        return sum(request.method == method for request in self.requests)

    @contextlib.contextmanager
    def running(self) -> Iterator[ScriptedServer]:
        thread = threading.Thread(target=self._httpd.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self._release.set()
            self._httpd.shutdown()
            thread.join()
            self._httpd.socket.close()  # not server_close, which would wait for idle connections

    def _answer(self, request: Request) -> Reply | None:
        self.requests.append(request)
        self.arrived.release()
        self._release.wait()
        return self.script(request)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                parts = urlsplit(self.path)
                length = int(self.headers.get("Content-Length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(length)
                reply = server._answer(Request(self.command, unquote(parts.path), parts.query, headers, body))
                with contextlib.suppress(OSError):  # the client may have gone
                    self._send(reply)

            def _send(self, reply: Reply | None) -> None:
                if reply is None:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response_only(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                length = len(reply.body) if reply.declared is None else reply.declared
                if reply.status != 204:
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(reply.body)
                if reply.close:
                    self.close_connection = True

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler
