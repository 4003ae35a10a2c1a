"""The prefetcher covers every read, stays within its bounds, and knows sequential from random."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from b2fs.core.extents import Extents
from b2fs.core.prefetch import PrefetchConfig, Prefetcher, Range

KIB, MIB = 1 << 10, 1 << 20

#: The default proportions at a 1,024th of the size, so that random tests reach every rule.
TINY = PrefetchConfig(
    grain_bytes=32,
    block_bytes=KIB,
    first_bytes=KIB,
    start_window_bytes=4 * KIB,
    window_bytes=64 * KIB,
    range_bytes=8 * KIB,
    reorder_bytes=4 * KIB,
    near_bytes=64,
    small_bytes=256,
)

sizes = st.one_of(st.integers(1, 600), st.integers(1, 300 * KIB))


@st.composite
def readers(draw: st.DrawFn) -> tuple[int, list[Range]]:
    """A file size and reads made of runs forwards, backwards, strided and at random."""
    size = draw(sizes)
    reads: list[Range] = []
    for _ in range(draw(st.integers(1, 6))):
        position = draw(st.integers(0, size - 1))
        length = draw(st.integers(1, 2 * KIB))
        stride = draw(st.sampled_from([length, length, -length, 3 * length, 5 * KIB, -97, 1]))
        for _ in range(draw(st.integers(1, 20))):
            if not 0 <= position < size:
                break
            reads.append((position, min(size, position + length)))
            position += stride
    return size, reads


@settings(max_examples=150, deadline=None)
@given(readers(), st.integers(0, 64 * KIB), st.data())
def test_plans_cover_never_overlap_and_stay_bounded(
    reader: tuple[int, list[Range]], limit: int, data: st.DataObject
) -> None:
    size, reads = reader
    prefetcher, held = Prefetcher(size, TINY), Extents()
    for start, end in reads:
        if held and data.draw(st.integers(0, 3)) == 0:  # memory lost something
            low, high = data.draw(st.sampled_from(list(held)))
            held.remove(low, high)
        plan = prefetcher.plan(start, end, held, limit)
        for low, high in (*plan.demand, *plan.ahead):
            assert 0 <= low < high <= size
            assert low % TINY.grain_bytes == 0
            assert high % TINY.grain_bytes == 0 or high == size
            assert high - low <= TINY.range_bytes
            assert not held.overlaps(low, high), "fetched twice"
            held.add(low, high)
        assert held.covers(start, end)
        needed = sum(high - low for low, high in plan.demand)
        assert needed <= (end - start) + 2 * TINY.block_bytes + 2 * TINY.near_bytes + TINY.grain_bytes
        assert sum(high - low for low, high in plan.ahead) <= max(limit, 0)


def _fetched(size: int, reads: list[Range], config: PrefetchConfig | None = None) -> tuple[int, int]:
    """Play reads on an empty cache that never forgets: (requests that a reader waited for, bytes fetched)."""
    prefetcher, held = Prefetcher(size, config or PrefetchConfig()), Extents()
    waited = 0
    for start, end in reads:
        if held.covers(start, end):
            ahead = prefetcher.advance(start, end, held, 64 * MIB)
        else:
            plan = prefetcher.plan(start, end, held, 64 * MIB)
            waited += 1
            held.update(plan.demand)
            ahead = plan.ahead
        held.update(ahead)
    return waited, held.total


def _forwards(size: int, length: int, start: int = 0) -> list[Range]:
    return [(position, min(size, position + length)) for position in range(start, size, length)]


def test_a_sequential_reader_waits_twice_at_most() -> None:
    for length in (4 * KIB, 128 * KIB, MIB):
        waited, fetched = _fetched(100 * MIB, _forwards(100 * MIB, length))
        assert waited <= 2
        assert fetched == 100 * MIB


def test_the_first_range_is_small_and_windows_double() -> None:
    prefetcher, held = Prefetcher(1 << 30, PrefetchConfig()), Extents()
    first = prefetcher.plan(0, 128 * KIB, held, 64 * MIB)
    assert first.demand == ((0, MIB),)
    assert first.ahead == ()
    held.update(first.demand)
    ends = [MIB]
    for start, end in _forwards(400 * MIB, 128 * KIB, 128 * KIB):
        plan = prefetcher.plan(start, end, held, 64 * MIB)
        assert not plan.demand
        if plan.ahead:
            held.update(plan.ahead)
            ends.append(plan.ahead[-1][1])
            assert ends[-1] - end <= 64 * MIB
    leads = [end - previous for previous, end in pairwise(ends)]
    assert max(leads) >= 8 * MIB, "windows grow"
    assert held.end >= 440 * MIB, "the window is far ahead in the end"


def test_random_small_reads_stay_small() -> None:
    choose = random.Random(7)
    size = 512 * MIB
    reads = [(p, p + 4 * KIB) for p in (choose.randrange(1, size // 4096) * 4096 for _ in range(200))]
    waited, fetched = _fetched(size, reads)
    assert waited <= 200
    assert fetched <= 200 * 72 * KIB


def test_wide_strides_fetch_little() -> None:
    size = 512 * MIB
    reads = [(p, p + 4 * KIB) for p in range(MIB, size, MIB)]
    _, fetched = _fetched(size, reads)
    assert fetched <= len(reads) * 64 * KIB


def test_near_strides_become_one_window() -> None:
    reads = [(p, p + 4 * KIB) for p in range(100 * MIB, 110 * MIB, 40 * KIB)]
    waited, fetched = _fetched(512 * MIB, reads)
    assert waited < len(reads) // 10
    assert fetched < 20 * MIB


def test_backward_reads_are_batched() -> None:
    size = 16 * MIB
    reads = [(p, p + 8 * KIB) for p in range(size - 8 * KIB, -1, -8 * KIB)]
    waited, fetched = _fetched(size, reads)
    assert fetched == size
    assert waited < 40


def test_reordered_requests_are_one_run() -> None:
    choose = random.Random(3)
    reads: list[Range] = []
    for base in range(0, 64 * MIB, 4 * MIB):
        group = _forwards(base + 4 * MIB, MIB, base)
        choose.shuffle(group)
        reads += group
    waited, fetched = _fetched(64 * MIB, reads)
    assert fetched == 64 * MIB
    assert waited <= 8


def test_two_readers_of_one_handle_both_run() -> None:
    one, two = _forwards(32 * MIB, 128 * KIB), _forwards(96 * MIB, 128 * KIB, 64 * MIB)
    reads = [read for pair in zip(one, two, strict=True) for read in pair]
    waited, _ = _fetched(128 * MIB, reads)
    assert waited <= 5


def test_small_objects_come_whole() -> None:
    plan = Prefetcher(200 * KIB, PrefetchConfig()).plan(100 * KIB, 101 * KIB, Extents(), 0)
    assert plan.demand == ((0, 200 * KIB),)


def test_a_refused_window_is_planned_again() -> None:
    prefetcher, held = Prefetcher(100 * MIB, PrefetchConfig()), Extents()
    held.update(prefetcher.plan(0, MIB, held, 0).demand)
    plan = prefetcher.plan(MIB, 2 * MIB, held, 64 * MIB)
    held.update(plan.demand)
    assert plan.ahead[0][0] == 2 * MIB
    prefetcher.refused(2 * MIB)
    again = prefetcher.plan(2 * MIB, 3 * MIB, held, 64 * MIB)
    assert {low for low, _ in (*again.demand, *again.ahead)} >= {2 * MIB}
    assert again.ahead


def test_a_first_read_of_much_fetches_ahead_at_once() -> None:
    config = PrefetchConfig()
    plan = Prefetcher(100 * MIB, config).plan(0, MIB, Extents(), 64 * MIB)
    assert plan.demand == ((0, MIB),)
    assert [plan.ahead[0][0], plan.ahead[-1][1]] == [MIB, MIB + config.start_window_bytes // 2]


@pytest.mark.parametrize(("start", "end"), [(0, MIB - 1), (0, 128 * KIB), (MIB, 2 * MIB), (50 * MIB, 51 * MIB)])
def test_another_first_read_fetches_nothing_ahead(start: int, end: int) -> None:
    assert Prefetcher(100 * MIB, PrefetchConfig()).plan(start, end, Extents(), 64 * MIB).ahead == ()


def test_no_room_means_no_guesses() -> None:
    prefetcher, held = Prefetcher(100 * MIB, PrefetchConfig()), Extents()
    for start, end in _forwards(20 * MIB, MIB):
        plan = prefetcher.plan(start, end, held, 0)
        assert plan.ahead == ()
        held.update(plan.demand)
    assert held.total == 20 * MIB
