"""Running the b2fs program from tests: as a user would, in processes of its own, everything below one directory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from b2fs.daemon.sockets import socket_path

B2FS = [sys.executable, "-W", "error", "-m", "b2fs"]
#: Against hanging; nothing is measured by it.
DEADLINE_S = 120.0


def run_b2fs(*words: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """One b2fs command to its end."""
    return subprocess.run(
        [*B2FS, *map(str, words)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def wait_until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Poll until the condition holds; for things that other processes do."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        time.sleep(0.02)


def is_mounted(path: Path) -> bool:
    """Whether the kernel has a mount on exactly this path."""
    with open("/proc/self/mountinfo") as mounts:
        return any(line.split(" ")[4] == str(path) for line in mounts)


def force_unmount(path: Path) -> None:
    """For the end of a test, whatever happened: no mount, and no socket of a daemon that was killed."""
    if is_mounted(path):
        subprocess.run(["fusermount3", "-u", "-z", str(path)], check=False)
    with suppress(FileNotFoundError):
        os.unlink(socket_path(str(path), os.geteuid()))


def is_running(pid: int) -> bool:
    """False for a zombie too: whoever adopted it may take its time."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
