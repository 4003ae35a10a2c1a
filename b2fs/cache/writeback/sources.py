"""Sources: what is copied when only a listing has named it.

A listing tells no version IDs, so such a base means "what had this ETag", and its name may get another content before
the copy is made.  INVARIANT: before we store over a name, whoever is to be copied from it knows the version, and so
does the journal.
"""

from __future__ import annotations

from b2fs.cache.inode import Inode
from b2fs.cache.ledger import Ledger
from b2fs.cache.remote.history import find_version
from b2fs.cache.writeback.table import PendingTable
from b2fs.cache.writeback.writer import Writer
from b2fs.core.types import ObjectRef
from b2fs.errors import NotFound
from b2fs.store.protocol import ObjectStore


class Sources:
    """See the module."""

    def __init__(self, store: ObjectStore, ledger: Ledger, writer: Writer) -> None:
        self._store = store
        self._ledger = ledger
        self._writer = writer

    async def pin(self, pending: PendingTable, key: str) -> None:
        """Before the key gets a new version.  Raises StoreError, OSError if the journal cannot be written."""
        if not self._store.capabilities.versioning:
            return  # nobody stores over a name there before it was copied
        for inode in pending.listed_users(key):
            try:
                await self.find(inode)
            except NotFound:
                continue  # it is gone already, as its own try will find
            self._ledger.save_inode(inode)
            self._ledger.commit()

    async def find(self, inode: Inode) -> ObjectRef:
        """Make the inode's base a version; raises NotFound if it has gone for good.

        What somebody else has put there since it was listed is meant, too: the name is to be taken away.  But what we
        have stored there since is another file.
        """
        while (base := inode.base) is not None and base.version_id is None:
            found = await self._find(inode, base)
            if inode.base is base:
                inode.base = found
                if inode.content is None:
                    inode.size = found.size
                break
        assert inode.base is not None
        return inode.base

    async def _find(self, inode: Inode, base: ObjectRef) -> ObjectRef:
        try:
            info = await self._store.head(base.key)
        except NotFound:
            return await find_version(self._store, base, inode.base_modified_ns)
        same = (info.ref.etag, info.size) == (base.etag, base.size)
        if same or (inode.content is None and not self._writer.made(base.key, info.metadata)):
            return info.ref
        return await find_version(self._store, base, inode.base_modified_ns)
