"""What must be true of the inodes and the pending entries of a mount whenever any task waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from trio.abc import Instrument
from trio.lowlevel import Task

from b2fs.cache.inode import Inode
from b2fs.core.types import VersionId
from b2fs.vfs.core import Core
from b2fs.vfs.filesystem import B2Filesystem


def broken(fs: B2Filesystem) -> str | None:
    """The first rule that does not hold; None if all do."""
    core = fs._core
    return _broken_entries(core) or _broken_tree(core)


def _broken_entries(core: Core) -> str | None:
    """Entries and inodes name each other, and what is to be copied is known to be needed."""
    table = core.engine._pending
    counts: Counter[int] = Counter()
    for p in table:
        inode = p.inode
        if inode is None:
            continue
        counts[id(inode)] += 1
        if core.inodes.get(inode.ino) is not inode:
            return f"{p.key}: its inode {inode.ino} is forgotten"
        if inode is not core.root and p.key not in inode.all_keys():
            return f"{p.key} is to hold inode {inode.ino}, whose names are {inode.all_keys()}"
        base = inode.base
        source = base.key if base is not None and base.key != p.key else None
        if p.source != source or (source is not None and p.key not in table._users.get(source, ())):
            return f"{p.key} is to be copied from {source}, which is kept for {table._users.get(source or '')}"
    for inode in core.inodes.values():
        if inode.pending != counts[id(inode)]:
            return f"inode {inode.ino} {_keys(inode)} counts {inode.pending} entries of {counts[id(inode)]}"
    return None


def _broken_tree(core: Core) -> str | None:
    """Names and inodes name each other, down from the root, and no two inodes stand for one version."""
    seen: dict[tuple[str, VersionId | None, str], Inode] = {}
    keys: dict[str, Inode] = {}
    for inode in core.inodes.values():
        for parent, name in inode.links:
            if parent.children is None or parent.children.get(name) is not inode:
                return f"inode {inode.ino} believes to be {name!r} in inode {parent.ino}"
            if core.inodes.get(parent.ino) is not parent:
                return f"inode {inode.ino} is in inode {parent.ino}, which is forgotten"
            if not parent.links and parent is not core.root and inode.pending:
                return f"inode {inode.ino} is to be stored in inode {parent.ino}, which has no name"
            if parent.links or parent is core.root:
                other = keys.setdefault(parent.key_of(name, inode), inode)
                if other is not inode:
                    return f"inodes {inode.ino} and {other.ino} are both {parent.key_of(name, inode)}"
        for name, child in (inode.children or {}).items():
            if (inode, name) not in child.links:
                return f"inode {child.ino} does not know that it is {name!r} in inode {inode.ino}"
        base = inode.base
        if base is not None and inode.links and not inode.is_dir:
            other = seen.setdefault((base.key, base.version_id, base.etag), inode)
            if other is not inode:
                return f"inodes {inode.ino} {_keys(inode)} and {other.ino} {_keys(other)} are both {base}"
    return None


def needed(fs: B2Filesystem, key: str, version: VersionId) -> str | None:
    """Who still needs a version that is to be removed; None if nobody does."""
    for inode in fs._core.inodes.values():
        base, content = inode.base, inode.content
        whole = content is not None and content.complete
        if base is None or whole or inode.is_dir or (base.key, base.version_id) != (key, version):
            continue
        if inode.links or inode.opens:
            return f"inode {inode.ino} {_keys(inode)} needs version {version} of {key}, which is to be removed"
    return None


def _keys(inode: Inode) -> list[str]:
    return [
        f"{parent.ino}:{name!r}" if not parent.links and parent.ino != 1 else parent.key_of(name, inode)
        for parent, name in inode.links
    ]


class Inspector(Instrument):
    """Looks after every step of every task; remembers the first rule that was broken, and by which task."""

    def __init__(self, fs: B2Filesystem) -> None:
        self._fs = fs
        self.found: str | None = None

    def after_task_step(self, task: Task) -> None:
        if self.found is None:
            rule = broken(self._fs)
            if rule is not None:
                self.found = f"after a step of {task.name}: {rule}"

    def removing(self, targets: Iterable[tuple[str, VersionId | None]]) -> None:
        """To be told of every removal in the moment in which it is carried out."""
        for key, version in targets:
            if self.found is None and version is not None:
                self.found = needed(self._fs, key, version)
