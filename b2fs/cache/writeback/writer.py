"""Writer: by which a version in the bucket is known to be one that this cache directory has made.

A version whose answer we never heard (a crash, a lost connection) would else be taken for another client's.  What we
put carries the name `b2fs-writer`, whose value is a keyed digest of the key and of the attributes.  So a copy to
another key, and a version of which another program has changed the attributes and kept the rest, do not look like ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from b2fs.core.attrs import OURS, WRITER

_DIGEST_BYTES = 8


class Writer:
    """See the module.  identity: random bytes that no other cache directory has."""

    def __init__(self, identity: bytes) -> None:
        self._identity = identity

    def sign(self, key: str, metadata: Mapping[str, str]) -> dict[str, str]:
        """The metadata of an object that we put under the key."""
        return {**metadata, WRITER: self._digest(key, metadata)}

    def made(self, key: str, metadata: Mapping[str, str] | None) -> bool:
        """Whether we have put an object that carries this under the key."""
        return metadata is not None and metadata.get(WRITER) == self._digest(key, metadata)

    def _digest(self, key: str, metadata: Mapping[str, str]) -> str:
        # What others have put there may come back from the server in another form; ours is ASCII and does not.
        told = sorted((name, value) for name, value in metadata.items() if name in OURS and name != WRITER)
        text = "\0".join((key, *(part for pair in told for part in pair)))
        digest = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=_DIGEST_BYTES, key=self._identity)
        return digest.hexdigest()
