"""Inode numbers that survive a remount."""

from __future__ import annotations

from hashlib import blake2b

from b2fs.core.nodes import InodeId


def stable_number(key: str) -> InodeId:
    """The number of a key: from 2 to 2**52 + 1, so that programs that keep it in a double keep it whole."""
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return InodeId((int.from_bytes(digest, "big") >> 12) + 2)
