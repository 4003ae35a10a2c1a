"""The control socket: how `b2fs status`, `sync`, `refresh`, `warm` and `umount` talk to a running mount.

One Unix socket a mount, in a directory that only its user (and root) can enter; its name is derived from the
mountpoint.  A command is a method in `_commands`; adding one is adding a line there.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import trio

from b2fs.daemon.interfaces import Core, Warming, WriteBack
from b2fs.daemon.messages import GIVE_WAY, MAX_LINE_BYTES, Reply, Request, WarmFigures
from b2fs.daemon.sockets import bind_control_socket
from b2fs.daemon.state import MountState
from b2fs.errors import B2fsError

log = logging.getLogger(__name__)

PROGRESS_INTERVAL_S = 0.25
#: How long ended commands get to deliver their last line to a slow client.
_LAST_WORDS_S = 2.0

Send = Callable[[Reply], Awaitable[None]]


@asynccontextmanager
async def serve_control(path: str, state: MountState, bound: socket.socket | None = None) -> AsyncIterator[None]:
    """Answer commands while the context lasts, then let clients that wait hear how it ended.

    The caller stops `state` before leaving the context.  bound is what bind_control_socket has made before.
    """
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound or bind_control_socket(path)))
    server = _Server(state)
    async with trio.open_nursery() as nursery:
        accepting = await nursery.start(_accept, listener, server)
        try:
            yield
        finally:
            # While it still answers: afterwards the name may be that of the next mount's socket.
            with suppress(FileNotFoundError):
                os.unlink(path)
            accepting.cancel()
            # Clients are told even when the run itself was cancelled; the deadline bounds it.
            nursery.cancel_scope.shield = True
            nursery.cancel_scope.deadline = trio.current_time() + _LAST_WORDS_S
            await server.wait_idle()
            nursery.cancel_scope.cancel()


async def _accept(
    listener: trio.SocketListener,
    server: _Server,
    task_status: trio.TaskStatus[trio.CancelScope],
) -> None:
    async with trio.open_nursery() as handlers:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            await trio.serve_listeners(server.handle, [listener], handler_nursery=handlers)


class _Server:
    """Reads requests and answers them from the mount's state."""

    def __init__(self, state: MountState) -> None:
        self._state = state
        self._active = 0
        self._idle = trio.Condition()
        self._commands: dict[str, Callable[[Request, Send], Awaitable[None]]] = {
            "status": self._status,
            "sync": self._sync,
            "follow": self._follow,
            GIVE_WAY: self._give_way,
            "refresh": self._refresh,
            "warm": self._warm,
        }

    async def wait_idle(self) -> None:
        """Return when no command is being answered."""
        async with self._idle:
            while self._active:
                await self._idle.wait()

    async def handle(self, stream: trio.SocketStream) -> None:
        """Answer the requests of one client; its leaving ends only its own command."""
        self._active += 1
        try:
            async with stream:
                try:
                    await self._answer(stream)
                except* (trio.BrokenResourceError, trio.ClosedResourceError):
                    log.debug("a control client went away")
        finally:
            with trio.CancelScope(shield=True):
                async with self._idle:
                    self._active -= 1
                    self._idle.notify_all()

    async def _answer(self, stream: trio.SocketStream) -> None:
        async def send(reply: Reply) -> None:
            await stream.send_all(reply.encode())

        line = await _read_line(stream)
        try:
            request = Request.decode(line)
        except ValueError:
            await send(Reply("error", message="not a request"))
            return
        command = self._commands.get(request.command)
        if command is None:
            await send(Reply("error", message=f"{request.command!r} is not a command of this version"))
            return
        await command(request, send)

    async def _status(self, request: Request, send: Send) -> None:
        await send(Reply("status", self._state.report()))

    async def _sync(self, request: Request, send: Send) -> None:
        """Wait until nothing is pending (below path), with progress."""
        core = self._state.core
        if core is None:
            await send(Reply("error", self._state.report(), f"the mount is {self._state.phase}"))
            return

        async def progress() -> None:
            await send(Reply("progress", self._state.report()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_stopped, nursery.cancel_scope)
            failure = await drain(core.writeback, self._key_prefix(request.path), progress, PROGRESS_INTERVAL_S)
            nursery.cancel_scope.cancel()
        if self._state.stopped.is_set():
            await send(Reply("stopped", self._state.report()))
        elif failure is None:
            await send(Reply("done", self._state.report()))
        else:
            await send(Reply("error", self._state.report(), str(failure)))

    def _key_prefix(self, path: str) -> str | None:
        """The keys of what is at or below a path within the mount; None for all of it."""
        return self._state.settings.location.prefix + path if path else None

    async def _cancel_when_stopped(self, scope: trio.CancelScope) -> None:
        await self._state.stopped.wait()
        scope.cancel()

    async def _refresh(self, request: Request, send: Send) -> None:
        """Forget what is known of the bucket (below path)."""
        core = self._state.core
        if core is None:
            await send(Reply("error", self._state.report(), f"the mount is {self._state.phase}"))
            return
        await core.refresh(os.fsencode(request.path))
        await send(Reply("done", self._state.report()))

    async def _warm(self, request: Request, send: Send) -> None:
        """Bring contents onto the local disk, with progress; ends when the client leaves."""
        core = self._state.core
        if core is None:
            await send(Reply("error", self._state.report(), f"the mount is {self._state.phase}"))
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_stopped, nursery.cancel_scope)
            warming = _Warming(core, os.fsencode(request.path))
            nursery.start_soon(warming.tell, send, self._state)
            await warming.run()
            nursery.cancel_scope.cancel()
        kind = "stopped" if self._state.stopped.is_set() else "error" if warming.error else "done"
        await send(Reply(kind, self._state.report(), warming.error, warming.figures()))

    async def _follow(self, request: Request, send: Send) -> None:
        """Progress until the daemon has ended."""
        while not self._state.stopped.is_set():
            await send(Reply("progress", self._state.report()))
            with trio.move_on_after(PROGRESS_INTERVAL_S):
                await self._state.stopped.wait()
        await send(Reply("stopped", self._state.report()))

    async def _give_way(self, request: Request, send: Send) -> None:
        """End at once, if the mount has gone and who asks goes on with the same cache directory."""
        if self._state.phase != "draining" or request.path != self._state.cache_dir:
            await send(Reply("error", self._state.report(), f"the mount is {self._state.phase}"))
            return
        self._state.give_way()
        await self._follow(request, send)


class _Warming:
    """One `b2fs warm`."""

    def __init__(self, core: Core, path: bytes) -> None:
        self._core = core
        self._path = path
        self._progress: Warming | None = None
        self.error = ""

    def figures(self) -> WarmFigures:
        return WarmFigures() if self._progress is None else WarmFigures.of(self._progress)

    async def run(self) -> None:
        try:
            await self._core.warm(self._path, self._begun)
        except B2fsError as error:
            self.error = str(error)

    def _begun(self, progress: Warming) -> None:
        self._progress = progress

    async def tell(self, send: Send, state: MountState) -> None:
        while True:
            await send(Reply("progress", state.report(), warm=self.figures()))
            await trio.sleep(PROGRESS_INTERVAL_S)


async def _read_line(stream: trio.SocketStream) -> bytes:
    """The bytes up to a newline or the end, at most MAX_LINE_BYTES."""
    line = b""
    while b"\n" not in line and len(line) < MAX_LINE_BYTES:
        chunk = await stream.receive_some(65536)
        if not chunk:
            break
        line += chunk
    return line.partition(b"\n")[0]


async def drain(
    writeback: WriteBack, path: str | None, progress: Callable[[], Awaitable[None]], interval_s: float
) -> B2fsError | OSError | None:
    """Wait until nothing is pending, calling progress every interval_s; the error that stops it, or None."""
    failure: B2fsError | OSError | None = None

    async def repeat() -> None:
        while True:
            await progress()
            await trio.sleep(interval_s)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(repeat)
        try:
            await writeback.wait_drained(path)
        except (B2fsError, OSError) as error:
            failure = error
        nursery.cancel_scope.cancel()
    return failure
