"""From settings to the configuration of each component: the one place that carries options through."""

from __future__ import annotations

from b2fs.config.location import FileLocation, RemoteLocation
from b2fs.config.settings import MountSettings
from b2fs.fuse.config import FuseConfig
from b2fs.store.embedded.store import EmbeddedConfig
from b2fs.store.s3.config import S3Config


def embedded_config(settings: MountSettings, location: FileLocation) -> EmbeddedConfig:
    """The embedded bucket; a mount that may not write does not make it."""
    return EmbeddedConfig(location.store_dir, location.bucket, create=not settings.read_only)


def s3_config(settings: MountSettings, location: RemoteLocation) -> S3Config:
    """The bucket behind an endpoint."""
    return S3Config(
        bucket=location.bucket,
        endpoint=settings.endpoint,
        region=settings.region,
        profile=settings.profile,
        backblaze=location.scheme == "b2",
        insecure_http=settings.insecure_http,
        read_only=settings.read_only,
    )


def fuse_config(settings: MountSettings) -> FuseConfig:
    """How the kernel mounts it."""
    return FuseConfig(
        fsname=settings.location.url,
        read_only=settings.read_only,
        allow_other=settings.allow_other,
        mount_options=frozenset({"noexec"} if settings.noexec else ()),
    )
