"""The block cache: bounded, checked, bytes only, and never in the way."""

from __future__ import annotations

import logging
import os
import pickle
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from b2fs.cache.blocks import BlockCache, BlockCacheConfig, content_key
from b2fs.core.types import ETag, ObjectRef, VersionId
from b2fs.errors import ConfigError

KIB, MIB = 1 << 10, 1 << 20
BLOCK, CHUNK, GRAIN = 64 * KIB, 16 * KIB, 4 * KIB


def _ref(size: int, key: str = "k", version: str | None = None, etag: str = "e") -> ObjectRef:
    return ObjectRef(key, VersionId(version) if version else None, ETag(etag), size)


def _open(
    directory: Path, size_bytes: int = 64 * MIB, large_bytes: int = BLOCK, block_bytes: int = BLOCK
) -> BlockCache:
    return BlockCache(
        BlockCacheConfig(
            str(directory),
            size_bytes=size_bytes,
            large_bytes=large_bytes,
            block_bytes=block_bytes,
            chunk_bytes=CHUNK,
            grain_bytes=GRAIN,
        )
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "blocks"


@pytest.fixture
def cache(directory: Path) -> Iterator[BlockCache]:
    cache = _open(directory)
    yield cache
    cache.close()


def _read(cache: BlockCache, ref: ObjectRef, start: int, end: int) -> bytes | None:
    """The bytes [start, end) if the cache has them all."""
    position, parts = start, []
    for at, data in cache.get_range(ref, start, end):
        if at > position:
            return None
        parts.append(data[position - at : end - at])
        position = min(end, at + len(data))
    return b"".join(parts) if position >= end else None


def _damage(directory: Path, *, truncate: bool) -> int:
    """Spoil every content file; return how many there were."""
    paths = list(directory.glob("??/*.val"))
    for path in paths:
        content = path.read_bytes()
        path.write_bytes(content[:-1] if truncate else bytes([content[0] ^ 1]) + content[1:])
    return len(paths)


def test_survives_a_restart(directory: Path) -> None:
    content = os.urandom(3 * BLOCK + 100)
    ref = _ref(len(content))
    cache = _open(directory)
    assert cache.put_range(ref, 0, content) == len(content)
    cache.close()
    cache = _open(directory)
    assert _read(cache, ref, 0, len(content)) == content
    assert list(cache.present(ref)) == [(0, len(content))]
    cache.close()


def test_parts_of_a_block_are_kept_as_grains(cache: BlockCache) -> None:
    content = os.urandom(4 * BLOCK)
    ref = _ref(len(content))
    cache.put_range(ref, GRAIN, content[GRAIN : BLOCK + 2 * GRAIN])
    assert list(cache.present(ref)) == [(GRAIN, BLOCK + 2 * GRAIN)]
    assert _read(cache, ref, GRAIN + 7, BLOCK + 9) == content[GRAIN + 7 : BLOCK + 9]
    assert _read(cache, ref, 0, 10) is None
    assert cache.get_block(ref, 0) is None


@pytest.mark.parametrize("size", [1, GRAIN - 1, GRAIN, GRAIN + 1, BLOCK - 1, BLOCK, BLOCK + 1])
def test_true_sizes(cache: BlockCache, size: int) -> None:
    content = os.urandom(size)
    ref = _ref(size)
    assert cache.put_whole(ref, content) == size
    assert _read(cache, ref, 0, size) == content
    assert list(cache.present(ref)) == [(0, size)]


def test_sequential_stretches_become_few_files(directory: Path) -> None:
    content = os.urandom(11 * BLOCK + 3)
    ref = _ref(len(content))
    cache = _open(directory, large_bytes=4 * BLOCK)
    for start, end in ((0, BLOCK), (BLOCK, 4 * BLOCK), (4 * BLOCK, 8 * BLOCK), (8 * BLOCK, len(content))):
        assert cache.put_range(ref, start, content[start:end]) == end - start
    assert len(list(directory.glob("??/*.val"))) == 4 + 1 + 1, "blocks where no large one was filled"
    assert len(list(directory.glob("??"))) == 1, "one directory for the content"
    assert list(cache.present(ref)) == [(0, len(content))]
    assert b"".join(bytes(data) for _, data in cache.get_range(ref, 0, len(content))) == content
    before = cache.stats.hit_bytes
    (start, data), (second, more) = cache.get_range(ref, 4 * BLOCK - 1, 4 * BLOCK + 1)
    assert (start, second) == (4 * BLOCK - CHUNK, 4 * BLOCK)
    assert bytes(data) + bytes(more) == content[4 * BLOCK - CHUNK : 4 * BLOCK + CHUNK]
    assert cache.stats.hit_bytes - before == 2 * CHUNK, "chunks, not whole entries"
    cache.close()


def test_a_small_cache_has_no_large_entries(directory: Path) -> None:
    cache = _open(directory, size_bytes=255 * BLOCK, large_bytes=4 * BLOCK)
    ref = _ref(4 * BLOCK)
    cache.put_range(ref, 0, os.urandom(ref.size))
    assert len(list(directory.glob("??/*.val"))) == 4
    cache.close()


def test_the_same_content_is_found_with_and_without_its_version(cache: BlockCache) -> None:
    cache.put_whole(_ref(5, version="4_z1"), b"hello")
    assert cache.get_wholes([_ref(5), _ref(5, version="4_z2"), _ref(5, etag="other"), _ref(5, key="other")]) == [
        b"hello",
        b"hello",
        None,
        None,
    ]
    assert content_key(_ref(5, version="a", etag="")) != content_key(_ref(5, version="b", etag=""))


def test_put_whole_takes_a_file_only_if_it_is_the_content(cache: BlockCache, tmp_path: Path) -> None:
    content = os.urandom(BLOCK + 5)
    path = tmp_path / "file"
    path.write_bytes(content)
    assert cache.put_whole(_ref(len(content) + 1), str(path)) == 0
    assert cache.put_whole(_ref(4), b"hello") == 0
    assert cache.put_whole(_ref(len(content)), str(path)) == len(content)
    assert _read(cache, _ref(len(content)), 0, len(content)) == content


def test_a_part_of_a_block_is_read_without_the_rest(cache: BlockCache, directory: Path) -> None:
    content, ref = os.urandom(2 * BLOCK), _ref(2 * BLOCK)
    cache.put_range(ref, 0, content)
    start = BLOCK + CHUNK + 5
    assert cache.get_range(ref, start, start + CHUNK) == [(BLOCK + CHUNK, content[BLOCK + CHUNK : BLOCK + 3 * CHUNK])]
    for path in directory.glob("??/*.val"):
        with path.open("r+b") as file:
            file.seek(3 * CHUNK + 1)
            file.write(b"damage")
    assert _read(cache, ref, start, start + CHUNK) is not None, "the damage is elsewhere"
    assert _read(cache, ref, start, start + 2 * CHUNK) is None
    assert cache.stats.damaged == 1


@pytest.mark.parametrize("truncate", [True, False])
def test_damaged_files_are_dropped(
    cache: BlockCache, directory: Path, truncate: bool, caplog: pytest.LogCaptureFixture
) -> None:
    ref = _ref(2 * BLOCK)
    cache.put_range(ref, 0, os.urandom(2 * BLOCK))
    assert _damage(directory, truncate=truncate) == 2
    with caplog.at_level(logging.WARNING):
        assert cache.get_block(ref, 0) is None
    assert cache.stats.damaged == 1
    assert "damaged" in caplog.text
    assert list(cache.present(ref)) == [(BLOCK, 2 * BLOCK)], "the entry is gone"
    content = os.urandom(BLOCK)
    cache.put_range(ref, 0, content)
    assert cache.get_block(ref, 0) == content


def test_a_missing_file_is_a_miss(cache: BlockCache, directory: Path) -> None:
    ref = _ref(BLOCK)
    cache.put_range(ref, 0, os.urandom(BLOCK))
    for path in directory.glob("??/*.val"):
        path.unlink()
    assert cache.get_block(ref, 0) is None


def _spoil_rows(directory: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(directory / "cache.db")
    with connection:
        connection.execute(statement, values)
    connection.close()


def test_planted_pickles_are_not_loaded(directory: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(directory / "pwned"),)

    cache = _open(directory)
    ref = _ref(10)
    cache.put_whole(ref, b"0123456789")
    _spoil_rows(directory, "UPDATE Cache SET mode = 4, value = ?", pickle.dumps(Trap()))
    assert cache.get_block(ref, 0) is None
    assert cache.stats.damaged == 1
    cache.close()
    assert not (directory / "pwned").exists()


def test_an_intact_value_under_a_wrong_key_is_refused(cache: BlockCache, directory: Path) -> None:
    mine, other = _ref(10), _ref(10, key="other")
    cache.put_whole(mine, b"0123456789")
    cache.put_whole(other, b"abcdefghij")
    _spoil_rows(
        directory, "UPDATE Cache SET value = (SELECT value FROM Cache WHERE key LIKE ?)", f"{content_key(mine)}%"
    )
    assert cache.get_block(mine, 0) == b"0123456789"
    assert cache.get_block(other, 0) is None


def test_the_least_recently_used_leave_and_the_limit_holds(directory: Path) -> None:
    cache = _open(directory, size_bytes=MIB)
    kept = _ref(BLOCK, key="kept")
    cache.put_whole(kept, os.urandom(BLOCK))
    for number in range(60):
        cache.put_whole(_ref(BLOCK, key=f"k{number}"), os.urandom(BLOCK))
        assert cache.get_block(kept, 0) is not None, "read all the time, so it stays"
        assert cache.used_bytes <= MIB
    assert cache.get_block(_ref(BLOCK, key="k0"), 0) is None
    assert cache.get_block(_ref(BLOCK, key="k59"), 0) is not None
    on_disk = sum(path.stat().st_size for path in directory.rglob("*.val"))
    assert on_disk <= MIB
    cache.close()


class _Disk:
    """A disk on which only the cache and `others` take room."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.others = 0

    def free(self, directory: str) -> int:
        used = sum(path.stat().st_size for path in Path(directory).rglob("*.val"))
        return self.size - used - self.others


def test_what_the_disk_needs_for_other_things_is_given_up(directory: Path) -> None:
    disk = _Disk(3 * MIB)
    config = BlockCacheConfig(
        str(directory),
        large_bytes=BLOCK,
        block_bytes=BLOCK,
        chunk_bytes=CHUNK,
        grain_bytes=GRAIN,
        spare_disk_bytes=MIB,
    )
    cache = BlockCache(config, disk.free)
    refs = [_ref(BLOCK, f"k{number}") for number in range(64)]
    for ref in refs:
        cache.put_range(ref, 0, os.urandom(BLOCK))
        assert disk.free(str(directory)) >= MIB - BLOCK
    assert cache.get_block(refs[-1], 0) is not None
    assert cache.get_block(refs[0], 0) is None
    kept = sum(cache.get_block(ref, 0) is not None for ref in refs)
    assert kept >= 16
    disk.others = MIB
    cache.yield_disk()
    assert disk.free(str(directory)) >= MIB
    assert cache.get_block(refs[-1], 0) is not None
    disk.others = 3 * MIB
    assert cache.put_range(refs[0], 0, bytes(BLOCK)) == 0
    assert not any(cache.get_block(ref, 0) for ref in refs)
    disk.others = 0
    assert cache.put_range(refs[0], 0, bytes(BLOCK)) == BLOCK
    cache.close()


def test_evict_forgets_one_content(cache: BlockCache) -> None:
    one, two = _ref(BLOCK, key="a", version="v1"), _ref(BLOCK, key="b", version="v2")
    cache.put_whole(one, os.urandom(BLOCK))
    cache.put_whole(two, os.urandom(BLOCK))
    cache.evict(one.content_id)
    assert cache.get_block(one, 0) is None
    assert cache.get_block(two, 0) is not None


def test_the_directory_is_private(directory: Path) -> None:
    directory.mkdir(mode=0o755)
    _open(directory).close()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_unusable_directories_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "file/below", "link", "$HOME"):
        with pytest.raises(ConfigError):
            _open(tmp_path / name)


@pytest.mark.parametrize("wrong", [{"grain_bytes": 3}, {"size_bytes": 10}, {"large_bytes": 3 << 19}])
def test_wrong_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        BlockCacheConfig("/nowhere", **wrong)


def test_a_damaged_index_starts_empty(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = _open(directory)
    cache.put_whole(_ref(BLOCK), os.urandom(BLOCK))
    cache.close()
    for path in directory.glob("cache.db*"):
        path.write_bytes(b"this is not a database" * 100)
    cache = _open(directory)
    assert "damaged" in caplog.text
    assert cache.get_block(_ref(BLOCK), 0) is None
    assert not list(directory.rglob("*.val"))
    cache.put_whole(_ref(3), b"new")
    assert cache.get_block(_ref(3), 0) == b"new"
    cache.close()


def test_an_index_damaged_while_in_use_only_misses(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = _open(directory)
    cache.put_whole(_ref(3), b"abc")
    _spoil_rows(directory, "DROP TABLE Cache")
    assert cache.get_block(_ref(3), 0) is None
    assert cache.put_whole(_ref(3), b"abc") == 0
    assert list(cache.present(_ref(3))) == []
    assert cache.stats.faults >= 2
    assert caplog.text.count("block cache") == 1, "said once"


def test_an_index_that_is_cut_while_in_use_only_misses(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is not mapped into memory, where that would end the process."""
    cache = _open(directory)
    small = [bytes([number]) * (GRAIN - number) for number in range(200)]
    for body in small:
        cache.put_whole(_ref(len(body)), body)
    cache.close()
    cache = _open(directory)
    assert cache.get_block(_ref(len(small[0])), 0) == small[0]
    assert f"{directory}/cache.db\n" not in Path("/proc/self/maps").read_text()
    os.truncate(directory / "cache.db", 8192)
    for body in small:
        assert cache.get_block(_ref(len(body)), 0) in (None, body)
    cache.put_whole(_ref(2), b"ab")
    assert caplog.text.count("block cache") <= 1
    cache.close()


def test_a_directory_that_cannot_be_written_costs_nothing_but_the_cache(cache: BlockCache, directory: Path) -> None:
    ref = _ref(BLOCK)
    for number in range(256):
        (directory / f"{number:02x}").write_bytes(b"in the way of the sub-directories")
    assert cache.put_whole(ref, os.urandom(BLOCK)) == 0
    assert cache.stats.failed_puts == 1
    assert cache.get_block(ref, 0) is None


def test_sweep_removes_only_files_without_a_row(directory: Path) -> None:
    cache = _open(directory)
    content = os.urandom(BLOCK)
    cache.put_whole(_ref(BLOCK), content)
    stray, young = directory / "ab" / "cd" / "0.val", directory / "ab" / "cd" / "1.val"
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"left by a crash")
    os.utime(stray, (1, 1))
    young.write_bytes(b"being written")
    assert cache.sweep() == 1
    assert young.exists()
    assert cache.get_block(_ref(BLOCK), 0) == content
    cache.close()


def test_closing_waits_for_a_sweep_that_reads_the_index(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody waits for the thread that sweeps: SQLite ended the process when its connection was closed meanwhile.
    cache, order = _open(directory), list[str]()
    began, go_on = threading.Event(), threading.Event()
    names, close = cache._cache.file_names, cache._cache.close

    def slow_names() -> set[str]:
        began.set()
        assert go_on.wait(30)
        order.append("read")
        return names()

    def noted_close() -> None:
        order.append("closed")
        close()

    monkeypatch.setattr(cache._cache, "file_names", slow_names)
    monkeypatch.setattr(cache._cache, "close", noted_close)
    sweeping, closing = threading.Thread(target=cache.sweep), threading.Thread(target=cache.close)
    sweeping.start()
    assert began.wait(30)
    closing.start()
    closing.join(0.2)  # what does not wait is done by then
    go_on.set()
    sweeping.join()
    closing.join()
    assert order == ["read", "closed"]
    assert cache.sweep() == 0


def test_many_threads(cache: BlockCache) -> None:
    contents = {f"k{number}": os.urandom(number * 997 + 1) for number in range(60)}
    wrong: list[str] = []

    def work(keys: list[str]) -> None:
        for key in keys:
            ref = _ref(len(contents[key]), key=key)
            cache.put_whole(ref, contents[key])
            for other in keys:
                found = _read(cache, _ref(len(contents[other]), key=other), 0, len(contents[other]))
                if found not in (None, contents[other]) or (other == key and found is None):
                    wrong.append(other)

    threads = [threading.Thread(target=work, args=([*contents][number::4],)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert cache.stats.faults == 0


_FILL = """
import os, resource, sys, threading
from b2fs.cache.blocks import BlockCache, BlockCacheConfig
from b2fs.core.types import ETag, ObjectRef

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

cache = BlockCache(BlockCacheConfig(sys.argv[1]))
grain = os.urandom(cache.config.grain_bytes)

lock, all_done = threading.Lock(), threading.Barrier(3)

def fill(number):
    ref = ObjectRef(str(number), None, ETag("e"), 1 << 30)
    for start in range(0, 600 * len(grain), 20 * len(grain)):
        cache.put_many([(ref, start + index * len(grain), grain) for index in range(20)])
    for start in range(0, 600 * len(grain), len(grain)):
        assert cache.get_range(ref, start, start + 1)

def work(number):
    with lock:
        fill(number)
    all_done.wait()

fill(0)
before = peak()
threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2, 3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(peak() - before)
"""


def test_small_values_that_pass_through_many_threads_fill_no_memory(directory: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _FILL, str(directory)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 24 * MIB, "each thread brought 19 MiB"


def test_other_block_sizes_do_not_confuse(directory: Path) -> None:
    content = os.urandom(4 * BLOCK)
    ref = _ref(len(content))
    cache = _open(directory)
    cache.put_range(ref, 0, content)
    cache.close()
    cache = _open(directory, large_bytes=2 * BLOCK, block_bytes=2 * BLOCK)
    assert not cache.present(ref)
    assert cache.get_block(ref, 0) is None
    cache.close()
