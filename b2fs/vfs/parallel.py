"""Many requests at a time, with a bound."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import trio

T = TypeVar("T")


async def for_each(items: Iterable[T], job: Callable[[T], Awaitable[object]], in_flight: int = 64) -> None:
    """Run job on every item, at most in_flight at once; the first error cancels the rest and is raised."""
    queue = iter(items)

    async def work() -> None:
        for item in queue:
            await job(item)

    first = next(queue, None)
    if first is None:
        return
    async with trio.open_nursery(strict_exception_groups=False) as nursery:
        nursery.start_soon(job, first)
        for _ in range(in_flight):
            nursery.start_soon(work)
