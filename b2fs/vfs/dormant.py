"""Dormant: listed files that the kernel holds and nobody works with, in little memory.

A listing hands every entry to the kernel, which keeps it until it needs the memory: after a find(1) over a million
files it holds a million inodes.  A plain file that was only listed is therefore not an Inode but a *sleeper*: its
name, the row of the listing that it was shown with, and how many references the kernel has.  The name and the row are
those of the listing itself.  It wakes up, that is, becomes an Inode, when it is opened or changed; questions are
answered by a likeness that is thrown away.

INVARIANT: the number of an attached sleeper is the stable number of its key, so a name leads to its sleeper.
INVARIANT: no number is both in `Core.inodes` and here; no name has both an Inode and an attached sleeper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from b2fs.cache.inode import Inode
from b2fs.cache.remote import RemoteView
from b2fs.cache.remote.listing import unpack
from b2fs.core import attrs
from b2fs.core.attrs import Defaults
from b2fs.core.keys import name_of
from b2fs.core.nodes import InodeId
from b2fs.vfs.numbers import stable_number


class Sleeper:
    """A listed file.

    component is its key component in parent, or its whole key once it is detached (parent None): somebody else removed
    or replaced it.  plain: it was shown with the mount's defaults, as its object carries no attributes.
    """

    __slots__ = ("component", "holds", "parent", "plain", "row")

    def __init__(self, parent: Inode, component: str, row: bytes, plain: bool) -> None:
        self.parent: Inode | None = parent
        self.component = component
        self.row = row
        self.plain = plain
        self.holds = 0


class Dormant:
    """See the module."""

    def __init__(
        self,
        inodes: dict[InodeId, Inode],
        root: Inode,
        remote: RemoteView,
        defaults: Defaults,
        drop_if_unused: Callable[[Inode], None],
    ) -> None:
        """inodes: those that are awake, where who wakes up is added.  drop_if_unused: told of who lost a sleeper."""
        self._inodes = inodes
        self._root = root
        self._remote = remote
        self._defaults = defaults
        self._drop_if_unused = drop_if_unused
        self._sleepers: dict[InodeId, Sleeper] = {}

    def __contains__(self, ino: InodeId) -> bool:
        return ino in self._sleepers

    def __len__(self) -> int:
        return len(self._sleepers)

    def _has_name(self, directory: Inode) -> bool:
        return bool(directory.links) or directory is self._root

    # ---- what the kernel holds ----------------------------------------------------------------------------------

    def fits(self, ino: InodeId, parent: Inode, component: str, row: bytes) -> bool:
        """Whether a listed file can sleep under its number: the number is free, or its own for the same version.

        A sleeper of an older version is detached, since the name stands for another file from now on.
        """
        sleeper = self._sleepers.get(ino)
        if sleeper is None:
            return ino not in self._inodes
        if sleeper.parent is not parent or sleeper.component != component:
            return False
        if sleeper.row == row:
            return True
        self._detach(sleeper)
        return False

    def hold_again(self, ino: InodeId) -> None:
        """The kernel took one more reference on a sleeper."""
        self._sleepers[ino].holds += 1

    def hold(self, ino: InodeId, parent: Inode, component: str, row: bytes, *, plain: bool) -> None:
        """The kernel took a reference on a listed file that fits."""
        sleeper = self._sleepers.get(ino)
        if sleeper is None:
            sleeper = self._sleepers[ino] = Sleeper(parent, component, row, plain)
            parent.sleepers += 1
        else:
            # Those of the newer listing, so that the older one can go.
            sleeper.component, sleeper.row = component, row
        sleeper.holds += 1

    def forget(self, ino: InodeId, count: int) -> None:
        """Give back references."""
        sleeper = self._sleepers.get(ino)
        if sleeper is None:
            return
        sleeper.holds -= count
        if sleeper.holds <= 0:
            del self._sleepers[ino]
            self._left(sleeper.parent)

    # ---- waking up ----------------------------------------------------------------------------------------------

    def wake(self, ino: InodeId) -> Inode | None:
        """Make an inode of a sleeper; None if there is none of that number."""
        sleeper = self._sleepers.pop(ino, None)
        if sleeper is None:
            return None
        parent = sleeper.parent
        inode = self._make(ino, sleeper)
        inode.holds = sleeper.holds
        self._inodes[ino] = inode
        inode.links = []
        name = name_of(sleeper.component)
        if parent is None or parent.children is None or name in parent.children or not self._has_name(parent):
            inode.detached = True
        else:
            inode.link(parent, name)
        self._left(parent)
        return inode

    def wake_name(self, parent: Inode, name: bytes) -> Inode | None:
        """Make an inode of the sleeper of a name, if it has one."""
        found = self._find(parent, name)
        return self.wake(found[0]) if found is not None else None

    def likeness(self, ino: InodeId) -> Inode | None:
        """An inode like the sleeper's, which nobody else knows; None if there is none of that number."""
        sleeper = self._sleepers.get(ino)
        return self._make(ino, sleeper) if sleeper is not None else None

    async def look(self, parent: Inode, name: bytes) -> InodeId | None:
        """The sleeper of a name, if the bucket still shows that very version.  Checkpoint: only if it asks."""
        found = self._find(parent, name)
        if found is not None and not self._is_valid(found[1]):
            # The answer comes with those for its siblings, where a directory is not too long.
            await self._remote.find(parent.prefix, found[1].component)
            found = self._find(parent, name)
        return found[0] if found is not None and self._is_valid(found[1]) else None

    def _is_valid(self, sleeper: Sleeper) -> bool:
        return self._remote.ttl_left(self._validated_at(sleeper)) > 0

    def _find(self, parent: Inode, name: bytes) -> tuple[InodeId, Sleeper] | None:
        if not parent.sleepers or not self._has_name(parent):
            return None
        component = parent.component(name)
        ino = stable_number(parent.prefix + component)
        sleeper = self._sleepers.get(ino)
        if sleeper is None or sleeper.parent is not parent or sleeper.component != component:
            return None
        return ino, sleeper

    def _make(self, ino: InodeId, sleeper: Sleeper) -> Inode:
        parent = sleeper.parent
        key = sleeper.component if parent is None else parent.prefix + sleeper.component
        info = unpack(key, sleeper.row)
        known = self._remote.head_nowait(info)
        metadata = (known.metadata if known is not None else None) or {}
        posix = attrs.decode(metadata, is_dir=False, modified_ns=info.modified_ns, defaults=self._defaults)
        inode = Inode(ino, posix.mode)
        inode.adopt(posix)
        if known is not None:
            inode.adopt_metadata(metadata, known.content_type)
        else:
            inode.attrs_known, inode.presumed = False, sleeper.plain
        inode.base, inode.size, inode.base_modified_ns = (known or info).ref, info.size, info.modified_ns
        if parent is not None:
            inode.links = [(parent, name_of(sleeper.component))]
        inode.validated_at = self._validated_at(sleeper)
        return inode

    def _validated_at(self, sleeper: Sleeper) -> float:
        """When the bucket was last seen to show this version under this name, as far as that is remembered."""
        if sleeper.parent is None:
            return float("-inf")
        listing = self._remote.last(sleeper.parent.prefix)
        if listing is None or listing.files.get(sleeper.component) != sleeper.row:
            return float("-inf")
        return listing.seen_at_of(sleeper.component)

    # ---- what changes around them -------------------------------------------------------------------------------

    def names(self) -> Iterator[tuple[Inode, bytes]]:
        """(parent, name) of every sleeper that still has its name."""
        for sleeper in self._sleepers.values():
            if sleeper.parent is not None:
                yield sleeper.parent, name_of(sleeper.component)

    def detach_below(self, directory: Inode) -> None:
        """No sleeper at or below a directory has its name any more."""
        for sleeper in self._sleepers.values():
            if sleeper.parent is not None and directory in sleeper.parent.ancestors():
                self._detach(sleeper)

    def detach_in(self, directory: Inode) -> None:
        """The directory has lost its name, so no sleeper leads there any more."""
        for sleeper in list(self._sleepers.values()) if directory.sleepers else ():
            if sleeper.parent is directory:
                self._detach(sleeper)

    def _detach(self, sleeper: Sleeper) -> None:
        parent = sleeper.parent
        assert parent is not None
        sleeper.component = parent.prefix + sleeper.component
        sleeper.parent = None
        self._left(parent)

    def _left(self, parent: Inode | None) -> None:
        if parent is not None:
            parent.sleepers -= 1
            self._drop_if_unused(parent)

    def check_invariants(self) -> None:
        """For tests."""
        for ino, sleeper in self._sleepers.items():
            assert sleeper.holds > 0
            assert ino not in self._inodes
            if sleeper.parent is not None:
                assert ino == stable_number(sleeper.parent.prefix + sleeper.component)
                assert name_of(sleeper.component) not in (sleeper.parent.children or {})
