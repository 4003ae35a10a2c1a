"""A request on a connection of its own, which shows every answer in full.

Slower than the S3 client of the CRT (a handshake for each request, bodies in small pieces), so it is used for a single
retry after a fault whose status and headers the S3 client kept to itself.
"""

from __future__ import annotations

from typing import Any

from awscrt.auth import AwsSigningConfig, aws_sign_request
from awscrt.exceptions import AwsCrtError
from awscrt.http import HttpClientConnection, HttpRequest
from awscrt.io import ClientBootstrap, ClientTlsContext, SocketOptions, TlsConnectionOptions

from b2fs.store.s3.answers import Response
from b2fs.store.s3.config import S3Config
from b2fs.store.s3.faults import error_of, error_of_crt
from b2fs.store.s3.waiting import wait_future
from b2fs.store.s3.wire import Call


class _Answer:
    """Filled by the CRT's thread."""

    __slots__ = ("chunks", "headers", "status")

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.chunks: list[bytes] = []

    def on_response(self, http_stream: object, status_code: int, headers: list[tuple[str, str]], **_: Any) -> None:
        self.status = status_code
        self.headers = headers

    def on_body(self, http_stream: object, chunk: bytes, **_: Any) -> None:
        self.chunks.append(bytes(chunk))


class PlainConnections:
    """Opens a connection per request."""

    def __init__(self, config: S3Config, bootstrap: ClientBootstrap, tls: ClientTlsContext | None) -> None:
        self._host, self._port = config.connect_address
        self._bootstrap = bootstrap
        self._tls = tls
        self._options = SocketOptions()
        self._options.connect_timeout_ms = int(config.connect_timeout_s * 1000)

    async def send(self, call: Call, request: HttpRequest, signing: AwsSigningConfig) -> Response:
        """Send once.  Raises a StoreError for everything but a success."""
        try:
            response = await self._exchange(request, signing)
        except AwsCrtError as error:
            raise error_of_crt(error.name, error.message) from error
        if 200 <= response.status < 300:
            return response
        raise error_of(response, has_body=call.has_body)

    async def _exchange(self, request: HttpRequest, signing: AwsSigningConfig) -> Response:
        await wait_future(aws_sign_request(request, signing))
        # Cannot be cancelled, but ends within the connect timeout.
        connection = await wait_future(
            HttpClientConnection.new(
                self._host, self._port, self._bootstrap, self._options, self._tls_options(), proxy_options=None
            )
        )
        answer = _Answer()
        try:
            stream = connection.request(request, answer.on_response, answer.on_body)
            stream.activate()
            await wait_future(stream.completion_future, connection.close)
        finally:
            connection.close()
        headers = {name.lower(): value for name, value in answer.headers}
        return Response(answer.status, headers, b"".join(answer.chunks))

    def _tls_options(self) -> TlsConnectionOptions | None:
        if self._tls is None:
            return None
        options = self._tls.new_connection_options()
        options.set_server_name(self._host)
        return options
