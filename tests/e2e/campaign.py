"""A program that changes a mount at random until it cannot.

    python -m tests.e2e.campaign DIRECTORY LOG SEED

Every system call that changes something is one line of the log before it is made, and one more when it has returned.
Whoever replays the log (campaign_model) knows what must be there, and of one call at most that it may or may not have
been carried out.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.campaign_model import (
    LOG,
    MAPPED,
    PAGE,
    SYMLINK,
    TEMPORARY,
    WHOLE,
    Call,
    History,
    Tree,
    content,
    page,
    replay,
    split,
)

# --- Making the calls


@contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    fd = os.open(path, flags, 0o644)
    try:
        yield fd
    finally:
        os.close(fd)


def _write(fd: int, data: bytes) -> None:
    assert os.write(fd, data) == len(data), "one call must do, or the model does not hold"


def make(root: str, call: Call) -> None:
    """Make the system call."""
    name, path, *rest = call
    full = f"{root}/{path}" if path else root
    number = int(rest[0]) if rest and isinstance(rest[0], int) else 0
    if name in _BY_DESCRIPTOR:
        flags, work = _BY_DESCRIPTOR[str(name)]
        with _opened(full, flags) as fd:
            work(fd, content(number, int(rest[1])) if len(rest) > 1 else page(number))
    elif name == "chmod":
        os.chmod(full, number)
    elif name == "truncate":
        os.truncate(full, number)
    elif name in ("rename", "link"):
        {"rename": os.rename, "link": os.link}[str(name)](full, f"{root}/{rest[0]}")
    elif name == "symlink":
        os.symlink(str(rest[0]), full)
    elif name == "orphan":
        _write_without_name(full)
    else:
        {"unlink": os.unlink, "mkdir": os.mkdir, "rmdir": os.rmdir}[str(name)](full)


def _write_mapped(fd: int, data: bytes) -> None:
    """Through a shared mapping, and into the bucket."""
    with mmap.mmap(fd, PAGE) as mapping:
        mapping[:] = data
        mapping.flush()


def _write_without_name(path: str) -> None:
    """What is written to a file that has lost its name is nobody's business."""
    with _opened(path, os.O_RDWR) as fd:
        os.unlink(path)
        os.pwrite(fd, b"nobody may see this", 0)
        assert os.pread(fd, 19, 0) == b"nobody may see this"


def _nothing(fd: int, data: bytes) -> None:
    """Opening was all."""


_BY_DESCRIPTOR: dict[str, tuple[int, Callable[[int, bytes], None]]] = {
    "create": (os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _nothing),
    "write": (os.O_WRONLY, _write),
    "fill": (os.O_WRONLY, _write),
    "osync": (os.O_WRONLY | os.O_SYNC, _write),
    "append": (os.O_WRONLY | os.O_APPEND, _write),
    "msync": (os.O_RDWR, _write_mapped),
    "fsync": (os.O_RDONLY, lambda fd, _: os.fsync(fd)),
    "fdatasync": (os.O_RDONLY, lambda fd, _: os.fdatasync(fd)),
    "syncdir": (os.O_RDONLY | os.O_DIRECTORY, lambda fd, _: os.fsync(fd)),
}


# --- Choosing them


class Chooser:
    """Calls that make sense together; all of them can be carried out."""

    def __init__(self, history: History, chance: random.Random) -> None:
        self.history = history
        self.chance = chance
        self.kinds = {
            self.save: 4,
            self.replace: 4,
            self.renew: 2,
            self.log: 3,
            self.map: 1,
            self.symlink: 1,
            self.link: 1,
            self.chmod: 1,
            self.remove: 3,
            self.move: 2,
            self.make_directory: 1,
            self.change_directory: 2,
            self.sync_directory: 1,
        }
        self.weights = list(self.kinds.values())

    @property
    def tree(self) -> Tree:
        return self.history.tree

    def next_calls(self) -> list[Call]:
        (kind,) = self.chance.choices(list(self.kinds), self.weights)
        return kind()

    def _directories(self) -> list[str]:
        return [path for path, ino in self.tree.names.items() if ino is None]

    def _files(self, ending: str = "") -> list[str]:
        return [path for path, ino in self.tree.names.items() if ino is not None and path.endswith(ending)]

    def _new(self, ending: str) -> str:
        directory = self.chance.choice(["", *(f"{path}/" for path in self._directories())])
        return f"{directory}{self.chance.choice('abcdefgh')}{ending}"

    def _sync(self, path: str) -> list[Call]:
        return [[self.chance.choice(("fsync", "fdatasync")), path]] if self.chance.random() < 0.4 else []

    def save(self) -> list[Call]:
        path, number = self._new(WHOLE), self.history.count
        size = self.chance.choice((0, 10, 5000, 60_000))
        if self.chance.random() < 0.15:
            return [["create", path], ["osync", path, number, size]]
        return [["create", path], ["write", path, number, size], *self._sync(path)]

    def replace(self) -> list[Call]:
        new, number = self._new(WHOLE), self.history.count
        temporary = os.path.join(os.path.dirname(new), f"{TEMPORARY}{number}")
        return [
            ["create", temporary],
            ["write", temporary, number, self.chance.choice((100, 90_000))],
            *self._sync(temporary),
            ["rename", temporary, new],
        ]

    def renew(self) -> list[Call]:
        """What is made in the place of a removed file stays empty."""
        found = self._files(WHOLE)
        path = self.chance.choice(found) if found else ""
        return [["unlink", path], ["create", path]] if found else []

    def log(self) -> list[Call]:
        path = self.chance.choice([*self._files(LOG), self._new(LOG)])
        if path not in self.tree.names:
            return [["create", path]]
        starts = split(self.tree.file(path)[0])
        if starts is None:  # a write was cut off by a kill
            return [["truncate", path, 0]]
        if len(starts) > 8 or (starts and self.chance.random() < 0.2):
            return [["truncate", path, self.chance.choice(starts)], *self._sync(path)]
        return [["append", path, self.history.count, self.chance.choice((20, 3000, 60_000))], *self._sync(path)]

    def map(self) -> list[Call]:
        path, number = self._new(MAPPED), self.history.count
        if path not in self.tree.names or len(self.tree.file(path)[0]) != PAGE:
            return [["create", path], ["fill", path, number]]
        return [["msync", path, number]]

    def symlink(self) -> list[Call]:
        path = self._new(SYMLINK)
        return [] if path in self.tree.names else [["symlink", path, f"target/{self.history.count}"]]

    def link(self) -> list[Call]:
        new = self._new(WHOLE)
        found = self._files(WHOLE)
        return [["link", self.chance.choice(found), new]] if found and new not in self.tree.names else []

    def chmod(self) -> list[Call]:
        found = [path for path in self._files() if not path.endswith(SYMLINK)]
        return [["chmod", self.chance.choice(found), self.chance.choice((0o600, 0o644, 0o755))]] if found else []

    def remove(self) -> list[Call]:
        found = self._files()
        if not found:
            return []
        path = self.chance.choice(found)
        orphan = not path.endswith(SYMLINK) and len(self.tree.paths_of(path)) == 1 and self.chance.random() < 0.2
        return [["orphan" if orphan else "unlink", path]]

    def move(self) -> list[Call]:
        found = self._files()
        if not found:
            return []
        path = self.chance.choice(found)
        name = os.path.basename(path)
        new = self._new(name[name.index("-") :]) if not name.startswith(TEMPORARY) else self._new(WHOLE)
        return [["rename", path, new]] if path != new else []

    def make_directory(self) -> list[Call]:
        path = self.chance.choice(["", *(f"{path}/" for path in self._directories())]) + self.chance.choice("xyz")
        return [] if path in self.tree.names or path.count("/") > 1 else [["mkdir", path]]

    def change_directory(self) -> list[Call]:
        if not (found := self._directories()):
            return []
        path = self.chance.choice(found)
        if not any(other.startswith(f"{path}/") for other in self.tree.names):
            return [["rmdir", path]]
        new = self.chance.choice("xyz")
        return [] if new in self.tree.names else [["rename", path, new]]

    def sync_directory(self) -> list[Call]:
        return [["syncdir", self.chance.choice(["", *self._directories()])]]


def run(root: str, log: Path, seed: int) -> None:
    history = replay(log)
    chooser = Chooser(history, random.Random(seed))
    device = os.stat(root).st_dev
    with open(log, "a", buffering=1) as lines:
        while True:
            for call in chooser.next_calls():
                lines.write(f"{json.dumps(call)}\n")
                history.begin(call)
                make(root, call)
                if os.stat(root).st_dev != device:
                    raise OSError("the mount has gone, perhaps before this call")
                lines.write("1\n")
                history.end(True)


if __name__ == "__main__":
    directory, log_file, seed_text = sys.argv[1:]
    try:
        run(directory, Path(log_file), int(seed_text))
    except OSError as error:
        sys.exit(f"ended by: {error}")
