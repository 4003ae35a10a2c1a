"""One attempt at one request, on the AWS Common Runtime.

The CRT works on its own threads and outside the GIL.  Its callbacks collect what arrives and hand over to trio once, when
the request is finished for good; so a request that is cancelled returns only when it can have no effect any more.

The CRT keeps the status and the headers of a 5xx or 429 to itself (it means to retry on its own), which loses Retry-After.
So `send` reports such a fault as it can, and `send_plainly` repeats a request on a plain connection that hides nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import trio
from awscrt.exceptions import AwsCrtError
from awscrt.http import HttpHeaders, HttpRequest
from awscrt.io import (
    ClientBootstrap,
    ClientTlsContext,
    DefaultHostResolver,
    EventLoopGroup,
    TlsConnectionOptions,
    TlsContextOptions,
)
from awscrt.s3 import S3Client, S3Request, S3RequestTlsMode, S3RequestType, S3RetryConfig, S3RetryMode

from b2fs.errors import ConfigError, StoreError, TimedOut
from b2fs.store.protocol import Body
from b2fs.store.s3.config import S3Config
from b2fs.store.s3.credentials import Signer
from b2fs.store.s3.faults import Response, error_of, error_of_crt
from b2fs.store.s3.wire import Call

#: Bodies above this are hashed in a worker thread; below, the hop costs more than the hash.
HASH_INLINE_BYTES = 64 << 10
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_EVENT_LOOPS = 2
#: The CRT derives its pool from a target throughput and then applies the override, so the target must not be the bound.
_THROUGHPUT_TARGET_GBPS = 100.0


class _BodyStream:
    """A body as the CRT reads it: straight from the caller's memory into the CRT's buffer."""

    __slots__ = ("_position", "_view")

    def __init__(self, body: Body) -> None:
        self._view = memoryview(body).cast("B")
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        buffer = bytearray(len(self._view) - self._position if size < 0 else size)
        return bytes(buffer[: self.readinto(memoryview(buffer))])

    def readinto(self, target: memoryview) -> int:
        count = min(len(target), len(self._view) - self._position)
        target[:count] = self._view[self._position : self._position + count]
        self._position += count
        return count

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._position, len(self._view))[whence]
        self._position = base + offset
        return self._position


class _Exchange:
    """One request on its way: filled by CRT threads, read by trio after it is done."""

    __slots__ = ("_done", "_task", "_token", "call", "chunks", "error", "error_body", "headers", "request", "status")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.chunks: list[bytes] = []
        self.headers: list[tuple[str, str]] = []
        self.status: int | None = None
        self.error: BaseException | None = None
        self.error_body: bytes | None = None
        self.request: S3Request | None = None
        self._done = False
        self._task: trio.lowlevel.Task | None = None
        self._token = trio.lowlevel.current_trio_token()

    def on_headers(self, status_code: int, headers: list[tuple[str, str]], **_: Any) -> None:
        self.status = status_code
        self.headers = headers

    def on_body(self, chunk: bytes, offset: int, **_: Any) -> None:
        self.chunks.append(chunk)

    def on_done(
        self,
        error: BaseException | None,
        error_headers: list[tuple[str, str]] | None,
        error_body: bytes | None,
        status_code: int | None,
        **_: Any,
    ) -> None:
        self.error = error
        self.error_body = error_body
        self.status = status_code if status_code is not None else self.status
        if error_headers is not None:
            self.headers = error_headers
        try:
            self._token.run_sync_soon(self._wake)
        except trio.RunFinishedError:
            pass  # the loop ended without waiting for us, as after an internal error of trio

    def _wake(self) -> None:
        self._done = True
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)

    async def wait_finished(self, cancel: Callable[[], None]) -> None:
        """Wait until the CRT is done with the request.

        On cancellation the request is cancelled, and Cancelled raised when it is really over, unless it was complete
        already: then it counts as done, and the cancellation is delivered at the next checkpoint.
        """
        if self._done:
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        raise_cancel: Callable[[], Any] | None = None

        def abort(deliver: Callable[[], Any]) -> trio.lowlevel.Abort:
            nonlocal raise_cancel
            raise_cancel = deliver
            cancel()
            return trio.lowlevel.Abort.FAILED

        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)
        if raise_cancel is not None and self.error is not None:
            raise_cancel()


class Transport:
    """The connections to one endpoint.  `close` waits until the CRT has let go of them."""

    def __init__(self, config: S3Config, signer: Signer) -> None:
        self._config = config
        self._signer = signer
        self._host = config.host_header
        self._client = _make_client(config)

    async def send(self, call: Call) -> Response:
        """Send once and return the answer of a success, [200, 300).

        Raises a StoreError for everything else.  Cancellation returns when the request is over.
        """
        limit = self._config.stall_timeout_s
        limit += max(call.body_bytes, call.expected_bytes) / self._config.min_bytes_per_s
        with trio.move_on_after(limit):
            return await self._send(call)
        raise TimedOut(f"{call.operation}: no complete answer within {math.ceil(limit)} s")

    async def _send(self, call: Call) -> Response:
        await self._signer.refresh()
        signing = self._signer.config(await self._payload_hash(call.body))
        exchange = _Exchange(call)
        request = self._client.make_request(
            type=S3RequestType.DEFAULT,
            operation_name=call.operation,
            request=self._http_request(call),
            signing_config=signing,
            on_headers=exchange.on_headers,
            on_body=exchange.on_body,
            on_done=exchange.on_done,
        )
        await exchange.wait_finished(request.cancel)
        return _response(exchange)

    def _http_request(self, call: Call) -> HttpRequest:
        headers = HttpHeaders([("Host", self._host), *call.headers])
        if not call.body_bytes:
            if call.method in ("PUT", "POST"):
                headers.add("Content-Length", "0")
            return HttpRequest(call.method, call.path, headers)
        headers.add("Content-Length", str(call.body_bytes))
        return HttpRequest(call.method, call.path, headers, _BodyStream(call.body))

    async def _payload_hash(self, body: Body) -> str | None:
        """What to sign: nothing under TLS, which protects the body itself; its SHA-256 on a plain connection."""
        if self._config.tls:
            return None
        if not body:
            return _EMPTY_SHA256
        if len(body) <= HASH_INLINE_BYTES:
            return hashlib.sha256(body).hexdigest()
        return await trio.to_thread.run_sync(lambda: hashlib.sha256(body).hexdigest())

    async def close(self) -> None:
        """Drop the client and wait for its threads.  Call when no request is in flight."""
        done = self._client.shutdown_event
        del self._client
        await trio.to_thread.run_sync(done.wait, self._config.stall_timeout_s)


def _response(exchange: _Exchange) -> Response:
    call = exchange.call
    headers = {name.lower(): value for name, value in exchange.headers}
    chunks = exchange.chunks
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    if exchange.error is None and exchange.status is not None:
        response = Response(exchange.status, headers, body)
        if 200 <= exchange.status < 300:
            return response
        raise error_of(response, has_body=call.has_body)
    if isinstance(exchange.error, AwsCrtError):
        if exchange.status is not None:
            raise error_of(Response(exchange.status, headers, exchange.error_body or b""), has_body=call.has_body)
        raise error_of_crt(exchange.error.name, exchange.error.message)
    raise StoreError(f"{call.operation}: {exchange.error}") from exchange.error


def _make_client(config: S3Config) -> S3Client:
    loops = EventLoopGroup(_EVENT_LOOPS)
    bootstrap = ClientBootstrap(loops, DefaultHostResolver(loops))
    tls = _tls_options(config) if config.tls else None
    return S3Client(
        bootstrap=bootstrap,
        region=config.signing_region,
        tls_mode=S3RequestTlsMode.ENABLED if config.tls else S3RequestTlsMode.DISABLED,
        tls_connection_options=tls,
        throughput_target_gbps=_THROUGHPUT_TARGET_GBPS,
        max_active_connections_override=config.max_connections,
        memory_limit=config.memory_limit_bytes,
        # Our own retries know the call's deadline and the gate; two sets of them would multiply.
        retry_config=S3RetryConfig(retry_mode=S3RetryMode.NONE),
        connect_timeout_ms=int(config.connect_timeout_s * 1000),
    )


def _tls_options(config: S3Config) -> TlsConnectionOptions:
    options = TlsContextOptions()
    if config.ca_bundle is not None:
        try:
            options.override_default_trust_store_from_path(ca_filepath=config.ca_bundle)
        except OSError as error:
            raise ConfigError(f"cannot read the CA bundle {config.ca_bundle}: {error}") from error
    try:
        return ClientTlsContext(options).new_connection_options()
    except AwsCrtError as error:
        raise ConfigError(f"cannot set up TLS: {error.message}") from error
