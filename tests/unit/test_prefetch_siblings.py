"""The sibling tracker follows walks, leaves random opens alone, and learns from wrong guesses."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from b2fs.core.siblings import SiblingTracker


def _walk(tracker: SiblingTracker, directory: str, count: int) -> tuple[int, list[range]]:
    """Open all files in order: how many were not fetched before they were opened, and the ranges handed out."""
    warmed: set[int] = set()
    cold, ranges = 0, []
    for index in range(count):
        cold += index not in warmed
        upcoming = tracker.opened(directory, index, count)
        warmed.update(upcoming)
        if upcoming:
            ranges.append(upcoming)
    return cold, ranges


def test_a_walk_is_fetched_ahead_in_growing_windows() -> None:
    cold, ranges = _walk(SiblingTracker(), "d", 1000)
    assert cold == 3
    assert max(len(span) for span in ranges) >= 32
    handed = [index for span in ranges for index in span]
    assert handed == sorted(set(handed)), "nothing is handed out twice"
    assert max(handed) == 999


def test_the_next_directory_of_a_walk_starts_with_a_window() -> None:
    tracker = SiblingTracker()
    _walk(tracker, "a", 20)
    cold, _ = _walk(tracker, "b", 20)
    assert cold == 1


def test_random_opens_hand_out_little() -> None:
    tracker, choose = SiblingTracker(), random.Random(5)
    wasted = sum(len(tracker.opened("d", choose.randrange(1000), 1000)) for _ in range(2000))
    assert wasted < 200, "below a tenth of the opens"


def test_wrong_guesses_make_it_careful() -> None:
    tracker = SiblingTracker()
    handed = 0
    for directory in range(300):
        for index in (0, 1, 2, 900, 500):  # the beginning of a walk that never is one
            handed += len(tracker.opened(directory, index, 1000))
    assert handed < 100


def test_skipped_entries_do_not_end_a_walk() -> None:
    tracker = SiblingTracker()
    handed = [tracker.opened("d", index, 300) for index in range(0, 300, 4)]
    assert sum(len(span) for span in handed[3:]) > 250


def test_forgotten_directories_start_again() -> None:
    tracker = SiblingTracker()
    for index in range(3):
        tracker.opened("d", index)
    tracker.forget("d")
    tracker.forget("unknown")
    assert tracker.opened("d", 50) == range(0)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40)), max_size=120))
def test_ranges_lie_ahead_and_within_the_window(opens: list[tuple[int, int]]) -> None:
    tracker = SiblingTracker()
    for directory, index in opens:
        span = tracker.opened(directory, index, 41)
        assert len(span) <= 64
        assert not span or (index < span.start and span.stop <= 41)
