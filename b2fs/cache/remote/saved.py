"""What was known of the bucket when a mount ended in order, for the next mount.

Listings keep their age: within the time to live they are as good as they were, beyond it the bucket is asked again.
Attributes are tied to versions and have no age.

The file is removed when it is read, so a mount that is killed leaves none: what it stored after the file was written
would be missing in its listings, which are believed to be whole.  For the same reason it is written when nothing is
uploaded any more.  A file that is damaged, or of another format, is as good as none.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import time
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from b2fs.cache.remote.known import Row, row_fields, row_from
from b2fs.cache.remote.listing import Listing, pack, unpack

log = logging.getLogger(__name__)

_MAGIC = b"b2fs-listings 1\n"
#: No more names than this are kept; a larger file is not ours.
_NAMES = 200_000
_MAX_BYTES = 256 << 20


@dataclass(slots=True)
class Saved:
    """listings: with seen_at as the age in seconds, below zero.  plain: what the filesystem found out about trees."""

    listings: list[Listing] = field(default_factory=list)
    rows: dict[str, Row] = field(default_factory=dict)
    plain: list[object] = field(default_factory=list)


def save(path: str, listings: Iterable[Listing], rows: Mapping[str, Row], plain: list[object], now: float) -> None:
    """Write the file; now is the time in which the listings' seen_at is.  Raises OSError.  May take a second."""
    kept: list[object] = []
    known: list[object] = []
    room = _NAMES
    for listing in listings:
        if listing.count >= room:
            continue
        room -= listing.count + 1
        kept.append(_listing_fields(listing, now))
        keys = [listing.prefix, *(listing.prefix + name for name in listing.files)]
        known.extend([key, *row_fields(rows[key])] for key in keys if key in rows)
    table = {"at": time.time(), "listings": kept, "known": known, "plain": plain}
    packed = zlib.compress(json.dumps(table, separators=(",", ":")).encode(), 1)
    temporary = path + ".new"
    with open(temporary, "wb") as file:
        file.write(_MAGIC + zlib.crc32(packed).to_bytes(4, "big") + packed)
    os.replace(temporary, path)


def take(path: str) -> Saved:
    """Read the file and remove it; nothing if it is missing or cannot be used.  May take a second."""
    try:
        with open(path, "rb") as file:
            body = file.read(_MAX_BYTES)
        os.unlink(path)
    except FileNotFoundError:
        return Saved()
    except OSError as error:
        log.info("what the last mount knew is not used: %s", error.strerror)
        with suppress(OSError):
            os.unlink(path)
        return Saved()
    try:
        return _decode(body)
    except (zlib.error, struct.error, ValueError, TypeError, KeyError, AttributeError) as error:
        log.info("what the last mount knew is not used: %s", error)
        return Saved()


def _decode(body: bytes) -> Saved:
    head = len(_MAGIC)
    packed = body[head + 4 :]
    if body[:head] != _MAGIC or zlib.crc32(packed).to_bytes(4, "big") != body[head : head + 4]:
        raise ValueError("damaged, or of another format")
    table = json.loads(zlib.decompress(packed))
    passed_s = time.time() - float(table["at"])
    saved = Saved(plain=list(table["plain"]))
    if passed_s >= 0:  # else the clock was set back, and nobody knows how old they are
        saved.listings = [_listing_of(fields, passed_s) for fields in table["listings"]]
    saved.rows = {str(key): row_from(*fields) for key, *fields in table["known"]}
    return saved


def _listing_fields(listing: Listing, now: float) -> list[object]:
    marker = pack(listing.marker).hex() if listing.marker is not None else None
    files = {name: row.hex() for name, row in listing.files.items()}
    return [listing.prefix, now - listing.seen_at, marker, listing.marker_seen, sorted(listing.dirs), files]


def _listing_of(fields: list[object], passed_s: float) -> Listing:
    prefix, age_s, marker, marker_seen, dirs, files = fields
    if not isinstance(prefix, str) or not isinstance(age_s, float):
        raise ValueError("a listing of another form")
    if not isinstance(dirs, list) or not isinstance(files, dict):
        raise ValueError("a listing of another form")
    listing = Listing(prefix, -age_s - passed_s, marker_seen=bool(marker_seen))
    listing.dirs.update(map(str, dirs))
    listing.files.update((name, bytes.fromhex(row)) for name, row in files.items())
    if marker is not None:
        listing.marker = unpack(prefix, bytes.fromhex(str(marker)))
    for row in listing.files.values():
        unpack("", row)
    return listing
