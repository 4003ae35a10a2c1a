"""Backup programs that keep their repository or their rotation of snapshots on a mount."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.programs import wait_until
from tests.e2e.sites import LONG, Site, long_only, need, run
from tests.e2e.trees import attributes, file_contents, python_library

#: How many rounds of a rotation are made.
ROUNDS = 6 if LONG else 3
FILES = 400 if LONG else 30
NS = 1_000_000_000


@pytest.fixture
def mounted(embedded_site: Site) -> Iterator[Site]:
    """Mounted, and at the end unmounted with a clean log."""
    embedded_site.mount()
    yield embedded_site
    embedded_site.umount()


def change(tree: Path, number: int) -> None:
    """What happens between two backups: a file is added, one changes, one goes."""
    files = sorted(path for path in tree.rglob("*.py") if not path.is_symlink())
    files[number].unlink()
    files[-1 - number].write_text(f"changed {number}\n")
    (tree / f"added {number}").write_bytes(os.urandom(10_000))


def assert_same(copy: Path, tree: Path) -> None:
    """Contents and attributes; how many names a file has is the rotation's affair."""
    assert file_contents(copy) == file_contents(tree)
    for path in tree.rglob("*"):
        there = copy / path.relative_to(tree)
        assert attributes(there)[:3] == attributes(path)[:3], path
        # rsync leaves a time that is right to the second.
        assert there.lstat().st_mtime_ns // NS == path.lstat().st_mtime_ns // NS, path


def assert_linked(newer: Path, older: Path, tree: Path, number: int) -> None:
    """Files that did not change in round number are one file in both snapshots; those that did are two."""
    changed = {f"added {number}", *(str(p.relative_to(tree)) for p in tree.rglob("*.py") if "changed" in first_line(p))}
    shared = 0
    for path in file_contents(tree):
        if (older / path).exists() and path not in changed:
            assert (newer / path).samefile(older / path), path
            shared += 1
    assert shared > FILES / 2
    assert not (newer / f"added {number}").stat().st_nlink > 1


def first_line(path: Path) -> str:
    return path.read_bytes()[:20].decode(errors="replace") if path.is_file() else ""


def test_rsync_rotates_snapshots_of_hard_links(mounted: Site, tmp_path: Path) -> None:
    """rsync --link-dest: what did not change is a hard link to the snapshot before."""
    need("rsync")
    tree = python_library(tmp_path / "tree", FILES)
    words = ("rsync", "-a", "--delete", "--itemize-changes", f"{tree}/")
    run(*words, mounted.root / "day.0")
    for number in range(1, ROUNDS):
        change(tree, number)
        run(*words, f"--link-dest=../day.{number - 1}", mounted.root / f"day.{number}")
        assert_linked(mounted.root / f"day.{number}", mounted.root / f"day.{number - 1}", tree, number)
    last = mounted.remount() / f"day.{ROUNDS - 1}"
    assert run(*words, last) == ""
    assert_same(last, tree)
    assert_linked(last, last.with_name(f"day.{ROUNDS - 2}"), tree, ROUNDS - 1)
    # The oldest goes; what it shared with the others stays.
    run("rm", "-r", mounted.root / "day.0")
    mounted.umount()
    stored = mounted.bucket.contents()
    assert not [key for key in stored if key.startswith("day.0/")]
    assert stored[f"day.1/{(tree / 'added 1').name}"] == (tree / "added 1").read_bytes()
    assert_same(mounted.mount(cold=True) / f"day.{ROUNDS - 1}", tree)


@long_only
def test_rsnapshot_rotates(mounted: Site, tmp_path: Path) -> None:
    """rsnapshot: mv of whole snapshots, cp -al of the newest, rsync into it, rm of the oldest."""
    need("rsnapshot", "rsync")
    tree = python_library(tmp_path / "tree", FILES)
    config = tmp_path / "rsnapshot.conf"
    lines = [
        ("config_version", "1.2"),
        ("snapshot_root", f"{mounted.root}/snapshots/"),
        ("cmd_cp", "/bin/cp"),
        ("cmd_rm", "/bin/rm"),
        ("cmd_rsync", "/usr/bin/rsync"),
        ("retain", "alpha", "3"),
        ("retain", "beta", "2"),
        ("lockfile", f"{tmp_path}/pid"),
        ("logfile", f"{tmp_path}/log"),
        ("backup", f"{tree}/", "here/"),
    ]
    config.write_text("".join("\t".join(words) + "\n" for words in lines))
    for number in range(1, ROUNDS + 1):
        change(tree, number)
        run("rsnapshot", "-c", config, "alpha")
        newest = mounted.root / "snapshots" / "alpha.0" / "here" / str(tree).lstrip("/")
        assert_same(newest, tree)
        if number > 1:
            older = mounted.root / "snapshots" / "alpha.1" / "here" / str(tree).lstrip("/")
            assert_linked(newest, older, tree, number)
    run("rsnapshot", "-c", config, "beta")
    root = mounted.remount() / "snapshots"
    assert sorted(os.listdir(root)) == ["alpha.0", "alpha.1", "beta.0"]
    assert_same(root / "alpha.0" / "here" / str(tree).lstrip("/"), tree)


@long_only
def test_restic(mounted: Site, tmp_path: Path) -> None:
    need("restic")
    tree = python_library(tmp_path / "tree", 100)
    environ = {"RESTIC_PASSWORD": "x", "RESTIC_CACHE_DIR": str(tmp_path / "cache")}
    mounted.remount("--fsync=local", cold=False)
    words = ("restic", "--quiet", f"--repo={mounted.root}/repository")
    run(*words, "init", environ=environ)
    run(*words, "backup", ".", cwd=tree, environ=environ)
    (tree / "added").write_bytes(os.urandom(100_000))
    run(*words, "backup", ".", cwd=tree, environ=environ)
    run(*words, "forget", "--keep-last=1", "--prune", environ=environ)
    mounted.remount()
    run(*words, "check", "--read-data", environ=environ)
    run(*words, "restore", "latest", f"--target={tmp_path}/restored", environ=environ)
    assert file_contents(tmp_path / "restored") == file_contents(tree)


def borg_environment(base: Path) -> dict[str, str]:
    return {
        "BORG_BASE_DIR": str(base),
        "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
    }


def test_borg(mounted: Site, tmp_path: Path) -> None:
    need("borg")
    tree = python_library(tmp_path / "tree", 100)
    environ = borg_environment(tmp_path / "borg")
    mounted.remount("--fsync=local", cold=False)
    repository = mounted.root / "repository"
    run("borg", "init", "--encryption=none", repository, environ=environ)
    run("borg", "create", f"{repository}::first", ".", cwd=tree, environ=environ)
    (tree / "added").write_bytes(os.urandom(100_000))
    run("borg", "create", f"{repository}::second", ".", cwd=tree, environ=environ)
    run("borg", "prune", "--keep-last=1", repository, environ=environ)
    run("borg", "compact", repository, environ=environ)
    mounted.remount()
    run("borg", "check", "--verify-data", repository, environ=environ)
    (tmp_path / "restored").mkdir()
    run("borg", "extract", f"{repository}::second", cwd=tmp_path / "restored", environ=environ)
    assert file_contents(tmp_path / "restored") == file_contents(tree)


def test_borg_keeps_a_second_one_out(mounted: Site, tmp_path: Path) -> None:
    """While one borg works on the repository, its lock holds; when it has ended, the next gets in."""
    need("borg")
    tree = python_library(tmp_path / "tree", 20)
    environ = borg_environment(tmp_path / "borg")
    mounted.remount("--fsync=local", cold=False)
    repository = mounted.root / "repository"
    run("borg", "init", "--encryption=none", repository, environ=environ)
    inside = tmp_path / "inside"
    holding = ["borg", "with-lock", str(repository), "sh", "-c", f"touch '{inside}' && exec sleep 100"]
    with subprocess.Popen(holding, env={**os.environ, **environ}, start_new_session=True) as holder:
        try:
            wait_until(inside.exists, "the first borg has the lock")
            create = ("borg", "create", "--lock-wait=0", f"{repository}::refused", ".")
            assert "Failed to create/acquire the lock" in run(*create, cwd=tree, environ=environ, expect=(2,))
        finally:
            os.killpg(holder.pid, signal.SIGTERM)
    two = [
        subprocess.Popen(
            ["borg", "create", "--lock-wait=100", f"{repository}::{name}", "."],
            cwd=tree,
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for name in ("one", "other")
    ]
    said = [process.communicate(timeout=150)[0] for process in two]
    assert [process.returncode for process in two] == [0, 0], said
    assert run("borg", "list", "--short", repository, environ=environ).split() in (["one", "other"], ["other", "one"])
    mounted.remount()
    run("borg", "check", repository, environ=environ)
