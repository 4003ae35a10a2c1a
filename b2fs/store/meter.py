"""MeteredStore: counts what a mount asks of its bucket, for the status and the bill.

Calls are counted as they were made here: a call that the store itself repeats counts once.  Price classes and the day
are B2's: class A is free, B and C have a free allowance a day, and days start at 00:00 UTC.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar

from b2fs.errors import StoreError
from b2fs.store.forward import ForwardingStore, Method, StoreCall, bytes_down
from b2fs.store.protocol import ObjectStore

T = TypeVar("T")


class PriceClass(Enum):
    """What B2 charges for a call."""

    A = "A"
    B = "B"
    C = "C"


#: By Backblaze's price list; whatever is not named costs nothing.
PRICE_CLASSES: Final[Mapping[Method, PriceClass]] = {
    **dict.fromkeys(Method, PriceClass.A),
    Method.HEAD: PriceClass.B,
    Method.GET: PriceClass.B,
    Method.COPY: PriceClass.C,
    Method.COPY_PART: PriceClass.C,
    Method.LIST_OBJECTS: PriceClass.C,
    Method.LIST_VERSIONS: PriceClass.C,
    Method.LIST_UPLOADS: PriceClass.C,
    Method.LIST_PARTS: PriceClass.C,
}

_DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class MeterReading:
    """Counts since the start, today's by price class, and what is under way; bytes are those of bodies."""

    calls: Mapping[Method, int]
    failed: Mapping[Method, int]
    by_class: Mapping[PriceClass, int]
    by_class_today: Mapping[PriceClass, int]
    bytes_up: int
    bytes_down: int
    in_flight: int
    uploads_in_flight_bytes: int


class MeteredStore(ForwardingStore):
    """An ObjectStore that counts; `read` tells."""

    def __init__(self, inner: ObjectStore, *, now_s: Callable[[], float] = time.time) -> None:
        super().__init__(inner)
        self._now_s = now_s
        self._calls: Counter[Method] = Counter()
        self._failed: Counter[Method] = Counter()
        self._today: Counter[PriceClass] = Counter()
        self._day = 0
        self._bytes_up = 0
        self._bytes_down = 0
        self._in_flight = 0
        self._in_flight_bytes = 0

    async def around(self, call: StoreCall, ask: Callable[[], Awaitable[T]]) -> T:
        self._count(call.method)
        self._in_flight += 1
        self._in_flight_bytes += call.bytes_up
        try:
            answer = await ask()
        except StoreError:
            self._failed[call.method] += 1
            raise
        finally:
            self._in_flight -= 1
            self._in_flight_bytes -= call.bytes_up
        self._bytes_up += call.bytes_up
        self._bytes_down += bytes_down(answer)
        return answer

    def read(self) -> MeterReading:
        """The counts as they are now."""
        self._turn_day()
        by_class: Counter[PriceClass] = Counter()
        for method, count in self._calls.items():
            by_class[PRICE_CLASSES[method]] += count
        return MeterReading(
            calls=dict(self._calls),
            failed=dict(self._failed),
            by_class={price: by_class[price] for price in PriceClass},
            by_class_today={price: self._today[price] for price in PriceClass},
            bytes_up=self._bytes_up,
            bytes_down=self._bytes_down,
            in_flight=self._in_flight,
            uploads_in_flight_bytes=self._in_flight_bytes,
        )

    def _count(self, method: Method) -> None:
        self._turn_day()
        self._calls[method] += 1
        self._today[PRICE_CLASSES[method]] += 1

    def _turn_day(self) -> None:
        day = int(self._now_s()) // _DAY_S
        if day != self._day:
            self._day = day
            self._today.clear()
