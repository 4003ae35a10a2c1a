"""One attempt at one request: which of three ways it takes.

Large ranges go through sockets of our own, in threads (`bulk`).  Everything else goes through the AWS Common Runtime
(`crt`) once that is loaded.  Loading takes 0.1 s, so small requests that come while few are under way go through our
own sockets too, as long as nothing else has called for the CRT: a mount comes up without it.

The CRT's S3 client keeps the status and the headers of a 5xx or 429 to itself (it means to retry on its own), which
loses Retry-After.  So `send` reports such a fault as it can, and `send_plainly` repeats a request on a plain connection
that hides nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING

import trio

from b2fs.errors import TimedOut
from b2fs.store.protocol import Body
from b2fs.store.s3.bulk import ask
from b2fs.store.s3.config import S3Config
from b2fs.store.s3.credentials import Signer
from b2fs.store.s3.faults import Response
from b2fs.store.s3.sigv4 import EMPTY_SHA256, UNSIGNED
from b2fs.store.s3.sockets import Connections, NotTheRange, signed_question
from b2fs.store.s3.wire import Call

if TYPE_CHECKING:
    from b2fs.store.s3.crt import Runtime

#: Bodies above this are hashed in a worker thread; below, the hop costs more than the hash.
HASH_INLINE_BYTES = 64 << 10
#: For less, the round trip of a new connection costs more than the CRT's copies, whose connections are open already.
_CONNECT_FOR_BYTES = 2 << 20
#: The slowest copying within a server that is waited for, a guess; a copy that may so be silent for longer than the S3
#: client bears is asked for on a plain connection.
_COPY_BYTES_PER_S = 20e6
_LONG_COPY_BYTES = 256 << 20
#: Small requests that may be under way, and the bodies that they may have, before the CRT is worth its loading.
_FEW = 16
#: After so many small requests in all a mount is at work, and the CRT's are cheaper.
_FIRST = 200
_SMALL_BYTES = 1 << 20


class Transport:
    """The connections to one endpoint."""

    def __init__(self, config: S3Config, signer: Signer, connections: Connections | None = None) -> None:
        """connections, if given, are those that somebody opened before us."""
        self._config = config
        self._signer = signer
        self._host = config.host_header
        self._connections = connections or Connections(config)
        self._small_under_way = self._small_sent = 0
        self._runtime: Runtime | None = None
        self._loading = trio.Lock()

    async def send(self, call: Call) -> Response:
        """Send once and return the answer of a success, [200, 300).

        Raises a StoreError for everything else; one for a 5xx or 429 may tell neither status nor Retry-After.
        Cancellation returns when the request is over.
        """
        if call.copied_bytes > _LONG_COPY_BYTES:
            return await self.send_plainly(call)
        with self._time_limit(call):
            if self._is_bulk(call):
                with contextlib.suppress(NotTheRange):
                    return await self._send_on_socket(call, call.expected_bytes)
            if self._is_small(call):
                return await self._send_small(call)
            runtime = await self._loaded()
            await self._signer.prepare()
            return await runtime.send(call, self._signer.keys, await payload_hash(self._config, call.body))
        raise _too_long(call)

    async def send_plainly(self, call: Call) -> Response:
        """Like `send`, slower, but errors tell all that the server said."""
        with self._time_limit(call):
            runtime = await self._loaded()
            await self._signer.prepare()
            return await runtime.send_plainly(call, self._signer.keys, await payload_hash(self._config, call.body))
        raise _too_long(call)

    def _is_bulk(self, call: Call) -> bool:
        worth_it = call.expected_bytes >= _CONNECT_FOR_BYTES or self._connections.has_idle
        return call.bulk and worth_it and self._connections.verify

    def _is_small(self, call: Call) -> bool:
        """Whether a call need not wait for the CRT."""
        small = max(call.body_bytes, call.expected_bytes, call.copied_bytes) <= _SMALL_BYTES
        few = self._small_under_way < _FEW and self._small_sent < _FIRST
        return small and few and self._runtime is None and self._connections.verify

    async def _send_small(self, call: Call) -> Response:
        self._small_under_way += 1
        self._small_sent += 1
        try:
            return await self._send_on_socket(call, None)
        finally:
            self._small_under_way -= 1

    async def _send_on_socket(self, call: Call, length: int | None) -> Response:
        await self._signer.prepare()
        payload = await payload_hash(self._config, call.body) or UNSIGNED
        question = signed_question(self._config, self._signer.keys, call, payload, length)
        return await ask(self._connections, question, has_body=call.has_body)

    async def _loaded(self) -> Runtime:
        """The CRT, loaded at the first call.  Raises ConfigError.  Checkpoint: only then."""
        if self._runtime is None:
            async with self._loading:
                if self._runtime is None:
                    self._runtime = await trio.to_thread.run_sync(_load, self._config)
        return self._runtime

    def _time_limit(self, call: Call) -> trio.CancelScope:
        return trio.move_on_after(time_limit_s(call, self._config))

    def close(self) -> None:
        """Let go of the client; its threads end by themselves.  Call when no request is in flight."""
        self._connections.close()
        self._runtime = None


def _load(config: S3Config) -> Runtime:
    from b2fs.store.s3.crt import Runtime

    return Runtime(config)


async def payload_hash(config: S3Config, body: Body) -> str | None:
    """What to sign of a body: nothing where no one can change it on the way, under TLS or within a machine.

    Else its SHA-256.  Its MD5 is among the signed headers in any case.
    """
    if config.tls or config.is_loopback:
        return None
    if not body:
        return EMPTY_SHA256
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
