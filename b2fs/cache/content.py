"""LocalContent: the bytes of one dirty file on the local disk.

A sparse file under `dirty/`, named by inode number.  Either *complete* (the file is the content, its size the size), or
*partial*: the `local` ranges differ from the base version, all others are the base's, below `base_limit`; some of those
may be here as well (`held` has all that is here).  What is neither local nor base is zero and is recorded as local.
Of a complete content, ranges that are `away` are only in the parts of a multipart upload that is not completed.
Reads and writes of what is on disk are plain system calls: they are as quick as a thread hop would be.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial

from b2fs.core.extents import Extents
from b2fs.core.nodes import InodeId
from b2fs.store.disk import pread, sync_directory

_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # of fallocate(2)
#: Up to this size a file is taken to need its size on the disk; of larger ones the disk is asked.
_SMALL_BYTES = 1 << 20
_BLOCK = 4096
#: So much of the name of a torn file is kept, in bytes, and so many zeros tell whether they become a hole.
_NAME_BYTES = 150
_ZEROS = 1 << 18
#: So many files are made in advance.
_SPARE = 64


class DirtyFiles:
    """The directory of dirty files, with a bounded number of descriptors kept open.

    before_removal is called before a file goes away, and must journal what has made it superfluous: a ledger that
    still wants a file that is gone would put an empty object in the place of a good one.  So that this holds over a
    power cut too, whoever sets `on_doomed` is called instead of that, and calls `bury` when the journal is on the disk.
    """

    def __init__(
        self, directory: str, max_open: int = 512, *, before_removal: Callable[[], None] = lambda: None
    ) -> None:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self.directory = directory
        self._before_removal = before_removal
        self._max_open = max_open
        self._retired = 0
        #: Files to remove as soon as the journal is written, with a number that no later one of the same inode has.
        self.doomed: dict[InodeId, int] = {}
        self._dooms = 0
        self.on_doomed: Callable[[], None] | None = None
        self._open: OrderedDict[InodeId, int] = OrderedDict()
        #: Descriptors of empty files that have no name yet, made in advance by `stock`; on_low is told when to call it.
        self._spare: list[int] = []
        self._stocks = True
        self.on_low: Callable[[], None] = lambda: None
        #: Every content that has a file here.
        self.contents: dict[InodeId, LocalContent] = {}
        #: Files of which a power cut has left a part; `set_aside` is for them.
        self.torn: list[InodeId] = []
        self._keeps_zeros: bool | None = None

    def held_bytes(self) -> int:
        """What all contents need on the disk."""
        return sum(content.disk_bytes() for content in self.contents.values())

    def can_punch(self) -> bool:
        """Whether this filesystem gives back the space of a hole."""
        fd = os.open(self.directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, 1 << 16)
            punch_hole(fd, 0, 1 << 16)
        except OSError:
            return False
        finally:
            os.close(fd)
        return True

    def path(self, ino: InodeId) -> str:
        return f"{self.directory}/{ino}"

    def fd(self, ino: InodeId) -> int:
        """A descriptor of the inode's file, made if need be; stays valid until the next call of this object.

        Raises OSError, also when the journal cannot be written that must be before an older file goes.
        """
        fd = self._open.get(ino)
        if fd is not None:
            self._open.move_to_end(ino)
            return fd
        if ino in self.doomed:
            self._before_removal()
            self.bury([(ino, self.doomed[ino])])  # the number is another file's by now
        fd = self._open[ino] = self._open_or_make(self.path(ino))
        if len(self._open) > self._max_open:
            _, oldest = self._open.popitem(last=False)
            os.close(oldest)
        return fd

    def _open_or_make(self, path: str) -> int:
        if self._stocks and len(self._spare) <= _SPARE // 2:
            self.on_low()
        if self._spare:
            fd = self._spare.pop()
            try:
                # src_dir_fd counts for nothing here, but has linkat(2) called, which alone follows the link in /proc.
                os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=0, follow_symlinks=True)
            except FileExistsError:
                self._spare.append(fd)
            except OSError:
                os.close(fd)  # no /proc, say
                self._stocks = False
            else:
                return fd
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def stock(self) -> None:
        """Make files in advance that only need a name; to be called in another thread.

        Where many files were removed lately, ext4 takes up to half a millisecond for each that is made.  A disk or a
        filesystem that refuses it changes nothing: then each file is made when it is needed.
        """
        try:
            while self._stocks and len(self._spare) < _SPARE:
                self._spare.append(os.open(self.directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except OSError as error:
            self._stocks = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)

    def remove(self, ino: InodeId) -> None:
        """Remove the file of an inode that is gone, when the journal is written."""
        self.contents.pop(ino, None)
        fd = self._open.pop(ino, None)
        if fd is not None:
            os.close(fd)
        self._dooms += 1
        self.doomed[ino] = self._dooms
        if self.on_doomed is not None:
            self.on_doomed()
            return
        with contextlib.suppress(OSError):
            self._before_removal()
            self.bury(list(self.doomed.items()))

    def bury(self, doomed: Iterable[tuple[InodeId, int]]) -> None:
        """Remove those of these files that are to go still; the journal knows that nobody needs them."""
        for ino, number in doomed:
            if self.doomed.get(ino) == number:
                del self.doomed[ino]
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.path(ino))

    def retire(self, ino: InodeId) -> str:
        """Give the inode's file another name, which is answered, so that the inode can begin a new one.

        Raises OSError when the journal cannot be written, with nothing changed.
        """
        self._before_removal()
        self.contents.pop(ino, None)
        fd = self._open.pop(ino, None)
        if fd is not None:
            os.close(fd)
        self._retired += 1
        path = f"{self.directory}/retired-{self._retired}"
        os.rename(self.path(ino), path)
        return path

    def remove_retired(self) -> None:
        """Remove what a crash left behind of retired files."""
        for name in os.listdir(self.directory):
            if name.startswith("retired-"):
                os.unlink(f"{self.directory}/{name}")

    def existing(self) -> list[InodeId]:
        """Inode numbers of all files in the directory, as after a crash."""
        return [InodeId(int(name)) for name in os.listdir(self.directory) if name.isdigit()]

    def has_hole(self, ino: InodeId) -> bool:
        """Whether some bytes of the inode's file were never written to the disk, as far as the filesystem tells."""
        return _has_hole(self.path(ino)) and self._writes_zeros()

    def _writes_zeros(self) -> bool:
        """Whether zeros that are written are no hole, as they become on a filesystem that compresses (ZFS)."""
        if self._keeps_zeros is None:
            path = f"{self.directory}/retired-zeros"
            try:
                with open(path, "wb") as file:
                    file.write(bytes(_ZEROS))
                    file.flush()
                    os.fsync(file.fileno())
                self._keeps_zeros = not _has_hole(path)
                os.unlink(path)
            except OSError:  # the disk is full, say: then nothing is said of anybody's holes
                self._keeps_zeros = False
        return self._keeps_zeros

    def set_aside(self, ino: InodeId, name: bytes) -> str:
        """Keep what is left of a torn file under a name for users; the path.  Raises OSError."""
        kept = self._aside
        os.makedirs(kept, mode=0o700, exist_ok=True)
        when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        path = f"{kept}/{os.fsdecode(name[:_NAME_BYTES])} (torn by a power cut, {when}, {ino})"
        os.rename(self.path(ino), path)
        return path

    def count_aside(self) -> int:
        """How many files `set_aside` has kept and nobody has removed."""
        try:
            return len(os.listdir(self._aside))
        except FileNotFoundError:
            return 0

    @property
    def _aside(self) -> str:
        return os.path.join(os.path.dirname(self.directory), "torn")

    def close(self) -> None:
        while self._open:
            _, fd = self._open.popitem()
            os.close(fd)
        while self._spare:
            os.close(self._spare.pop())


class LocalContent:
    """The dirty bytes of one inode; see the module."""

    __slots__ = (
        "_entered",
        "_files",
        "away",
        "base_limit",
        "complete",
        "dense",
        "held",
        "ino",
        "local",
        "size",
        "synced_seq",
    )

    def __init__(self, files: DirtyFiles, ino: InodeId, size: int = 0) -> None:
        self._files = files
        self.ino = ino
        self.size = size
        self.complete = True
        #: Of a complete content: every byte was written.  The first hole that a program makes is journaled.
        self.dense = not size
        self.local = Extents()
        #: Of a partial content, what is here; INVARIANT: local is part of it.
        self.held = Extents()
        self.base_limit = 0
        #: INVARIANT: empty unless complete.
        self.away = Extents()
        #: The inode's content_seq when the file was last synced to the disk; -1: not since the mount.
        self.synced_seq = -1
        self._entered = False
        files.contents[ino] = self

    @classmethod
    def over_base(cls, files: DirtyFiles, ino: InodeId, base_size: int) -> LocalContent:
        """Content of which nothing is local yet: all bytes are those of the base version."""
        content = cls(files, ino, base_size)
        content.complete = False
        content.base_limit = base_size
        content.truncate_file(base_size)
        return content

    def fd(self) -> int:
        return self._files.fd(self.ino)

    def path(self) -> str:
        return self._files.path(self.ino)

    def syncing(self) -> Callable[[], None]:
        """Take hold of the file: the answer, to be called once and in any thread, makes it survive a power cut.

        It raises OSError.
        """
        if self._files.contents.get(self.ino) is not self:
            return lambda: None  # its file is another's by now, or gone
        return partial(self._sync, os.dup(self._files.fd(self.ino)))

    def _sync(self, fd: int) -> None:
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        if not self._entered:
            sync_directory(self._files.directory)
            self._entered = True

    def write(self, offset: int, data: bytes | memoryview) -> bool:
        """Store data at offset; True if the set of local ranges changed, or the first hole was made: to be journaled.

        Raises OSError (ENOSPC, EIO) with nothing recorded.
        """
        fd = self._files.fd(self.ino)
        try:
            end = offset + _pwrite_all(fd, data, offset)
        except OSError:
            # What fitted behind the end would come to light when the file grows, or after a crash.
            if os.fstat(fd).st_size > self.size:
                os.ftruncate(fd, self.size)
            raise
        changed = False
        if self.complete:
            if self.dense and offset > self.size:
                self.dense, changed = False, True
        else:
            if offset > self.size:
                changed = self._claim(self.size, offset)
            changed = self._claim(offset, end) or changed
        if end > self.size:
            self.size = end
        return changed

    def fill(self, offset: int, data: bytes) -> None:
        """Store bytes of the base where they are missing; leaves alone what is local already."""
        for start, end in list(self.local.gaps(offset, offset + len(data))):
            _pwrite_all(self._files.fd(self.ino), memoryview(data)[start - offset : end - offset], start)
            self._claim(start, end)

    def read_local(self, start: int, end: int) -> bytes:
        """Bytes [start, end), which must be local; shorter only if the disk lost some."""
        return os.pread(self._files.fd(self.ino), end - start, start)

    def view_local(self, start: int, end: int) -> bytes | memoryview:
        """Like read_local, for who lets go of the bytes soon: their memory is used again."""
        return pread(self._files.fd(self.ino), end - start, start)

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of [start, end) that only the base version has; nothing of them may be `away`."""
        if self.complete:
            return []
        return list(self.held.gaps(start, min(end, self.base_limit)))

    def truncate(self, size: int) -> None:
        """Cut, or extend with zeros."""
        self.truncate_file(size)
        self.away.remove(size, max(size, self.size))
        if not self.complete:
            if size < self.size:
                self.local.remove(size, self.size)
                self.held.remove(size, self.size)
                self.base_limit = min(self.base_limit, size)
            else:
                self._claim(self.size, size)
            if self.base_limit == 0:
                self._become_complete()
        self.dense = not size or (self.dense and size <= self.size)
        self.size = size

    def truncate_file(self, size: int) -> None:
        os.ftruncate(self._files.fd(self.ino), size)

    # ---- what is not only here -----------------------------------------------------------------------------------

    def rest_on(self, base_size: int, changed: Extents) -> None:
        """A version of base_size bytes holds the content, but for the ranges `changed`: it is the base from now on.

        What is here stays here; what was away is the base's.  The caller sees to the inode's base and to the journal.
        """
        held = self.held.copy() if not self.complete else Extents([(0, self.size)])
        for start, end in self.away:
            held.remove(start, end)
        self.away.clear()
        self.complete = False
        self.base_limit = min(base_size, self.size)
        self.local = Extents(changed.intersect(0, self.size))
        self.local.add(self.base_limit, self.size)
        held.update(self.local)
        self.held = held
        if self.local.covers(0, self.base_limit):
            self._become_complete()

    def can_rest_on(self, base_size: int) -> bool:
        """Whether that would free space, if a version of base_size bytes holds the content and all of that is here."""
        return self.complete and not self.away and self.size == base_size > _SMALL_BYTES

    def spare_bytes(self) -> int:
        """How many bytes are here although the base has them."""
        return sum(end - start for start, end in self.spare())

    def spare(self) -> list[tuple[int, int]]:
        """Ranges that are here although the base has them."""
        if self.complete:
            return []
        return [gap for start, end in self.held for gap in self.local.gaps(start, min(end, self.base_limit))]

    def let_go(self, start: int, end: int) -> None:
        """Give up the space of bytes that are `spare` or `away`; the journal must know it durably.  Raises OSError."""
        if self._files.contents.get(self.ino) is not self:
            return  # its file is another's by now, or gone
        if not self.complete:
            self.held.remove(start, end)
            # Whole blocks, as far as nothing in them counts: a block of which a part stays keeps its space.
            around = self.held.gaps(start // _BLOCK * _BLOCK, -(-end // _BLOCK) * _BLOCK)
            start, end = next(gap for gap in around if gap[0] <= start < gap[1])
        punch_hole(self._files.fd(self.ino), start, end)

    def disk_bytes(self) -> int:
        """What the file needs on the disk."""
        if self.size <= _SMALL_BYTES:
            return self.size
        try:
            return os.stat(self.path()).st_blocks << 9
        except FileNotFoundError:  # nothing was written to it yet
            return 0

    def claim_held(self) -> None:
        """What is here counts as changed: the base is about to go."""
        for start, end in list(self.held):
            self._claim(start, end)

    def changed_bytes(self) -> int:
        """How many bytes no version in the bucket has."""
        return self.size if self.complete else self.local.total

    def blocks(self) -> int:
        """st_blocks of a complete file, in units of 512 bytes, so that sparse files look sparse."""
        return os.fstat(self._files.fd(self.ino)).st_blocks

    def discard(self) -> None:
        self._files.remove(self.ino)

    def changed_ranges(self) -> list[tuple[int, int]]:
        """Local ranges within the size, ascending; a complete content is one range."""
        if self.complete:
            return [(0, self.size)] if self.size else []
        return [(start, end) for start, end in self.local if start < end]

    def _claim(self, start: int, end: int) -> bool:
        if start >= end or self.local.covers(start, end):
            return False
        self.local.add(start, end)
        self.held.add(start, end)
        if self.local.covers(0, self.base_limit):
            # Nothing of the base shows any more.
            self._become_complete()
        return True

    def _become_complete(self) -> None:
        self.complete = True
        self.dense = False
        self.local = Extents()
        self.held = Extents()
        self.base_limit = 0


def _has_hole(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(fd, 0, os.SEEK_HOLE) < os.fstat(fd).st_size
    except OSError:  # an empty file, or a filesystem that does not tell
        return False
    finally:
        os.close(fd)


def _pwrite_all(fd: int, data: bytes | memoryview, offset: int) -> int:
    done = os.pwrite(fd, data, offset)
    total = len(data)
    while done < total:
        done += os.pwrite(fd, memoryview(data)[done:], offset + done)
    return total


_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def punch_hole(fd: int, start: int, end: int) -> None:
    """Give back the space of the bytes [start, end), which are zeros then.  Raises OSError."""
    while _libc.fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, start, end - start):
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
