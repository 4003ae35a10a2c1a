"""Where the pages of a listing that were not asked for yet will probably begin.

The pages of one listing come one after the other, as each tells where the next one begins.  Who knows, or guesses,
names that are far enough apart can ask for several at a time.  A wrong guess costs a request, never a name (see
`loading`).
Pure: names in, names out.
"""

from __future__ import annotations

import string
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import takewhile

#: Ordered as keys are.
_ALPHABETS = (
    string.digits,
    string.digits + "abcdef",
    string.digits + "ABCDEF",
    string.digits + string.ascii_lowercase,
    string.digits + string.ascii_uppercase + string.ascii_lowercase,
)
#: Characters behind the first one that differs which are looked at.
_WIDTH = 12
#: Of those, the ones that tell the alphabet.
_TOLD = 6
#: So full a page is expected to be, where names are evenly spaced and elsewhere: one name too many is a page more.
_EVEN, _UNEVEN = 0.99, 0.9


def remembered(names: Sequence[str], stride: int, behind: str, count: int, page: int) -> list[str]:
    """Where pages behind the one that follows `behind` begin, up to count, ascending.

    names are every stride-th of those that were there some time ago, in key order; others may have come since.
    """
    step = max(1, int(page * _EVEN) // stride)
    first = bisect_right(names, behind) - 1 + step
    return list(names[first : first + step * count : step])


def extrapolated(names: Sequence[str], behind: str, count: int, page: int) -> list[str]:
    """The same, if the names go on as these do, which are in key order and without gaps.

    Empty where nothing can be said.
    """
    scale = _Scale.of(names) if len(names) > 1 else None
    if scale is None:
        return []
    first, last = scale.value(names[0]), scale.value(names[-1])
    middle = bisect_left(names, (first + last) // 2, key=scale.value)
    is_even = abs(2 * middle - len(names)) <= max(2, len(names) // 250)
    step = (last - first) * page / len(names) * (_EVEN if is_even else _UNEVEN)
    if step < 1:
        return []
    begin = max(scale.value(behind), last)
    found = [scale.text(begin + int(step * number)) for number in range(1, count + 1)]
    return [text for text in found if text is not None and text > behind]


class _Scale:
    """Names as numbers: behind a common beginning stand digits of one alphabet."""

    def __init__(self, beginning: str, alphabet: str, width: int) -> None:
        self._beginning = beginning
        self._alphabet = alphabet
        self._digits = {char: number for number, char in enumerate(alphabet)}
        self._width = width

    @classmethod
    def of(cls, names: Sequence[str]) -> _Scale | None:
        """The scale of sorted names; None if they do not differ, or in characters of no alphabet."""
        first, last = names[0], names[-1]
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
        sample = [*names[:: max(1, len(names) // 100)], last]
        if any(len(name) <= same for name in sample):
            return None
        tails = [name[same : same + _WIDTH] for name in sample]
        runs = ["".join(takewhile(_ALPHABETS[-1].__contains__, tail)) for tail in tails]
        used = set().union(*(run[:_TOLD] for run in runs))
        alphabet = next((a for a in _ALPHABETS if all(runs) and used.issubset(a)), None)
        if alphabet is None:
            return None
        length = max(map(len, runs))
        start = same
        while start and last[start - 1] in alphabet[:10]:  # a counter, which carries over
            start -= 1
        return cls(last[:start], alphabet, same - start + length)

    def value(self, name: str) -> int:
        """The number of a name; what stands behind the digits does not count."""
        value, base, digits = 0, len(self._alphabet), self._digits
        start = len(self._beginning)
        counting = True
        for char in name[start : start + self._width].ljust(self._width, self._alphabet[0]):
            digit = digits.get(char) if counting else 0
            counting = digit is not None and counting
            value = value * base + (digit or 0)
        return value

    def text(self, value: int) -> str | None:
        """The least name of that number; None behind the last one."""
        digits: list[str] = []
        for _ in range(self._width):
            value, digit = divmod(value, len(self._alphabet))
            digits.append(self._alphabet[digit])
        return None if value else self._beginning + "".join(reversed(digits))
