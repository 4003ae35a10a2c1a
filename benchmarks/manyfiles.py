"""Many small files through write-back: how large journal and memory become, how fast they are stored, whether all are.

    python benchmarks/manyfiles.py [--files 10000] [--size 4096] [--latency-ms 20] [DIRECTORY]

The filesystem core runs in this process, without a mount, on an embedded store made under DIRECTORY (default: the
system's temporary one), each call of which takes the given latency more.  Files are made as a program makes them
(create, write, close), then everything is drained, and the bucket is compared with what was written.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time

import trio

from b2fs.cache.writeback.engine import Engine
from b2fs.core.types import Caller, InodeId
from b2fs.store.embedded.store import EmbeddedConfig, EmbeddedStore
from b2fs.store.faults import FaultyStore
from b2fs.vfs.api import ROOT
from b2fs.vfs.config import VfsConfig
from b2fs.vfs.filesystem import B2Filesystem, open_filesystem

FILES_EACH_DIRECTORY = 1000
LOOK_S = 0.05


class NoKernel:
    """Nobody remembers anything."""

    def invalidate_inode(self, ino: InodeId, *, attributes_only: bool) -> None:
        """Nothing to do."""

    def invalidate_entry(self, parent: InodeId, name: bytes) -> None:
        """Nothing to do."""


def ledger_size(cache_dir: str) -> int:
    """The journal and what SQLite keeps beside it, in bytes."""
    return sum(entry.stat().st_size for entry in os.scandir(cache_dir) if entry.name.startswith("ledger.db"))


class Figures:
    """The largest that were seen while the work went on."""

    def __init__(self, cache_dir: str) -> None:
        self._cache_dir = cache_dir
        self.ledger_bytes = 0
        self.most_pending = 0

    async def watch(self, engine: Engine) -> None:
        while True:
            self.ledger_bytes = max(self.ledger_bytes, ledger_size(self._cache_dir))
            self.most_pending = max(self.most_pending, engine.status().pending_files)
            await trio.sleep(LOOK_S)


def report(what: str, value: float, unit: str) -> None:
    sys.stdout.write(f"{what:40} {value:12.2f} {unit}\n")


def rss_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def body_of(number: int, size: int) -> bytes:
    return (b"%d " % number) * (size // 8 + 1)


async def write_files(fs: B2Filesystem, files: int, size: int) -> None:
    caller = Caller()
    parent = ROOT
    for number in range(files):
        if number % FILES_EACH_DIRECTORY == 0:
            parent = (await fs.mkdir(ROOT, b"d%d" % (number // FILES_EACH_DIRECTORY), 0o755, caller)).ino
        opened, attr = await fs.create(parent, b"f%d" % number, 0o644, os.O_RDWR, caller)
        await fs.write(opened.handle, 0, body_of(number, size)[:size])
        await fs.flush(opened.handle)
        await fs.release(opened.handle)
        fs.forget([(attr.ino, 1)])


async def count_right(store: EmbeddedStore, files: int, size: int) -> int:
    """How many files the bucket has with the right content."""
    right = 0
    for number in range(files):
        _, body = await store.get(f"d{number // FILES_EACH_DIRECTORY}/f{number}")
        right += body == body_of(number, size)[:size]
    return right


async def run(files: int, size: int, latency_s: float, directory: str) -> None:
    cache_dir = os.path.join(directory, "cache")
    os.mkdir(cache_dir)
    bucket = EmbeddedStore(EmbeddedConfig(os.path.join(directory, "store"), "bucket"))
    store = FaultyStore(bucket)
    store.latency_s = latency_s
    figures = Figures(cache_dir)
    async with store, open_filesystem(store, VfsConfig(cache_dir), NoKernel()) as fs:
        before, began, cpu_began = rss_mib(), time.monotonic(), time.process_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(figures.watch, fs.writeback)
            await write_files(fs, files, size)
            written = time.monotonic()
            await fs.writeback.wait_drained()
            stored, cpu_s = time.monotonic(), time.process_time() - cpu_began
            nursery.cancel_scope.cancel()
        after = rss_mib()
        right = await count_right(bucket, files, size)
    report("written and closed", files / (written - began), "files/s")
    report("in the bucket, from the first write on", files / (stored - began), "files/s")
    report("CPU for each file, the store's included", cpu_s * 1000 / files, "ms")
    report("most waiting at once", figures.most_pending, "keys")
    report("journal, at most", figures.ledger_bytes / 1024, "KiB")
    report("memory, at its peak more than before", after - before, "MiB")
    report("memory, in all", after, "MiB")
    for method, count in store.counts.most_common():
        report(f"calls: {method.value}", count, "")
    report("right in the bucket", right, f"of {files}")
    if right != files:
        sys.exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("directory", nargs="?")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="b2fs-manyfiles-", dir=asked.directory) as directory:
        trio.run(run, asked.files, asked.size, asked.latency_ms / 1000, directory)


if __name__ == "__main__":
    main()
