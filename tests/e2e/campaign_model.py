"""What a campaign's calls do, and what its log says must be there.

Every content tells whether it is whole, so whoever finds one in the bucket can check it by itself: a file of the kind
`-file` is one record, a `-log` is a number of them, as appending leaves it.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path

_MAGIC = b"whole\n"
_HEADER = struct.Struct("<6sQ32s")
#: Names that begin so are being written in several calls: what they hold need not be whole.
TEMPORARY = "tmp-"
#: Kinds of files, by the end of their names: written as a whole, appended to and cut, mapped into memory, symbolic.
WHOLE, LOG, MAPPED, SYMLINK = "-file", "-log", "-map", "-sym"
PAGE = 4096

#: name of the call and its arguments.
Call = list[str | int]
#: What is found or must be there: by path (content, permission bits), or None for a directory.  A symbolic link has its
#: target as its content and no permission bits.
Look = dict[str, tuple[bytes, int] | None]

#: Calls after which the bucket has the file.
SYNCING = frozenset({"fsync", "fdatasync", "osync", "msync"})


# --- Contents


def content(number: int, size: int) -> bytes:
    """A record of about this size that tells whether it is whole."""
    body = random.Random(number).randbytes(size)
    return _HEADER.pack(_MAGIC, len(body), hashlib.sha256(body).digest()) + body


def page(number: int) -> bytes:
    """One page of memory."""
    return random.Random(number).randbytes(PAGE)


def is_whole(path: str, found: bytes) -> bool:
    """Whether the content is one that a file of this name had between two calls."""
    records = split(found)
    return records is not None and (path.endswith(LOG) or len(records) <= 1)


def split(found: bytes) -> list[int] | None:
    """Where each record begins; None if the content is not made of whole ones."""
    starts: list[int] = []
    position = 0
    while position < len(found):
        starts.append(position)
        if len(found) - position < _HEADER.size:
            return None
        magic, size, digest = _HEADER.unpack_from(found, position)
        body = found[position + _HEADER.size : position + _HEADER.size + size]
        if (magic, size, digest) != (_MAGIC, len(body), hashlib.sha256(body).digest()):
            return None
        position += _HEADER.size + size
    return starts


# --- What calls do


@dataclass
class Tree:
    """Names and the files that they stand for (None: a directory); several names may stand for one file."""

    names: dict[str, int | None] = field(default_factory=dict)
    files: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    made: int = 0

    def copy(self) -> Tree:
        return Tree(dict(self.names), dict(self.files), self.made)

    def look(self) -> Look:
        return {path: None if ino is None else self.files[ino] for path, ino in self.names.items()}

    def paths_of(self, path: str) -> set[str]:
        """All names of the file of this name, itself among them."""
        ino = self.names.get(path)
        return {path} if ino is None else {other for other, held in self.names.items() if held == ino}

    def add(self, path: str, body: bytes, mode: int) -> None:
        self.made += 1
        self.names[path], self.files[self.made] = self.made, (body, mode)

    def file(self, path: str) -> tuple[bytes, int]:
        ino = self.names[path]
        assert ino is not None
        return self.files[ino]

    def change(self, path: str, body: bytes | None = None, mode: int | None = None) -> None:
        ino = self.names[path]
        assert ino is not None
        old = self.files[ino]
        self.files[ino] = (old[0] if body is None else body, old[1] if mode is None else mode)


def apply(before: Tree, call: Call) -> Tree:
    """The tree after the call."""
    name, path, *rest = call
    path = str(path)
    tree = before.copy()
    if name == "create":
        if path in tree.names:
            tree.change(path, b"")
        else:
            tree.add(path, b"", 0o644)
    elif name in ("write", "osync"):
        tree.change(path, content(int(rest[0]), int(rest[1])))
    elif name == "append":
        tree.change(path, tree.file(path)[0] + content(int(rest[0]), int(rest[1])))
    elif name == "truncate":
        tree.change(path, tree.file(path)[0][: int(rest[0])])
    elif name in ("fill", "msync"):
        tree.change(path, page(int(rest[0])))
    elif name == "chmod":
        tree.change(path, mode=int(rest[0]))
    elif name == "mkdir":
        tree.names[path] = None
    elif name == "symlink":
        tree.add(path, str(rest[0]).encode(), 0)
    elif name == "link":
        tree.names[str(rest[0])] = tree.names[path]
    elif name in ("unlink", "rmdir", "orphan"):
        del tree.names[path]
    elif name == "rename":
        _rename(tree, path, str(rest[0]))
    return tree


def _rename(tree: Tree, old: str, new: str) -> None:
    if tree.names.get(new) is not None and tree.names[new] == tree.names[old]:
        return  # two names of one file: POSIX leaves both
    tree.names.pop(new, None)
    for below in [p for p in tree.names if p == old or p.startswith(f"{old}/")]:
        tree.names[new + below[len(old) :]] = tree.names.pop(below)


# --- The log


@dataclass
class History:
    """What a log tells: the tree, the call that may or may not have been carried out, and what is in the bucket."""

    tree: Tree = field(default_factory=Tree)
    open_call: Call | None = None
    count: int = 0
    #: Files that have not changed since a fsync of them returned.
    durable: set[str] = field(default_factory=set)
    #: Directories of which no name has changed since a fsync of them returned.
    complete: set[str] = field(default_factory=set)

    def begin(self, call: Call) -> None:
        self.open_call = call
        self.count += 1
        if call[0] in ("fsync", "fdatasync", "syncdir"):
            return
        # A change that has begun may be in the bucket, or half of it: the old name and the new.
        paths = {str(call[1]), *(str(word) for word in call[2:] if call[0] in ("rename", "link"))}
        paths = paths.union(*map(self.tree.paths_of, paths))
        self.durable = {p for p in self.durable if not any(p == q or p.startswith(f"{q}/") for q in paths)}
        self.complete = {d for d in self.complete if not any(_touches(path, d) for path in paths)}

    def end(self, carried_out: bool, *, returned: bool = True) -> None:
        """The open call has ended; returned: it said so itself, else only what it may have done counts."""
        call, self.open_call = self.open_call, None
        assert call is not None
        if not carried_out:
            return
        self.tree = apply(self.tree, call)
        if not returned:
            return  # an O_SYNC write is there after a kill, but nobody was promised that it is in the bucket
        path = str(call[1])
        if call[0] in SYNCING:
            self.durable |= self.tree.paths_of(path)
        elif call[0] == "syncdir":
            self.complete.add(path)


def _touches(path: str, directory: str) -> bool:
    """Whether a change of the path may change the names of a directory."""
    return os.path.dirname(path) == directory or f"{directory}/".startswith(f"{path}/")


def replay(log: Path) -> History:
    """What the log tells, on top of what was settled before."""
    settled = _settled(log)
    history: History = pickle.loads(settled.read_bytes()) if settled.exists() else History()
    for line in log.read_text().splitlines() if log.exists() else ():
        entry = json.loads(line)
        if isinstance(entry, list):
            history.begin(entry)
        else:
            history.end(bool(entry))
    return history


def settle(log: Path, history: History) -> None:
    """Begin a new log on top of this history, in which no call is open."""
    assert history.open_call is None
    _settled(log).write_bytes(pickle.dumps(history))
    log.write_text("")


def _settled(log: Path) -> Path:
    return log.with_suffix(".settled")


def look(root: Path, below: str = "") -> Look:
    """The tree that is there."""
    found: Look = {}
    for entry in os.scandir(root / below):
        path = f"{below}{entry.name}"
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            found |= {path: None, **look(root, f"{path}/")}
        elif stat.S_ISLNK(status.st_mode):
            found[path] = (os.readlink(root / path).encode(), 0)
        else:
            found[path] = ((root / path).read_bytes(), stat.S_IMODE(status.st_mode))
    return found
