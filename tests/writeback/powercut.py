"""A disk that loses its power: what it may hold then of a mount's cache directory.

Certain is only what was synced.  Of everything since each change of a name and each page of a file may be there or not,
also in another order than it was made in.  The journal's log is a beginning of what was written to it, since SQLite
believes no frame behind one that is missing.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from b2fs.cache import content, ledger
from b2fs.store import disk as shared_disk
from tests.writeback.harness import Place

_PAGE = 4096
_RECORDED = ("open", "link", "unlink", "rename", "fsync")
_WAL = "ledger.db-wal"


@dataclass(eq=False)
class _File:
    """A dirty file."""

    path: str
    #: The bytes that are certain.
    synced: bytes = b""
    #: What it had when it lost its name.
    last: bytes | None = None


#: The names in dirty/.
_Names = dict[str, _File]


@dataclass
class Disk:
    """Watches the directory of one cache; called from several threads."""

    cache: Path
    names: _Names = field(default_factory=dict)
    #: Changes of names that are not synced, in their order.
    changes: list[Callable[[_Names], object]] = field(default_factory=list)
    #: Those that have names, by the numbers that the true disk gives them.
    files: dict[int, _File] = field(default_factory=dict)
    wal_bytes: int = 0
    #: What the cache directory has lately been synced with.
    entries: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    # ---- what is done to it

    def opened(self, path: str) -> None:
        """A file was made, or was there already."""
        number = os.stat(path).st_ino
        if self._is_dirty(path) and number not in self.files:
            file = self.files[number] = _File(path)
            self.changes.append(lambda names: names.__setitem__(os.path.basename(path), file))

    def removing(self, path: str) -> None:
        if self._is_dirty(path) and os.path.exists(path):
            self.files.pop(os.stat(path).st_ino).last = Path(path).read_bytes()
            self.changes.append(lambda names: names.pop(os.path.basename(path), None))

    def renamed(self, old: str, new: str) -> None:
        self.files.pop(os.stat(new).st_ino).last = Path(new).read_bytes()

        def change(names: _Names) -> None:
            if os.path.basename(old) in names:
                names[os.path.basename(new)] = names.pop(os.path.basename(old))

        self.changes.append(change)

    def synced(self, fd: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}").removesuffix(" (deleted)"))
        if path == self.cache:
            self.entries |= set(os.listdir(path))
        elif path == self.cache / "dirty":
            for change in self.changes:
                change(self.names)
            self.changes.clear()
        elif path.name == _WAL:
            self.wal_bytes = os.fstat(fd).st_size
        elif (file := self.files.get(os.fstat(fd).st_ino)) is not None:
            file.synced = os.pread(fd, os.fstat(fd).st_size, 0)

    def _is_dirty(self, path: str) -> bool:
        return os.path.dirname(path) == str(self.cache / "dirty")

    # ---- what is left of it

    def leave(self, new: Path, chance: random.Random) -> None:
        """Make the directory `new` as the disk may hold this one now."""
        new.mkdir(mode=0o700)
        (new / "ledger.db").write_bytes((self.cache / "ledger.db").read_bytes())
        wal = self.cache / _WAL
        certain = self.wal_bytes if _WAL in self.entries else 0
        if wal.exists():
            body = wal.read_bytes()
            kept = chance.choice((certain, len(body), chance.randint(min(certain, len(body)), len(body))))
            (new / _WAL).write_bytes(body[:kept].ljust(chance.choice((kept, len(body))), b"\0"))
        (new / "dirty").mkdir()
        names = dict(self.names) if "dirty" in self.entries else {}
        kept_changes = chance.choice((0.0, 0.5, 1.0))
        for change in self.changes:
            if chance.random() < kept_changes:
                change(names)
        for name, file in names.items():
            write_sparse(new / "dirty" / name, _some_of(file, chance))


def write_sparse(path: Path, body: bytes) -> None:
    """Pages of zeros become holes, as what was never written to a disk is one."""
    with open(path, "wb") as file:
        file.truncate(len(body))
        for start in range(0, len(body), _PAGE):
            page = body[start : start + _PAGE]
            if page.strip(b"\0"):
                os.pwrite(file.fileno(), page, start)


def _some_of(file: _File, chance: random.Random) -> bytes:
    last = file.last if file.last is not None else Path(file.path).read_bytes()
    if chance.random() < 0.3:
        return file.synced
    size = chance.choice((len(file.synced), len(last)))
    body = bytearray(file.synced[:size].ljust(size, b"\0"))
    kept = chance.choice((0.0, 0.5, 1.0))
    for start in range(0, size, _PAGE):
        if chance.random() < kept:
            piece = last[start : min(start + _PAGE, size)]
            body[start : start + len(piece)] = piece
    return bytes(body)


class _WatchedOs:
    """The module os, with a word to the disk before or after each call that matters to it."""

    def __init__(self, disk: Disk, look: Callable[[], None]) -> None:
        self._disk = disk
        self._tell = look

    def _look(self) -> None:
        if threading.current_thread() is threading.main_thread():  # the others may not see the bucket at work
            self._tell()

    def __getattr__(self, name: str) -> object:
        real = getattr(os, name)
        return getattr(self, f"_{name}") if name in _RECORDED else real

    def _open(self, path: str, flags: int, mode: int = 0o777) -> int:
        with self._disk.lock:
            fd = os.open(path, flags, mode)
            if flags & os.O_CREAT:
                self._disk.opened(path)
        return fd

    def _link(self, source: str, path: str, *, src_dir_fd: int, follow_symlinks: bool) -> None:
        with self._disk.lock:
            os.link(source, path, src_dir_fd=src_dir_fd, follow_symlinks=follow_symlinks)
            self._disk.opened(path)
        self._look()

    def _unlink(self, path: str) -> None:
        with self._disk.lock:
            self._disk.removing(path)
            os.unlink(path)
        self._look()

    def _rename(self, old: str, new: str) -> None:
        with self._disk.lock:
            os.rename(old, new)
            self._disk.renamed(old, new)
        self._look()

    def _fsync(self, fd: int) -> None:
        self._look()
        with self._disk.lock:
            self._disk.synced(fd)


@contextmanager
def powered(cache: Path, patch: pytest.MonkeyPatch, look: Callable[[], None]) -> Iterator[Disk]:
    """Watch the cache directory within the block; look is called around each change of a name and before each sync."""
    disk = Disk(cache)
    watched = _WatchedOs(disk, look)
    with patch.context() as within:
        for module in (content, ledger, shared_disk):
            within.setattr(module, "os", watched)
        yield disk


def cut(place: Place, disk: Disk, root: Path, chance: random.Random) -> Place:
    """What is left after a power cut now, as a place of its own below root."""
    root.mkdir()
    twin = Place(root, place.bucket.copy(), place.capabilities)
    with disk.lock:
        disk.leave(twin.cache, chance)
    return twin
