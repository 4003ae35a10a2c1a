"""How fast the embedded store is, through the ObjectStore protocol.

    python benchmarks/embedded.py [DIRECTORY]

Makes a store in a new directory under DIRECTORY (default: the system's temporary one), every put durable, and prints a
table.  The directory should be on the disk that matters: fsync on tmpfs says nothing.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable

import trio

from b2fs.store.embedded.store import EmbeddedConfig, EmbeddedStore

SMALL = os.urandom(4096)
LARGE = os.urandom(8 << 20)


def report(what: str, value: float, unit: str) -> None:
    sys.stdout.write(f"{what:<44}{value:>12,.1f} {unit}\n")


async def rate(what: str, callers: int, calls: int, call: Callable[[int], Awaitable[object]]) -> None:
    """calls per second of `calls` calls by that many callers."""

    async def caller(first: int) -> None:
        for number in range(first, calls, callers):
            await call(number)

    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for first in range(callers):
            nursery.start_soon(caller, first)
    report(f"{what}, {callers} caller{'s'[: callers > 1]}", calls / (time.perf_counter() - started), "/s")


async def bandwidth(what: str, callers: int, call: Callable[[int], Awaitable[object]]) -> None:
    """MB/s of 24 calls with 8 MiB each."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        async with trio.open_nursery() as nursery:
            limiter = trio.CapacityLimiter(callers)

            async def one(number: int, limiter: trio.CapacityLimiter = limiter) -> None:
                async with limiter:
                    await call(number)

            for number in range(8):
                nursery.start_soon(one, number)
        times.append(time.perf_counter() - started)
    report(f"{what}, {callers} caller{'s'[: callers > 1]}", 8 * len(LARGE) / 1e6 / statistics.median(times), "MB/s")


async def listing(store: EmbeddedStore, prefix: str, delimiter: str | None) -> int:
    count, token = 0, None
    while True:
        page = await store.list_objects(prefix, delimiter=delimiter, token=token)
        count += len(page.objects) + len(page.prefixes)
        token = page.next_token
        if token is None:
            return count


async def timed(what: str, ask: Callable[[], Awaitable[int]]) -> None:
    times = []
    count = 0
    for _ in range(5):
        started = time.perf_counter()
        count = await ask()
        times.append(time.perf_counter() - started)
    report(f"{what} ({count} entries)", statistics.median(times) * 1000, "ms")


async def main(directory: str) -> None:
    async with EmbeddedStore(EmbeddedConfig(directory, "benchmark")) as store:
        for callers in (1, 16, 64):
            await rate("put 4 KiB", callers, 3000, lambda n, c=callers: store.put(f"{c}/{n}", SMALL))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        for callers in (1, 16):
            await rate("get 4 KiB", callers, 10000, lambda n: store.get(f"1/{n % 3000}"))
            await rate("head", callers, 10000, lambda n: store.head(f"1/{n % 3000}"))
        for callers in (1, 4):
            await bandwidth("put 8 MiB", callers, lambda n: store.put(f"large/{n}", LARGE))
            await bandwidth("get 8 MiB", callers, lambda n: store.get(f"large/{n}"))
        await rate("fill: put 100 bytes", 64, 10000, lambda n: store.put(f"many/{n:05d}", SMALL[:100]))
        await timed("list a directory", lambda: listing(store, "many/", "/"))
        await timed("list the root by delimiter", lambda: listing(store, "", "/"))
        source = (await store.head("large/0")).ref
        await rate("copy 8 MiB", 16, 2000, lambda n: store.copy(source, f"copy/{n}"))
        await rate("hide", 16, 2000, lambda n: store.hide(f"copy/{n}"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as place:
        trio.run(main, place)
