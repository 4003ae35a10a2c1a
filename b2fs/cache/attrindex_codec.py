"""The form of an attribute index object: a line that names the format, then compressed JSON.

    {"rows": {"directory/": [[name, etag, size, second, slack, version ID or null, extra], ...], ...}}

Directories are relative to the index's root, names are key components (those of directories end in '/').
"""

from __future__ import annotations

import json
import zlib
from typing import Any

from b2fs.cache.remote.known import Row, row_fields, row_from

#: Directory -> name -> what is known of it.
Rows = dict[str, dict[str, Row]]

FORMAT = 1
_MAGIC = b"b2fs-attributes "
#: No index is larger, packed and unpacked; what claims to be is damaged.
MAX_PACKED_BYTES = 64 << 20
_MAX_BYTES = 256 << 20


class UnreadableIndex(ValueError):
    """Damaged, or of a format that this version does not know."""


def encode(rows: Rows) -> bytes:
    """The body of an index object."""
    table = {
        directory: [[name, *row_fields(row)] for name, row in sorted(names.items())]
        for directory, names in sorted(rows.items())
        if names
    }
    return b"%s%d\n" % (_MAGIC, FORMAT) + zlib.compress(json.dumps({"rows": table}, separators=(",", ":")).encode())


def decode(body: bytes) -> Rows:
    """The rows of an index object.  Raises UnreadableIndex."""
    head, _, packed = body.partition(b"\n")
    if head != b"%s%d" % (_MAGIC, FORMAT):
        raise UnreadableIndex(f"not an attribute index of format {FORMAT}: {head[:40]!r}")
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(packed, _MAX_BYTES)
        if not unpacker.eof:
            raise UnreadableIndex("cut off")
        table = json.loads(text)["rows"]
        return {_checked(directory, names): _rows(names) for directory, names in table.items()}
    except (zlib.error, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UnreadableIndex(f"damaged: {error}") from error


def _rows(names: list[list[Any]]) -> dict[str, Row]:
    return {str(name): row_from(*rest) for name, *rest in names}


def _checked(directory: str, names: list[list[Any]]) -> str:
    """The directory, if it and the names in it may be parts of keys.  Raises ValueError, TypeError."""
    "".join([directory, *(name for name, *_ in names)]).encode()
    return directory


def count(rows: Rows) -> int:
    """How many rows there are."""
    return sum(map(len, rows.values()))


def split(rows: Rows, top: str, most: int, least: int) -> dict[str, Rows]:
    """The rows as index objects: those of `top` itself, and of subtrees that are taken out because it is too large.

    A subtree is taken out, largest first, if it has at least `least` rows; what is left has at most `most` where
    that is possible.
    """
    left = count(rows)
    by_branch: dict[str, int] = {}
    for directory, names in rows.items():
        branch = directory[: directory.find("/", len(top)) + 1]
        if len(branch) > len(top):
            by_branch[branch] = by_branch.get(branch, 0) + len(names)
    found: dict[str, Rows] = {}
    for branch, size in sorted(by_branch.items(), key=lambda item: -item[1]):
        if left <= most or size < least:
            break
        left -= size
        part = {directory: names for directory, names in rows.items() if directory.startswith(branch)}
        found.update(split(part, branch, most, least))
    taken = tuple(found)
    kept = {directory: names for directory, names in rows.items() if not (taken and directory.startswith(taken))}
    return {top: kept, **found}
