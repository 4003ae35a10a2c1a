"""The identity directory: where one bucket (and prefix) keeps its cache on this machine, and who may use it.

    <cache root>/<16 hex of sha256(store identity, prefix)>-<bucket>/
        lock         flock held by the daemon that uses the directory; says which
        mount.json   how to reach the bucket again, without secrets: for `b2fs recover`
        server.json  what the server was found to be able to do (store.s3.memory)

INVARIANT: only the holder of the lock reads or writes anything else below the directory.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from b2fs.errors import ConfigError

_LOCK = "lock"
_MOUNT = "mount.json"
SERVER = "server.json"
_POLL_S = 0.1
_HOLDER_BYTES = 8192
#: How long a mount waits for a daemon that has already unmounted and is still uploading.
FINISHING_WAIT_S = 30.0


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


def identity_path(cache_root: str, store_identity: str, prefix: str, bucket: str) -> Path:
    """The directory's path: different for every bucket and prefix, the same on every mount of them."""
    digest = hashlib.sha256(f"{store_identity}\0{prefix}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return Path(cache_root) / f"{digest}-{re.sub(r'[^A-Za-z0-9.-]', '_', bucket)[:64]}"


@asynccontextmanager
async def claim(path: Path, owner: str, *, wait_s: float = FINISHING_WAIT_S) -> AsyncIterator[Identity]:
    """Make the directory private and lock it for as long as the context lasts.

    owner is shown to others who want it (the mountpoint).  A holder that is finishing is waited for, up to wait_s.
    A directory in which nothing was kept is removed again at the end: a refused mount leaves nothing behind.
    Raises ConfigError when another daemon uses the directory or it cannot be made.  Checkpoint: yes.
    """
    fd = await _open_locked(path, wait_s)
    try:
        _write_holder(fd, owner, finishing=False)
        yield Identity(path, fd, owner)
    finally:
        os.ftruncate(fd, 0)
        _remove_if_unused(path)
        os.close(fd)


async def _open_locked(path: Path, wait_s: float) -> int:
    """A descriptor of the lock file that holds the lock."""
    while True:
        _make_private(path)
        try:
            fd = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            continue  # the directory was removed by another one that had not used it
        locked = False
        try:
            await _lock(fd, path, wait_s)
            locked = _is_file_of(fd, path / _LOCK)
            if locked:
                return fd
        finally:
            if not locked:
                os.close(fd)


def _is_file_of(fd: int, path: Path) -> bool:
    """Whether path still names the open file: who removes an unused directory holds the lock while doing so."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _remove_if_unused(path: Path) -> None:
    if os.listdir(path) == [_LOCK]:
        os.unlink(path / _LOCK)
        os.rmdir(path)


def _make_private(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.path.lexists(path):
            path.mkdir(mode=0o700)
        info = os.lstat(path)
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
            raise ConfigError(f"The cache directory {path} is not a directory of yours")
        os.chmod(path, 0o700)
    except OSError as error:
        raise ConfigError(f"The cache directory {path} cannot be used: {error.strerror}") from None


async def _lock(fd: int, path: Path, wait_s: float) -> None:
    deadline = trio.current_time() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder, finishing = _read_holder(fd)
            if not finishing:
                raise ConfigError(f"The cache directory {path} is in use by a live b2fs mount ({holder})") from None
            if trio.current_time() >= deadline:
                raise ConfigError(
                    f"The cache directory {path} is still in use: the previous mount ({holder}) is uploading"
                ) from None
        else:
            return
        await trio.sleep(_POLL_S)


def _write_holder(fd: int, owner: str, *, finishing: bool) -> None:
    # One write of a fixed length, so that a reader never sees half of the old line and half of the new.
    text = json.dumps({"pid": os.getpid(), "owner": owner, "finishing": finishing}).encode()
    os.pwrite(fd, text.ljust(_HOLDER_BYTES), 0)


def _read_holder(fd: int) -> tuple[str, bool]:
    try:
        holder = json.loads(os.pread(fd, _HOLDER_BYTES, 0))
        return f"{holder['owner']}, process {holder['pid']}", bool(holder["finishing"])
    except (ValueError, KeyError, TypeError):
        # Between its lock and its line: live.
        return "just starting", False
