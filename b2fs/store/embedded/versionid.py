"""Version IDs in B2's form, made from a row and taken apart again.

`4_z<24 hex bucket>_f<16 hex file>_d<YYYYMMDD>_m<HHMMSS>_c000_v0000000_t0000_u<14-digit ms>`.  The file part is the
row's number sent through a bijection, so that IDs look and sort like B2's (no order to rely on) and still lead
straight to the row; nothing of the text needs to be stored.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import Final, NamedTuple

from b2fs.core.types import VersionId

_MASK: Final = (1 << 64) - 1
#: Any odd number is invertible modulo 2**64; this one spreads successive rows over the whole range.
_SPREAD: Final = 0x9E3779B97F4A7C15
_UNSPREAD: Final = pow(_SPREAD, -1, 1 << 64)

_FORM: Final = re.compile(r"4_z([0-9a-f]{24})_f([0-9a-f]{16})_d\d{8}_m\d{6}_c000_v0000000_t0000_u(\d{14})", re.ASCII)


class ParsedVersionId(NamedTuple):
    """The parts that matter."""

    bucket_id: str
    fid: int
    created_ms: int


def scatter(fid: int, seed: int = 0) -> int:
    """A 64-bit number that looks random, one to one with fid for each seed."""
    mixed = (fid ^ seed) * _SPREAD & _MASK
    return mixed ^ (mixed >> 32)


@lru_cache(maxsize=256)
def _moment(second: int) -> str:
    return time.strftime("_d%Y%m%d_m%H%M%S_c000_v0000000_t0000_u", time.gmtime(second))


def compose_version_id(bucket_id: str, fid: int, created_ms: int) -> VersionId:
    """The version ID of a row."""
    return VersionId(f"4_z{bucket_id}_f{scatter(fid):016x}{_moment(created_ms // 1000)}{created_ms:014d}")


def parse_version_id(text: str) -> ParsedVersionId | None:
    """The inverse of compose_version_id; None for a text that it cannot have made."""
    match = _FORM.fullmatch(text)
    if match is None:
        return None
    mixed = int(match[2], 16)
    mixed ^= mixed >> 32
    parsed = ParsedVersionId(match[1], mixed * _UNSPREAD & _MASK, int(match[3]))
    if parsed.fid >> 62 or compose_version_id(*parsed) != text:
        return None
    return parsed
