"""Extents agree with a plain set of integers under any sequence of operations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b2fs.core.extents import Extents

LIMIT = 60
positions = st.integers(min_value=0, max_value=LIMIT)
ranges = st.tuples(positions, positions)
operations = st.lists(st.tuples(st.sampled_from(["add", "remove"]), ranges), max_size=30)


def _apply(script: list[tuple[str, tuple[int, int]]]) -> tuple[Extents, set[int]]:
    extents, model = Extents(), set[int]()
    for name, (start, end) in script:
        if name == "add":
            extents.add(start, end)
            model |= set(range(start, end))
        else:
            extents.remove(start, end)
            model -= set(range(start, end))
        extents.check_invariants()
    return extents, model


def _members(spans: list[tuple[int, int]]) -> set[int]:
    assert all(start < end for start, end in spans)
    assert spans == sorted(spans)
    return {position for start, end in spans for position in range(start, end)}


@given(operations)
def test_members_are_those_of_the_model(script: list[tuple[str, tuple[int, int]]]) -> None:
    extents, model = _apply(script)
    assert _members(list(extents)) == model
    assert extents.total == len(model)
    assert bool(extents) == bool(model)
    assert extents.end == max(model, default=-1) + 1


@given(operations, ranges)
def test_questions_about_a_range(script: list[tuple[str, tuple[int, int]]], span: tuple[int, int]) -> None:
    extents, model = _apply(script)
    asked = set(range(*span))
    assert extents.covers(*span) == (asked <= model)
    assert extents.overlaps(*span) == bool(asked & model)
    assert _members(extents.intersect(*span)) == asked & model
    assert _members(extents.gaps(*span)) == asked - model


@given(operations, operations)
def test_equality_is_equality_of_members(
    one: list[tuple[str, tuple[int, int]]], two: list[tuple[str, tuple[int, int]]]
) -> None:
    left, left_model = _apply(one)
    right, right_model = _apply(two)
    assert (left == right) == (left_model == right_model)
    union = left.copy()
    union.update(right)
    assert _members(list(union)) == left_model | right_model
    assert _members(list(left)) == left_model, "a copy is independent"


def test_touching_ranges_become_one() -> None:
    extents = Extents([(0, 4), (8, 12), (4, 8)])
    assert list(extents) == [(0, 12)]
    assert len(extents) == 1
    assert repr(extents) == "Extents([(0, 12)])"


def test_empty_and_backward_ranges_change_nothing() -> None:
    extents = Extents([(5, 5), (9, 3)])
    extents.remove(3, 3)
    assert not extents
    assert extents.covers(7, 7)
    assert extents.gaps(7, 7) == []
    assert extents.end == 0


def test_clear_and_not_hashable() -> None:
    extents = Extents([(1, 2)])
    extents.clear()
    assert extents == Extents()
    assert extents != [(1, 2)]
    with pytest.raises(TypeError):
        hash(extents)
