"""The only place that chooses concrete classes.

Imports stand inside the functions: a mount of a local bucket need not load what speaks to servers, and the event loop,
the core and FUSE are loaded while the bucket is being asked.  Loading is most of the time until a mount is there.
"""

from __future__ import annotations

import importlib
import os
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from b2fs.config.location import FileLocation
from b2fs.config.settings import MountSettings
from b2fs.daemon.parts import Parts
from b2fs.daemon.sockets import runtime_dir

if TYPE_CHECKING:
    from b2fs.daemon.early import EarlyStart
    from b2fs.daemon.interfaces import Core, Frontend
    from b2fs.store.protocol import ObjectStore
    from b2fs.store.s3.greeting import Greeting
    from b2fs.vfs.api import KernelNotifier


def real_parts() -> Parts:
    """A store behind the URL, the filesystem core, the kernel."""
    return Parts(make_store, open_core, make_frontend, load)


def parts_begun(settings: MountSettings) -> Parts:
    """The same, with what can begin before the rest of the program is loaded.

    A server behind a network is asked the first questions; and where that is possible, the mount is made as soon as
    they are answered, with signals only noted until Parts.begun is taken over or abandoned.
    """
    if isinstance(settings.location, FileLocation):
        return real_parts()
    from b2fs.config.components import s3_config
    from b2fs.daemon import early
    from b2fs.store.s3 import greeting

    asked = greeting.greet(s3_config(settings, settings.location), f"{settings.location.prefix}{early.RESERVED}")
    if asked is None or not early.is_possible(settings):
        return real_parts()._replace(make_store=partial(make_store, greeting=asked))
    begun = early.EarlyStart(settings, asked, runtime_dir(os.geteuid()))
    return Parts(
        partial(make_store, greeting=asked),
        partial(open_core, begun=begun),
        partial(make_frontend, begun=begun),
        load,
        begun,
    )


#: What the core, the kernel's side, the first listing and the first read need, in the order in which a mount comes to
#: need it.
LOADED_MEANWHILE = ("b2fs.fuse.mount", "b2fs.vfs.filesystem", "lxml.etree", "crc32c")


def load() -> None:
    """Import LOADED_MEANWHILE."""
    for module in LOADED_MEANWHILE:
        importlib.import_module(module)


def make_frontend(settings: MountSettings, begun: EarlyStart | None = None) -> Frontend:
    """The FUSE mount."""
    from b2fs.config.components import fuse_config
    from b2fs.fuse.mount import FuseMount

    config = fuse_config(settings, runtime_dir(os.geteuid()))
    if begun is None:
        return FuseMount(settings.mountpoint, config)
    return FuseMount(settings.mountpoint, config, begun.take_mount)


def make_store(settings: MountSettings, greeting: Greeting | None = None) -> ObjectStore:
    """The store behind the URL, held to --bwlimit; entering it checks that the bucket can be used."""
    store = _make_bare_store(settings, greeting)
    if settings.bwlimit is None:
        return store
    from b2fs.store.limit import LimitedStore

    up, down = settings.bwlimit
    return LimitedStore(store, up_bytes_s=up, down_bytes_s=down)


def _make_bare_store(settings: MountSettings, greeting: Greeting | None) -> ObjectStore:
    from b2fs.config.components import embedded_config, s3_config

    location = settings.location
    if isinstance(location, FileLocation):
        from b2fs.store.embedded.store import EmbeddedStore

        return EmbeddedStore(embedded_config(settings, location))
    from b2fs.daemon.directory import SERVER, identity_path
    from b2fs.store.s3.store import S3Store

    config = s3_config(settings, location)
    directory = identity_path(settings.cache_dir, config.identity, location.prefix, location.bucket)
    return S3Store(config._replace(memory_file=str(directory / SERVER), prove_behind=True), greeting=greeting)


def open_core(
    store: ObjectStore,
    settings: MountSettings,
    directory: Path,
    kernel: KernelNotifier,
    begun: EarlyStart | None = None,
) -> AbstractAsyncContextManager[Core]:
    """The filesystem core on an open store, with its state in directory."""
    from b2fs.config.components import vfs_config
    from b2fs.vfs.filesystem import open_filesystem

    config = vfs_config(settings, directory, None if begun is None else begun.started_ns)
    return open_filesystem(store, config, kernel)
