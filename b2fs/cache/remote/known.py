"""KnownAttributes: what objects carry besides their bytes, by key, each tied to the version that it describes.

A row is believed only for an object of the same ETag, size and second of modification.  So it needs no time to live:
whoever changes an object changes one of these.  Our own uploads are known by the server's clock at the answer, which
may be a second or two from the time that listings show; their rows allow for that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from cachetools import LRUCache

from b2fs.cache.remote.listing import NS
from b2fs.core.keys import split_key
from b2fs.core.types import ObjectInfo, ObjectRef, VersionId

#: How far the time of an upload's answer may be from the one in listings, in seconds.
UPLOAD_SLACK_S = 2
#: Of so many directories it is remembered when something was learnt about their entries.
_DIRECTORIES = 10_000
#: What no header has: it would end the header, or is no character at all.
_NO_HEADER = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


class Row(NamedTuple):
    """One object; second is that of its modification, extra is JSON of [metadata, content type]."""

    etag: str
    size: int
    second: int
    slack_s: int
    version_id: VersionId | None
    extra: bytes

    def describes(self, info: ObjectInfo) -> bool:
        return (
            self.etag == info.ref.etag
            and self.size == info.size
            and abs(self.second - info.modified_ns // NS) <= self.slack_s
            and (info.ref.version_id is None or info.ref.version_id == self.version_id)
        )


def row_of(info: ObjectInfo, *, uploaded: bool) -> Row:
    """The row of an object whose metadata is known; uploaded: as the answer to an upload of ours told it."""
    extra = json.dumps([dict(info.metadata or {}), info.content_type], separators=(",", ":")).encode()
    slack = UPLOAD_SLACK_S if uploaded else 0
    return Row(info.ref.etag, info.size, info.modified_ns // NS, slack, info.ref.version_id, extra)


def row_fields(row: Row) -> list[object]:
    """A row as JSON has it."""
    return [row.etag, row.size, row.second, row.slack_s, row.version_id, row.extra.decode()]


def row_from(etag: object, size: object, second: object, slack_s: object, version: object, extra: object) -> Row:
    """The row of these fields.  Raises ValueError, or TypeError for too few or too many."""
    if not (
        isinstance(etag, str)
        and isinstance(size, int)
        and isinstance(second, int)
        and isinstance(slack_s, int)
        and isinstance(version, str | None)
        and isinstance(extra, str)
    ):
        raise ValueError("a row of another form")
    return Row(etag, size, second, slack_s, VersionId(version) if version is not None else None, extra.encode())


def _carried(row: Row) -> tuple[dict[str, str], str | None] | None:
    """Metadata and content type; None if they are nothing that an object can carry.  Rows may come from anybody."""
    try:
        metadata, content_type = json.loads(row.extra)
    except (ValueError, TypeError, RecursionError):
        return None
    if not isinstance(metadata, dict) or not isinstance(content_type, str | None):
        return None
    texts = [*metadata, *metadata.values(), content_type or ""]
    if not all(isinstance(text, str) for text in texts) or _NO_HEADER.search("".join(texts)):
        return None
    return metadata, content_type


class KnownAttributes:
    """See the module."""

    def __init__(self, max_rows: int) -> None:
        self._rows: LRUCache[str, Row] = LRUCache(max_rows)
        #: Counts what was learnt and forgotten; the count of the last time in a directory, by prefix, as far as that is
        #: remembered, and the highest of those that are not.
        self._changes = 0
        self._changed: dict[str, int] = {}
        self._changed_before = 0

    def learn(self, info: ObjectInfo, *, uploaded: bool = False) -> Row:
        """Take what a HEAD, a GET or an upload told; metadata is not None."""
        row = self._rows[info.key] = row_of(info, uploaded=uploaded)
        self._note_change(info.key)
        return row

    def put(self, key: str, row: Row) -> None:
        self._rows[key] = row
        self._note_change(key)

    def changes(self, prefix: str) -> int:
        """A number that is another one once something was learnt or forgotten about a directory's own entries.

        So conclusions can be kept as long as nothing was.
        """
        return self._changed.get(prefix, self._changed_before)

    def _note_change(self, key: str) -> None:
        if len(self._changed) >= _DIRECTORIES:
            self._changed.clear()
            self._changed_before = self._changes
        self._changes += 1
        self._changed[split_key(key)[0]] = self._changes

    def rows(self) -> dict[str, Row]:
        """All that is known, by key."""
        return dict(self._rows.items())

    def row(self, key: str) -> Row | None:
        return self._rows.get(key)

    def complete(self, info: ObjectInfo) -> ObjectInfo | None:
        """The same version with its metadata, if that is known."""
        row = self._rows.get(info.key)
        if row is None or not row.describes(info):
            return None
        carried = _carried(row)
        if carried is None:
            del self._rows[info.key]
            return None
        metadata, content_type = carried
        ref = ObjectRef(info.key, row.version_id, info.ref.etag, info.size)
        return ObjectInfo(ref, info.modified_ns, metadata, content_type)

    def forget(self, key: str) -> None:
        self._rows.pop(key, None)
        self._note_change(key)


class AttributeSource(Protocol):
    """Where attributes come from beside the objects themselves."""

    async def load(self, prefix: str) -> None:
        """Make what is there about a directory's entries known; never fails."""
        ...

    def names(self, prefix: str) -> tuple[Sequence[str], int]:
        """Every so many-th file of a large directory as far as known, in key order, and how many that is."""
        ...

    def note(self, key: str, row: Row | None) -> None:
        """An object is known to carry this, or (None) is gone."""
        ...


class NoAttributes:
    """There is nothing but the objects."""

    async def load(self, prefix: str) -> None:
        """Nothing is known."""

    def names(self, prefix: str) -> tuple[Sequence[str], int]:
        """None is known."""
        return (), 1

    def note(self, key: str, row: Row | None) -> None:
        """Nobody wants to know."""
