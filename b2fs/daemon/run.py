"""The life of a mount: start, serve, drain, end; one trio run.

    an earlier mount of the place       has ended, or given way
    control socket                      outlives everything, so that clients hear the end
      identity directory (locked)
        store (checked)                 wrong bucket, key or endpoint end here, before anything is mounted
          core (its own background tasks)
            FUSE                        until unmounted, SIGTERM, SIGINT or SIGHUP
            drain                       until the bucket has everything; a second signal stops it
INVARIANT: whatever ends the drain, what is not in the bucket is in the identity directory, and the outcome counts it.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import trio

from b2fs.config.settings import settings_as_text
from b2fs.config.units import show_files, show_size
from b2fs.daemon.control import drain, serve_control
from b2fs.daemon.directory import identity_path
from b2fs.daemon.identity import Identity, claim
from b2fs.daemon.interfaces import Core, Frontend, NoKernel
from b2fs.daemon.messages import Figures
from b2fs.daemon.notify import Notifier
from b2fs.daemon.parts import Parts
from b2fs.daemon.signals import heeded
from b2fs.daemon.sockets import socket_path
from b2fs.daemon.state import MountState
from b2fs.daemon.succession import earlier_ended
from b2fs.errors import ConfigError
from b2fs.fuse.outside import ask_kernel
from b2fs.store.protocol import ObjectStore
from b2fs.vfs.api import KernelNotifier

log = logging.getLogger(__name__)

#: How long the kernel may take to get its first answer through the new mount.
_ANSWER_TIMEOUT_S = 60.0
_DRAIN_REPORT_S = 0.5
_LOG_EVERY_S = 15.0
#: Signals that follow each other more quickly than anybody can mean it, in seconds: service managers send several.
ONE_REQUEST_S = 0.03
#: Asked of systemd again and again while the drain makes progress; several reports may get lost.
_EXTEND_S = 30.0


class Events(NamedTuple):
    """What the process around the run wants to hear; none of these may block."""

    ready: Callable[[], None] = lambda: None
    draining: Callable[[Figures], None] = lambda figures: None


class Outcome(NamedTuple):
    """How a run ended: what is not in the bucket, and why (one sentence, "" if nothing is left).

    taken_over: another mount goes on with that.
    """

    left_files: int
    left_bytes: int
    cache_dir: str
    reason: str = ""
    taken_over: bool = False

    @property
    def sentence(self) -> str:
        """What to tell the user about data that is left."""
        left = f"{show_files(self.left_files)} ({show_size(self.left_bytes)})"
        if self.taken_over:
            return f"{left} not in the bucket yet: another mount has taken over, and uploads them"
        return (
            f"{left} not in the bucket yet: {self.reason or 'stopped before the end'}. "
            f"They are safe in {self.cache_dir}; the next mount uploads them, or: b2fs recover {self.cache_dir}"
        )


class Shutdown:
    """Signals to cancellations: the first ends the service and lets it drain, the second ends everything.

    At the end of a session or of the machine systemd sends SIGHUP with SIGTERM, or SIGTERM from two sides.  Those are
    one request: to take them for two would leave in the cache what could have been uploaded.
    """

    def __init__(self) -> None:
        #: Around the wait for an earlier mount that still uploads.
        self.beginning = trio.CancelScope()
        self.everything = trio.CancelScope()
        self._service: trio.CancelScope | None = None
        self._requests = 0
        self._first_at = 0.0

    def begin_service(self) -> trio.CancelScope:
        """The scope that the first request cancels from now on."""
        self._service = trio.CancelScope()
        return self._service

    def request(self) -> None:
        """Somebody wants an end."""
        self._requests += 1
        if self._requests == 1:
            self._first_at = trio.current_time()
        self.beginning.cancel()
        if self._service is None or self._requests > 1:
            self.everything.cancel()
        else:
            self._service.cancel()

    async def watch(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if self._requests and (number == signal.SIGHUP or trio.current_time() - self._first_at < ONE_REQUEST_S):
                log.info("%s: stopping already", signal.Signals(number).name)
                continue
            log.info("%s: %s", signal.Signals(number).name, "stopping at once" if self._requests else "stopping")
            self.request()


@contextmanager
def _requests(shutdown: Shutdown, noted: Sequence[int]) -> Iterator[AsyncIterator[int]]:
    """The signals from now on; those that came before are passed on, each as a request."""
    with trio.open_signal_receiver(*heeded()) as signals:
        for _ in noted:
            shutdown.request()
        yield signals


async def run_mount(
    state: MountState, parts: Parts, notifier: Notifier, events: Events, noted: Sequence[int] = ()
) -> Outcome:
    """Mount, serve until unmounted or told to stop, drain; noted: the signals that came before we listen.

    Raises ConfigError or StoreError (possibly inside an exception group) when the mount cannot be made or breaks.
    """
    run = _Run(state, parts, notifier, events)
    with _requests(run.shutdown, noted) as signals:
        async with trio.open_nursery() as beginning:
            bound = None
            if parts.begun is not None:
                beginning.start_soon(run.load)
                await trio.to_thread.run_sync(parts.begun.wait_decided)
                for _ in parts.begun.noted:
                    run.shutdown.request()
                bound = parts.begun.take_control()
            await run.served(signals, bound)
    return run.outcome()


async def run_recover(state: MountState, parts: Parts, events: Events, noted: Sequence[int] = ()) -> Outcome:
    """Bring what an earlier mount left in its identity directory into the bucket, without a mount."""
    run = _Run(state, parts, Notifier(None), events)
    with _requests(run.shutdown, noted) as signals:
        async with trio.open_nursery() as services:
            services.start_soon(run.shutdown.watch, signals)
            with run.shutdown.everything:
                await run.drained_only()
            services.cancel_scope.cancel()
    return run.outcome()


class _Run:
    """One run's nested contexts."""

    def __init__(self, state: MountState, parts: Parts, notifier: Notifier, events: Events) -> None:
        self.shutdown = Shutdown()
        self._state = state
        self._settings = state.settings
        self._parts = parts
        self._notifier = notifier
        self._events = events
        self._reason = ""
        self._taken_over = False
        #: Whether this run uploads what an earlier one has left.
        self._takes_over = not self._settings.read_only
        self._loading = False
        self._loaded = trio.Event()
        state.give_way = self._give_way

    def _give_way(self) -> None:
        self._taken_over = True
        log.info("another mount of %s goes on with what is left", self._state.cache_dir)
        self.shutdown.everything.cancel()

    def outcome(self) -> Outcome:
        figures = self._state.figures()
        return Outcome(
            figures.pending_files, figures.pending_bytes, self._state.cache_dir, self._reason, self._taken_over
        )

    async def load(self) -> None:
        """Load what the parts will need, in a thread; only the first call does anything."""
        if not self._loading:
            self._loading = True
            await trio.to_thread.run_sync(self._parts.load)
            self._loaded.set()

    async def served(self, signals: AsyncIterator[int], bound: socket.socket | None) -> None:
        """The whole run, with all that it answers to; bound is serve_control's."""
        path = socket_path(self._settings.mountpoint, os.geteuid())
        async with trio.open_nursery() as services:
            services.start_soon(self.shutdown.watch, signals)
            services.start_soon(_feed_watchdog, self._notifier)
            store = self._parts.make_store(self._settings)
            with self.shutdown.beginning:
                if bound is None:
                    await self._earlier_ended(store)
            if not self.shutdown.beginning.cancelled_caught:
                async with serve_control(path, self._state, bound):
                    try:
                        with self.shutdown.everything:
                            await self.mounted(store)
                    finally:
                        self._state.stop()
            services.cancel_scope.cancel()

    async def _earlier_ended(self, store: ObjectStore) -> None:
        path = self._identity_path(store)
        await earlier_ended(self._settings.mountpoint, path, takes_over=self._takes_over)

    async def mounted(self, store: ObjectStore) -> None:
        async with self._claim(store) as identity, self._entered(store):
            identity.remember(settings_as_text(self._settings))
            frontend = self._parts.make_frontend(self._settings)
            async with self._open_core(store, identity, frontend.notifier) as core:
                await self._attached(core, identity, frontend)

    async def drained_only(self) -> None:
        store = self._parts.make_store(self._settings)
        async with (
            self._claim(store) as identity,
            self._entered(store),
            self._open_core(store, identity, NoKernel()) as core,
        ):
            await self._attached(core, identity, None)

    @asynccontextmanager
    async def _entered(self, store: ObjectStore) -> AsyncIterator[None]:
        """The store, entered while the rest of the program is being loaded: one waits, the other computes.

        The core comes when all is loaded: to import it here meanwhile would stop the event loop, and with it what the
        store finds out about its server.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.load)
            async with store:
                await self._loaded.wait()
                yield

    def _claim(self, store: ObjectStore) -> AbstractAsyncContextManager[Identity]:
        begun = self._parts.begun
        path = self._identity_path(store)
        self._state.cache_dir = str(path)
        held = begun.take_lock(path) if begun is not None else None
        return claim(path, self._settings.mountpoint, held=held, takes_over=self._takes_over)

    def _identity_path(self, store: ObjectStore) -> Path:
        location = self._settings.location
        return identity_path(self._settings.cache_dir, store.identity, location.prefix, location.bucket)

    def _open_core(
        self, store: ObjectStore, identity: Identity, kernel: KernelNotifier
    ) -> AbstractAsyncContextManager[Core]:
        return self._parts.open_core(store, self._settings, identity.path, kernel)

    async def _attached(self, core: Core, identity: Identity, frontend: Frontend | None) -> None:
        """Serve and drain with the core visible in the state; whatever happens, its last figures are kept."""
        self._state.core = core
        try:
            if frontend is not None:
                await self._serve(core, frontend)
                identity.mark_finishing()
            await self._drain(core)
        finally:
            self._state.detach_core()

    async def _serve(self, core: Core, frontend: Frontend) -> None:
        async with trio.open_nursery() as nursery:
            with self.shutdown.begin_service():
                await frontend.serve(core, lambda: nursery.start_soon(self._confirm))
            nursery.cancel_scope.cancel()
        log.info("%s is unmounted", self._settings.mountpoint)

    async def _confirm(self) -> None:
        """Say ready only when an answer came all the way through the kernel."""
        with trio.move_on_after(_ANSWER_TIMEOUT_S) as scope:
            try:
                await ask_kernel(os.statvfs, self._settings.mountpoint)
            except OSError as error:
                raise ConfigError(f"{self._settings.mountpoint} does not answer: {error.strerror}") from None
        if scope.cancelled_caught:
            raise ConfigError(f"{self._settings.mountpoint} does not answer within {_ANSWER_TIMEOUT_S:.0f} s")
        self._state.phase = "mounted"
        self._state.mounted = True
        text = f"{self._settings.location.url} is mounted at {self._settings.mountpoint}"
        self._events.ready()  # first, as a background mount opens its log there
        self._notifier.ready(text)
        log.info("%s", text)

    async def _drain(self, core: Core) -> None:
        self._state.phase = "draining"
        self._notifier.stopping("uploading what is left")
        core.writeback.hurry()
        next_line = trio.current_time() + _LOG_EVERY_S

        async def progress() -> None:
            nonlocal next_line
            figures = self._state.figures()
            text = f"{show_files(figures.pending_files)} ({show_size(figures.pending_bytes)}) left to upload"
            self._notifier.status(text)
            if not figures.offline:
                self._notifier.extend_timeout(_EXTEND_S)
            if trio.current_time() >= next_line:
                log.info("%s", text)
                next_line += _LOG_EVERY_S
            self._events.draining(figures)

        failure = await drain(core.writeback, None, progress, _DRAIN_REPORT_S)
        if failure is not None:
            self._reason = str(failure)


async def _feed_watchdog(notifier: Notifier) -> None:
    """Show that the event loop turns, if somebody watches."""
    while notifier.watchdog_interval_s is not None:
        notifier.watchdog()
        await trio.sleep(notifier.watchdog_interval_s)
