"""From settings to the configuration of each component: the one place that carries options through.

Components are imported inside the functions: whoever needs one configuration does not load the others' packages.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from b2fs.config.location import FileLocation, RemoteLocation
from b2fs.config.settings import MountSettings

if TYPE_CHECKING:
    from b2fs.fuse.config import FuseConfig
    from b2fs.store.embedded.store import EmbeddedConfig
    from b2fs.store.s3.config import S3Config
    from b2fs.vfs.config import VfsConfig

_USUAL_UMASK = 0o022


def embedded_config(settings: MountSettings, location: FileLocation) -> EmbeddedConfig:
    """The embedded bucket; a mount that may not write does not make it."""
    from b2fs.store.embedded.store import EmbeddedConfig

    return EmbeddedConfig(location.store_dir, location.bucket, create=not settings.read_only)


def s3_config(settings: MountSettings, location: RemoteLocation) -> S3Config:
    """The bucket behind an endpoint."""
    from b2fs.store.s3.config import S3Config

    return S3Config(
        bucket=location.bucket,
        endpoint=settings.endpoint,
        region=settings.region,
        profile=settings.profile,
        backblaze=location.scheme == "b2",
        insecure_http=settings.insecure_http,
        read_only=settings.read_only,
    )


def vfs_config(settings: MountSettings, directory: Path) -> VfsConfig:
    """The filesystem core, with its state in directory; objects without attributes belong to whoever mounts."""
    from b2fs.cache.reader import ReaderConfig
    from b2fs.cache.writeback.config import WriteBackConfig
    from b2fs.cache.writeback.conflicts import ConflictPolicy
    from b2fs.core.attrs import Defaults
    from b2fs.vfs.config import Quota, VfsConfig

    umask = _USUAL_UMASK if settings.umask is None else settings.umask
    return VfsConfig(
        cache_dir=str(directory),
        cache_size_bytes=settings.cache_size,
        prefix=settings.location.prefix,
        read_only=settings.read_only,
        fsync_level=settings.fsync,
        sync_on_close=settings.sync_on_close,
        ttl_s=settings.metadata_ttl,
        foreign_attrs=settings.foreign_attrs,
        attr_index=not settings.no_attr_index,
        acl=settings.acl,
        quota=Quota(*settings.quota) if settings.quota is not None else None,
        writeback=WriteBackConfig(
            conflict=ConflictPolicy(settings.conflict),
            memory_bytes=settings.memory_limit * 3 // 8,
            dirty_bytes=settings.cache_size,
        ),
        reader=ReaderConfig(memory_bytes=settings.memory_limit // 2),
        defaults=Defaults(
            uid=os.getuid() if settings.uid is None else settings.uid,
            gid=os.getgid() if settings.gid is None else settings.gid,
            file_mode=0o666 & ~umask,
            dir_mode=0o777 & ~umask,
        ),
    )


def fuse_config(settings: MountSettings) -> FuseConfig:
    """How the kernel mounts it."""
    from b2fs.fuse.config import FuseConfig

    return FuseConfig(
        fsname=settings.location.url,
        read_only=settings.read_only,
        allow_other=settings.allow_other,
        acl=settings.acl,
        mount_options=frozenset({"noexec"} if settings.noexec else ()),
    )
