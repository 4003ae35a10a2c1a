"""What was agreed with the kernel the last time, so that a mount can say the same before libfuse is loaded.

One small file for each first request of a kernel and each set of features, in the directory of the user's sockets, so
none outlives the machine's run.  Nothing is guessed: an agreement is one that libfuse itself made, with the very same
files of libfuse and pyfuse3 on this machine, and when they are loaded they are asked again (fuse.handshake).
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from contextlib import suppress
from typing import Any

from b2fs.fuse.wire import is_answer_to, renumbered, without_number

#: Of another format than this nothing is read.
_FORMAT = 1
_MAX_BYTES = 1 << 16


class Agreements:
    """Agreements of mounts that are asked for in the same way."""

    def __init__(self, directory: str, asked: str) -> None:
        """asked is what decides, beside the kernel, what is agreed: features and options, as text."""
        self._directory = directory
        self._asked = asked

    def recall(self, request: bytes) -> bytes | None:
        """The answer to the kernel's first request; None if there is none that can be relied on."""
        try:
            if not _is_ours(os.lstat(self._directory)):
                return None
            with open(self._path(request), "rb") as file:
                if not _is_ours(os.fstat(file.fileno())):
                    return None
                kept = json.loads(file.read(_MAX_BYTES))
            answer = renumbered(bytes.fromhex(kept["answer"]), request)
            unchanged = all(_state(path) == state for path, state in kept["libraries"].items())
            whole = kept["format"] == _FORMAT and bool(kept["libraries"]) and is_answer_to(answer, request)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return answer if unchanged and whole else None

    def remember(self, request: bytes, answer: bytes) -> None:
        """Keep what the loaded libfuse has answered, if it can be kept."""
        libraries = {path: _state(path) for path in _loaded_libraries()}
        kept: dict[str, Any] = {"format": _FORMAT, "answer": answer.hex(), "libraries": libraries}
        path = self._path(request)
        temporary = f"{path}.{os.getpid()}"
        with suppress(OSError):
            if _is_ours(os.lstat(self._directory)):
                with open(temporary, "w", opener=_private) as file:
                    file.write(json.dumps(kept))
                os.replace(temporary, path)

    def forget(self, request: bytes) -> None:
        """Rely on it no more."""
        with suppress(OSError):
            os.unlink(self._path(request))

    def _path(self, request: bytes) -> str:
        about = f"{sys.prefix}\0{self._asked}\0".encode() + without_number(request)
        return os.path.join(self._directory, f"agreed-{hashlib.sha256(about).hexdigest()[:16]}")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _is_ours(info: os.stat_result) -> bool:
    """Whether nobody else could have written it."""
    return info.st_uid == os.geteuid() and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _state(path: str) -> list[int]:
    """What changes when a file is another one.  Raises OSError."""
    info = os.stat(path)
    return [info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns]


def _loaded_libraries() -> set[str]:
    """The files of libfuse and pyfuse3 that this process uses."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as lines:
        mapped = {line.rstrip("\n").partition("/")[2] for line in lines}
    return {f"/{path}" for path in mapped if "/libfuse3." in f"/{path}" or "/pyfuse3/" in f"/{path}"}
