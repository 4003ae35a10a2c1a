"""A server's life: open the store, make keys and certificates, listen, stop."""

from __future__ import annotations

import os
import signal
import sqlite3
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, TextIO, cast

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio import serve as hypercorn_serve
from hypercorn.typing import Framework

from b2fs.server.accesslog import AccessLog
from b2fs.server.app import Application
from b2fs.server.auth.keys import ApplicationKey, KeyRing
from b2fs.server.bucketcache import BucketCache
from b2fs.server.classes import Caps
from b2fs.server.config import FrontKind, ServeConfig, Started
from b2fs.server.faults import FaultRule, Faults
from b2fs.server.gate import Gate
from b2fs.server.http.listener import Front, raise_file_limit
from b2fs.server.native.service import NativeService, is_native
from b2fs.server.ops.call import Home
from b2fs.server.service import S3Service
from b2fs.server.tls import self_signed, server_context
from b2fs.store.embedded.engine import Engine, EngineConfig

#: How long requests under way may take after SIGTERM.
_GRACE_S: Final = 10.0
_BACKLOG: Final = 1024


@contextmanager
def open_home(config: ServeConfig) -> Iterator[Home]:
    """The store and its keys."""
    engine = Engine(EngineConfig(config.directory, hazard_seed=config.hazard_seed, durable=config.durable))
    try:
        domains = tuple(config.domains) or ("localhost", f"s3.{config.region}.backblazeb2.com")
        yield Home(
            engine,
            KeyRing(engine),
            BucketCache(engine),
            config.region,
            domains,
            config.max_buckets,
            config.refuse_checksums,
        )
    finally:
        engine.close()


def prepare_keys(home: Home, config: ServeConfig) -> ApplicationKey | None:
    """Make the keys that were asked for; without any key at all a first one, which is returned to be shown."""
    for grant in config.grants:
        account = home.keys.ensure_account(grant.account)
        known = home.keys.find(grant.key_id)
        if known is None or known.secret != grant.secret:
            home.keys.create(ApplicationKey(grant.key_id, grant.secret, account, "given at the start"))
    if any(not key.is_master for key in home.keys.all_keys()):
        return None
    account = home.keys.ensure_account("default")
    return home.keys.create(ApplicationKey("", "", account, "first key"))


def stored_bytes(engine: Engine) -> int:
    """The bytes of all stored versions, as Backblaze counts them."""

    def ask(connection: sqlite3.Connection) -> int:
        return int(connection.execute("SELECT coalesce(sum(size), 0) FROM versions").fetchone()[0])

    return engine.query(ask)


def build_app(home: Home, config: ServeConfig, log: AccessLog) -> Application:
    """The ASGI application with its faults, caps and log."""
    faults = Faults([FaultRule.parse(text) for text in config.faults], config.latency_s, config.fault_seed)
    caps = Caps(config.caps, lambda: stored_bytes(home.engine))
    gate = Gate(faults, caps)
    s3, native = S3Service(home, gate), NativeService(home, gate)
    return Application(lambda request: native if is_native(request) else s3, log)


@contextmanager
def _access_log(path: str | None) -> Iterator[AccessLog]:
    if path is None:
        yield AccessLog()
        return
    if path == "-":
        yield AccessLog(_flushing(sys.stdout))
        return
    with open(path, "a", encoding="utf-8", buffering=1, errors="backslashreplace") as file:
        yield AccessLog(file.write)


def _flushing(file: TextIO) -> Callable[[str], None]:
    def write(line: str) -> None:
        file.write(line)
        file.flush()

    return write


def _tls(config: ServeConfig) -> tuple[str, str] | None:
    if config.insecure_http:
        return None
    if config.cert_file is not None and config.key_file is not None:
        return config.cert_file, config.key_file
    return self_signed(f"{config.directory}/tls", [config.host, *config.domains])


async def serve(config: ServeConfig, started: Callable[[Started], None], *, shutdown: trio.Event | None = None) -> None:
    """Serve until SIGTERM, SIGINT or the event.  Raises ConfigError, DamagedStore, OSError."""
    with open_home(config) as home, _access_log(config.access_log) as log:
        first_key = prepare_keys(home, config)
        files = _tls(config)
        context = server_context(*files) if files is not None else None
        app = build_app(home, config, log)
        listeners = await trio.open_tcp_listeners(config.port, host=config.host, backlog=_BACKLOG)
        port = listeners[0].socket.getsockname()[1]
        scheme = "http" if context is None else "https"
        host = f"[{config.host}]" if ":" in config.host else config.host
        trust = files[0] if files is not None and config.cert_file is None else None
        accounts = [home.keys.ensure_account(name) for name in dict.fromkeys(grant.account for grant in config.grants)]
        announce = Started(f"{scheme}://{host}:{port}", config.region, trust, first_key, accounts)
        await _run(config, app, listeners, context, files, partial(started, announce), shutdown or trio.Event())


async def _run(
    config: ServeConfig,
    app: Application,
    listeners: list[trio.SocketListener],
    context: ssl.SSLContext | None,
    files: tuple[str, str] | None,
    started: Callable[[], None],
    shutdown: trio.Event,
) -> None:
    async with trio.open_nursery() as nursery:
        if config.front is FrontKind.HYPERCORN:
            await nursery.start(_hypercorn, app, listeners, files, shutdown)
        else:
            front = Front(app, config.limits, context)
            await nursery.start(front.serve, listeners)
        started()
        await _wait_shutdown(shutdown)
        if config.front is FrontKind.OWN:
            front.stop_accepting()
        with trio.move_on_after(_GRACE_S):
            await app.wait_quiet()
        nursery.cancel_scope.cancel()


async def _wait_shutdown(shutdown: trio.Event) -> None:
    async def watch(task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for _ in signals:
                shutdown.set()
                return

    if not _in_main_thread():
        await shutdown.wait()
        return
    async with trio.open_nursery() as nursery:
        await nursery.start(watch)
        await shutdown.wait()
        nursery.cancel_scope.cancel()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


async def _hypercorn(
    app: Application,
    listeners: list[trio.SocketListener],
    files: tuple[str, str] | None,
    shutdown: trio.Event,
    task_status: trio.TaskStatus[None],
) -> None:
    """Hypercorn's trio worker on sockets that are open already."""
    raise_file_limit()
    settings = HypercornConfig()
    settings.accesslog = settings.errorlog = None
    settings.keep_alive_max_requests = 1 << 40
    settings.alpn_protocols = ["http/1.1"]
    if files is not None:
        settings.certfile, settings.keyfile = files
    # hypercorn closes what it takes over, so it gets descriptors of its own.
    settings.bind = [f"fd://{os.dup(listener.socket.fileno())}" for listener in listeners]
    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(hypercorn_serve, cast(Framework, app), settings, mode="asgi", shutdown_trigger=shutdown.wait)
        )
        task_status.started()
