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
    from b2fs.cache.reader import ReaderConfig
    from b2fs.fuse.config import FuseConfig
    from b2fs.store.embedded.store import EmbeddedConfig
    from b2fs.store.s3.config import S3Config
    from b2fs.vfs.config import VfsConfig

_USUAL_UMASK = 0o022
#: How long fsync waits for the bucket, in seconds; and on a line that is held back, as long as this many bytes take.
_DURABLE_S = 300.0
_DURABLE_BYTES = 1 << 30
#: Of the cache, what one file may take of which programs wanted only pieces, as it pushes out others; and if nobody has
#: asked for it, as it may cost money.
_COMPLETE_SHARE = 4
_UNASKED_SHARE = 16
#: Then, as well: an index at the end and what is found by it are fewer pieces, and who is nearer gains little.
_UNASKED_AFTER_PIECES = 8
_UNASKED_AFTER_S = 0.010
#: Beside a busy program: measured, 16 and 48 at a time are slower.
_BUSY_BATCH = 32


def embedded_config(settings: MountSettings, location: FileLocation) -> EmbeddedConfig:
    """The embedded bucket; a mount that may not write does not make it."""
    from b2fs.store.embedded.store import EmbeddedConfig

    return EmbeddedConfig(location.store_dir, location.bucket, create=not settings.read_only)


def s3_config(settings: MountSettings, location: RemoteLocation) -> S3Config:
    """The bucket behind an endpoint."""
    from b2fs.store.s3.config import MAX_BUFFERED_BYTES, S3Config

    config = S3Config(
        bucket=location.bucket,
        endpoint=settings.endpoint,
        region=settings.region,
        profile=settings.profile,
        backblaze=location.scheme == "b2",
        insecure_http=settings.insecure_http,
        ca_bundle=settings.ca_bundle,
        read_only=settings.read_only,
        max_buffered_bytes=min(MAX_BUFFERED_BYTES, settings.memory_limit // 4),
    )
    return config.checked()


def owner_of(settings: MountSettings) -> tuple[int, int, int]:
    """Owner, group and permission bits of a directory without attributes; it belongs to whoever mounts."""
    umask = _USUAL_UMASK if settings.umask is None else settings.umask
    uid = os.getuid() if settings.uid is None else settings.uid
    gid = os.getgid() if settings.gid is None else settings.gid
    return uid, gid, 0o777 & ~umask


def vfs_config(settings: MountSettings, directory: Path, started_ns: int | None = None) -> VfsConfig:
    """The filesystem core, with its state in directory; objects without attributes belong to whoever mounts."""
    from b2fs.cache.writeback.config import WriteBackConfig
    from b2fs.cache.writeback.conflicts import ConflictPolicy
    from b2fs.core.attrs import Defaults
    from b2fs.vfs.config import Quota, VfsConfig

    up, down = settings.bwlimit or (0, 0)
    uid, gid, dir_mode = owner_of(settings)
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
        look_ahead=True,
        acl=settings.acl,
        quota=Quota(*settings.quota) if settings.quota is not None else None,
        writeback=WriteBackConfig(
            conflict=ConflictPolicy(settings.conflict),
            busy_batch=0 if isinstance(settings.location, FileLocation) else _BUSY_BATCH,
            memory_bytes=settings.memory_limit * 3 // 8,
            dirty_bytes=settings.cache_size,
            durable_timeout_s=_DURABLE_S + (_DURABLE_BYTES / up if up else 0),
        ),
        reader=_reader_config(settings, down),
        defaults=Defaults(uid=uid, gid=gid, file_mode=0o666 & dir_mode, dir_mode=dir_mode),
        started_ns=started_ns,
    )


def _reader_config(settings: MountSettings, bytes_s: int) -> ReaderConfig:
    """On a line that is held to bytes_s (0: not), ranges take seconds at most, and reads may wait for their turn."""
    from dataclasses import replace

    from b2fs.cache.reader import ReaderConfig
    from b2fs.core.completion import Patience

    config = ReaderConfig(memory_bytes=settings.memory_limit // 2)
    if settings.random_reads == "whole":
        config = config._replace(complete_bytes=settings.cache_size // _COMPLETE_SHARE)
    elif settings.random_reads == "auto" and not bytes_s:
        config = config._replace(
            complete_bytes=settings.cache_size // _UNASKED_SHARE,
            complete_after=Patience(_UNASKED_AFTER_PIECES, _UNASKED_AFTER_S),
        )
    if not bytes_s:
        return config

    def seconds(number: int, unit: int, most: int) -> int:
        return min(most, max(unit, number * bytes_s // unit * unit))

    usual = config.prefetch
    largest = seconds(4, usual.block_bytes, usual.range_bytes)
    window = seconds(16, largest, usual.window_bytes)
    prefetch = replace(
        usual,
        first_bytes=seconds(1, usual.grain_bytes, usual.first_bytes),
        start_window_bytes=min(window, usual.start_window_bytes),
        window_bytes=window,
        range_bytes=largest,
    )
    return config._replace(prefetch=prefetch, timeout_s=config.timeout_s + config.memory_bytes / bytes_s)


def fuse_config(settings: MountSettings, agreements_dir: str | None = None) -> FuseConfig:
    """How the kernel mounts it; agreements_dir is FuseConfig's."""
    from b2fs.fuse.config import FuseConfig

    return FuseConfig(
        fsname=settings.location.url,
        read_only=settings.read_only,
        allow_other=settings.allow_other,
        acl=settings.acl,
        mount_options=frozenset(name for name in ("noexec", "dev", "suid") if getattr(settings, name)),
        agreements_dir=agreements_dir,
    )
