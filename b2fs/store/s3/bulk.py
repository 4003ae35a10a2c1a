"""Requests on sockets of our own, awaited: large bodies straight into memory that is used again, and small ones.

The CRT grows a buffer for each answer and copies it into a Python object under the GIL; per GiB that costs about two
seconds of CPU, most of it for memory that is new to the process.  Here a thread reads from a blocking socket into a
slab: 0.4 s/GiB, a few system calls per body, the GIL released in all of them.  Connections are kept for the next
range.

A thread never outlives the call that it serves.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import trio

from b2fs.store.s3.answers import Response
from b2fs.store.s3.faults import error_of
from b2fs.store.s3.sockets import Connections, Exchange, Question
from b2fs.store.s3.waiting import wait_future

T = TypeVar("T")


async def ask(connections: Connections, question: Question, *, has_body: bool) -> Response:
    """Send a request once and return the answer of a success.

    Raises a StoreError for everything else, NotTheRange for one whose length is not the question's; has_body is False
    for HEAD.  Cancellation ends the connection, and returns when nothing writes into the body any more.
    """
    exchange = Exchange(connections, question)
    response = await wait_future(_in_thread(exchange.run), exchange.cancel)
    if 200 <= response.status < 300:
        return response
    raise error_of(response, has_body=has_body)


def _in_thread(work: Callable[[], T]) -> Future[T]:
    """Start work in a thread of trio's cache; unlike trio.to_thread it can be waited for with a say in cancellation."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001  # it is raised where the future is waited for
            future.set_exception(error)

    trio.lowlevel.start_thread_soon(run, lambda _: None)
    return future
