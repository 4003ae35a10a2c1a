"""The only place that chooses concrete classes.

Imports stand inside the functions: a mount of a local bucket need not load what speaks to servers, and the event loop,
the core and FUSE are loaded while the bucket is being asked.  Loading is most of the time until a mount is there.
"""

from __future__ import annotations

import importlib
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from b2fs.config.location import FileLocation
from b2fs.config.settings import MountSettings
from b2fs.daemon.interfaces import Core, Frontend, Parts
from b2fs.store.protocol import ObjectStore
from b2fs.vfs.api import KernelNotifier

if TYPE_CHECKING:
    from b2fs.store.s3.greeting import Greeting


def real_parts(greeting: Greeting | None = None) -> Parts:
    """A store behind the URL, the filesystem core, the kernel."""
    return Parts(partial(make_store, greeting=greeting), open_core, make_frontend, load)


def greet(settings: MountSettings) -> Greeting | None:
    """Ask a server behind a network the first questions; None where there is none, or no key lies ready."""
    if isinstance(settings.location, FileLocation):
        return None
    from b2fs.config.components import s3_config
    from b2fs.store.s3 import greeting

    return greeting.greet(s3_config(settings, settings.location))


#: What the core, the kernel's side and the first listing need, in the order in which a mount comes to need it.
LOADED_MEANWHILE = ("b2fs.fuse.mount", "b2fs.vfs.filesystem", "lxml.etree")


def load() -> None:
    """Import LOADED_MEANWHILE."""
    for module in LOADED_MEANWHILE:
        importlib.import_module(module)


def make_frontend(settings: MountSettings) -> Frontend:
    """The FUSE mount."""
    from b2fs.config.components import fuse_config
    from b2fs.fuse.mount import FuseMount

    return FuseMount(settings.mountpoint, fuse_config(settings))


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
    from b2fs.daemon.identity import SERVER, identity_path
    from b2fs.store.s3.store import S3Store

    config = s3_config(settings, location)
    directory = identity_path(settings.cache_dir, config.identity, location.prefix, location.bucket)
    return S3Store(replace(config, memory_file=str(directory / SERVER), prove_behind=True), greeting=greeting)


def open_core(
    store: ObjectStore, settings: MountSettings, directory: Path, kernel: KernelNotifier
) -> AbstractAsyncContextManager[Core]:
    """The filesystem core on an open store, with its state in directory."""
    from b2fs.config.components import vfs_config
    from b2fs.vfs.filesystem import open_filesystem

    return open_filesystem(store, vfs_config(settings, directory), kernel)
