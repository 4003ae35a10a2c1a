"""What the reader and the block cache cost, without a mount.

    python benchmarks/reader.py [--mib 512] [--endpoint http://127.0.0.1:8333 --bucket b] [DIRECTORY]

Reads from an embedded store made under DIRECTORY (default: the system's temporary one), or from an S3 bucket that is
filled with one large object and 1,000 small ones.  Each phase starts with a new Reader; "disk" phases find everything
in the block cache, "memory" phases in the reader's memory.  Put a latency proxy before the endpoint for other round
trips.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from b2fs.cache.blocks import BlockCache, BlockCacheConfig
from b2fs.cache.reader import Reader, ReaderConfig, Stream
from b2fs.core.siblings import SiblingHint
from b2fs.core.types import ETag, ObjectRef
from b2fs.store.embedded.store import EmbeddedConfig, EmbeddedStore
from b2fs.store.protocol import ObjectStore
from b2fs.store.s3.config import S3Config
from b2fs.store.s3.store import S3Store

KIB, MIB = 1 << 10, 1 << 20
SMALL_FILES, SMALL_BYTES = 1000, 4096
PART_BYTES = 64 * MIB


def report(what: str, value: float, unit: str) -> None:
    sys.stdout.write(f"{what:<52}{value:>12,.1f} {unit}\n")
    sys.stdout.flush()


async def upload_large(store: ObjectStore, size: int) -> ObjectRef:
    upload = await store.create_upload("large")
    block, parts = os.urandom(min(size, PART_BYTES)), []
    for number in range(1, -(-size // len(block)) + 1):
        parts.append(await store.upload_part("large", upload, number, block))
    return (await store.complete_upload("large", upload, parts)).ref


async def upload_small(store: ObjectStore) -> list[ObjectRef]:
    refs: dict[int, ObjectRef] = {}

    async def some(first: int) -> None:
        for number in range(first, SMALL_FILES, 8):
            refs[number] = (await store.put(f"small/{number:04}", os.urandom(SMALL_BYTES))).ref

    async with trio.open_nursery() as nursery:
        for first in range(8):
            nursery.start_soon(some, first)
    return [refs[number] for number in range(SMALL_FILES)]


@asynccontextmanager
async def reading(store: ObjectStore, blocks: BlockCache, config: ReaderConfig) -> AsyncIterator[Reader]:
    reader = Reader(store, blocks, config)
    async with trio.open_nursery() as nursery:
        await nursery.start(reader.run)
        yield reader
        nursery.cancel_scope.cancel()


async def get(stream: Stream, start: int, end: int) -> int:
    data = stream.read_nowait(start, end)
    if data is None:
        data = await stream.read(start, end)
    return len(data)


async def sequential(name: str, reader: Reader, ref: ObjectRef, length: int) -> None:
    stream, began, cpu = reader.open(ref), time.perf_counter(), time.process_time()
    await get(stream, 0, min(ref.size, MIB))
    report(f"{name}: first MiB", (time.perf_counter() - began) * 1e3, "ms")
    for start in range(0, ref.size, length):
        await get(stream, start, min(ref.size, start + length))
        await trio.lowlevel.checkpoint()
    seconds = time.perf_counter() - began
    stream.close()
    report(f"{name}: sequential, {length // KIB} KiB reads", ref.size / MIB / seconds, "MiB/s")
    report(f"{name}:   CPU", (time.process_time() - cpu) / (ref.size / MIB) * 1e3, "ms/MiB")
    report(f"{name}:   fetched from the store", reader.stats.fetched_bytes / MIB, "MiB")
    report(f"{name}:   not kept on disk", reader.stats.uncached_bytes / MIB, "MiB")


async def at_random(name: str, reader: Reader, ref: ObjectRef, length: int, count: int) -> None:
    choose, times = random.Random(1), []
    stream, cpu = reader.open(ref), time.process_time()
    for _ in range(count):
        start = choose.randrange(ref.size // length) * length
        began = time.perf_counter()
        await get(stream, start, min(ref.size, start + length))
        times.append(time.perf_counter() - began)
    stream.close()
    report(f"{name}: random {length // KIB} KiB, median", statistics.median(times) * 1e6, "us")
    report(f"{name}:   all {count}", sum(times), "s")
    report(f"{name}:   CPU", (time.process_time() - cpu) / count * 1e6, "us each")
    report(f"{name}:   fetched and not read", reader.stats.wasted_bytes / MIB, "MiB")


async def in_memory(reader: Reader, ref: ObjectRef) -> None:
    stream, span = reader.open(ref), 12 * MIB  # more of what is on disk too does not stay
    for start in range(0, span, MIB):
        await get(stream, start, start + MIB)
    for length in (MIB, 128 * KIB, 4 * KIB):
        began = time.perf_counter()
        for start in range(0, span, length):
            await get(stream, start, start + length)
        report(f"memory: {length // KIB} KiB read", (time.perf_counter() - began) / (span // length) * 1e6, "us")
    stream.close()


async def small_files(name: str, reader: Reader, refs: list[ObjectRef]) -> None:
    """Read all in order, as a walk through a directory does, with hints for the next 64."""
    began, cpu = time.perf_counter(), time.process_time()
    for number, ref in enumerate(refs):
        hint = SiblingHint(tuple(refs[number + 1 : number + 65])) if number % 32 == 0 else None
        stream = reader.open(ref, hint=hint)
        await get(stream, 0, ref.size)
        stream.close()
        await trio.lowlevel.checkpoint()
    report(f"{name}: small files", len(refs) / (time.perf_counter() - began), "/s")
    report(f"{name}:   CPU", (time.process_time() - cpu) / len(refs) * 1e6, "us/file")


def disk_costs(directory: str) -> None:
    """The block cache alone, in one thread."""
    blocks = BlockCache(BlockCacheConfig(directory))
    for size, count in ((4 * KIB, 500), (128 * KIB, 200), (MIB, 100)):
        data = os.urandom(size)
        refs = [ObjectRef(f"{size}/{number}", None, ETag("e"), size) for number in range(count)]
        began = time.perf_counter()
        for ref in refs:
            blocks.put_range(ref, 0, data)
        report(f"block cache: put {size // KIB} KiB", (time.perf_counter() - began) / count * 1e6, "us")
        began = time.perf_counter()
        for ref in refs:
            blocks.get_block(ref, 0)
        report(f"block cache: get {size // KIB} KiB", (time.perf_counter() - began) / count * 1e6, "us")
    blocks.close()


async def phases(store: ObjectStore, directory: str, size: int) -> None:
    large, small = await upload_large(store, size), await upload_small(store)

    async def phase(cache: str, work: Callable[[Reader], Awaitable[None]], complete_bytes: int = 0) -> None:
        blocks = BlockCache(BlockCacheConfig(os.path.join(directory, cache)))
        async with reading(store, blocks, ReaderConfig(complete_bytes=complete_bytes)) as reader:
            await work(reader)
        blocks.close()

    await phase("c1", lambda reader: sequential("cold", reader, large, MIB))
    await phase("c2", lambda reader: at_random("cold", reader, large, 4 * KIB, 200))
    await phase("c5", lambda reader: at_random("whole", reader, large, 4 * KIB, 200), size)
    await phase("c3", lambda reader: small_files("cold", reader, small))
    await phase("c4", lambda reader: keep(reader, large))
    await phase("c4", lambda reader: sequential("disk", reader, large, MIB))
    await phase("c4", lambda reader: sequential("disk", reader, large, 128 * KIB))
    await phase("c4", lambda reader: at_random("disk", reader, large, 4 * KIB, 500))
    await phase("c3", lambda reader: small_files("disk", reader, small))
    await phase("c4", lambda reader: in_memory(reader, large))
    report("peak memory of this process", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "MiB")


async def keep(reader: Reader, ref: ObjectRef) -> None:
    """Fill the block cache completely, as slowly as the disk needs."""
    for start in range(0, ref.size, 8 * MIB):
        await reader.fetch_range(ref, start, min(ref.size, start + 8 * MIB))
        while reader.pending_bytes:  # noqa: ASYNC110  # the reader has no event for this: nobody else needs one
            await trio.sleep(0.001)


async def main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        disk_costs(os.path.join(directory, "costs"))
        store: ObjectStore
        if arguments.endpoint:
            store = S3Store(S3Config(arguments.bucket, endpoint=arguments.endpoint))
        else:
            store = EmbeddedStore(EmbeddedConfig(directory=os.path.join(directory, "store"), bucket="bench"))
        async with store:
            await phases(store, directory, arguments.mib * MIB)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure the reader and the block cache.")
    parser.add_argument("directory", nargs="?")
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--endpoint")
    parser.add_argument("--bucket", default="bench")
    trio.run(main, parser.parse_args())
