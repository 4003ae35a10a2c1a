"""`--acl` with the real programs, and the kernel that checks."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from b2fs.daemon.exits import EXIT_OK
from tests.e2e.programs import run_b2fs
from tests.e2e.test_cli_mount import mount, place

__all__ = ["place"]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else"),
    pytest.mark.skipif(shutil.which("setfacl") is None, reason="setfacl is not installed"),
]

ALICE, BOB = 4711, 4712


@pytest.fixture
def mounted(place: Path) -> Iterator[Path]:
    done = mount(place, None, "--acl", "--allow-other")
    assert done.returncode == EXIT_OK, done.stderr
    yield place / "mnt"


def run(*words: object, uid: int = 0, umask: int = 0o022) -> str:
    """What a program prints; it must succeed."""
    command = [str(word) for word in words]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, user=uid, group=uid, extra_groups=[], umask=umask
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def lists(path: Path) -> set[str]:
    return set(run("getfacl", "--absolute-names", "--numeric", "--omit-header", path).split())


def test_the_kernel_obeys_lists(mounted: Path) -> None:
    file = mounted / "f"
    file.write_text("secret")
    file.chmod(0o600)
    with pytest.raises(AssertionError, match="denied"):
        run("cat", file, uid=BOB)
    run("setfacl", "-m", f"u:{BOB}:r", file)
    assert run("cat", file, uid=BOB) == "secret"
    assert lists(file) == {"user::rw-", f"user:{BOB}:r--", "group::---", "mask::r--", "other::---"}
    file.chmod(0o600)
    assert "mask::---" in lists(file)
    with pytest.raises(AssertionError, match="denied"):
        run("cat", file, uid=BOB)
    run("setfacl", "-b", file)
    assert lists(file) == {"user::rw-", "group::---", "other::---"}


def test_default_lists_count_in_the_place_of_the_umask(mounted: Path) -> None:
    shared = mounted / "shared"
    shared.mkdir()
    run("setfacl", "-m", f"u:{ALICE}:rwx,u:{BOB}:rwx,d:u:{ALICE}:rwx,d:u:{BOB}:rwx,d:o::-", shared)
    run("sh", "-c", f"echo alice > {shared}/f; mkdir {shared}/d", uid=ALICE, umask=0o077)
    assert f"user:{BOB}:rwx" in {entry.partition("#")[0].strip() for entry in lists(shared / "f")}
    run("sh", "-c", f"echo bob >> {shared}/f; touch {shared}/d/x", uid=BOB)
    assert (shared / "f").read_text() == "alice\nbob\n"
    plain = mounted / "plain"
    plain.mkdir()
    plain.chmod(0o777)
    run("touch", plain / "x", uid=ALICE, umask=0o077)
    assert (plain / "x").stat().st_mode & 0o777 == 0o600


def test_lists_survive_copies_and_a_cold_mount(mounted: Path, place: Path) -> None:
    source = place / "source"
    source.mkdir()
    (source / "f").write_text("content")
    run("setfacl", "-m", f"u:{BOB}:rw,g:{ALICE}:r", source / "f")
    run("setfacl", "-d", "-m", f"u:{BOB}:rwx", source)
    expected = {path: lists(path) for path in (source, source / "f")}
    run("cp", "-a", source, mounted / "copied")
    run("rsync", "-aAX", f"{source}/", mounted / "synced")
    assert run_b2fs("umount", mounted).returncode == EXIT_OK
    shutil.rmtree(place / "cache")
    assert mount(place, None, "--acl", "--allow-other").returncode == EXIT_OK
    for copy in (mounted / "copied", mounted / "synced"):
        assert {source: lists(copy), source / "f": lists(copy / "f")} == expected
        assert run("rsync", "-aAXn", "--itemize-changes", f"{source}/", copy) == ""


def test_without_the_option_copies_go_by_the_mode(place: Path) -> None:
    assert mount(place).returncode == EXIT_OK
    mountpoint = place / "mnt"
    source = place / "source"
    source.mkdir()
    (source / "f").write_text("content")
    (source / "f").chmod(0o640)
    run("cp", "-a", source, mountpoint / "copied")
    run("rsync", "-aAX", f"{source}/", mountpoint / "synced")
    for copy in ("copied", "synced"):
        assert (mountpoint / copy / "f").stat().st_mode & 0o777 == 0o640
    with pytest.raises(AssertionError, match="not supported"):
        run("setfacl", "-m", f"u:{BOB}:r", mountpoint / "copied" / "f")
