"""Plans of multipart uploads: legal parts that cover everything, and copies of nothing but unchanged bytes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b2fs.core.extents import Extents
from b2fs.core.parts import (
    MAX_PART,
    MAX_PARTS,
    MIB,
    MIN_PART,
    Part,
    PartSource,
    plan_copy,
    plan_update,
    stream_part,
    stream_part_at,
    stream_parts,
)

TEN_TB = 10_000_000_000_000
sizes = st.one_of(st.integers(1, 100 * MIB), st.integers(1, TEN_TB))


def check_legal(parts: Sequence[Part], size: int) -> None:
    position = 0
    for number, part in enumerate(parts, 1):
        assert (part.number, part.start) == (number, position)
        assert part.end - part.start <= MAX_PART
        assert part.end - part.start >= MIN_PART or part.end == size
        position = part.end
    assert position == size
    assert 1 <= len(parts) <= MAX_PARTS


@given(sizes)
def test_a_stream_of_any_size_has_legal_parts(size: int) -> None:
    check_legal(stream_parts(size), size)


@given(st.integers(0, TEN_TB - 1))
def test_the_part_at_an_offset_holds_it(offset: int) -> None:
    part = stream_part(stream_part_at(offset))
    assert part.start <= offset < part.end


@pytest.mark.parametrize("size", [1, 10 * MIB, 10 * MIB + 1, 1000 * 10 * MIB, 1000 * 10 * MIB + 1, TEN_TB])
def test_streams_at_the_edges(size: int) -> None:
    check_legal(stream_parts(size), size)


@given(st.integers(5 << 30, TEN_TB))
def test_a_copy_has_legal_parts(size: int) -> None:
    parts = plan_copy(size)
    check_legal(parts, size)
    assert all(part.source is PartSource.COPY for part in parts)


@st.composite
def updates(draw: st.DrawFn) -> tuple[int, int, list[tuple[int, int]]]:
    """(size, base_limit, changed ranges) as a partial content has them."""
    size = draw(st.one_of(st.integers(1, 200 * MIB), st.integers(1, TEN_TB)))
    base_limit = draw(st.one_of(st.just(size), st.integers(0, size)))
    changed = Extents()
    for _ in range(draw(st.integers(0, 8))):
        start = draw(st.integers(0, size - 1))
        changed.add(start, min(size, start + draw(st.one_of(st.integers(1, 5000), st.integers(1, 40 * MIB)))))
    changed.add(base_limit, size)
    return size, base_limit, list(changed)


@given(updates())
def test_an_update_has_legal_parts_and_copies_only_what_is_unchanged(
    update: tuple[int, int, list[tuple[int, int]]],
) -> None:
    size, base_limit, changed = update
    parts = plan_update(size, base_limit, changed)
    check_legal(parts, size)
    written = Extents(changed)
    for part in parts:
        if part.source is PartSource.COPY:
            assert part.end <= base_limit
            assert not written.overlaps(part.start, part.end)


def test_a_small_change_of_a_large_object_sends_little() -> None:
    size = 1 << 30
    for at in (0, 3, size // 2, size - 4096):
        parts = plan_update(size, size, [(at, at + 4096)])
        assert sum(p.end - p.start for p in parts if p.source is PartSource.LOCAL) <= 12_000_000


def test_an_append_sends_the_tail() -> None:
    size = (1 << 30) + 1000
    parts = plan_update(size, 1 << 30, [(1 << 30, size)])
    assert [p.source for p in parts] == [PartSource.COPY, PartSource.LOCAL]
    assert parts[-1].start == 1 << 30


def test_changes_in_more_places_than_there_are_parts() -> None:
    size = 200 << 30
    changed = [(at, at + 10) for at in range(0, size, 12 * MIB)]
    assert len(changed) > MAX_PARTS
    check_legal(plan_update(size, size, changed), size)
