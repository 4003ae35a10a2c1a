"""One attempt at one request, on the AWS Common Runtime.

The CRT works on its own threads and outside the GIL.  Its callbacks collect what arrives and hand over to trio once,
when the request is finished for good; so a request that is cancelled returns only when it can have no effect any more.

Loading this module takes 0.1 s, most of it the CRT's own start with the GIL held: `transport` does so when it is first
of use.
"""

from __future__ import annotations

from typing import Any

from awscrt.auth import (
    AwsCredentialsProvider,
    AwsSignatureType,
    AwsSignedBodyHeaderType,
    AwsSignedBodyValue,
    AwsSigningAlgorithm,
    AwsSigningConfig,
)
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

from b2fs.errors import ConfigError, InvalidRequest, StoreError
from b2fs.store.protocol import Body
from b2fs.store.s3.answers import Response
from b2fs.store.s3.config import S3Config
from b2fs.store.s3.faults import error_of, error_of_crt
from b2fs.store.s3.nearby import Frozen
from b2fs.store.s3.plain import PlainConnections
from b2fs.store.s3.waiting import Completion
from b2fs.store.s3.wire import Call

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


class Signing:
    """Signing configurations for the current keys.

    One static provider is kept per set of keys, so that signing never calls back into Python.
    """

    def __init__(self, region: str) -> None:
        self._region = region
        self._keys: Frozen | None = None
        self._provider: AwsCredentialsProvider | None = None
        self._unsigned: AwsSigningConfig | None = None

    def config(self, keys: Frozen, payload_hash: str | None) -> AwsSigningConfig:
        """The configuration for a request whose body has this SHA-256 in hex; None leaves the payload unsigned."""
        self._use(keys)
        return self._unsigned if payload_hash is None else self._make(payload_hash)

    def fresh_config(self, keys: Frozen, payload_hash: str | None) -> AwsSigningConfig:
        """Like `config`, for a signer that takes the date from the configuration instead of the clock."""
        self._use(keys)
        return self._make(AwsSignedBodyValue.UNSIGNED_PAYLOAD if payload_hash is None else payload_hash)

    def _use(self, keys: Frozen) -> None:
        if keys != self._keys:
            self._provider = AwsCredentialsProvider.new_static(keys.access_key, keys.secret_key, keys.token)
            self._unsigned = self._make(AwsSignedBodyValue.UNSIGNED_PAYLOAD)
            self._keys = keys

    def _make(self, signed_body_value: str) -> AwsSigningConfig:
        return AwsSigningConfig(
            algorithm=AwsSigningAlgorithm.V4,
            signature_type=AwsSignatureType.HTTP_REQUEST_HEADERS,
            credentials_provider=self._provider,
            region=self._region,
            service="s3",
            signed_body_value=signed_body_value,
            signed_body_header_type=AwsSignedBodyHeaderType.X_AMZ_CONTENT_SHA_256,
            use_double_uri_encode=False,
            should_normalize_uri_path=False,
        )


class Runtime:
    """The CRT's connections to one endpoint."""

    def __init__(self, config: S3Config) -> None:
        """Raises ConfigError."""
        loops = EventLoopGroup(_EVENT_LOOPS)
        bootstrap = ClientBootstrap(loops, DefaultHostResolver(loops))
        tls = _tls_context(config) if config.tls else None
        self._host = config.host_header
        self._signing = Signing(config.signing_region)
        self._client = _make_client(config, bootstrap, tls)
        self._plain = PlainConnections(config, bootstrap, tls)

    async def send(self, call: Call, keys: Frozen, payload_hash: str | None) -> Response:
        """See Transport.send."""
        return _response(await self._exchange(call, keys, payload_hash))

    async def send_plainly(self, call: Call, keys: Frozen, payload_hash: str | None) -> Response:
        """See Transport.send_plainly."""
        return await self._plain.send(call, self._request(call), self._signing.fresh_config(keys, payload_hash))

    async def _exchange(self, call: Call, keys: Frozen, payload_hash: str | None) -> _Exchange:
        # Errors are made in another frame: a traceback that keeps this one would keep the request, and with it the
        # client, alive.
        signing = self._signing.config(keys, payload_hash)
        exchange = _Exchange(call)
        try:
            request = self._client.make_request(
                type=S3RequestType.DEFAULT,
                operation_name=call.operation,
                request=self._request(call),
                signing_config=signing,
                on_headers=exchange.on_headers,
                on_body=exchange.on_body,
                on_done=exchange.on_done,
            )
        except RuntimeError as error:  # the CRT refuses the request as it stands
            raise StoreError(f"{call.operation} cannot be sent: {error}") from error
        await exchange.completion.wait_done(request.cancel, exchange.failed)
        return exchange

    def _request(self, call: Call) -> HttpRequest:
        stream = _BodyStream(call.body) if call.body_bytes else None
        headers = [(name, _as_text(value, name)) for name, value in call.sent_headers(self._host)]
        return HttpRequest(call.method, call.path, HttpHeaders(headers), stream)


def _as_bytes(value: str) -> str:
    """A header's text, which the runtime has read as UTF-8, with a character for each byte."""
    return value if value.isascii() else value.encode().decode("latin-1")


def _as_text(value: str, name: str) -> str:
    """The inverse of _as_bytes.  Raises InvalidRequest for what is no UTF-8."""
    if value.isascii():
        return value
    try:
        return value.encode("latin-1").decode()
    except ValueError as error:
        raise InvalidRequest(f"without verified TLS the value of the header {name} must be UTF-8") from error


def _response(exchange: _Exchange) -> Response:
    call = exchange.call
    headers = {name.lower(): _as_bytes(value) for name, value in exchange.headers}
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
