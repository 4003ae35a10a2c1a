"""kill -9 of the daemon: whatever a program was told is done is there afterwards, and reaches the bucket (I1, I5)."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.programs import run_b2fs, wait_until
from tests.e2e.sites import Site
from tests.e2e.trees import file_contents
from tests.servers import Server


@contextmanager
def paused(server: Server) -> Iterator[None]:
    """The server accepts connections and answers nothing."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def figures(site: Site) -> dict[str, int]:
    """What write-back says of itself."""
    found: dict[str, int] = json.loads(run_b2fs("status", site.root, "--json").stdout)["writeback"]
    return found


def test_fifty_closed_files_of_which_none_was_uploaded_all_arrive(seaweedfs_site: Site, seaweedfs: Server) -> None:
    site = seaweedfs_site
    directory = site.mount() / "directory"
    directory.mkdir()
    assert run_b2fs("sync", site.root).returncode == 0
    uploaded = figures(site)["uploaded_files"]
    written = {f"file {number}": os.urandom(number * 1000) for number in range(50)}
    with paused(seaweedfs):
        for name, content in written.items():
            (directory / name).write_bytes(content)
        now = figures(site)
        assert (now["uploaded_files"], now["pending_files"] >= len(written)) == (uploaded, True)
        site.kill()
    site.troubled = True  # the log says that changes from before are being stored
    assert file_contents(site.mount() / "directory") == written
    site.umount()
    found = site.bucket.contents()
    assert {name: found.get(f"directory/{name}") for name in written} == written


def test_changes_of_all_kinds_survive(seaweedfs_site: Site, seaweedfs: Server) -> None:
    """Overwrites, appends, truncations, renames, removals, modes and links of what the bucket has already."""
    site = seaweedfs_site
    root = site.mount()
    for name in ("overwritten", "appended", "cut", "renamed", "removed", "replaced", "mode", "old/one", "old/two"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(name.encode() * 10_000)
    assert run_b2fs("sync", root).returncode == 0
    # This asks the bucket what is in the directory.
    os.rename(root / "old", root / "new")
    with paused(seaweedfs):
        with open(root / "overwritten", "r+b") as file:
            file.seek(30_000)
            file.write(b"new")
        with open(root / "appended", "ab") as file:
            file.write(b"more")
        os.truncate(root / "cut", 100)
        os.rename(root / "renamed", root / "new name")
        os.unlink(root / "removed")
        (root / "temporary").write_bytes(b"replacement")
        os.rename(root / "temporary", root / "replaced")
        os.chmod(root / "mode", 0o4750)
        os.utime(root / "mode", ns=(1, 1_111_111_111_222_222_222))
        os.symlink("new/one", root / "symlink")
        (root / "empty").mkdir(mode=0o700)
        site.kill()
    expected = {
        "overwritten": b"overwritten" * 10_000,
        "appended": b"appended" * 10_000 + b"more",
        "cut": (b"cut" * 10_000)[:100],
        "new name": b"renamed" * 10_000,
        "replaced": b"replacement",
        "mode": b"mode" * 10_000,
        "new/one": b"old/one" * 10_000,
        "new/two": b"old/two" * 10_000,
    }
    expected["overwritten"] = expected["overwritten"][:30_000] + b"new" + expected["overwritten"][30_003:]
    site.troubled = True
    for cold in (False, True):
        root = site.mount(cold=cold)
        assert file_contents(root) == expected
        assert os.stat(root / "mode").st_mode & 0o7777 == 0o4750
        assert os.stat(root / "mode").st_mtime_ns == 1_111_111_111_222_222_222
        assert os.readlink(root / "symlink") == "new/one"
        assert sorted(os.listdir(root)) == sorted({"empty", "symlink", *(name.split("/")[0] for name in expected)})
        assert os.listdir(root / "empty") == []
        site.umount()
    found = site.bucket.contents()
    assert {name: found.get(name) for name in expected} == expected
    assert not {"removed", "renamed", "temporary", "old/one", "old/two", "old/"} & set(found)


def test_a_kill_while_everything_is_being_uploaded(embedded_site: Site) -> None:
    site = embedded_site
    written: dict[str, bytes] = {}
    site.troubled = True
    for round_number in range(3):
        root = site.mount()
        for number in range(100):
            name = f"round {round_number} file {number}"
            written[name] = os.urandom(5000)
            (root / name).write_bytes(written[name])
        (root / "every time").write_bytes(written[name] * 100)
        written["every time"] = written[name] * 100
        wait_until(lambda: figures(site)["uploaded_files"], "some files are uploaded")
        site.kill()
    assert file_contents(site.mount(cold=False)) == written
    site.umount()
    assert site.bucket.contents() == written


def test_a_file_that_is_still_open_keeps_what_was_written(embedded_site: Site) -> None:
    site = embedded_site
    root = site.mount()
    fd = os.open(root / "growing", os.O_WRONLY | os.O_CREAT)
    for number in range(64):
        assert os.write(fd, bytes([number]) * 100_000) == 100_000
    site.kill()
    with pytest.raises(OSError, match="not connected"):
        os.close(fd)
    site.troubled = True
    root = site.mount()
    assert (root / "growing").read_bytes() == b"".join(bytes([number]) * 100_000 for number in range(64))
    site.umount()
