"""BlockCache: file contents on the local disk, bounded, bytes only, never trusted without a checksum.

An entry is a stretch of one content: a *block*, of one of two sizes (`large_bytes` or `block_bytes`, or up to the
content's end), or a *grain* (a small stretch that a random read left behind).  Contents never change, so entries are
never invalidated; the least recently used ones make room for new ones.  Losing the cache costs time, never data: every
fault in here reads as "not cached".

The store is diskcache (SQLite for the index and small values, one file per larger value) with two changes:
- values are bytes with a CRC-32C, and nothing is ever unpickled (see blockdisk);
- access times are collected in memory and written in batches: diskcache's own LRU policy does one UPDATE transaction
  per read, which makes a 4 KiB read 77 us instead of 7.

All methods block on the local disk and may be called from any thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import diskcache

from b2fs.cache.blockdisk import Buffer, ByteCache
from b2fs.core.extents import Extents
from b2fs.core.types import ObjectRef
from b2fs.errors import ConfigError

log = logging.getLogger(__name__)

_DAMAGED_MARK = "damaged"
#: Stands between number and size in a key.  Entries with other marks are of earlier formats: nobody finds them,
#: and they make room in their turn.
_UNIT_MARK = "c"
_FLUSH_TOUCHES = 1024
#: A transaction is kept in memory until its end, as far as it fits (blockdisk).
_ROWS_PER_TRANSACTION = 32


@dataclass(frozen=True, slots=True)
class BlockCacheConfig:
    """directory is made if needed and must be ours alone; sizes in bytes."""

    directory: str
    size_bytes: int = 10 << 30
    #: What a sequential reader leaves: a file for each.  New files are dear (ext4), so not smaller.
    large_bytes: int = 8 << 20
    #: 1 MiB is one kernel request.
    block_bytes: int = 1 << 20
    grain_bytes: int = 32 << 10
    #: Has a checksum of its own, so it is the least that is read of a block.
    chunk_bytes: int = 128 << 10
    #: Left free on the disk, however much the cache may hold: what is written and not yet uploaded comes first.
    spare_disk_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        if self.grain_bytes <= 0 or self.chunk_bytes % self.grain_bytes or self.block_bytes % self.chunk_bytes:
            raise ConfigError(
                "The cache's block size must be a multiple of its chunk size, and that of its grain size."
            )
        if self.large_bytes < self.block_bytes or self.large_bytes % self.block_bytes:
            raise ConfigError("The cache's large block size must be a multiple of its block size.")
        if self.size_bytes < 4 * self.block_bytes:
            raise ConfigError(f"The cache needs at least {4 * self.block_bytes} bytes.")

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """Sizes of blocks, largest first; a small cache has no large ones: when it is full, ten entries go at once."""
        large = self.large_bytes > self.block_bytes and self.size_bytes >= 64 * self.large_bytes
        return (self.large_bytes, self.block_bytes) if large else (self.block_bytes,)


@dataclass(slots=True)
class BlockCacheStats:
    """Counters since the start."""

    hits: int = 0
    misses: int = 0
    hit_bytes: int = 0
    stored_bytes: int = 0
    damaged: int = 0
    failed_puts: int = 0
    faults: int = 0


def content_key(ref: ObjectRef) -> str:
    """Name a content for the cache: 32 hexadecimal digits.

    A listing shows no version IDs, so the same content is met with and without one, and a copy onto itself that only
    changes metadata makes a new version of the same content.  Key, ETag and size name it in all of these cases; the
    version ID is only needed where there is no ETag.
    """
    text = f"{ref.key}\0{ref.etag}\0{ref.size}" if ref.etag else f"\0\0{ref.version_id}"
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


class BlockCache:
    """See the module's text.  Close it when done."""

    def __init__(self, config: BlockCacheConfig, free_bytes: Callable[[str], int] | None = None) -> None:
        """free_bytes tells how much is free on the disk of a directory."""
        self.config = config
        self.stats = BlockCacheStats()
        self._free_bytes = free_bytes or _free_bytes
        _claim_directory(config.directory)
        self._opened_at = time.time()
        self._cache = _open(config)
        self._guard = _Guard(config.directory, self.stats)
        self._write_lock = threading.Lock()
        #: Held while the index is closed, and by `sweep` while it reads it: nobody waits for the thread that sweeps.
        self._closing = threading.Lock()
        self._closed = False
        # Keys read since the last flush and when; guarded by the GIL (single dict operations).
        self._touched: dict[str, float] = {}

    def close(self) -> None:
        """Write the access times and close the index.  Only `sweep` may still be running in another thread."""
        self._flush_touches()
        with self._closing:
            self._closed = True
            self._cache.close()

    # --- reading

    def present(self, ref: ObjectRef) -> Extents:
        """Return which bytes of the content are (probably) cached, in one query."""
        prefix = content_key(ref) + ":"
        extents = Extents()
        with self._guard:
            for key in self._cache.keys_from(prefix, prefix[:-1] + ";"):
                extents.add(*self._span(key, ref.size))
        return extents

    def use_all(self, refs: Sequence[ObjectRef]) -> list[Extents]:
        """As `present` for each, and what is there counts as just used: it is among the last to make room."""
        return [self._use(ref) for ref in refs]

    def _use(self, ref: ObjectRef) -> Extents:
        prefix = content_key(ref) + ":"
        extents = Extents()
        with self._guard:
            for key in list(self._cache.keys_from(prefix, prefix[:-1] + ";")):
                extents.add(*self._span(key, ref.size))
                self._touch(key)
        return extents

    def get_block(self, ref: ObjectRef, start: int) -> Buffer | None:
        """Return the block that starts at `start` (a multiple of block_bytes), or None."""
        found = self._get(_key(content_key(ref), start, self.config.block_bytes), 0, self.config.block_bytes)
        return None if found is None else found[1]

    def get_range(self, ref: ObjectRef, start: int, end: int) -> list[tuple[int, Buffer]]:
        """Return the cached stretches that share bytes with [start, end), as (start, content), ascending.

        They may reach out on both sides (to whole chunks), and never overlap.
        """
        sizes = self._sizes_for(ref)
        if ref.size <= self.config.grain_bytes:
            sizes = sizes[:1]  # it is never fetched in parts
        return list(self._stretches(content_key(ref), sizes, start, end))

    def get_wholes(self, refs: Sequence[ObjectRef]) -> list[Buffer | None]:
        """Return the contents of many objects of at most one block each, None for what is not cached."""
        return [self.get_block(ref, 0) for ref in refs]

    # --- writing

    def put_range(self, ref: ObjectRef, start: int, data: Buffer) -> int:
        """Keep a stretch of a content; return how many of its bytes were kept.

        start is a multiple of grain_bytes and so is the end, unless it is the content's end.  What cannot be written
        (disk full) is only counted.
        """
        return self.put_many([(ref, start, data)])

    def put_many(self, stretches: Iterable[tuple[ObjectRef, int, Buffer]]) -> int:
        """Keep many stretches; the small ones share a transaction."""
        small: list[tuple[str, str, Buffer]] = []
        kept = 0
        with self._write_lock:
            if not self._has_disk():
                return 0
            for ref, start, data in stretches:
                tag = _tag(ref.content_id)
                for key, part in self._cut(ref, start, data):
                    if len(part) <= self.config.grain_bytes:
                        small.append((key, tag, part))
                    else:
                        kept += self._put_all([(key, tag, part)])
            for index in range(0, len(small), _ROWS_PER_TRANSACTION):
                kept += self._put_all(small[index : index + _ROWS_PER_TRANSACTION])
            self._shrink()
        return kept

    def put_whole(self, ref: ObjectRef, content: str | bytes | bytearray | memoryview) -> int:
        """Keep a whole content, given as bytes or as the path of a file; return how many bytes were kept.

        A file that is shorter or longer than ref.size is not the content and is left alone.
        """
        if not isinstance(content, str):
            return self.put_range(ref, 0, memoryview(content)) if len(content) == ref.size else 0
        kept = 0
        with open(content, "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != ref.size:
                return 0
            for start in range(0, ref.size, self.config.block_bytes):
                part = os.pread(file.fileno(), self.config.block_bytes, start)
                if len(part) != min(self.config.block_bytes, ref.size - start):
                    break  # truncated meanwhile
                kept += self.put_range(ref, start, part)
        return kept

    def evict(self, content_id: str) -> None:
        """Forget what was stored under a ref with this content_id."""
        with self._write_lock, self._guard:
            self._cache.evict(_tag(content_id), retry=True)

    def sweep(self) -> int:
        """Remove files that no row owns (left by a crash between file and row); return how many.  Slow: walks all."""
        with self._guard:
            with self._closing:
                if self._closed:
                    return 0
                owned = self._cache.file_names()
            return self._sweep(owned)
        return 0

    def _sweep(self, owned: set[str]) -> int:
        removed = 0
        for directory, _, names in os.walk(self.config.directory):
            for name in names:
                path = os.path.join(directory, name)
                if name.endswith(".val") and os.path.relpath(path, self.config.directory) not in owned:
                    removed += self._remove_stray(path)
        return removed

    @property
    def used_bytes(self) -> int:
        """Bytes on disk, index included."""
        return int(self._cache.volume())

    # --- inside

    def _sizes_for(self, ref: ObjectRef) -> tuple[int, ...]:
        """The sizes of entries that a content can have, largest first."""
        blocks = self.config.block_sizes if ref.size > self.config.block_bytes else (self.config.block_bytes,)
        return (*blocks, self.config.grain_bytes)

    def _stretches(self, content: str, sizes: Sequence[int], start: int, end: int) -> Iterator[tuple[int, Buffer]]:
        """Yield what is cached of [start, end): for each entry of the first size what it has, else of the next one."""
        unit = sizes[0]
        for first in range(start - start % unit, end, unit):
            low, high = max(start, first), min(end, first + unit)
            part = self._get(_key(content, first, unit), low - first, high - first)
            if part is not None:
                yield first + part[0], part[1]
            elif len(sizes) > 1:
                yield from self._stretches(content, sizes[1:], low, high)

    def _get(self, key: str, start: int, end: int) -> tuple[int, Buffer] | None:
        """The chunks of an entry that hold its bytes [start, end), as (position, bytes)."""
        stats = self.stats
        with self._guard:
            entry = self._cache.get(key)
            if entry is None:
                stats.misses += 1
                return None
            try:
                found: tuple[int, Buffer] | None = entry.read(key, start, end)
            except FileNotFoundError:  # it was evicted between row and file, or somebody cleaned up
                stats.misses += 1
                return None
            if found is not None:
                stats.hits += 1
                stats.hit_bytes += len(found[1])
                self._touch(key)
                return found
            stats.damaged += 1
            log.warning("A damaged entry of the block cache was dropped; it will be fetched again.")
            with self._write_lock:
                self._cache.delete(key, retry=True)
        return None

    def _cut(self, ref: ObjectRef, start: int, data: Buffer) -> Iterator[tuple[str, memoryview]]:
        """Cut a stretch into the largest blocks that it holds whole, and grains elsewhere."""
        content, view, end, sizes = content_key(ref), memoryview(data), start + len(data), self._sizes_for(ref)
        position = start
        while position < end:
            for unit in sizes:
                stop = min(position + unit, ref.size)
                if position % unit == 0 and stop <= end:
                    break
            stop = min(stop, end)
            yield _key(content, position, unit), view[position - start : stop - start]
            position = stop

    def _put_all(self, entries: Sequence[tuple[str, str, Buffer]]) -> int:
        """Store entries in one transaction.  Only entries without files may share one: a rollback leaves files."""
        size = sum(len(part) for _, _, part in entries)
        transaction = self._cache.transact(retry=True) if len(entries) > 1 else contextlib.nullcontext()
        with self._guard:
            with transaction:
                for key, tag, part in entries:
                    self._cache.set(key, part, tag=tag, retry=True)
            self.stats.stored_bytes += size
            return size
        self.stats.failed_puts += len(entries)
        return 0

    def yield_disk(self) -> None:
        """Give up what the disk needs for other things.  Quick if that is nothing."""
        with self._write_lock:
            self._shrink()

    def _has_disk(self) -> bool:
        """Whether the disk has room to spare, after making some."""
        with self._guard:
            if self._lacking() <= 0:
                return True
            self._shrink()
            return self._lacking() <= 0
        return False

    def _lacking(self) -> int:
        """How many bytes more should be free on the disk."""
        return self.config.spare_disk_bytes - self._free_bytes(self.config.directory)

    def _shrink(self) -> None:
        with self._guard:
            volume = self._cache.volume()
            limit = min(self.config.size_bytes, volume - self._lacking())
            if volume > limit:
                self._flush_touches_locked()
                self._cache.make_room(limit)

    def _touch(self, key: str) -> None:
        self._touched[key] = time.time()
        if len(self._touched) >= _FLUSH_TOUCHES and self._write_lock.acquire(blocking=False):
            try:
                self._flush_touches_locked()
            finally:
                self._write_lock.release()

    def _flush_touches(self) -> None:
        with self._write_lock:
            self._flush_touches_locked()

    def _flush_touches_locked(self) -> None:
        touched, self._touched = self._touched, {}
        if touched:
            with self._guard:
                self._cache.touch_all(touched)

    def _remove_stray(self, path: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_mtime < self._opened_at - 1:  # a younger one may be about to get its row
                os.unlink(path)
                return True
        return False

    def _span(self, key: str, size: int) -> tuple[int, int]:
        """The byte range of a key; an empty one if it was made with other block sizes."""
        number, _, made_with = key[33:].partition(_UNIT_MARK)
        for unit in (*self.config.block_sizes, self.config.grain_bytes):
            if made_with == str(unit):
                start = int(number) * unit
                return start, min(start + unit, size)
        return 0, 0


class _Guard:
    """Turns every fault of disk and index into "nothing happened" and counts it."""

    def __init__(self, directory: str, stats: BlockCacheStats) -> None:
        self._directory = directory
        self._stats = stats

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, OSError | sqlite3.OperationalError | diskcache.Timeout):
            self._report("The block cache does not work: %s", error)
            return True
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.ProgrammingError):
            self._report("The block cache's index is damaged and will be made anew at the next start: %s", error)
            with contextlib.suppress(OSError), open(os.path.join(self._directory, _DAMAGED_MARK), "wb"):
                pass
            return True
        return False

    def _report(self, text: str, error: BaseException) -> None:
        """Log a fault once: a broken cache would fill the log."""
        self._stats.faults += 1
        if self._stats.faults == 1:
            log.warning(text, error)


def _free_bytes(directory: str) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def _key(content: str, start: int, unit: int) -> str:
    return f"{content}:{start // unit}{_UNIT_MARK}{unit}"


def _tag(content_id: str) -> str:
    return hashlib.blake2b(content_id.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def _claim_directory(directory: str) -> None:
    """Make the directory, private to us.  Raises ConfigError if that is not possible."""
    if os.path.expandvars(os.path.expanduser(directory)) != directory:
        raise ConfigError(f"The cache directory {directory} must not contain '~' or '$': diskcache would expand them.")
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        status = os.lstat(directory)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise ConfigError(f"The cache directory {directory} belongs to somebody else or is a symbolic link.")
        os.chmod(directory, 0o700)
    except OSError as error:
        raise ConfigError(f"The cache directory {directory} cannot be used: {error.strerror}.") from error


def _open(config: BlockCacheConfig) -> ByteCache:
    """Open the index; a damaged one is thrown away with everything that it knew."""
    directory = config.directory
    if os.path.exists(os.path.join(directory, _DAMAGED_MARK)):
        _wipe(directory)
    try:
        return _open_index(config)
    except sqlite3.OperationalError as error:
        raise ConfigError(f"The cache directory {directory} cannot be used: {error}.") from error
    except sqlite3.DatabaseError:
        log.warning("The block cache's index is damaged; the cache starts empty.")
        _wipe(directory)
        return _open_index(config)


def _open_index(config: BlockCacheConfig) -> ByteCache:
    return ByteCache(
        config.directory,
        size_bytes=config.size_bytes,
        inline_bytes=config.grain_bytes + 1,
        chunk_bytes=config.chunk_bytes,
    )


def _wipe(directory: str) -> None:
    """Remove what a block cache leaves in its directory, and nothing else."""
    for entry in list(os.scandir(directory)):
        if entry.name == _DAMAGED_MARK or entry.name.startswith("cache.db"):
            os.unlink(entry.path)
        elif len(entry.name) == 2 and entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
