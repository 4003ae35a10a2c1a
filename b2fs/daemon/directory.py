"""The identity directory as far as a mount needs it before the event loop is loaded: its place and its lock."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
from pathlib import Path

from b2fs.errors import ConfigError

LOCK = "lock"
SERVER = "server.json"
LEDGER = "ledger.db"


def identity_path(cache_root: str, store_identity: str, prefix: str, bucket: str) -> Path:
    """The directory's path: different for every bucket and prefix, the same on every mount of them."""
    digest = hashlib.sha256(f"{store_identity}\0{prefix}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return Path(cache_root) / f"{digest}-{re.sub(r'[^A-Za-z0-9.-]', '_', bucket)[:64]}"


def open_lock(path: Path) -> int:
    """A descriptor of the lock file in a directory that is private from now on.

    Raises ConfigError, and FileNotFoundError if somebody who had not used the directory has just removed it.
    """
    _make_private(path)
    return os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def lock_nowait(path: Path) -> int | None:
    """A descriptor that holds the directory's lock, or None if that is somebody else's.  Raises like open_lock."""
    fd = open_lock(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    if is_file_of(fd, path / LOCK):
        return fd
    os.close(fd)
    return None


def unlock(path: Path, fd: int) -> None:
    """Let go of the lock.  A directory in which nothing was kept is removed: a refused mount leaves nothing behind."""
    os.ftruncate(fd, 0)
    if os.listdir(path) == [LOCK]:
        os.unlink(path / LOCK)
        os.rmdir(path)
    os.close(fd)


def is_file_of(fd: int, path: Path) -> bool:
    """Whether path still names the open file: who removes an unused directory holds the lock while doing so."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


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
