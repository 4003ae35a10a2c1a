"""Recovery: the state that a ledger left behind, after a crash or an end without a full drain."""

from __future__ import annotations

import logging

from b2fs.cache.inode import Inode
from b2fs.cache.ledger import EntryRow
from b2fs.core.types import InodeId, PartInfo, UploadId
from b2fs.errors import StoreError
from b2fs.vfs.core import Core
from b2fs.vfs.namespace import Namespace

log = logging.getLogger(__name__)


class Recovery:
    """See the module.  Runs before the first request."""

    def __init__(self, core: Core, names: Namespace) -> None:
        self._core = core
        self._names = names
        #: Multipart uploads of the last run that were neither completed nor aborted.
        self._cut_off: list[tuple[InodeId, str, UploadId, list[PartInfo]]] = []

    def restore(self) -> int:
        """Take up everything that waits in the ledger; how many keys that is."""
        core = self._core
        core.files.remove_retired()
        rows = core.ledger.load_entries()
        inodes = {inode.ino: inode for inode in core.ledger.load_inodes(core.files)}
        wanted = {row.ino for row in rows if row.ino is not None}
        for ino in [ino for ino in inodes if ino not in wanted]:
            core.ledger.delete_inode(ino)
            del inodes[ino]
        for orphan in core.files.existing():
            if orphan not in inodes or inodes[orphan].content is None:
                core.files.remove(orphan)
        # Before any directory above them takes a number; the root has its own inode already.
        core.inodes.update({ino: inode for ino, inode in inodes.items() if ino != core.root.ino})
        self._cut_off = core.ledger.load_uploads()
        # Directories come first, so that the parents of every entry exist with their own attributes.
        for row in sorted(rows, key=lambda row: (not row.key.endswith("/"), row.key)):
            self._restore_entry(row, inodes)
        core.ledger.commit()
        if rows:
            log.warning("%d changes from before are not in the bucket yet; they are being stored", len(rows))
        return len(rows)

    async def abort_uploads(self) -> None:
        """Drop the multipart uploads that were cut off: their parts cost storage, and they are sent again."""
        for ino, key, upload_id, _ in self._cut_off:
            try:
                await self._core.store.abort_upload(key, upload_id)
            except StoreError as error:
                log.info("an unfinished upload of %s stays until the next mount: %s", key, error)
                continue
            self._core.ledger.delete_upload(ino, upload_id)
        self._core.ledger.commit()

    def _restore_entry(self, row: EntryRow, inodes: dict[InodeId, Inode]) -> None:
        core = self._core
        if row.ino is None:
            core.engine.restore(row.key, None, row.remote)
            return
        inode = inodes.get(row.ino)
        if inode is None:
            log.error("%s: its local copy is lost; the bucket keeps what it has", row.key)
            core.ledger.delete_entry(row.key)
            return
        if row.key == core.root.prefix:
            self._restore_root(inode)
            inode = core.root
        else:
            self._attach(row.key, inode)
        inode.seq = inode.content_seq = 1
        inode.base_seq = inode.base_content_seq = 0
        if inode.content is None:
            inode.base_content_seq = inode.content_seq
        core.engine.restore(row.key, inode, row.remote)

    def _restore_root(self, inode: Inode) -> None:
        self._core.root.adopt(inode.posix())
        self._core.root.marked = True
        self._core.ledger.delete_inode(inode.ino)
        self._core.ledger.save_inode(self._core.root)

    def _attach(self, key: str, inode: Inode) -> None:
        """Put a restored inode under its name, making the directories above it where need be."""
        core = self._core
        parent = core.root
        *middle, last = key[len(core.root.prefix) :].removesuffix("/").split("/")
        for component in middle:
            assert parent.children is not None
            name = self._names.odd.give(parent, component)
            child = parent.children.get(name)
            if child is None or not child.is_dir:
                child = self._names.instantiate(parent, name, True, None, 0.0)
                child.attrs_known = False
            parent = child
        if inode.is_dir:
            inode.marked = True
        if inode.link_id is not None:
            core.link_ids[inode.link_id] = inode
        assert parent.children is not None
        name = self._names.odd.give(parent, last)
        if name in parent.children and not inode.is_dir:
            name = self._names.odd.give(parent, last, shadowed=True)  # a directory beside it is restored too
        inode.link(parent, name)
