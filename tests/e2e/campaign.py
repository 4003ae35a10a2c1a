"""A program that changes a mount at random until it cannot, and the model of what it did.

    python -m tests.e2e.campaign DIRECTORY LOG SEED

Every system call that changes something is one line of the log before it is made, and one more when it has returned.
Whoever replays the log knows what must be there, and of one call at most that it may or may not have been carried out.
Every content tells its own length and hash, so whoever finds one can tell whether it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import stat
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path

_MAGIC = b"whole\n"
_HEADER = struct.Struct("<6sQ32s")
#: Names that begin so are being written in several calls: what they hold need not be whole.
TEMPORARY = "tmp-"

#: name of the call and its arguments.
Call = list[str | int]
#: By path: content and permission bits of a file, or None for a directory.
Tree = dict[str, tuple[bytes, int] | None]


def content(number: int, size: int) -> bytes:
    """A content of about this size that tells whether it is whole."""
    body = random.Random(number).randbytes(size)
    return _HEADER.pack(_MAGIC, len(body), hashlib.sha256(body).digest()) + body


def is_whole(found: bytes) -> bool:
    """Whether these are all bytes of a content, or none at all, as in a file that was just made."""
    if not found:
        return True
    if len(found) < _HEADER.size:
        return False
    magic, size, digest = _HEADER.unpack_from(found)
    body = found[_HEADER.size :]
    return (magic, size, digest) == (_MAGIC, len(body), hashlib.sha256(body).digest())


# --- What calls do


def make(root: str, call: Call) -> None:
    """Make the system call."""
    name, path, *rest = call
    full = f"{root}/{path}"
    if name == "create":
        os.close(os.open(full, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644))
    elif name == "write":
        _write(full, content(int(rest[0]), int(rest[1])))
    elif name == "fsync":
        fd = os.open(full, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    elif name == "chmod":
        os.chmod(full, int(rest[0]))
    elif name == "rename":
        os.rename(full, f"{root}/{rest[0]}")
    else:
        {"unlink": os.unlink, "mkdir": os.mkdir, "rmdir": os.rmdir}[str(name)](full)


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        done = os.write(fd, data)
        assert done == len(data), "one call must do, or the model does not hold"
    finally:
        os.close(fd)


def apply(tree: Tree, call: Call) -> Tree:
    """The tree after the call."""
    name, path, *rest = call
    path = str(path)
    after = dict(tree)
    held = tree.get(path)
    if name == "create":
        after[path] = (b"", held[1] if held else 0o644)
    elif name == "write":
        assert held is not None
        after[path] = (content(int(rest[0]), int(rest[1])), held[1])
    elif name == "chmod":
        assert held is not None
        after[path] = (held[0], int(rest[0]))
    elif name == "mkdir":
        after[path] = None
    elif name in ("unlink", "rmdir"):
        del after[path]
    elif name == "rename":
        new = str(rest[0])
        after.pop(new, None)
        for below in [p for p in tree if p == path or p.startswith(f"{path}/")]:
            after[new + below[len(path) :]] = after.pop(below)
    return after


# --- The log


@dataclass
class History:
    """What a log tells: the tree, the call that may or may not have been carried out, and what is in the bucket."""

    tree: Tree = field(default_factory=dict)
    open_call: Call | None = None
    count: int = 0
    #: Files that have not changed since a fsync of them returned.
    durable: set[str] = field(default_factory=set)

    def begin(self, call: Call) -> None:
        self.open_call = call
        self.count += 1
        # A change that has begun may be in the bucket, or half of it: the old name and the new.
        paths = [str(call[1]), *(str(word) for word in call[2:] if call[0] == "rename")]
        if call[0] != "fsync":
            self.durable = {p for p in self.durable if not any(p == q or p.startswith(f"{q}/") for q in paths)}

    def end(self, carried_out: bool) -> None:
        call, self.open_call = self.open_call, None
        assert call is not None
        if carried_out:
            self.tree = apply(self.tree, call)
            if call[0] == "fsync":
                self.durable.add(str(call[1]))


def replay(log: Path) -> History:
    history = History()
    for line in log.read_text().splitlines() if log.exists() else ():
        entry = json.loads(line)
        if isinstance(entry, list):
            history.begin(entry)
        else:
            history.end(bool(entry))
    return history


def look(root: Path) -> Tree:
    """The tree that is there."""
    tree: Tree = {}
    for directory, names, files in os.walk(root):
        for name in names:
            tree[os.path.relpath(os.path.join(directory, name), root)] = None
        for name in files:
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                tree[os.path.relpath(path, root)] = (file.read(), stat.S_IMODE(os.fstat(file.fileno()).st_mode))
    return tree


# --- The workload


def next_calls(history: History, chance: random.Random) -> list[Call]:
    """Some calls that make sense together; all of them can be carried out."""
    tree = history.tree
    files = [path for path, held in tree.items() if held is not None]
    directories = ["", *(f"{path}/" for path, held in tree.items() if held is None)]
    new = chance.choice(directories) + chance.choice("abcdefgh") + "-file"
    kind = chance.choice(("save", "save", "save", "replace", "replace", "chmod", "unlink", "move", "mkdir", "tree"))
    number = history.count
    if kind == "save":
        size = chance.choice((0, 10, 5000, 60_000))
        fsync: list[Call] = [["fsync", new]] if chance.random() < 0.4 else []
        return [["create", new], ["write", new, number, size], *fsync]
    if kind == "replace":
        temporary = os.path.join(os.path.dirname(new), f"{TEMPORARY}{number}")
        return [
            ["create", temporary],
            ["write", temporary, number, chance.choice((100, 90_000))],
            ["rename", temporary, new],
        ]
    if kind == "mkdir":
        path = chance.choice(directories) + chance.choice("xyz")
        return [] if path in tree or path.count("/") > 1 else [["mkdir", path]]
    if kind == "tree":
        return _change_of_tree(tree, chance)
    if not files:
        return []
    path = chance.choice(files)
    if kind == "chmod":
        return [["chmod", path, chance.choice((0o600, 0o644, 0o755))]]
    if kind == "unlink":
        return [["unlink", path]]
    return [["rename", path, new]] if path != new else []


def _change_of_tree(tree: Tree, chance: random.Random) -> list[Call]:
    directories = [path for path, held in tree.items() if held is None]
    if not directories:
        return []
    path = chance.choice(directories)
    below = [other for other in tree if other.startswith(f"{path}/")]
    if not below:
        return [["rmdir", path]]
    new = chance.choice("xyz")
    return [] if new in tree else [["rename", path, new]]


def run(root: str, log: Path, seed: int) -> None:
    history = replay(log)
    chance = random.Random(seed)
    with open(log, "a", buffering=1) as lines:
        while True:
            for call in next_calls(history, chance):
                lines.write(f"{json.dumps(call)}\n")
                history.begin(call)
                make(root, call)
                lines.write("1\n")
                history.end(True)


if __name__ == "__main__":
    directory, log_file, seed_text = sys.argv[1:]
    try:
        run(directory, Path(log_file), int(seed_text))
    except OSError as error:
        sys.exit(f"ended by: {error}")
