"""Many requests at a time, with a bound, failing as one: the first error itself is raised, not a group."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import islice
from typing import TypeVar

import trio

T = TypeVar("T")


@asynccontextmanager
async def open_flat_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery for tasks that do one thing together: the first error of any of them cancels the rest and is raised."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error that is more than the echo of a cancellation."""
    leaves: list[BaseException] = []
    stack: list[BaseException] = [group]
    while stack:
        error = stack.pop()
        if isinstance(error, BaseExceptionGroup):
            stack.extend(reversed(error.exceptions))
        else:
            leaves.append(error)
    return next((leaf for leaf in leaves if not isinstance(leaf, trio.Cancelled)), leaves[0])


async def for_each(items: Iterable[T], job: Callable[[T], Awaitable[object]], in_flight: int = 64) -> None:
    """Run job on every item, at most in_flight at once.  Checkpoint: only in the jobs, if there are less than two."""
    queue = iter(items)
    begun = list(islice(queue, in_flight))
    if len(begun) < min(2, in_flight):  # as mostly, and a nursery costs as much as a small request
        for item in begun:
            await job(item)
        return

    async def work(item: T) -> None:
        await job(item)
        for following in queue:
            await job(following)

    async with open_flat_nursery() as nursery:
        for item in begun:
            nursery.start_soon(work, item)
