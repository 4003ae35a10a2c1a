"""One attempt at one request, on the AWS Common Runtime.

The CRT works on its own threads and outside the GIL.  Its callbacks collect what arrives and hand over to trio once,
when the request is finished for good; so a request that is cancelled returns only when it can have no effect any more.

The CRT's S3 client keeps the status and the headers of a 5xx or 429 to itself (it means to retry on its own), which
loses Retry-After.  So `send` reports such a fault as it can, and `send_plainly` repeats a request on a plain connection
that hides nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any

import trio
from awscrt.exceptions import AwsCrtError
from awscrt.http import HttpHeaders, HttpRequest
from awscrt.io import (
    ClientBootstrap,
    ClientTlsContext,
    DefaultHostResolver,
    EventLoopGroup,
    TlsContextOptions,
)
from awscrt.s3 import S3Client, S3RequestTlsMode, S3RequestType, S3RetryConfig, S3RetryMode

from b2fs.errors import ConfigError, StoreError, TimedOut
from b2fs.store.protocol import Body
from b2fs.store.s3.bulk import BulkConnections, NotTheRange
from b2fs.store.s3.config import S3Config
from b2fs.store.s3.credentials import Signer
from b2fs.store.s3.faults import Response, error_of, error_of_crt
from b2fs.store.s3.plain import PlainConnections
from b2fs.store.s3.waiting import Completion
from b2fs.store.s3.wire import Call

#: Bodies above this are hashed in a worker thread; below, the hop costs more than the hash.
HASH_INLINE_BYTES = 64 << 10
#: For less, the round trip of a new connection costs more than the CRT's copies, whose connections are open already.
_CONNECT_FOR_BYTES = 2 << 20
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_EVENT_LOOPS = 2
#: The slowest copying within a server that is waited for, a guess; a copy that may so be silent for longer than the S3
#: client bears is asked for on a plain connection.
_COPY_BYTES_PER_S = 20e6
_LONG_COPY_BYTES = 256 << 20
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

    __slots__ = ("call", "chunks", "completion", "error", "error_body", "headers", "status")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.chunks: list[bytes] = []
        self.headers: list[tuple[str, str]] = []
        self.status: int | None = None
        self.error: BaseException | None = None
        self.error_body: bytes | None = None
        self.completion = Completion()

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
        self.completion.finish()

    def failed(self) -> bool:
        return self.error is not None


class Transport:
    """The connections to one endpoint."""

    def __init__(self, config: S3Config, signer: Signer) -> None:
        self._config = config
        self._signer = signer
        self._host = config.host_header
        loops = EventLoopGroup(_EVENT_LOOPS)
        bootstrap = ClientBootstrap(loops, DefaultHostResolver(loops))
        tls = _tls_context(config) if config.tls else None
        self._client = _make_client(config, bootstrap, tls)
        self._plain = PlainConnections(config, bootstrap, tls)
        self._bulk = BulkConnections(config)

    async def send(self, call: Call) -> Response:
        """Send once and return the answer of a success, [200, 300).

        Raises a StoreError for everything else; one for a 5xx or 429 tells neither status nor Retry-After.
        Cancellation returns when the request is over.
        """
        if call.copied_bytes > _LONG_COPY_BYTES:
            return await self.send_plainly(call)
        with self._time_limit(call):
            if call.bulk and (call.expected_bytes >= _CONNECT_FOR_BYTES or self._bulk.has_idle):
                with contextlib.suppress(NotTheRange):
                    return await self._send_in_bulk(call)
            return _response(await self._exchange(call))
        raise _too_long(call)

    async def send_plainly(self, call: Call) -> Response:
        """Like `send`, slower, but errors tell all that the server said."""
        with self._time_limit(call):
            await self._signer.prepare()
            signing = self._signer.fresh_config(await payload_hash(self._config, call.body))
            return await self._plain.send(call, self._http_request(call), signing)
        raise _too_long(call)

    async def _send_in_bulk(self, call: Call) -> Response:
        await self._signer.prepare()
        signing = self._signer.fresh_config(await payload_hash(self._config, call.body))
        return await self._bulk.send(call, self._http_request(call), signing)

    def _time_limit(self, call: Call) -> trio.CancelScope:
        return trio.move_on_after(time_limit_s(call, self._config))

    async def _exchange(self, call: Call) -> _Exchange:
        # Errors are made in another frame: a traceback that keeps this one would keep the request, and with it the
        # client, alive.
        await self._signer.prepare()
        signing = self._signer.config(await payload_hash(self._config, call.body))
        exchange = _Exchange(call)
        try:
            request = self._client.make_request(
                type=S3RequestType.DEFAULT,
                operation_name=call.operation,
                request=self._http_request(call),
                signing_config=signing,
                on_headers=exchange.on_headers,
                on_body=exchange.on_body,
                on_done=exchange.on_done,
            )
        except RuntimeError as error:  # the CRT refuses the request as it stands
            raise StoreError(f"{call.operation} cannot be sent: {error}") from error
        await exchange.completion.wait_done(request.cancel, exchange.failed)
        return exchange

    def _http_request(self, call: Call) -> HttpRequest:
        headers = HttpHeaders([("Host", self._host), *call.headers])
        if not call.body_bytes:
            if call.method in ("PUT", "POST"):
                headers.add("Content-Length", "0")
            return HttpRequest(call.method, call.path, headers)
        headers.add("Content-Length", str(call.body_bytes))
        return HttpRequest(call.method, call.path, headers, _BodyStream(call.body))

    def close(self) -> None:
        """Let go of the client; its threads end by themselves.  Call when no request is in flight."""
        self._bulk.close()
        del self._client


async def payload_hash(config: S3Config, body: Body) -> str | None:
    """What to sign of a body: nothing where no one can change it on the way, under TLS or within a machine.

    Else its SHA-256.  Its MD5 is among the signed headers in any case.
    """
    if config.tls or config.is_loopback:
        return None
    if not body:
        return _EMPTY_SHA256
    if len(body) <= HASH_INLINE_BYTES:
        return hashlib.sha256(body).hexdigest()
    return await trio.to_thread.run_sync(lambda: hashlib.sha256(body).hexdigest())


def time_limit_s(call: Call, config: S3Config) -> float:
    """A bound on one attempt: a stall's length, plus time for the bodies on the slowest link worth waiting for.

    The S3 client shows no progress on the way; a connection that is silent for 30 s it closes by itself.  A server that
    copies is silent until it is done.
    """
    size = max(call.body_bytes, call.expected_bytes)
    return config.stall_timeout_s + size / config.min_bytes_per_s + call.copied_bytes / _COPY_BYTES_PER_S


def _too_long(call: Call) -> TimedOut:
    return TimedOut(f"{call.operation}: no complete answer in time")


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


def _make_client(config: S3Config, bootstrap: ClientBootstrap, tls: ClientTlsContext | None) -> S3Client:
    return S3Client(
        bootstrap=bootstrap,
        region=config.signing_region,
        tls_mode=S3RequestTlsMode.DISABLED if tls is None else S3RequestTlsMode.ENABLED,
        tls_connection_options=None if tls is None else tls.new_connection_options(),
        throughput_target_gbps=_THROUGHPUT_TARGET_GBPS,
        max_active_connections_override=config.max_connections,
        memory_limit=config.memory_limit_bytes,
        # Our own retries know the call's deadline and the gate; two sets of them would multiply.
        retry_config=S3RetryConfig(retry_mode=S3RetryMode.NONE),
        connect_timeout_ms=int(config.connect_timeout_s * 1000),
    )


def _tls_context(config: S3Config) -> ClientTlsContext:
    options = TlsContextOptions()
    try:
        if config.ca_bundle is not None:
            options.override_default_trust_store_from_path(ca_filepath=config.ca_bundle)
        return ClientTlsContext(options)
    except OSError as error:
        raise ConfigError(f"cannot read the CA bundle {config.ca_bundle}: {error}") from error
    except RuntimeError as error:  # what awscrt raises from constructors
        raise ConfigError(f"cannot set up TLS with the CA bundle {config.ca_bundle}: {error}") from error
