"""One attempt at one request: which of three ways it takes.

Large ranges are fetched through sockets of our own, in threads (`bulk`).  Large bodies are sent through the AWS Common
Runtime (`crt`), which takes 0.1 s to load, so that is done when it is first of use: a mount comes up without it.
Everything else is done within the event loop (`lean`), which costs less than half of what the runtime does.

The CRT's S3 client keeps the status and the headers of a 5xx or 429 to itself (it means to retry on its own), which
loses Retry-After.  So `send` reports such a fault as it can, and `send_plainly` repeats a request on a plain connection
that hides nothing.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

from b2fs.errors import TimedOut
from b2fs.store.protocol import Body
from b2fs.store.s3.answers import NotTheRange, Response
from b2fs.store.s3.bulk import ask
from b2fs.store.s3.config import S3Config
from b2fs.store.s3.credentials import Signer
from b2fs.store.s3.faults import error_of
from b2fs.store.s3.hashing import payload_hash, signs_bodies
from b2fs.store.s3.lean import LeanConnections
from b2fs.store.s3.sigv4 import UNSIGNED
from b2fs.store.s3.sockets import Asker, Connections, Question
from b2fs.store.s3.wire import Call

if TYPE_CHECKING:
    from b2fs.store.s3.crt import Runtime

#: For less, the round trip of a new connection costs more than a thread saves: the loop's own are open already.
_CONNECT_FOR_BYTES = 2 << 20
#: The slowest copying within a server that is waited for, a guess; a copy that may so be silent for longer than the S3
#: client bears is asked for on a plain connection.
_COPY_BYTES_PER_S = 20e6
_LONG_COPY_BYTES = 256 << 20
#: Bodies up to here are sent within the event loop.  Larger ones would take less CPU in all that way too (4 MiB a
#: quarter less), but more of the loop's own time, over TLS twice as much, and several at a time make it late by
#: milliseconds.
LEAN_BYTES = 256 << 10


class Transport:
    """The connections to one endpoint."""

    def __init__(self, config: S3Config, signer: Signer, connections: Connections | None = None) -> None:
        """connections, if given, are those that somebody opened before us."""
        self._config = config
        self._signer = signer
        self._signs_bodies = signs_bodies(config)
        self._asker = Asker(config)
        self._connections = connections or Connections(config)
        self._lean = LeanConnections(config, self._connections)
        self._runtime: Runtime | None = None
        self._loading = trio.Lock()

    async def send(self, call: Call) -> Response:
        """Send once, with the keys that the signer has, and return the answer of a success, [200, 300).

        Raises a StoreError for everything else; one for a 5xx or 429 may tell neither status nor Retry-After.
        Cancellation returns when the request is over.
        """
        if self._is_bulk(call):
            with contextlib.suppress(NotTheRange):
                return await self._send_bulk(call)
        if self._is_lean(call):
            return await self._send_lean(call)
        if call.copied_bytes > _LONG_COPY_BYTES:
            return await self.send_plainly(call)
        with self._time_limit(call):
            runtime = await self._loaded()
            return await runtime.send(call, self._signer.keys, await self._payload_hash(call.body))
        raise _too_long(call)

    async def send_plainly(self, call: Call) -> Response:
        """Like `send`, slower, but errors tell all that the server said."""
        if self._is_lean(call):
            return await self._send_lean(call)
        with self._time_limit(call):
            runtime = await self._loaded()
            return await runtime.send_plainly(call, self._signer.keys, await self._payload_hash(call.body))
        raise _too_long(call)

    def _is_lean(self, call: Call) -> bool:
        if not self._connections.verify:
            return False
        # The runtime knows only text in headers, and sends it as UTF-8.
        return call.body_bytes <= LEAN_BYTES or not all(value.isascii() for _, value in call.headers)

    def _is_bulk(self, call: Call) -> bool:
        if not (call.bulk and self._connections.verify):
            return False
        return call.expected_bytes >= _CONNECT_FOR_BYTES or self._connections.has_idle

    async def _send_bulk(self, call: Call) -> Response:
        with self._time_limit(call):
            question = await self._question(call, call.expected_bytes)
            return await ask(self._connections, question, has_body=call.has_body)
        raise _too_long(call)

    async def _send_lean(self, call: Call) -> Response:
        response = await self._lean.ask(await self._question(call, None), time_limit_s(call, self._config))
        if 200 <= response.status < 300:
            return response
        raise error_of(response, has_body=call.has_body)

    async def _question(self, call: Call, length: int | None) -> Question:
        payload = await self._payload_hash(call.body) or UNSIGNED
        return self._asker.question(self._signer.keys, call, payload, length)

    async def _payload_hash(self, body: Body) -> str | None:
        return await payload_hash(body) if self._signs_bodies else None

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
        self._lean.close()
        self._connections.close()
        self._runtime = None


def _load(config: S3Config) -> Runtime:
    from b2fs.store.s3.crt import Runtime

    return Runtime(config)


def time_limit_s(call: Call, config: S3Config) -> float:
    """A bound on one attempt: a stall's length, plus time for the bodies on the slowest link worth waiting for.

    The S3 client shows no progress on the way; a connection that is silent for 30 s it closes by itself.  A server that
    copies is silent until it is done.
    """
    size = max(call.body_bytes, call.expected_bytes)
    return config.stall_timeout_s + size / config.min_bytes_per_s + call.copied_bytes / _COPY_BYTES_PER_S


def _too_long(call: Call) -> TimedOut:
    return TimedOut(f"{call.operation}: no complete answer in time")
