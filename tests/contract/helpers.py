"""What the contract tests share."""

from __future__ import annotations

import hashlib
import random

from b2fs.core.types import ObjectInfo, VersionInfo
from b2fs.store.protocol import ObjectStore

MIB = 1 << 20
MIN_PART = 5 * MIB


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that do not compress and differ for each seed."""
    return random.Random(seed).randbytes(size)


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


async def all_objects(store: ObjectStore, prefix: str, *, max_keys: int = 1000) -> list[ObjectInfo]:
    """Every object under prefix, page by page."""
    found: list[ObjectInfo] = []
    token = None
    while True:
        page = await store.list_objects(prefix, token=token, max_keys=max_keys)
        assert len(page.objects) <= max_keys
        found += page.objects
        if page.next_token is None:
            return found
        assert page.objects, "a page that says there is more must bring something"
        token = page.next_token


async def all_versions(store: ObjectStore, prefix: str, *, max_keys: int = 1000) -> list[VersionInfo]:
    """Every version and hide marker under prefix, page by page."""
    found: list[VersionInfo] = []
    key_marker = version_marker = None
    while True:
        page = await store.list_versions(
            prefix, key_marker=key_marker, version_marker=version_marker, max_keys=max_keys
        )
        assert len(page.versions) <= max_keys
        found += page.versions
        if page.next_key_marker is None:
            return found
        assert page.versions, "a page that says there is more must bring something"
        key_marker, version_marker = page.next_key_marker, page.next_version_marker
