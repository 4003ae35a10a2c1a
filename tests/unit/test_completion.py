"""When the rest of an object is fetched, and in how large ranges."""

from __future__ import annotations

import pytest

from b2fs.core.completion import LineRate, Patience, Waits, is_worth_it

MIB = 1 << 20


def _carry(line: LineRate, began: float, ended: float, size: int) -> None:
    line.began(began)
    line.ended(ended, size)


def test_a_guess_gives_way_to_figures() -> None:
    line = LineRate(guess_bytes_s=100 * MIB)
    assert line.bytes_s == 100 * MIB
    for second in range(10):
        _carry(line, second, second + 1, 10 * MIB)
    assert line.bytes_s == pytest.approx(10 * MIB, rel=0.9)
    for second in range(10, 60):
        _carry(line, second, second + 1, 40 * MIB)
    assert line.bytes_s == pytest.approx(40 * MIB, rel=0.2), "what was long ago counts for little"


def test_ranges_at_the_same_time_share_the_time_and_pauses_do_not_count() -> None:
    one, four = LineRate(), LineRate()
    _carry(one, 0, 1, 40 * MIB)
    for _ in range(4):
        four.began(100)
    for _ in range(4):
        four.ended(101, 10 * MIB)
    assert four.bytes_s == one.bytes_s
    _carry(one, 500, 501, 40 * MIB)
    _carry(four, 102, 103, 40 * MIB)
    assert four.bytes_s == one.bytes_s


def test_what_fails_takes_time_and_brings_nothing() -> None:
    line = LineRate(guess_bytes_s=100 * MIB)
    before = line.bytes_s
    _carry(line, 0, 1, 0)
    assert line.bytes_s < before
    assert line.received_bytes == 0


def test_ranges_are_small_until_it_is_known_that_the_line_is_quick() -> None:
    quick, slow = LineRate(), LineRate()
    assert quick.range_bytes(4, 8 * MIB) == MIB
    sizes = []
    for number in range(10):
        sizes.append(quick.range_bytes(4, 8 * MIB))
        _carry(quick, number / 50, (number + 1) / 50, 4 * sizes[-1])
        _carry(slow, number * 4, (number + 1) * 4, 4 * slow.range_bytes(4, 8 * MIB))
    assert sizes == sorted(sizes)
    assert sizes[-1] == 8 * MIB
    assert slow.range_bytes(4, 8 * MIB) == MIB
    assert quick.range_bytes(4, 2 * MIB) == 2 * MIB


@pytest.mark.parametrize("most", [MIB, 3 * MIB, 8 * MIB, 100 * MIB])
def test_ranges_are_powers_of_two_within_their_bounds(most: int) -> None:
    line = LineRate()
    for number in range(12):
        size = line.range_bytes(4, most)
        assert MIB <= size <= most
        assert size & (size - 1) == 0
        _carry(line, number, number + 0.01, 30 * MIB)


AT_ONCE = Patience()


def _waits(*seconds: float) -> Waits:
    waits = Waits()
    for each in seconds:
        waits.add(each)
    return waits


def test_the_longer_programs_wait_the_more_is_worth_fetching() -> None:
    assert not is_worth_it(_waits(), 1, 100e6, AT_ONCE)
    assert not is_worth_it(_waits(0.2), 100_000_000, 100e6, AT_ONCE)
    enough = _waits(0.2, 0.1)
    assert is_worth_it(enough, 100_000_000, 100e6, AT_ONCE)
    assert not is_worth_it(enough, 200_000_000, 100e6, AT_ONCE), "more is missing"
    assert not is_worth_it(enough, 100_000_000, 50e6, AT_ONCE), "the line is slower"
    assert not is_worth_it(_waits(1e9), 0, 100e6, AT_ONCE), "nothing is missing"
    enough.forget()
    assert not is_worth_it(enough, 100_000_000, 100e6, AT_ONCE)


def test_the_patient_want_pieces_of_a_server_that_is_far_away() -> None:
    patience = Patience(pieces=3, wait_s=0.010)
    assert not is_worth_it(_waits(1.0, 1.0), 1, 100e6, patience), "an index, and what it leads to"
    assert is_worth_it(_waits(0.010, 0.010, 0.010), 1, 100e6, patience)
    assert not is_worth_it(_waits(0.010, 0.010, 0.009), 1, 100e6, patience), "a server that is near"
    assert is_worth_it(_waits(0.020, 0.011, 0.001), 1, 100e6, patience), "one was under way already"
    assert not is_worth_it(_waits(0.020, 0.020, 0.020), 100_000_000, 100e6, patience), "not yet"
