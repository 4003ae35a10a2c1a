"""Accepting connections: TLS, the bound on their number, and their end."""

from __future__ import annotations

import logging
import resource
import ssl
from collections.abc import Sequence
from functools import partial
from typing import Final

import trio

from b2fs.server.http.connection import App, Connection
from b2fs.server.http.limits import Limits
from b2fs.server.http.tlsstream import TlsStream

LOG: Final = logging.getLogger("b2fs.server")


class Front:
    """All connections of one application."""

    def __init__(self, app: App, limits: Limits, tls: ssl.SSLContext | None = None) -> None:
        self._app = app
        self._limits = limits
        self._tls = tls
        self._max_connections = limits.max_connections
        self._accepting = trio.CancelScope()
        #: Open connections in the order in which they came; the scope ends one.
        self._open: dict[int, tuple[Connection, trio.CancelScope]] = {}

    @property
    def connections(self) -> int:
        return len(self._open)

    def stop_accepting(self) -> None:
        """Close the listeners; connections that are open go on."""
        self._accepting.cancel()

    async def serve(
        self,
        listeners: Sequence[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept until stopped, serve until cancelled; never raises for what a client does."""
        # Open bodies and the store need descriptors too.
        self._max_connections = min(self._limits.max_connections, raise_file_limit() * 3 // 4)
        async with trio.open_nursery() as connections:
            with self._accepting:
                async with trio.open_nursery() as nursery:
                    accept = partial(trio.serve_listeners, self._accept, list(listeners), handler_nursery=connections)
                    await nursery.start(accept)
                    task_status.started()

    async def _accept(self, socket_stream: trio.SocketStream) -> None:
        self._make_room()
        with trio.CancelScope() as scope:
            try:
                await self._run(socket_stream, scope)
            except Exception:
                LOG.exception("a connection failed")
            finally:
                # Whoever is slow to say goodbye is not waited for.
                with trio.move_on_after(0) as closing:
                    closing.shield = True
                    await socket_stream.aclose()

    async def _run(self, socket_stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            client = socket_stream.socket.getpeername()[:2]
        except OSError:
            return  # it has gone before it said anything
        if self._tls is None:
            await self._serve(Connection(socket_stream, self._app, self._limits, "http", client), scope)
            return
        stream = TlsStream(socket_stream, self._tls)
        try:
            with trio.fail_after(self._limits.handshake_s):
                await stream.do_handshake()
        except (trio.BrokenResourceError, trio.TooSlowError):
            return
        await self._serve(Connection(stream, self._app, self._limits, "https", client), scope)
        with trio.move_on_after(1):
            await stream.aclose()

    async def _serve(self, connection: Connection, scope: trio.CancelScope) -> None:
        self._open[id(connection)] = (connection, scope)
        try:
            await connection.run()
        finally:
            del self._open[id(connection)]

    def _make_room(self) -> None:
        if len(self._open) < self._max_connections:
            return
        for connection, scope in self._open.values():
            if connection.idle and not scope.cancel_called:
                scope.cancel()
                return


def raise_file_limit() -> int:
    """Ask for as many descriptors as the system allows: each connection and each open body takes one.  The limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20
