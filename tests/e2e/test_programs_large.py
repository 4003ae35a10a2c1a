"""Large files: written with dd, read back on a machine that has never seen them, in bounded memory (I7)."""

from __future__ import annotations

import hashlib
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tests.e2e.sites import LONG, Site, run

MIB = 1 << 20
SIZE_MIB = 1024 if LONG else 256
#: Of the file that is larger than the cache.
BEYOND_MIB = 3072 if LONG else 192
MEMORY_MIB = 300
_READERS = 50
#: The limit of 64 MiB is for what is read; 45 MiB are the program itself, the rest is what libraries do not give back.
_SMALL_MEMORY_MIB = 160


def peak_memory_mib(pid: int) -> float:
    """The most memory that a process has ever had, in MiB."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_random(path: Path, size_mib: int) -> None:
    """Not compressible, and no two blocks alike."""
    run("dd", "if=/dev/urandom", f"of={path}", "bs=1M", f"count={size_mib}", "iflag=fullblock", "status=none")


def test_a_large_file_comes_back_in_bounded_memory(seaweedfs_site: Site) -> None:
    site = seaweedfs_site
    source = site.directory / "source"
    make_random(source, SIZE_MIB)
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


def test_fifty_readers_share_a_small_memory_limit(seaweedfs_site: Site) -> None:
    site = seaweedfs_site
    root = site.mount()
    expected = {}
    for number in range(_READERS):
        make_random(root / f"f{number}", 4)
        expected[f"f{number}"] = sha256(root / f"f{number}")
    root = site.remount("--memory-limit=64M")
    with ThreadPoolExecutor(_READERS) as readers:
        found = list(readers.map(lambda name: sha256(root / name), expected))
    assert found == list(expected.values())
    assert peak_memory_mib(site.pid) < _SMALL_MEMORY_MIB
    site.umount()


def used_mib(directory: Path) -> float:
    """What the files below a directory take on the disk, in MiB."""
    blocks = 0
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):  # it was just removed
            blocks += path.stat().st_blocks
    return blocks * 512 / MIB


def test_a_file_that_is_larger_than_the_cache_comes_back(seaweedfs_site: Site) -> None:
    """Parts that are in the bucket leave the disk: the cache holds a third of the file."""
    site = seaweedfs_site
    source, cache_mib = site.directory / "source", BEYOND_MIB // 3
    option = f"--cache-size={cache_mib}M"
    make_random(source, BEYOND_MIB)
    root = site.mount(option)
    most = 0.0
    with subprocess.Popen(["dd", f"if={source}", f"of={root}/large", "bs=1M", "status=none"]) as dd:
        while dd.poll() is None:
            most = max(most, used_mib(site.cache))
    assert dd.returncode == 0
    run("sync", "--file-system", root)
    # Dirty bytes and blocks of what was read are bounded each; an unbounded cache would have had all of it.
    assert most < 2 * cache_mib + 32
    assert peak_memory_mib(site.pid) < MEMORY_MIB
    root = site.remount(option)
    run("cmp", source, root / "large")
    assert used_mib(site.cache) < cache_mib + 32
    assert peak_memory_mib(site.pid) < MEMORY_MIB
    source.unlink()
    site.umount()
