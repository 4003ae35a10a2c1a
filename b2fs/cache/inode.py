"""Inode: one file, directory or special file that this mount knows.

The in-memory truth of what programs see.  Clean inodes mirror one version in the bucket; an inode that differs from
the bucket is *dirty*: it has a row in the ledger and keys that wait in the write-back engine.  Who changes an inode
changes it here first, then journals it, without an await in between.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from b2fs.cache.content import LocalContent
from b2fs.core.attrs import ABOUT_CONTENT, CAPABILITY, OURS, Posix
from b2fs.core.keys import component_of
from b2fs.core.nodes import Attr, InodeId
from b2fs.core.types import ObjectRef

if TYPE_CHECKING:
    from b2fs.cache.writeback.multipart import MultipartUpload


_ROOT = 1
_DAY_NS = 86_400_000_000_000


class Inode:
    """See the module.  Times in ns, sizes in bytes, mode with the file type.

    INVARIANT: `content is None` means the bytes are those of `base`, or none at all where base is None.
    INVARIANT: a directory has children and no content; only a regular file has content.
    """

    __slots__ = (
        "atime_ns",
        "attrs_known",
        "base",
        "base_content_seq",
        "base_modified_ns",
        "base_seq",
        "changed_at",
        "children",
        "content",
        "content_seq",
        "content_type",
        "ctime_ns",
        "detached",
        "foreign_metadata",
        "gid",
        "grouped_at",
        "holds",
        "ino",
        "link_id",
        "linked",
        "links",
        "marked",
        "mode",
        "mtime_ns",
        "odd",
        "opens",
        "pending",
        "prefix_cache",
        "presumed",
        "rdev",
        "seq",
        "size",
        "sleepers",
        "storing",
        "subdirs",
        "target",
        "times_only",
        "uid",
        "upload",
        "validated_at",
        "writers",
        "xattrs",
    )

    def __init__(self, ino: InodeId, mode: int) -> None:
        self.ino = ino
        self.mode = mode
        self.uid = self.gid = self.rdev = self.size = 0
        self.atime_ns = self.mtime_ns = self.ctime_ns = 0
        self.target: bytes | None = None
        self.xattrs: dict[bytes, bytes] = {}
        #: Hard links: the identity that all names share, and what the bucket holds under each of them.
        self.link_id: str | None = None
        self.linked: dict[str, tuple[ObjectRef, int]] = {}
        #: trio time at which all names of a hard-linked file were last looked for.
        self.grouped_at = float("-inf")
        #: False while only a listing was seen, so that mode, owner and times are guesses.
        self.attrs_known = True
        #: The guesses may be shown: where this object is, objects carry nothing of their own.
        self.presumed = False
        #: The version in the bucket that this inode's unchanged bytes and attributes come from.
        self.base: ObjectRef | None = None
        self.base_modified_ns = 0
        self.content: LocalContent | None = None
        #: Count changes of content and attributes, and of content alone; what carried seq n settles only seq n.
        self.seq = 0
        self.content_seq = 0
        #: The counts that `base` holds; equal to the ones above when the bucket has all of it.
        self.base_seq = 0
        self.base_content_seq = 0
        #: One of its keys is being brought into the bucket.
        self.storing = False
        #: A multipart upload of this content that is under way.
        self.upload: MultipartUpload | None = None
        #: Of a directory: all that is pending of it are the times that change with its names.
        self.times_only = False
        #: Metadata of the object that is not ours, and its content type: kept when the object is written again.
        self.foreign_metadata: dict[str, str] = {}
        self.content_type: str | None = None
        #: trio time of the last change, for coalescing.
        self.changed_at = 0.0
        #: How many keys of this inode wait in the write-back engine.
        self.pending = 0
        #: Every (parent, name) under which it is reachable; empty once unlinked.
        self.links: list[tuple[Inode, bytes]] = []
        #: References that the kernel holds, open handles, and those among them that may write.
        self.holds = 0
        self.opens = 0
        self.writers = 0
        #: trio time until which the bucket was last seen to hold `base` under this name.
        self.validated_at = 0.0
        #: Replaced or removed in the bucket by somebody else; only old handles still see it.
        self.detached = False
        # Directories only.
        self.children: dict[bytes, Inode] | None = {} if stat.S_ISDIR(mode) else None
        #: How many of the children are directories.
        self.subdirs = 0
        #: How many names in it the kernel holds that have no inode at present (see vfs.dormant).
        self.sleepers = 0
        #: A `dir/` object carries (or will carry) this directory's attributes.
        self.marked = False
        #: Names that do not tell their key component by themselves, and the component.
        self.odd: dict[bytes, str] | None = None
        self.prefix_cache: str | None = None

    @property
    def is_ours(self) -> bool:
        """Whether it has changes that the bucket has not, or may get some at any moment: it is open for writing."""
        return self.pending > 0 or self.writers > 0

    @property
    def is_dir(self) -> bool:
        return self.children is not None

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def dirty(self) -> bool:
        return self.pending > 0

    @property
    def prefix(self) -> str:
        """The key prefix of a directory's entries, which is also the key of its marker; "" at a bucket's root."""
        prefix = self.prefix_cache
        if prefix is None:
            parent, name = self.links[0]
            prefix = self.prefix_cache = f"{parent.prefix}{parent.component(name)}/"
        return prefix

    def component(self, name: bytes) -> str:
        """The key component that a name stands for in this directory."""
        component = self.odd.get(name) if self.odd is not None else None
        return component if component is not None else component_of(name)

    @property
    def sealed(self) -> bool:
        """Whether this is the content of a directory's own object, which only the directory can change."""
        if self.children is not None:
            return False
        # Names that are plain text stand for themselves: asked for every change, this is not to look at each.
        return any(not parent.component(name) for parent, name in self.links if parent.odd or not name.isascii())

    def key_of(self, name: bytes, child: Inode) -> str:
        """The key of the child of this directory under that name."""
        key = self.prefix + self.component(name)
        return key + "/" if child.children is not None else key

    @property
    def key_count(self) -> int:
        """How many keys stand for it: one for each name, and the root's."""
        return len(self.links) or int(self.ino == _ROOT and self.is_dir)

    def all_keys(self) -> list[str]:
        """The keys that stand for it: those of its names, and the root's."""
        if self.ino == _ROOT and self.is_dir:
            return [self.prefix]
        return [parent.key_of(name, self) for parent, name in self.links]

    def posix(self) -> Posix:
        return Posix(
            self.mode,
            self.uid,
            self.gid,
            self.mtime_ns,
            self.atime_ns,
            self.ctime_ns,
            self.rdev,
            self.xattrs,
            self.link_id,
        )

    def adopt(self, attrs: Posix) -> None:
        """Take the attributes that an object carries; the type never changes."""
        self.mode = stat.S_IFMT(self.mode) | stat.S_IMODE(attrs.mode)
        self.uid, self.gid, self.rdev = attrs.uid, attrs.gid, attrs.rdev
        self.mtime_ns, self.atime_ns, self.ctime_ns = attrs.mtime_ns, attrs.atime_ns, attrs.ctime_ns
        self.xattrs = dict(attrs.xattrs)
        self.link_id = attrs.link_id
        self.attrs_known = True

    def adopt_metadata(self, metadata: Mapping[str, str], content_type: str | None) -> None:
        """Remember what else the object carries."""
        self.foreign_metadata = {name: value for name, value in metadata.items() if name not in OURS}
        self.content_type = content_type

    def drop_capability(self) -> None:
        """What a program may do beyond its user is said of the content that it had, and of its owner."""
        if CAPABILITY in self.xattrs:
            self.xattrs = {name: value for name, value in self.xattrs.items() if name != CAPABILITY}

    def content_changed(self) -> None:
        """What others have said of the content it had is no longer so."""
        self.content_seq += 1
        if self.foreign_metadata and not ABOUT_CONTENT.isdisjoint(self.foreign_metadata):
            self.foreign_metadata = {n: value for n, value in self.foreign_metadata.items() if n not in ABOUT_CONTENT}

    def attr(self, ttl_s: float) -> Attr:
        size = self.size
        return Attr(
            self.ino,
            self.mode,
            self.nlink(),
            self.uid,
            self.gid,
            self.rdev,
            size,
            self.atime_ns,
            self.mtime_ns,
            self.ctime_ns,
            (size + 511) >> 9,
            ttl_s,
        )

    def nlink(self) -> int:
        if self.children is None:
            return len(self.links)
        return 2 + self.subdirs if self.links or self.ino == _ROOT else 0

    def link(self, parent: Inode, name: bytes) -> None:
        """Put this inode under a free name."""
        assert parent.children is not None
        parent.children[name] = self
        self.links.append((parent, name))
        if self.children is not None:
            parent.subdirs += 1
            self.forget_prefixes()

    def unlink(self, parent: Inode, name: bytes) -> None:
        """Take a name away, if it stands for this inode."""
        if parent.children is not None and parent.children.get(name) is self:
            del parent.children[name]
            if self.children is not None:
                parent.subdirs -= 1
        self.links = [link for link in self.links if link[0] is not parent or link[1] != name]

    def accessed(self, now_ns: Callable[[], int]) -> None:
        """It was read: as relatime does, the time moves only if it would look older than a change, or is a day old.

        now_ns is asked for the time only if it moves: this is called for every read.
        """
        before = self.atime_ns
        if before <= self.mtime_ns or before <= self.ctime_ns or time.time_ns() - before >= _DAY_NS:
            self.atime_ns = now_ns()

    def ancestors(self) -> Iterator[Inode]:
        """This directory and every one above it, up to the root."""
        node: Inode | None = self
        while node is not None:
            yield node
            node = node.links[0][0] if node.links else None

    def forget_prefixes(self) -> None:
        """Drop the cached key prefixes of this directory and of all below it, after a rename."""
        stack = [self]
        while stack:
            node = stack.pop()
            node.prefix_cache = None
            if node.children:
                stack.extend(child for child in node.children.values() if child.children is not None)
