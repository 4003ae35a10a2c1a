"""Claim: what we believe to be under a key that is stored; mostly nothing, so that it gets its first version.

If somebody else was quicker, that is found out by the server, which puts an object only if there is none (`proved`), or
behind ours by `newnames`.  That costs the server a search (SeaweedFS half as much again as the PUT), so of many at a
time it is not asked for where versions keep what is below.  A server without versions would forget it, so there an
upload in parts looks, too, before it is completed: it may have taken long.
"""

from __future__ import annotations

from dataclasses import dataclass

from b2fs.core.types import ObjectRef
from b2fs.errors import NotFound, StoreError
from b2fs.store.protocol import ObjectStore


class NameTaken(StoreError):
    """Something is under a key that was claimed; nothing was stored."""


@dataclass(slots=True)
class Claim:
    """See the module.

    asks: a PUT is to be made on the condition that nothing is there, if the server minds that.
    failed: a try has failed, so it asks no more.  SeaweedFS answers 500 for ever to some that it takes unasked.
    proved: it has seen that nothing was there.
    expected: what is there, as far as we know.
    """

    key: str
    asks: bool
    failed: bool = False
    proved: bool = False
    expected: ObjectRef | None = None

    async def look(self, store: ObjectStore) -> None:
        """Before an upload in parts is completed, and a PUT that does not ask.  Raises NameTaken."""
        if store.capabilities.versioning:
            return
        try:
            info = await store.head(self.key)
        except NotFound:
            return
        if self.expected is None or not self.expected.is_version(info.ref):
            raise NameTaken(f"{self.key} was stored by somebody else meanwhile")
