"""Recovery: the state that a ledger left behind, after a crash or an end without a full drain."""

from __future__ import annotations

import logging

from b2fs.cache.inode import Inode
from b2fs.cache.ledger_rows import EntryRow, Remote, UploadRow
from b2fs.core.keys import name_of
from b2fs.core.nodes import InodeId
from b2fs.vfs.core import Core
from b2fs.vfs.namespace import Namespace

log = logging.getLogger(__name__)


def _changes(count: int) -> str:
    return f"{count} {'change' if count == 1 else 'changes'} from before"


class Recovery:
    """See the module.  Runs before the first request."""

    def __init__(self, core: Core, names: Namespace) -> None:
        self._core = core
        self._names = names

    def restore(self) -> int:
        """Take up everything that waits in the ledger; how many keys that is."""
        core = self._core
        core.files.remove_retired()
        rows = core.ledger.load_entries()
        inodes = {inode.ino: inode for inode in core.ledger.load_inodes(core.files)}
        wanted = {row.ino for row in rows if row.ino is not None}
        self._set_aside({row.ino: row.key for row in rows if row.ino is not None})
        for ino in [ino for ino in inodes if ino not in wanted]:
            core.ledger.delete_inode(ino)
            del inodes[ino]
        for orphan in core.files.existing():
            if orphan not in inodes or inodes[orphan].content is None:
                core.files.remove(orphan)
        # Before any directory above them takes a number; the root has its own inode already.
        core.inodes.update({ino: inode for ino, inode in inodes.items() if ino != core.root.ino})
        # Directories come first, so that the parents of every entry exist with their own attributes.
        for row in sorted(rows, key=lambda row: (not row.key.endswith("/"), row.key)):
            self._restore_entry(row, inodes)
        self._restore_uploads()
        core.ledger.taken_up()
        core.ledger.commit()
        if rows:
            log.warning("not in the bucket yet: %s; being stored now", _changes(len(rows)))
        return len(rows)

    def leave(self) -> None:
        """A mount that may not write neither shows nor stores what waits in the ledger; say so, if anything does."""
        if rows := self._core.ledger.load_entries():
            told = "not in the bucket yet: %s; shown and stored by the next mount that may write"
            log.warning(told, _changes(len(rows)))

    def _set_aside(self, keys: dict[InodeId, str]) -> None:
        """Keep what a power cut has left of files that were never synced; what the bucket has is not replaced by it."""
        files = self._core.files
        for ino in files.torn:
            name = name_of(keys.get(ino, str(ino)).rpartition("/")[2])
            try:
                path = files.set_aside(ino, name)
            except OSError as error:
                log.error("what a power cut has left of %s cannot be kept: %s", keys.get(ino), error)
            else:
                log.warning("a power cut has left a part of %s, which was not synced: it is in %s", keys.get(ino), path)
        files.torn.clear()

    def _restore_uploads(self) -> None:
        """Go on with the multipart uploads that were cut off, or have them aborted: their parts cost storage."""
        core = self._core
        rows = core.ledger.load_uploads()
        # The one that has most comes first; what is away, above all, is nowhere else.
        rows.sort(key=lambda row: (-sum(part.away for part in row.parts), -len(row.parts)))
        for row in rows:
            inode = core.inodes.get(row.ino) if row.ino is not None else None
            away = any(part.away for part in row.parts)
            if inode is None or not self._goes_on(inode, row, away=away):
                core.transfer.aborts.add(row.upload_id, row.key)
                continue
            core.transfer.resume(inode, row)
            if core.transfer.owed(row.key) is inode and core.engine.remote_of(row.key) is None:
                # Its object comes to be under the old name, and then goes away from there.
                core.engine.restore(row.key, None, Remote(False, None))
                core.ledger.save_entry(row.key, None, Remote(False, None))

    @staticmethod
    def _goes_on(inode: Inode, row: UploadRow, *, away: bool) -> bool:
        wanted = inode.content is not None and inode.content.complete and inode.upload is None
        return wanted and bool(row.parts) and (away or row.key in inode.all_keys())

    def _restore_entry(self, row: EntryRow, inodes: dict[InodeId, Inode]) -> None:
        core = self._core
        if row.ino is None:
            core.engine.restore(row.key, None, row.remote)
            return
        inode = inodes.get(row.ino)
        if inode is None:
            log.error("%s: its local copy is lost; the bucket keeps what it has", row.key)
            core.ledger.delete_entry(row.key)
            core.ledger.delete_inode(row.ino)
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
