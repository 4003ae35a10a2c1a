"""What the kernel shows of FUSE mounts in /proc and /sys, and the knobs that it lets us turn there."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import NamedTuple

from b2fs.fuse.config import FuseConfig

log = logging.getLogger(__name__)

_OCTAL = re.compile(rb"\\([0-7]{3})")


class MountInfo(NamedTuple):
    """One line of /proc/self/mountinfo."""

    device: str  # "major:minor"
    mountpoint: bytes
    fstype: str
    source: bytes

    @property
    def is_fuse(self) -> bool:
        return self.fstype in ("fuse", "fuseblk") or self.fstype.startswith("fuse.")


def parse_mountinfo(text: bytes) -> list[MountInfo]:
    """All mounts in order; a later one on the same mountpoint covers the earlier. See proc_pid_mountinfo(5)."""
    mounts = []
    for line in text.splitlines():
        fields, _, tail = line.partition(b" - ")
        _, _, device, _, mountpoint, *_ = fields.split(b" ")
        fstype, source, *_ = tail.split(b" ")
        mounts.append(MountInfo(device.decode(), _unescape(mountpoint), fstype.decode(), _unescape(source)))
    return mounts


def mount_at(path: bytes) -> MountInfo | None:
    """The mount that is seen at exactly this absolute path, or None.  Never touches the mounted filesystem."""
    with open("/proc/self/mountinfo", "rb") as file:
        mounts = parse_mountinfo(file.read())
    return next((mount for mount in reversed(mounts) if mount.mountpoint == path), None)


def tune(device: str, config: FuseConfig) -> None:
    """Raise the kernel's limits for this mount, given as "major:minor", as far as we are permitted to."""
    connection = f"/sys/fs/fuse/connections/{device.partition(':')[2]}"
    _write(f"/sys/class/bdi/{device}/read_ahead_kb", config.read_ahead_kib)
    _write(f"{connection}/max_background", config.max_background)
    # Congestion only makes the kernel hold back read-ahead; three quarters is the kernel's own proportion.
    _write(f"{connection}/congestion_threshold", config.max_background * 3 // 4)


def _write(path: str, value: int) -> None:
    try:
        Path(path).write_text(str(value))
    except OSError as error:
        log.debug("%s stays as it is: %s", path, os.strerror(error.errno or 0))


def _unescape(field: bytes) -> bytes:
    return _OCTAL.sub(lambda match: bytes((int(match[1], 8),)), field)
