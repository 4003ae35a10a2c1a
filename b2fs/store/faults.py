"""FaultyStore: an ObjectStore that fails, waits and counts on command, for tests and demonstrations.

Faults are chosen by method: so often, or with a seeded probability; before the inner store is asked, or after it
(the change was made and its answer was lost).  Uploads can be held and released.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio

from b2fs.store.forward import CHANGES, ForwardingStore, Method, StoreCall, bytes_down
from b2fs.store.protocol import ObjectStore

T = TypeVar("T")

MakeError = Callable[[], Exception]


@dataclass(slots=True)
class _Fault:
    """A rule: which calls fail, with what, how often still (None: always), how likely, and at which end."""

    methods: frozenset[Method]
    make_error: MakeError
    times: int | None
    probability: float
    answer_lost: bool
    unseen: bool
    matches: Callable[[StoreCall], bool]


class FaultyStore(ForwardingStore):
    """An ObjectStore under the control of a test.

    Attributes to read: calls (every call in order), counts, bytes_up, bytes_down, in_flight, most_in_flight, held.
    Attributes to set: latency_s (added to every call), hook (awaited at the start of every call; may raise).
    """

    def __init__(self, inner: ObjectStore, *, seed: int = 0) -> None:
        super().__init__(inner)
        self._random = random.Random(seed)
        self._faults: list[_Fault] = []
        self._paused: frozenset[Method] = frozenset()
        self._changed = trio.Condition()
        self.hook: Callable[[StoreCall], Awaitable[None]] | None = None
        self.latency_s = 0.0
        self.calls: list[StoreCall] = []
        self.counts: Counter[Method] = Counter()
        self.bytes_up = 0
        self.bytes_down = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.held = 0
        self._lost: Callable[[str], None] | None = None

    def watch_lost(self, lost: Callable[[str], None]) -> None:
        self._lost = lost
        super().watch_lost(lost)

    def fail(
        self,
        methods: Method | Iterable[Method],
        error: Exception | MakeError,
        *,
        times: int | None = 1,
        probability: float = 1.0,
        answer_lost: bool = False,
        unseen: bool = False,
        matches: Callable[[StoreCall], bool] = lambda call: True,
    ) -> None:
        """Let calls fail with error (or what it makes): the next `times`, or (None) all from now on.

        probability below 1 spares some, by the seed.  With answer_lost the inner store does its work first.  With
        unseen the call is made again at once, so that only `watch_lost` tells of it.
        Of several rules that fit a call the oldest counts.
        """
        chosen = frozenset([methods] if isinstance(methods, Method) else methods)
        make_error = error if not isinstance(error, Exception) else _constant(error)
        self._faults.append(_Fault(chosen, make_error, times, probability, answer_lost, unseen, matches))

    def heal(self) -> None:
        """Forget all faults; paused calls stay paused."""
        self._faults.clear()

    def pause(self, methods: Iterable[Method] = CHANGES) -> None:
        """Hold calls of these methods before they reach the inner store, until resume."""
        self._paused = frozenset(methods)

    async def resume(self) -> None:
        """Let held calls go on."""
        self._paused = frozenset()
        async with self._changed:
            self._changed.notify_all()

    async def wait_held(self, count: int = 1) -> None:
        """Return when at least count calls are being held."""
        async with self._changed:
            while self.held < count:
                await self._changed.wait()

    async def wait_calls(self, method: Method, count: int) -> None:
        """Return when method was called at least count times."""
        async with self._changed:
            while self.counts[method] < count:
                await self._changed.wait()

    def reset_counts(self) -> None:
        """Start counting anew; what is in flight stays counted as such."""
        self.calls.clear()
        self.counts.clear()
        self.bytes_up = self.bytes_down = 0
        self.most_in_flight = self.in_flight

    async def around(self, call: StoreCall, ask: Callable[[], Awaitable[T]]) -> T:
        with self._counted(call):
            async with self._changed:
                self._changed.notify_all()
            if self.hook is not None:
                await self.hook(call)
            if self.latency_s:
                await trio.sleep(self.latency_s)
            await self._hold(call.method)
            fault = self._next_fault(call)
            if fault is not None and not fault.answer_lost and not fault.unseen:
                raise fault.make_error()
            answer = await ask()
            if fault is not None and fault.unseen:
                if self._lost is not None:
                    self._lost(call.key)
                if fault.answer_lost:
                    answer = await ask()
            elif fault is not None:
                raise fault.make_error()
            self.bytes_up += call.bytes_up
            self.bytes_down += bytes_down(answer)
            return answer

    @contextmanager
    def _counted(self, call: StoreCall) -> Iterator[None]:
        self.calls.append(call)
        self.counts[call.method] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            yield
        finally:
            self.in_flight -= 1

    async def _hold(self, method: Method) -> None:
        if method not in self._paused:
            return
        async with self._changed:
            self.held += 1
            self._changed.notify_all()
            try:
                while method in self._paused:
                    await self._changed.wait()
            finally:
                self.held -= 1

    def _next_fault(self, call: StoreCall) -> _Fault | None:
        for fault in self._faults:
            if call.method not in fault.methods or fault.times == 0 or not fault.matches(call):
                continue
            if fault.probability < 1 and self._random.random() >= fault.probability:
                continue
            if fault.times is not None:
                fault.times -= 1
            return fault
        return None


def _constant(error: Exception) -> MakeError:
    """A new error of the same kind each time: one that was raised carries a traceback."""
    return lambda: type(error)(*error.args)
