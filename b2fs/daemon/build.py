"""The only place that chooses concrete classes.

Imports stand inside the functions: a mount of a local bucket need not load the AWS runtime, nor the parent process of
a background mount anything at all, and that is most of the time until a mount is there.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

from b2fs.config.location import FileLocation
from b2fs.config.settings import MountSettings
from b2fs.daemon.interfaces import Core, Frontend, Parts
from b2fs.store.protocol import ObjectStore
from b2fs.vfs.api import KernelNotifier


def real_parts() -> Parts:
    """A store behind the URL, the filesystem core, the kernel."""
    return Parts(make_store, open_core, make_frontend)


def make_frontend(settings: MountSettings) -> Frontend:
    """The FUSE mount."""
    from b2fs.config.components import fuse_config
    from b2fs.fuse.mount import FuseMount

    return FuseMount(settings.mountpoint, fuse_config(settings))


def make_store(settings: MountSettings) -> ObjectStore:
    """The store behind the URL; entering it checks that the bucket can be used."""
    from b2fs.config.components import embedded_config, s3_config

    if isinstance(settings.location, FileLocation):
        from b2fs.store.embedded.store import EmbeddedStore

        return EmbeddedStore(embedded_config(settings, settings.location))
    from b2fs.store.s3.store import S3Store

    return S3Store(s3_config(settings, settings.location))


def open_core(
    store: ObjectStore, settings: MountSettings, directory: Path, kernel: KernelNotifier
) -> AbstractAsyncContextManager[Core]:
    """The filesystem core on an open store, with its state in directory."""
    from b2fs.config.components import vfs_config
    from b2fs.vfs.filesystem import open_filesystem

    return open_filesystem(store, vfs_config(settings, directory), kernel)
