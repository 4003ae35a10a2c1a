"""Claim: a key is to get its first version, as far as we know.

If somebody else was quicker, that is found out by the server, which puts an object only if there is none (`proved`), or
behind ours by `newnames`.  A server without versions would forget theirs, so there an upload in parts looks before it
is completed.
"""

from __future__ import annotations

from dataclasses import dataclass

from b2fs.errors import NotFound, StoreError
from b2fs.store.protocol import ObjectStore


class NameTaken(StoreError):
    """Something is under a key that was claimed; nothing was stored."""


@dataclass(slots=True)
class Claim:
    """See the module.  proved: the server has seen that nothing was there."""

    key: str
    proved: bool = False

    async def look(self, store: ObjectStore) -> None:
        """Before an upload in parts is completed.  Raises NameTaken."""
        if store.capabilities.versioning:
            return
        try:
            await store.head(self.key)
        except NotFound:
            return
        raise NameTaken(f"{self.key} was made by somebody else meanwhile")
