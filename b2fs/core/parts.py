"""Plans for multipart uploads: which bytes become which part, and where a part's bytes come from.

Pure arithmetic.  Ranges are half-open byte ranges of the finished object; part numbers start at 1.  Limits are B2's:
parts of 5 MiB (all but the last) to 5 GiB, 10,000 parts, 10 TB an object.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

MIB = 1 << 20
MIN_PART = 5 * MIB
MAX_PART = 5 << 30
MAX_PARTS = 10_000

#: Stream parts: the first thousand have this size, each further thousand twice the one before.
STREAM_PART = 10 * MIB
_GROUP = 1000


class PartSource(Enum):
    LOCAL = "local"  # the bytes are sent from here
    COPY = "copy"  # the bytes are copied from the base version, server-side


class Part(NamedTuple):
    """One part: bytes [start, end) of the finished object."""

    number: int
    start: int
    end: int
    source: PartSource = PartSource.LOCAL


def stream_part(number: int) -> Part:
    """The full part of this number in a file that is uploaded while its final size is unknown.

    10,000 such parts hold 10.7 TB, so a file that grows to the largest object never runs out of part numbers.
    """
    group, index = divmod(number - 1, _GROUP)
    before = STREAM_PART * _GROUP * ((1 << group) - 1)
    size = STREAM_PART << group
    start = before + index * size
    return Part(number, start, start + size)


def stream_part_at(offset: int) -> int:
    """The number of the stream part that holds the byte at offset."""
    group = 0
    while offset >= STREAM_PART * _GROUP * ((2 << group) - 1):
        group += 1
    before = STREAM_PART * _GROUP * ((1 << group) - 1)
    return group * _GROUP + (offset - before) // (STREAM_PART << group) + 1


def stream_parts(size: int) -> list[Part]:
    """All parts of a finished stream of size bytes (> 0); the last one is cut to fit."""
    parts = [stream_part(number) for number in range(1, stream_part_at(size - 1) + 1)]
    last = parts[-1]
    parts[-1] = Part(last.number, last.start, size)
    return parts


def plan_copy(size: int) -> list[Part]:
    """Server-side copy of a whole object that is too large for one CopyObject, in equal parts."""
    count = -(-size // MAX_PART)
    step = -(-size // count)
    return [Part(i + 1, i * step, min(size, (i + 1) * step), PartSource.COPY) for i in range(count)]


def plan_update(size: int, base_limit: int, changed: Iterable[tuple[int, int]]) -> list[Part]:
    """Parts of an object of size bytes whose bytes outside `changed` are those of the base at the same place.

    base_limit is how many bytes of the base still show (<= size); bytes from there on must be in `changed`.
    `changed` holds disjoint ranges in ascending order.  Every LOCAL part covers changed bytes and as few others as the
    limits allow, so little is sent; unchanged ranges shorter than a part are sent along.
    """
    sent = _merge_gaps(_widen(changed, size))
    most_local = max(4 * STREAM_PART, size // (MAX_PARTS // 2))
    parts: list[Part] = []
    position = 0
    for start, end in [*sent, (size, size)]:
        for a, b in _split(position, start, MAX_PART):
            parts.append(Part(len(parts) + 1, a, b, PartSource.COPY))
        for a, b in _split(start, end, most_local):
            parts.append(Part(len(parts) + 1, a, b, PartSource.LOCAL))
        position = end
    assert all(part.end <= base_limit for part in parts if part.source is PartSource.COPY)
    return parts


def _widen(changed: Iterable[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """Each changed range made at least MIN_PART long, forwards, as far as the object goes."""
    wide: list[tuple[int, int]] = []
    for start, end in changed:
        end = max(end, min(size, start + MIN_PART))
        if wide and start <= wide[-1][1]:
            wide[-1] = (wide[-1][0], max(end, wide[-1][1]))
        else:
            wide.append((start, end))
    return wide


def _merge_gaps(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges joined wherever the unchanged gap between them (or before the first) is too short to be a part."""
    merged: list[tuple[int, int]] = []
    position = 0
    for start, end in ranges:
        if start - position < MIN_PART and start > position:
            start = position
        if merged and start == merged[-1][1]:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
        position = end
    # A short copied tail is allowed: the last part has no minimum.
    while len(merged) > 1 and 2 * len(merged) + 2 > MAX_PARTS // 2:
        merged = _join_half(merged)
    return merged


def _join_half(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Half as many ranges: neighbours joined, for updates scattered over more places than there are part numbers."""
    return [(ranges[i][0], ranges[min(i + 1, len(ranges) - 1)][1]) for i in range(0, len(ranges), 2)]


def _split(start: int, end: int, most: int) -> list[tuple[int, int]]:
    """[start, end) in equal pieces of at most `most` bytes; nothing for an empty range."""
    if start >= end:
        return []
    count = -(-(end - start) // most)
    step = -(-(end - start) // count)
    return [(a, min(end, a + step)) for a in range(start, end, step)]


def multipart_etag(etags: Iterable[str]) -> str:
    """The ETag of an object that was made of parts with these: the usual rule, "" where a part's ETag is no MD5."""
    each = list(etags)
    try:
        digest = hashlib.md5(b"".join(bytes.fromhex(etag) for etag in each), usedforsecurity=False)
    except ValueError:
        return ""
    return f"{digest.hexdigest()}-{len(each)}"
