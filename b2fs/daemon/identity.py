"""The identity directory: where one bucket (and prefix) keeps its cache on this machine, and who may use it.

    <cache root>/<16 hex of sha256(store identity, prefix)>-<bucket>/
        lock         flock held by the daemon that uses the directory; says which
        mount.json   how to reach the bucket again, without secrets: for `b2fs recover`
        server.json  what the server was found to be able to do (store.s3.memory)

INVARIANT: only the holder of the lock reads or writes anything else below the directory.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import trio

from b2fs.daemon.directory import LOCK, is_file_of, open_lock, unlock
from b2fs.daemon.succession import FINISHING_WAIT_S, POLL_S, has_given_way
from b2fs.errors import ConfigError

_MOUNT = "mount.json"
_HOLDER_BYTES = 8192


class Identity:
    """A locked identity directory."""

    def __init__(self, path: Path, lock_fd: int, owner: str) -> None:
        self.path = path
        self._lock_fd = lock_fd
        self._owner = owner

    def mark_finishing(self) -> None:
        """Say that this daemon will release the directory by itself soon."""
        _write_holder(self._lock_fd, self._owner, finishing=True)

    def remember(self, texts: Mapping[str, str]) -> None:
        """Keep the mount's settings for `recall`, atomically."""
        temporary = self.path / (_MOUNT + ".new")
        temporary.write_text(json.dumps(dict(texts), indent=1) + "\n")
        temporary.replace(self.path / _MOUNT)


def recall(path: Path) -> dict[str, str]:
    """The settings that `remember` kept; raises ConfigError if path is not an identity directory."""
    try:
        texts = json.loads((path / _MOUNT).read_text())
    except (OSError, ValueError):
        raise ConfigError(f"{path} is not the cache directory of a b2fs mount: it has no readable {_MOUNT}") from None
    if not isinstance(texts, dict) or not all(isinstance(value, str) for value in texts.values()):
        raise ConfigError(f"{path / _MOUNT} is damaged")
    return texts


@asynccontextmanager
async def claim(
    path: Path, owner: str, *, wait_s: float = FINISHING_WAIT_S, held: int | None = None, takes_over: bool = False
) -> AsyncIterator[Identity]:
    """Make the directory private and lock it for as long as the context lasts.

    owner is shown to others who want it (the mountpoint).  A holder that is finishing is waited for, up to wait_s;
    takes_over: we upload what it leaves, so it is asked to give way.
    held is a descriptor that holds the lock already; it is ours from now on.
    A directory in which nothing was kept is removed again at the end: a refused mount leaves nothing behind.
    Raises ConfigError when another daemon uses the directory or it cannot be made.  Checkpoint: yes.
    """
    fd = await _open_locked(path, wait_s, takes_over) if held is None else held
    try:
        _write_holder(fd, owner, finishing=False)
        yield Identity(path, fd, owner)
    finally:
        unlock(path, fd)


async def _open_locked(path: Path, wait_s: float, takes_over: bool) -> int:
    """A descriptor of the lock file that holds the lock."""
    while True:
        try:
            fd = open_lock(path)
        except FileNotFoundError:
            continue  # the directory was removed by another one that had not used it
        locked = False
        try:
            await _lock(fd, path, wait_s, takes_over)
            locked = is_file_of(fd, path / LOCK)
            if locked:
                return fd
        finally:
            if not locked:
                os.close(fd)


async def _lock(fd: int, path: Path, wait_s: float, takes_over: bool) -> None:
    deadline = trio.current_time() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read_holder(fd)
            if not holder.finishing:
                raise ConfigError(
                    f"The cache directory {path} is in use by a live b2fs mount ({holder.text})"
                ) from None
            if trio.current_time() >= deadline:
                raise ConfigError(
                    f"The cache directory {path} is still in use: the previous mount ({holder.text}) is uploading"
                ) from None
            if takes_over:
                await has_given_way(holder.owner, path)
        else:
            return
        await trio.sleep(POLL_S)


def _write_holder(fd: int, owner: str, *, finishing: bool) -> None:
    # One write of a fixed length, so that a reader never sees half of the old line and half of the new.
    text = json.dumps({"pid": os.getpid(), "owner": owner, "finishing": finishing}).encode()
    os.pwrite(fd, text.ljust(_HOLDER_BYTES), 0)


class _Holder(NamedTuple):
    """Who has the lock: a mountpoint, and the same for people."""

    owner: str
    text: str
    finishing: bool


def _read_holder(fd: int) -> _Holder:
    try:
        holder = json.loads(os.pread(fd, _HOLDER_BYTES, 0))
        owner = str(holder["owner"])
        return _Holder(owner, f"{owner}, process {holder['pid']}", bool(holder["finishing"]))
    except (ValueError, KeyError, TypeError):
        # Between its lock and its line: live.
        return _Holder("", "just starting", False)
