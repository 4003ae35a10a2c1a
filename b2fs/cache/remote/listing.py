"""Listing: one directory as the bucket showed it, in little memory.

A million names are kept, so a row is one small bytes object (size, time and ETag), and the values that others work
with are made when somebody asks for that name.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import NamedTuple

from b2fs.core.types import ETag, ObjectInfo, ObjectRef

NS = 1_000_000_000
#: Size, time in ns, and whether the ETag follows as the 16 bytes of an MD5.
_HEAD = struct.Struct("<qq?")
_HEX = frozenset("0123456789abcdef")
_MD5_DIGITS = 32


def pack(info: ObjectInfo) -> bytes:
    """Size, time and ETag of an object in one value: equal for equal versions of one key, as far as a listing tells.

    An ETag that is an MD5 in hexadecimal digits takes 16 bytes.
    """
    etag = info.ref.etag
    if len(etag) == _MD5_DIGITS and _HEX.issuperset(etag):
        return _HEAD.pack(info.size, info.modified_ns, True) + bytes.fromhex(etag)
    return _HEAD.pack(info.size, info.modified_ns, False) + etag.encode("utf-8", "surrogateescape")


def unpack(key: str, row: bytes) -> ObjectInfo:
    """The object of a packed row; without version ID and metadata, as listings are."""
    size, modified_ns, is_md5 = _HEAD.unpack_from(row)
    rest = row[_HEAD.size :]
    etag = rest.hex() if is_md5 else rest.decode("utf-8", "surrogateescape")
    return ObjectInfo(ObjectRef(key, None, ETag(etag), size), modified_ns)


def size_and_time(row: bytes) -> tuple[int, int]:
    """Size and time in ns of a packed row."""
    size, modified_ns, _ = _HEAD.unpack_from(row)
    return size, modified_ns


class Found(NamedTuple):
    """What one name stands for: an object of that key, a directory (keys below it), both, or neither."""

    file: ObjectInfo | None
    is_dir: bool
    seen_at: float

    @property
    def exists(self) -> bool:
        return self.file is not None or self.is_dir


@dataclass(slots=True)
class Listing:
    """One directory as the bucket showed it at seen_at (trio time).

    Where `until` is set the listing was too long for one page, and only names whose object and directory both sort
    up to it are known (the object `a` and the directory `a/` may be pages apart).
    token continues such a listing; without one it goes on behind `until`.
    marker is the directory's own object, if `marker_seen` says that it was looked for.
    Pages of a long listing are asked for one after the other, so names of a later page are as new as that page.
    """

    prefix: str
    seen_at: float
    files: dict[str, bytes] = field(default_factory=dict)
    dirs: set[str] = field(default_factory=set)
    marker: ObjectInfo | None = None
    marker_seen: bool = True
    until: str | None = None
    token: str | None = None
    #: Where each page but the last ended, and when each but the first was asked for.
    ends: list[str] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.files) + len(self.dirs)

    def info(self, component: str) -> ObjectInfo | None:
        """The object of that name."""
        row = self.files.get(component)
        return unpack(self.prefix + component, row) if row is not None else None

    def find(self, component: str) -> Found | None:
        """What component stands for, or None if this listing does not reach that far."""
        if self.until is not None and component + "/" > self.until:
            return None
        return Found(self.info(component), component in self.dirs, self.seen_at_of(component))

    def seen_at_of(self, component: str) -> float:
        """When the page that has, or would have, this name was asked for."""
        page = bisect_left(self.ends, component) if self.asked else 0
        return self.asked[page - 1] if page else self.seen_at

    def reach(self, until: str | None, asked_at: float) -> None:
        """A page was taken that was asked for at asked_at; the listing goes as far as `until` now, None: to the end."""
        if self.until is not None:
            self.ends.append(self.until)
            self.asked.append(asked_at)
        self.until = until

    def row(self, component: str) -> bytes | None:
        """The packed object of that name; "" is the content of the directory's own object."""
        if component or self.marker is None or not self.marker.size:
            return self.files.get(component)
        return pack(self.marker)

    def entries(self) -> list[str]:
        """What comes behind the prefix in the key of everything that there is, in order; directories end in '/'."""
        entries = list(self.files)
        if self.row("") is not None:
            entries.append("")
        if self.dirs:
            entries += [component + "/" for component in self.dirs]
        entries.sort()
        return entries

    def add(self, component: str, info: ObjectInfo) -> None:
        """An object appeared, or a directory's (component ends in '/')."""
        if component.endswith("/"):
            self.dirs.add(component[:-1])
        else:
            self.files[component] = pack(info)

    def drop(self, component: str) -> None:
        """An object went away, or a directory."""
        if component.endswith("/"):
            self.dirs.discard(component[:-1])
        else:
            self.files.pop(component, None)
