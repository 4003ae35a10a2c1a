"""Hashes of bodies, away from the trio thread where that is worth it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import trio

from b2fs.store.protocol import Body
from b2fs.store.s3.config import S3Config
from b2fs.store.s3.sigv4 import EMPTY_SHA256

#: Bodies above this are hashed in a worker thread; below, the hop costs more than the hash.
HASH_INLINE_BYTES = 64 << 10


async def hashed(compute: Callable[[], str], size: int) -> str:
    """A hash over `size` bytes."""
    if size <= HASH_INLINE_BYTES:
        return compute()
    return await trio.to_thread.run_sync(compute)


def signs_bodies(config: S3Config) -> bool:
    """Whether bodies are signed: not where no one can change them on the way, under TLS or within a machine.

    A body's MD5 is among the signed headers in any case.
    """
    return not (config.tls or config.is_loopback)


async def payload_hash(body: Body) -> str:
    """What is signed of a body, where it is: its SHA-256 in hex."""
    if not body:
        return EMPTY_SHA256
    return await hashed(lambda: hashlib.sha256(body).hexdigest(), memoryview(body).nbytes)
