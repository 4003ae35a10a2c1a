"""What the daemon and the command line say to each other: one JSON object a line.

A request is a command with an optional path.  The answer is any number of "progress" replies and one last reply:
"status", "done", "stopped" (the daemon has ended) or "error".
Unknown fields are ignored and missing ones have defaults, so that versions may differ by a little.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from b2fs.daemon.interfaces import Reading, Warming, WriteBackStatus

#: Asks a daemon that only uploads any more to end at once; the path is that of the cache directory to be taken over.
GIVE_WAY = "give-way"
MAX_LINE_BYTES = 1 << 20
_MAX_FAILURES = 100

T = TypeVar("T")


class Failure(NamedTuple):
    """A path whose upload failed, and why."""

    path: str = ""
    error: str = ""


class Figures(NamedTuple):
    """A moment of the write-back, as cache.status.WriteBackStatus; at most 100 failures are listed."""

    pending_files: int = 0
    pending_bytes: int = 0
    uploading: int = 0
    uploaded_files: int = 0
    uploaded_bytes: int = 0
    conflicts: int = 0
    dirty_bytes: int = 0
    oldest_pending_s: float = 0.0
    offline: bool = False
    failed: tuple[Failure, ...] = ()

    @classmethod
    def of(cls, status: WriteBackStatus) -> Figures:
        plain = {name: getattr(status, name) for name in cls._fields if name != "failed"}
        return cls(**plain, failed=tuple(Failure(item.path, item.error) for item in status.failed[:_MAX_FAILURES]))


class WarmFigures(NamedTuple):
    """A moment of `b2fs warm`; changed counts contents that were replaced meanwhile."""

    files: int = 0
    bytes: int = 0
    files_done: int = 0
    bytes_done: int = 0
    bytes_fetched: int = 0
    changed: int = 0
    listed: bool = False

    @classmethod
    def of(cls, warming: Warming) -> WarmFigures:
        plain = {name: getattr(warming, name) for name in cls._fields if name != "changed"}
        return cls(**plain, changed=len(warming.changed))


class ReadFigures(NamedTuple):
    """What was read since the mount began, as cache.reader.ReaderStats."""

    served_bytes: int = 0
    fetched_bytes: int = 0
    fetches: int = 0
    disk_bytes: int = 0
    wasted_bytes: int = 0
    failures: int = 0

    @classmethod
    def of(cls, reading: Reading) -> ReadFigures:
        return cls(*(getattr(reading, name) for name in cls._fields))


class MountReport(NamedTuple):
    """A mount as `b2fs status` shows it; phase is starting, mounted, draining or stopped."""

    url: str = ""
    mountpoint: str = ""
    cache_dir: str = ""
    pid: int = 0
    version: str = ""
    phase: str = "starting"
    read_only: bool = False
    uptime_s: float = 0.0
    writeback: Figures = Figures()
    reading: ReadFigures = ReadFigures()
    #: Parts of files that power cuts have left, below torn/ in cache_dir.
    set_aside: int = 0


class Request(NamedTuple):
    """What a client wants; path is within the mount, "" for all of it."""

    command: str
    path: str = ""

    def encode(self) -> bytes:
        return json.dumps(as_plain(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Request:
        """Raises ValueError for what is not a request."""
        content = _object(line)
        return cls(str(content.get("command", "")), str(content.get("path", "")))


class Reply(NamedTuple):
    """One line of an answer."""

    kind: str
    report: MountReport = MountReport()
    message: str = ""
    warm: WarmFigures = WarmFigures()

    @property
    def is_last(self) -> bool:
        return self.kind != "progress"

    def encode(self) -> bytes:
        return json.dumps(as_plain(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Reply:
        """Raises ValueError for what is not a reply."""
        content = _object(line)
        warm = content.get("warm")
        return cls(
            str(content.get("kind", "")),
            _report(content.get("report")),
            str(content.get("message", "")),
            _known(WarmFigures, warm if isinstance(warm, Mapping) else {}),
        )


def as_plain(value: object) -> object:
    """What JSON makes of these values: of a tuple with named fields an object."""
    if not isinstance(value, tuple):
        return value
    plain = [as_plain(item) for item in value]
    names: tuple[str, ...] | None = getattr(value, "_fields", None)
    return plain if names is None else dict(zip(names, plain, strict=True))


def _object(line: bytes) -> dict[str, Any]:
    content = json.loads(line)
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


def _report(content: object) -> MountReport:
    outer = content if isinstance(content, Mapping) else {}
    inner = outer.get("writeback") if isinstance(outer.get("writeback"), Mapping) else {}
    failed = inner.get("failed") if isinstance(inner, Mapping) else ()
    failures = tuple(_known(Failure, item) for item in failed or () if isinstance(item, Mapping))
    figures = _known(Figures, {**(inner or {}), "failed": failures})
    reading = outer.get("reading")
    read = _known(ReadFigures, reading if isinstance(reading, Mapping) else {})
    return _known(MountReport, {**outer, "writeback": figures, "reading": read})


def _known(kind: type[T], content: Mapping[str, Any]) -> T:
    """kind(**content) without the names that it does not have."""
    names = getattr(kind, "_fields")  # noqa: B009  (T has no such attribute for the type checker)
    return kind(**{name: value for name, value in content.items() if name in names})
