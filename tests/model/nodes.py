"""What the reference model keeps: inodes and open handles."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field

from b2fs.core.nodes import Attr, Caller, InodeId
from b2fs.vfs.api import ROOT
from tests.model.sparse import SparseBytes

_DAY_NS = 86_400 * 10**9


@dataclass(slots=True)
class Node:
    """An inode: what it is, what it holds, and who still needs it."""

    attr: Attr
    content: SparseBytes = field(default_factory=SparseBytes)
    target: bytes = b""
    children: dict[bytes, InodeId] = field(default_factory=dict)
    #: The directory that holds this directory; files may have many and keep none.
    parent: InodeId = ROOT
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    #: References of the kernel (lookups) and of open handles.
    references: int = 0

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.attr.mode)

    def accessed(self, now_ns: int) -> None:
        """Mark atime as relatime does: where the last access looks older than the last change, or is a day old."""
        attr = self.attr
        if attr.atime_ns <= max(attr.mtime_ns, attr.ctime_ns) or now_ns - attr.atime_ns >= _DAY_NS:
            attr.atime_ns = now_ns


@dataclass(slots=True)
class Handle:
    """An open file or directory."""

    node: Node
    flags: int
    caller: Caller
    #: The names that a directory held when its listing was last begun.
    names: list[bytes] = field(default_factory=list)


def check_nodes(nodes: Mapping[InodeId, Node]) -> None:
    """Every link count is what the tree says, every name leads to a live inode, nothing dead is kept."""
    names = dict.fromkeys(nodes, 0)
    subdirectories = dict.fromkeys(nodes, 0)
    for node in nodes.values():
        for ino in node.children.values():
            names[ino] += 1
            subdirectories[node.attr.ino] += nodes[ino].is_dir
    for ino, node in nodes.items():
        in_tree = ino == ROOT or names[ino] > 0
        expected = 2 + subdirectories[ino] if node.is_dir and in_tree else names[ino]
        assert node.attr.nlink == expected, (ino, node.attr.nlink, expected)
        assert in_tree or node.references > 0, ino
