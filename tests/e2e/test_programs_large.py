"""Large files: written with dd, read back on a machine that has never seen them, in bounded memory (I7)."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from tests.e2e.sites import LONG, Site, run

MIB = 1 << 20
SIZE_MIB = 1024 if LONG else 256
MEMORY_MIB = 300


def peak_memory_mib(pid: int) -> float:
    """The most memory that a process has ever had, in MiB."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_a_large_file_comes_back_in_bounded_memory(seaweedfs_site: Site) -> None:
    site = seaweedfs_site
    source = site.directory / "source"
    # Not compressible, and no two blocks alike.
    run("openssl", "rand", "-out", source, str(SIZE_MIB * MIB))
    expected = sha256(source)
    root = site.mount()
    run("dd", f"if={source}", f"of={root}/large", "bs=1M", "status=none")
    source.unlink()
    run("sync", "--file-system", root)
    assert peak_memory_mib(site.pid) < MEMORY_MIB
    root = site.remount()
    assert (root / "large").stat().st_size == SIZE_MIB * MIB
    assert sha256(root / "large") == expected
    assert peak_memory_mib(site.pid) < MEMORY_MIB
    site.umount()
