"""Bodies: how they are written, found again and read.

A large body is written to `incoming/<name>` and synced; the transaction that makes its row commits; then it is
renamed to `content/<2 digits>/<name>`.  So a file under content/ always has a row, and after a crash the few files in
incoming/ tell by their rows whether they count.  A writer holds a flock on its file until it is in place: another
process that opens the store leaves it alone.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from types import TracebackType
from typing import Final, NamedTuple

from b2fs.core.slabs import SLABS
from b2fs.errors import CapExceeded, Unavailable
from b2fs.store.disk import pread, sync_directory
from b2fs.store.embedded.database import Transaction
from b2fs.store.embedded.errors import DamagedStore
from b2fs.store.embedded.schema import KIND_COMPOSED, KIND_FILE, KIND_INLINE

Body = bytes | bytearray | memoryview

EMPTY_MD5: Final = hashlib.md5(usedforsecurity=False).hexdigest()
#: Files that a reader of a composed content opens at once; the rest are opened when they are needed.
_EAGER_FILES: Final = 64
#: Below this a second thread costs more than it saves; a guess.
_PARALLEL_HASH_BYTES: Final = 1 << 20
#: One write(2) at most.  Larger ones make Linux allocate larger runs of page cache, which took 2 times the CPU time at
#: 1 MiB and 6 times at 2 MiB and more (ext4, Linux 6.18), and what was just hashed is still in the processor's cache.
_WRITE_BYTES: Final = 256 << 10


class Extent(NamedTuple):
    """length bytes from start of a content that is not composed; file is None when data holds it."""

    source: int
    start: int
    length: int
    file: str | None
    data: bytes | None


class Segment(NamedTuple):
    """A run of bytes as a reader hands it out: in data, or length bytes at offset of the open file fd."""

    data: bytes | None
    fd: int
    offset: int
    length: int


@contextmanager
def disk_errors() -> Iterator[None]:
    """A full disk or quota is the store's cap; other errors of the local disk are faults of the store."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise CapExceeded("the disk that holds the store is full") from error
        raise Unavailable(f"the disk that holds the store failed: {error}") from error


class ContentFiles:
    """The files of one store."""

    def __init__(self, directory: str, *, durable: bool) -> None:
        self._incoming = os.path.join(directory, "incoming")
        self._content = os.path.join(directory, "content")
        self._durable = durable
        for path in (self._incoming, self._content):
            os.makedirs(path, mode=0o700, exist_ok=True)

    def create(self) -> tuple[str, int]:
        """Make an empty, locked file for a new body: its name and descriptor."""
        name = secrets.token_hex(16)
        with disk_errors():
            fd = os.open(self._incoming_path(name), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
        return name, fd

    def settle(self, name: str) -> None:
        """Move a body whose row is committed to its place.  If that fails it is found and moved at the next start."""
        source, target = self._incoming_path(name), self.path(name)
        try:
            try:
                os.rename(source, target)
            except FileNotFoundError:  # the first body of its shard
                os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
                os.rename(source, target)
        except OSError:
            pass  # readable where it is: open() looks there too

    def discard(self, name: str) -> None:
        """Remove a body that nobody refers to."""
        try:
            os.unlink(self._incoming_path(name))
        except FileNotFoundError:
            pass  # the directory was removed under us; there is nothing left to clean

    def open(self, name: str) -> int:
        """A descriptor for reading.  Raises FileNotFoundError."""
        flags = os.O_RDONLY | os.O_CLOEXEC
        for path in (self.path(name), self._incoming_path(name)):
            try:
                return os.open(path, flags)
            except FileNotFoundError:
                continue
        return os.open(self.path(name), flags)  # it may have been settled between the two attempts

    def remove(self, names: Sequence[str]) -> None:
        """Remove bodies whose rows are gone."""
        with disk_errors():
            for name in names:
                for path in (self.path(name), self._incoming_path(name)):
                    try:
                        os.unlink(path)
                    except FileNotFoundError:
                        pass  # it is in one of the two places, or was removed before a crash

    def sync_removed(self, names: Sequence[str]) -> None:
        """Make the removal of these bodies durable."""
        if not self._durable:
            return
        with disk_errors():
            for directory in {os.path.dirname(self.path(name)) for name in names}:
                if os.path.isdir(directory):
                    sync_directory(directory)
            sync_directory(self._incoming)

    def sync_incoming(self) -> None:
        """Make the names of new bodies durable."""
        with disk_errors():
            sync_directory(self._incoming)

    def recover(self, is_known: Callable[[str], bool]) -> list[str]:
        """Settle or remove what a crash left in incoming/; the names that were removed."""
        removed = []
        for name in os.listdir(self._incoming):
            with _locked_if_free(self._incoming_path(name)) as free:
                if not free:
                    continue
                if is_known(name):
                    self.settle(name)
                else:
                    self.discard(name)
                    removed.append(name)
        return removed

    def names(self) -> Iterator[str]:
        """All bodies in place."""
        for shard in os.listdir(self._content):
            yield from os.listdir(os.path.join(self._content, shard))

    def path(self, name: str) -> str:
        return os.path.join(self._content, name[:2], name)

    def _incoming_path(self, name: str) -> str:
        return os.path.join(self._incoming, name)


@contextmanager
def _locked_if_free(path: str) -> Iterator[bool]:
    """Whether nobody is writing the file; it stays locked by us inside the block."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False  # its writer has settled or discarded it
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


class ContentWriter:
    """A body that is being written; see Engine.writer.  Used by one thread at a time."""

    def __init__(self, files: ContentFiles, *, inline_max: int, durable: bool) -> None:
        self._files = files
        self._inline_max = inline_max
        self._durable = durable
        self._hash = hashlib.md5(usedforsecurity=False)
        self._head = bytearray()
        self._name: str | None = None
        self._fd = -1
        self._sealed = False
        self.size = 0

    def __enter__(self) -> ContentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def write(self, chunk: Body) -> None:
        """Append.  Raises CapExceeded when the disk is full."""
        self._hash.update(chunk)
        self.size += len(chunk)
        if self._fd < 0 and self.size <= self._inline_max:
            self._head += chunk
            return
        with disk_errors():
            if self._fd < 0:
                self._name, self._fd = self._files.create()
                _write_all(self._fd, self._head)
                self._head.clear()
            _write_all(self._fd, chunk)

    def write_whole(self, body: Body, hashers: Executor) -> None:
        """write and seal in one: the MD5 of a large body is computed while the disk is busy with it."""
        if self.size or len(body) < _PARALLEL_HASH_BYTES:
            self.write(body)
            self.seal()
            return
        hashing = hashers.submit(self._hash.update, body)
        try:
            with disk_errors():
                self._name, self._fd = self._files.create()
                _write_all(self._fd, body)
            self.size = len(body)
            self.seal()
        finally:
            hashing.result()  # the body is the caller's again when this returns

    @property
    def md5_hex(self) -> str:
        """MD5 of what was written so far."""
        return self._hash.hexdigest()

    @property
    def has_file(self) -> bool:
        """Whether the body was too large to be kept in memory."""
        return self._name is not None

    def seal(self) -> None:
        """Make the bytes durable; what follows is only the transaction.  Idempotent."""
        if not self._sealed and self._fd >= 0 and self._durable:
            with disk_errors():
                os.fsync(self._fd)
        self._sealed = True

    def add_row(self, transaction: Transaction) -> int:
        """Make the content's row: its id, 0 for an empty body."""
        if self.size == 0:
            return 0
        content = transaction.new_id()
        kind, data = (KIND_INLINE, bytes(self._head)) if self._name is None else (KIND_FILE, None)
        transaction.connection.execute(
            "INSERT INTO contents VALUES (?, ?, ?, ?, ?, ?)", (content, kind, self.size, self.md5_hex, self._name, data)
        )
        if self._name is not None:
            transaction.syncs_directory = True
            transaction.after_commit.append(self._settle)
        return content

    def _settle(self) -> None:
        """The row is committed: give the file its place and let go of it."""
        if self._name is not None:
            self._files.settle(self._name)
            self._name = None
            self._close()

    def discard(self) -> None:
        """Forget a body that did not become a version.  Harmless after it did."""
        if self._name is not None:
            self._files.discard(self._name)
            self._name = None
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _write_all(fd: int, data: Body) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view[:_WRITE_BYTES]) :]


def load_extents(connection: sqlite3.Connection, content: int) -> list[Extent]:
    """What a content is made of, in order.  Empty for content 0.  Raises LookupError if its rows are gone."""
    if content == 0:
        return []
    row = connection.execute("SELECT kind, size, file, data FROM contents WHERE id = ?", (content,)).fetchone()
    if row is None:
        raise LookupError(content)
    kind, size, file, data = row
    if kind != KIND_COMPOSED:
        return [Extent(content, 0, size, file, data)]
    rows = connection.execute(
        "SELECT e.source, e.start, e.length, c.file, c.data FROM extents e JOIN contents c ON c.id = e.source"
        " WHERE e.content = ? ORDER BY e.position",
        (content,),
    ).fetchall()
    extents = [Extent(*row) for row in rows]
    if sum(extent.length for extent in extents) != size:
        raise LookupError(content)
    return extents


def cut(extents: Sequence[Extent], start: int, end: int) -> list[Extent]:
    """The extents of the bytes [start, end)."""
    result = []
    position = 0
    for extent in extents:
        low, high = max(start - position, 0), min(end - position, extent.length)
        if low < high:
            result.append(extent._replace(start=extent.start + low, length=high - low))
        position += extent.length
    return result


class ContentReader:
    """The stored bytes of one version; close it, or use it as a context manager.

    Its files are open, so that a removal of the version does not disturb it; only a composed content of more than 64
    files opens the further ones when they are reached, and then raises Unavailable if they were removed meanwhile.
    """

    def __init__(self, files: ContentFiles, extents: Sequence[Extent]) -> None:
        self._files = files
        self._extents = extents
        self._fds: dict[str, int] = {}
        self.size = sum(extent.length for extent in extents)
        try:
            for extent in extents[:_EAGER_FILES]:
                self._descriptor(extent)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ContentReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files.  Idempotent."""
        while self._fds:
            os.close(self._fds.popitem()[1])

    def segments(self, start: int = 0, end: int | None = None) -> Iterator[Segment]:
        """The bytes [start, end) as runs, in order; descriptors are good until the next run or close()."""
        for extent in cut(self._extents, start, self.size if end is None else end):
            try:
                fd = self._descriptor(extent)
            except FileNotFoundError as error:
                raise Unavailable("the version was removed while it was read") from error
            yield Segment(extent.data, fd, extent.start, extent.length)

    def read_at(self, offset: int, length: int) -> bytes:
        """The bytes [offset, min(offset + length, size)).  Raises DamagedStore if a file is too short."""
        pieces = [_read_segment(segment) for segment in self.segments(offset, min(offset + length, self.size))]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def view_at(self, offset: int, length: int) -> bytes | memoryview:
        """Like read_at, for who lets go of the bytes soon: their memory is used again."""
        pieces = [_view_segment(segment) for segment in self.segments(offset, min(offset + length, self.size))]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _descriptor(self, extent: Extent) -> int:
        if extent.file is None:
            return -1
        fd = self._fds.get(extent.file)
        if fd is None:
            if len(self._fds) > _EAGER_FILES:
                os.close(self._fds.pop(next(reversed(self._fds))))
            fd = self._fds[extent.file] = self._files.open(extent.file)
        return fd


def _read_segment(segment: Segment) -> bytes:
    if segment.data is not None:
        if segment.length == len(segment.data):
            return segment.data
        return segment.data[segment.offset : segment.offset + segment.length]
    with disk_errors():
        data = os.pread(segment.fd, segment.length, segment.offset)
        while len(data) < segment.length:  # one pread stops at 2 GiB
            more = os.pread(segment.fd, segment.length - len(data), segment.offset + len(data))
            if not more:
                raise DamagedStore("a content file of the store is shorter than it was written")
            data += more
    return data


def _view_segment(segment: Segment) -> bytes | memoryview:
    if segment.data is not None or not SLABS.recycles(segment.length):
        return _read_segment(segment)
    with disk_errors():
        data = pread(segment.fd, segment.length, segment.offset)
        if len(data) < segment.length:
            raise DamagedStore("a content file of the store is shorter than it was written")
    return data


def release(transaction: Transaction, content: int) -> None:
    """Remove a content that nothing refers to any more; called after a reference was removed."""
    connection = transaction.connection
    if content == 0 or connection.execute(_REFERENCED, (content, content, content)).fetchone()[0]:
        return
    row = connection.execute("DELETE FROM contents WHERE id = ? RETURNING kind, file", (content,)).fetchone()
    if row is None:
        return
    kind, file = row
    if kind == KIND_FILE:
        transaction.trash.append(file)
    elif kind == KIND_COMPOSED:
        sources = connection.execute("SELECT DISTINCT source FROM extents WHERE content = ?", (content,)).fetchall()
        connection.execute("DELETE FROM extents WHERE content = ?", (content,))
        for (source,) in sources:
            release(transaction, source)


_REFERENCED: Final = (
    "SELECT EXISTS (SELECT 1 FROM versions WHERE content = ? AND content > 0)"
    " OR EXISTS (SELECT 1 FROM parts WHERE content = ? AND content > 0)"
    " OR EXISTS (SELECT 1 FROM extents WHERE source = ?)"
)


def compose(transaction: Transaction, extents: Sequence[Extent]) -> int:
    """The id of a content made of extents: a new row, or the source itself where it is all of one."""
    if not extents:
        return 0
    connection = transaction.connection
    size = sum(extent.length for extent in extents)
    if len(extents) == 1:
        (whole,) = connection.execute("SELECT size FROM contents WHERE id = ?", (extents[0].source,)).fetchone()
        if whole == size:
            return extents[0].source
    content = transaction.new_id()
    connection.execute("INSERT INTO contents VALUES (?, ?, ?, '', NULL, NULL)", (content, KIND_COMPOSED, size))
    connection.executemany(
        "INSERT INTO extents VALUES (?, ?, ?, ?, ?)",
        [(content, position, e.source, e.start, e.length) for position, e in enumerate(extents)],
    )
    return content
