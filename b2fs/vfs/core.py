"""Core: what the parts of the filesystem share, and the few rules on inodes that all of them need."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from cachetools import LRUCache

from b2fs.cache.attrindex import AttributeIndex
from b2fs.cache.blocks import BlockCache
from b2fs.cache.content import DirtyFiles
from b2fs.cache.inode import Inode
from b2fs.cache.ledger import Ledger
from b2fs.cache.longkeys import LongKeys
from b2fs.cache.reader import Reader
from b2fs.cache.remote import RemoteView
from b2fs.cache.writeback.engine import Engine
from b2fs.cache.writeback.room import Room
from b2fs.cache.writeback.transfer import Transfer
from b2fs.core.acl import Acl
from b2fs.core.attrs import CAPABILITY
from b2fs.core.keys import split_key
from b2fs.core.nodes import Attr, Caller, InodeId
from b2fs.errors import FsError
from b2fs.vfs.acls import access_list
from b2fs.vfs.api import KernelNotifier
from b2fs.vfs.clock import now_ns
from b2fs.vfs.config import VfsConfig
from b2fs.vfs.dormant import Dormant
from b2fs.vfs.numbers import stable_number
from b2fs.vfs.permissions import may_access, mode_after_write
from b2fs.vfs.usage import Usage

#: The name in the root below which b2fs keeps what is its own.
RESERVED = b".b2fs"
#: Of local files from this size on it is asked how much of them is allocated.
_SPARSE_BYTES = 1 << 16


@dataclass(slots=True)
class Core:
    """Dependencies, and the table of inodes.

    INVARIANT: every inode that the kernel holds, that is open, or that is dirty is in `inodes` or `dormant`.
    """

    config: VfsConfig
    store: LongKeys
    ledger: Ledger
    files: DirtyFiles
    remote: RemoteView
    transfer: Transfer
    engine: Engine
    room: Room
    reader: Reader
    blocks: BlockCache
    notifier: KernelNotifier
    root: Inode
    usage: Usage
    inodes: dict[InodeId, Inode] = field(default_factory=dict)
    #: Hard-linked files by the identity that their names share.
    link_ids: dict[str, Inode] = field(default_factory=dict)
    #: The numbers of forgotten inodes whose key is not the one that they were made under.
    renamed: LRUCache[str, InodeId] = field(default_factory=lambda: LRUCache(100_000))
    #: When we removed a key from the bucket, in trio time: an answer that was asked for before may show it still.
    removed: LRUCache[str, float] = field(default_factory=lambda: LRUCache(100_000))
    started_ns: int = field(default_factory=now_ns)
    index: AttributeIndex | None = None
    dormant: Dormant = field(init=False)

    def __post_init__(self) -> None:
        self.dormant = Dormant(self.inodes, self.root, self.remote, self.config.defaults, self.drop_if_unused)

    def has_name(self, inode: Inode) -> bool:
        """Whether a name leads to the inode; the root needs none."""
        return bool(inode.links) or inode is self.root

    def is_at(self, directory: Inode, prefix: str) -> bool:
        """Whether a directory has (still) this prefix, under which the bucket was asked about it."""
        return self.has_name(directory) and directory.prefix == prefix

    def is_there(self, key: str) -> None:
        """The bucket holds something under this key now, and so every directory above it is there again, too."""
        while key:
            self.removed.pop(key, None)
            key, _ = split_key(key)

    def inode(self, ino: InodeId) -> Inode:
        """The inode, awake from now on if it was dormant.  Raises FsError(ESTALE) for a number that nobody holds."""
        inode = self.inodes.get(ino) or self.dormant.wake(ino)
        if inode is None:
            raise FsError(errno.ESTALE, f"inode {ino}")
        return inode

    def shown_inode(self, ino: InodeId) -> Inode:
        """The inode to ask what it is like; of a dormant one it is a likeness, and changing that changes nothing."""
        inode = self.inodes.get(ino) or self.dormant.likeness(ino)
        if inode is None:
            raise FsError(errno.ESTALE, f"inode {ino}")
        return inode

    def child(self, parent: Inode, name: bytes) -> Inode | None:
        """The inode under a name as far as there is one here, awake from now on."""
        assert parent.children is not None
        return parent.children.get(name) or self.dormant.wake_name(parent, name)

    def directory(self, ino: InodeId) -> Inode:
        inode = self.inode(ino)
        if inode.children is None:
            raise FsError(errno.ENOTDIR)
        return inode

    def new_inode(self, mode: int, key: str, *, made: bool = False) -> Inode:
        """An inode for what is, or (made) is to be, under a key."""
        inode = Inode(self._number(key, made), mode)
        self.inodes[inode.ino] = inode
        return inode

    def _number(self, key: str, made: bool) -> InodeId:
        """An inode number that this key gets again after a remount, so that backup tools know the file again.

        A file that was renamed keeps its number while this mount lives, also when the kernel forgot it in between.
        One that is made does not take the number of a removed one whose bytes are still here: after a crash they
        would be taken for its own.
        """
        number = self.renamed.pop(key, None) or stable_number(key)
        while number in self.inodes or number in self.dormant or (made and number in self.files.doomed):
            number = InodeId(number + 1)
        return number

    def attr(self, inode: Inode) -> Attr:
        """What stat shows, and for how long the kernel may believe it."""
        # While only this mount changes it, it is true until we say otherwise.
        ours = inode.pending or inode is self.root or not inode.links
        attr = inode.attr(self.config.ttl_s if ours else self.remote.ttl_left(inode.validated_at))
        if inode.children is not None:
            attr.nlink = max(attr.nlink, self._listed_nlink(inode))
        elif inode.content is not None and inode.content.complete and inode.size >= _SPARSE_BYTES:
            attr.blocks = min(attr.blocks, inode.content.blocks())
        return attr

    def _listed_nlink(self, directory: Inode) -> int:
        """The link count of a directory by its listing, if there is one and nothing below differs from it; else 0."""
        if not self.has_name(directory):
            return 0
        listing = self.remote.peek(directory.prefix)
        if listing is None or listing.until is not None or self.engine.count_below(directory.prefix):
            return 0
        ours = directory is self.root and RESERVED.decode() in listing.dirs
        return 2 + len(listing.dirs) - ours

    def entry(self, inode: Inode) -> Attr:
        """The answer to a lookup: attributes, and one more reference of the kernel."""
        inode.holds += 1
        return self.attr(inode)

    def touch(self, inode: Inode, *, content: bool = False) -> None:
        """The inode was changed: journal it and have it stored.  The caller commits."""
        inode.seq += 1
        inode.times_only = False
        if content:
            inode.content_changed()
        if self.has_name(inode):
            self.engine.changed(inode)
            self.ledger.save_inode(inode)

    def touch_directory(self, inode: Inode, now_ns: int) -> None:
        """A name in this directory changed.

        Its times are kept in the bucket if it has an object of its own; the journal gets them with the next commit.
        """
        inode.mtime_ns = inode.ctime_ns = now_ns
        if not inode.marked:
            return
        if not inode.pending or not self.has_name(inode):
            self.touch(inode)
            inode.times_only = True
            return
        inode.seq += 1
        self.engine.changed(inode)
        self.ledger.save_times(inode)  # what waits has a row already

    def writable(self) -> None:
        if self.config.read_only:
            raise FsError(errno.EROFS)

    @staticmethod
    def check_not_sealed(inode: Inode | None) -> None:
        """Refuse to change what is the content of a directory's own object: the two would be one key."""
        if inode is not None and inode.sealed:
            raise FsError(errno.EPERM, "this is the content of a directory's own object")

    def drop_if_unused(self, inode: Inode) -> None:
        """Forget an inode that nobody holds, has open, or needs for write-back."""
        if inode.holds or inode.opens or inode.pending or inode is self.root:
            return
        if inode.children or inode.sleepers:
            return
        self.inodes.pop(inode.ino, None)
        if inode.link_id is not None and self.link_ids.get(inode.link_id) is inode:
            del self.link_ids[inode.link_id]
        for parent, name in list(inode.links):
            key = parent.key_of(name, inode)
            if inode.ino != stable_number(key):
                self.renamed[key] = inode.ino
            inode.unlink(parent, name)
            self.drop_if_unused(parent)
        self.engine.abandon(inode)
        self.discard_content(inode)

    def discard_content(self, inode: Inode) -> None:
        """Remove the local bytes of an inode that is clean or unlinked."""
        if inode.content is not None:
            inode.content.discard()
            inode.content = None

    def acl(self, inode: Inode) -> Acl | None:
        """The access control list that counts for an inode, if the mount keeps any."""
        return access_list(inode) if self.config.acl and inode.xattrs else None

    def may(self, inode: Inode, caller: Caller, mask: int) -> bool:
        """As permissions.may_access."""
        return may_access(inode, caller, mask, self.acl(inode))

    def drop_privileges(self, inode: Inode, caller: Caller) -> bool:
        """The content was changed: set-id bits and capabilities go, as the kernel leaves to us; whether any did."""
        mode = mode_after_write(inode.mode, inode.gid, caller)
        if mode == inode.mode and CAPABILITY not in inode.xattrs:
            return False
        inode.mode = mode
        inode.drop_capability()
        self.notifier.invalidate_inode(inode.ino, attributes_only=True)
        return True

    def require(self, inode: Inode, caller: Caller, mask: int) -> None:
        """Refuse what the permissions forbid, unless the kernel checks them for us."""
        if self.config.check_permissions and not self.may(inode, caller, mask):
            raise FsError(errno.EACCES)
