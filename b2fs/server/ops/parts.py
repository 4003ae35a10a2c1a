"""Parts of finished uploads: where each lies, kept with the version when it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from b2fs.server.wire.errors import S3Error
from b2fs.store.embedded.rows import VersionRow

#: Entry of a version's `extra`: the sizes of its parts, runs as `size*count`, by comma.
SIZES: Final = "part_sizes"


def encode_sizes(sizes: Sequence[int]) -> str:
    """Short for the usual case: thousands of parts of one size."""
    return ",".join(f"{size}*{len(list(run))}" for size, run in groupby(sizes))


def decode_sizes(text: str) -> list[int]:
    """The inverse of encode_sizes."""
    sizes: list[int] = []
    for item in text.split(","):
        size, _, count = item.partition("*")
        sizes.extend([int(size)] * int(count))
    return sizes


@dataclass(frozen=True, slots=True)
class PartRange:
    """The bytes [start, end) of one part; count is None where the version was not made of parts."""

    start: int
    end: int
    count: int | None


def part_range(row: VersionRow, number: int) -> PartRange:
    """Where part `number` of a version lies.  A version that was put in one piece has one part.

    Raises InvalidArgument for a number that no part can have, InvalidPart for one that this version has not.
    """
    if not 1 <= number <= 10_000:
        raise S3Error("InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
    text = row.attributes.extra.get(SIZES)
    if text is None:
        if number > 1:
            raise S3Error("InvalidPart")
        return PartRange(0, row.size, None)
    sizes = decode_sizes(text)
    if number > len(sizes):
        raise S3Error("InvalidPart")
    start = sum(sizes[: number - 1])
    return PartRange(start, start + sizes[number - 1], len(sizes))
