"""Mountpoints: the kernel's table of mounts, and whether a directory can become one.

Nothing here opens a directory below a mount whose daemon may be dead or busy, except `check_mountpoint`, which looks
only at directories that are not mounts.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import NamedTuple

from b2fs.errors import ConfigError

FS_TYPE = "fuse.b2fs"
FUSE_DEVICE = "/dev/fuse"
FUSE_CONF = "/etc/fuse.conf"
_ESCAPE = r"\\([0-7]{3})"


class MountEntry(NamedTuple):
    """One line of the mount table; owner_uid is who mounted a FUSE filesystem."""

    mountpoint: str
    fs_type: str
    source: str
    owner_uid: int

    @property
    def is_b2fs(self) -> bool:
        return self.fs_type == FS_TYPE


def read_mounts(table: str = "/proc/self/mountinfo") -> list[MountEntry]:
    """All mounts that this process sees, in mount order; the last entry of a path is the one on top."""
    with open(table, encoding="utf-8", errors="surrogateescape") as lines:
        return [_parse_line(line) for line in lines]


def _parse_line(line: str) -> MountEntry:
    # proc(5): ID parent major:minor root MOUNTPOINT options [optional...] - TYPE SOURCE SUPER-OPTIONS
    left, _, right = line.rstrip("\n").partition(" - ")
    fs_type, source, *super_options = right.split(" ")
    owner = re.search(r"(?:^|,)user_id=(\d+)", super_options[-1] if super_options else "")
    return MountEntry(_unescape(left.split(" ")[4]), fs_type, _unescape(source), int(owner[1]) if owner else 0)


def _unescape(text: str) -> str:
    return re.sub(_ESCAPE, lambda match: chr(int(match[1], 8)), text) if "\\" in text else text


def mount_at(path: str) -> MountEntry | None:
    """The topmost mount on exactly this canonical path; autofs triggers do not count."""
    found = [entry for entry in read_mounts() if entry.mountpoint == path and entry.fs_type != "autofs"]
    return found[-1] if found else None


def find_b2fs_mount(path: str) -> tuple[MountEntry, str]:
    """The b2fs mount that path is on, and the path within it ("" for the mountpoint itself).

    Raises ConfigError when path is not on one.
    """
    canonical = os.path.realpath(path)
    current = canonical
    while True:
        entry = mount_at(current)
        if entry is not None and entry.is_b2fs:
            return entry, os.path.relpath(canonical, current) if canonical != current else ""
        if entry is not None or current == "/":
            raise ConfigError(f"{path} is not on a b2fs mount")
        current = os.path.dirname(current)


def check_mountpoint(path: str, *, nonempty: bool) -> str:
    """The canonical path of a directory that can be mounted on; raises ConfigError with the reason why not."""
    canonical = os.path.realpath(path)
    entry = mount_at(canonical)
    try:
        is_directory = stat.S_ISDIR(os.stat(canonical).st_mode)
    except FileNotFoundError:
        raise ConfigError(f"The mountpoint {path} does not exist; make it with: mkdir {path}") from None
    except OSError as error:
        raise ConfigError(f"The mountpoint {path} cannot be used: {error.strerror}") from None
    if entry is not None and (entry.is_b2fs or not nonempty):
        raise ConfigError(f"{path} is already a mountpoint ({entry.source}); unmount it first")
    if not is_directory:
        raise ConfigError(f"The mountpoint {path} is not a directory")
    if not os.access(canonical, os.W_OK | os.X_OK):
        raise ConfigError(f"You may not mount on {path}: it must be writable for you")
    if not nonempty and not _is_autofs(canonical) and not _is_empty(canonical):
        raise ConfigError(f"The mountpoint {path} is not empty; -o nonempty mounts over what is there")
    return canonical


def _is_autofs(canonical: str) -> bool:
    # Opening the directory of an automount from the mount helper would wait for the very mount that we make.
    return any(entry.mountpoint == canonical and entry.fs_type == "autofs" for entry in read_mounts())


def _is_empty(canonical: str) -> bool:
    try:
        with os.scandir(canonical) as entries:
            return next(entries, None) is None
    except PermissionError:
        raise ConfigError(f"You may not mount on {canonical}: it must be readable for you") from None


def clear_dead_mount(path: str) -> None:
    """Take away a b2fs mount whose daemon has died, so that a new one can take its place."""
    canonical = os.path.realpath(path)
    entry = mount_at(canonical)
    if entry is None or not entry.is_b2fs:
        return
    try:
        os.statvfs(canonical)  # unlike stat(2) this is never answered from the kernel's cache
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            unmount(canonical, lazily=True)


def check_fuse(*, allow_other: bool) -> None:
    """Raise ConfigError when this machine or this user cannot make FUSE mounts."""
    try:
        os.close(os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise ConfigError(
            f"There is no {FUSE_DEVICE}: load the kernel module with modprobe fuse, "
            "or give the container the device (--device /dev/fuse --cap-add SYS_ADMIN)"
        ) from None
    except OSError as error:
        raise ConfigError(f"{FUSE_DEVICE} cannot be opened: {error.strerror}") from None
    if os.geteuid() != 0 and not _has_fusermount():
        raise ConfigError("fusermount3 is missing, which users need to mount; install Debian's package fuse3")
    if allow_other and os.geteuid() != 0 and not _users_may_allow_other():
        raise ConfigError("--allow-other needs the line user_allow_other in /etc/fuse.conf")


def _has_fusermount() -> bool:
    import shutil  # not where root mounts

    return shutil.which("fusermount3") is not None


def _users_may_allow_other() -> bool:
    try:
        with open(FUSE_CONF, encoding="utf-8", errors="replace") as lines:
            return any(line.strip() == "user_allow_other" for line in lines)
    except OSError:
        return False


def unmount(mountpoint: str, *, lazily: bool = False) -> None:
    """Take the mount away, when lazily even while it is in use.

    Raises ConfigError with the system's reason, for example that it is busy.
    """
    import shutil
    import subprocess  # a mount that comes up needs neither

    # fusermount3 works for root as well, and asks no umount helper, so one that calls us cannot call itself.
    tool = shutil.which("fusermount3")
    command = [tool, "-u", *(["-z"] if lazily else [])] if tool else ["umount", "-i", *(["-l"] if lazily else [])]
    command += ["--", mountpoint]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    if "busy" in reason:
        raise ConfigError(f"{mountpoint} is busy: a program has a file or its working directory there (see: fuser -m)")
    raise ConfigError(f"{mountpoint} cannot be unmounted: {reason}")
