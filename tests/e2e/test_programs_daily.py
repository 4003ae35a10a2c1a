"""Programs of every day on a mount: version control, databases, compilers, archivers, editors."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.sites import LONG, Site, need, run
from tests.e2e.trees import file_contents, python_library

GIT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    **{
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "A"), ("EMAIL", "a@b"))
    },
}

#: The files of the C program that make builds.
PARTS = 200 if LONG else 6


@pytest.fixture
def mounted(embedded_site: Site) -> Iterator[Site]:
    """Mounted, and at the end unmounted with a clean log."""
    embedded_site.mount()
    yield embedded_site
    embedded_site.umount()


def test_git(mounted: Site, tmp_path: Path) -> None:
    need("git")
    source = python_library(tmp_path / "source", 150)
    run("git", "init", "--quiet", "--initial-branch=main", source, environ=GIT)
    run("git", "add", "--all", cwd=source, environ=GIT)
    run("git", "commit", "--quiet", "--message=first", cwd=source, environ=GIT)
    clone = mounted.root / "clone"
    run("git", "clone", "--quiet", "--no-local", source, clone, environ=GIT)
    assert run("git", "fsck", "--full", "--strict", cwd=clone, environ=GIT) == ""
    assert run("git", "status", "--porcelain", cwd=clone, environ=GIT) == ""
    for number in range(3):
        (clone / f"new {number}").write_text(f"{number}\n" * 1000)
        run("git", "add", "--all", cwd=clone, environ=GIT)
        run("git", "commit", "--quiet", f"--message=commit {number}", cwd=clone, environ=GIT)
    run("git", "gc", "--quiet", "--prune=now", cwd=clone, environ=GIT)
    clone = mounted.remount() / "clone"
    assert run("git", "fsck", "--full", "--strict", cwd=clone, environ=GIT) == ""
    assert run("git", "status", "--porcelain", cwd=clone, environ=GIT) == ""
    assert len(run("git", "log", "--oneline", cwd=clone, environ=GIT).splitlines()) == 4


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite(mounted: Site, journal: str) -> None:
    """In one transaction and in many, while another process reads.  Durability is the local disk's here, for time."""
    need("sqlite3")
    mounted.remount("--fsync=local", cold=False)
    path = mounted.root / "rows.db"
    assert run("sqlite3", path, f"PRAGMA journal_mode={journal}; CREATE TABLE t(n INTEGER, s TEXT);") == f"{journal}\n"
    rows = "".join(f"INSERT INTO t VALUES({number}, 'row {number}');\n" for number in range(1000))
    run("sqlite3", path, stdin=f"BEGIN;\n{rows}COMMIT;\n")
    single = "".join(rows.splitlines(keepends=True)[: 1000 if LONG else 100])
    run("sqlite3", path, stdin=single)
    check = "SELECT count(*), count(DISTINCT s) FROM t; PRAGMA integrity_check;"
    expected = f"{1000 + single.count(';')}|1000\nok\n"
    assert run("sqlite3", path, check) == expected
    path = mounted.remount() / "rows.db"
    assert run("sqlite3", path, check) == expected


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite_from_two_processes(mounted: Site, journal: str) -> None:
    """fcntl locks keep writers apart, and with a write-ahead log they share memory through a mapped file."""
    need("sqlite3")
    mounted.remount("--fsync=local", cold=False)
    path = mounted.root / "counter.db"
    run("sqlite3", path, f"PRAGMA journal_mode={journal}; CREATE TABLE t(n INTEGER); INSERT INTO t VALUES(0);")
    steps = ".timeout 30000\n" + "UPDATE t SET n = n + 1;\n" * 40
    writers = [subprocess.Popen(["sqlite3", path], stdin=subprocess.PIPE, text=True) for _ in range(2)]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(steps)
        writer.stdin.close()
    assert [writer.wait(60) for writer in writers] == [0, 0]
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT n FROM t").fetchone() == (80,)
    db.close()


def test_sqlite_that_waits_for_the_bucket(mounted: Site) -> None:
    """With --fsync=bucket, the default."""
    need("sqlite3")
    path = mounted.root / "rows.db"
    rows = "".join(f"INSERT INTO t VALUES({number});\n" for number in range(1, 6))
    run("sqlite3", path, stdin=f"CREATE TABLE t(n INTEGER);\n{rows}")
    path = mounted.remount() / "rows.db"
    assert run("sqlite3", path, "SELECT sum(n) FROM t; PRAGMA integrity_check;") == "15\nok\n"


def test_unzip(mounted: Site, tmp_path: Path) -> None:
    need("unzip")
    tree = python_library(tmp_path / "tree", 100)
    with zipfile.ZipFile(tmp_path / "tree.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(tree.rglob("*")):
            # unzip makes no symbolic links of what zipfile writes, and changes control characters.
            if not path.is_symlink() and path.name.isprintable():
                archive.write(path, path.relative_to(tree))
    run("unzip", "-q", tmp_path / "tree.zip", "-d", mounted.root / "tree")
    contents = file_contents(tree)
    assert file_contents(mounted.root / "tree") == {name: contents[name] for name in contents if name.isprintable()}
    # The archive made on the mount is rewritten in place.
    run("zip", "-q", "-r", mounted.root / "again.zip", ".", cwd=tree)
    run("zip", "-q", "-d", mounted.root / "again.zip", "LICENSE.txt")
    assert "No errors detected" in run("unzip", "-t", mounted.remount() / "again.zip")


def test_make_builds_a_c_program_and_then_has_nothing_to_do(mounted: Site) -> None:
    need("make", "cc")
    project = mounted.root / "project"
    project.mkdir()
    names = [f"part{number}" for number in range(PARTS)]
    for number, name in enumerate(names):
        (project / f"{name}.c").write_text(f'#include "all.h"\nint {name}(void) {{ return {number}; }}\n')
    (project / "all.h").write_text("".join(f"int {name}(void);\n" for name in names))
    total = " + ".join(f"{name}()" for name in names)
    (project / "main.c").write_text(
        f'#include <stdio.h>\n#include "all.h"\nint main(void) {{ printf("%d\\n", {total}); }}\n'
    )
    objects = " ".join(f"{name}.o" for name in ("main", *names))
    (project / "Makefile").write_text(
        f"program: libparts.a main.o\n\tcc -o $@ main.o libparts.a\n"
        f"libparts.a: {objects.removeprefix('main.o ')}\n\tar rcs $@ $^\n"
        "%.o: %.c all.h\n\tcc -g -c -o $@ $<\n"
    )
    run("make", "-j2", cwd=project)
    assert run(project / "program") == f"{sum(range(PARTS))}\n"
    project = mounted.remount() / "project"
    assert "up to date" in run("make", cwd=project)
    (project / "part5.c").write_text('#include "all.h"\nint part5(void) { return 50; }\n')
    run("make", cwd=project)
    assert run(project / "program") == f"{sum(range(PARTS)) + 45}\n"


def test_pip_installs_into_a_directory(mounted: Site, tmp_path: Path) -> None:
    """Into an empty one, and over what is there; what is installed can be imported, also from a cold mount."""
    target = mounted.root / "packages"
    for version in ("1.0", "2.0"):
        wheel = make_wheel(tmp_path, version)
        run(
            sys.executable,
            "-m",
            "pip",
            "--isolated",
            "--disable-pip-version-check",
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--root-user-action=ignore",
            "--upgrade",
            f"--target={target}",
            wheel,
        )
        mounted.remount()
        program = "import parcel.part7 as part; print(part.VERSION)"
        assert run(sys.executable, "-c", program, environ={"PYTHONPATH": str(target)}) == f"{version}\n"
    # pip replaces what the new version has as well, and no more.
    assert sorted(os.listdir(target)) == ["parcel", "parcel-1.0.dist-info", "parcel-2.0.dist-info"]


def make_wheel(directory: Path, version: str) -> Path:
    """A package of some modules as pip takes it."""
    path = directory / f"parcel-{version}-py3-none-any.whl"
    files = {f"parcel/part{number}.py": f"VERSION = {version!r}\n" * 50 for number in range(20)}
    files["parcel/__init__.py"] = ""
    info = f"parcel-{version}.dist-info"
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: parcel\nVersion: {version}\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: b2fs\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def test_an_editor_saves(mounted: Site) -> None:
    """Write a temporary file, fsync, rename over the old one, fsync the directory; many times."""
    path = mounted.root / "text"
    path.write_text("first\n")
    path.chmod(0o640)
    directory = os.open(mounted.root, os.O_RDONLY)
    for number in range(3):
        temporary = mounted.root / f".text.{number}.tmp"
        with open(temporary, "w") as file:
            file.write(f"saved {number}\n" * 100)
            os.fchmod(file.fileno(), path.stat().st_mode & 0o7777)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
        os.fsync(directory)
    os.close(directory)
    mounted.umount()
    assert mounted.bucket.contents() == {"text": b"saved 2\n" * 100}
    assert (mounted.mount(cold=True) / "text").stat().st_mode & 0o7777 == 0o640


def test_vim(mounted: Site) -> None:
    need("vim")
    path = mounted.root / "text"
    path.write_text("one\ntwo\n")
    for backup in ("yes", "no", "auto"):
        words = ["vim", "-u", "NONE", "-es", "-c", f"set backupcopy={backup} backup", "-c", "%s/$/!/", "-c", "wq"]
        run(*words, path, environ={"TERM": "dumb"})
    assert (mounted.remount() / "text").read_text() == "one!!!\ntwo!!!\n"
    assert sorted(os.listdir(mounted.root)) == ["text"]


@pytest.mark.parametrize("engine", ["psync", "mmap"])
def test_fio_verifies_what_it_has_written(mounted: Site, engine: str) -> None:
    need("fio")
    words = [
        "--name=verify",
        f"--directory={mounted.root}",
        "--rw=randwrite",
        "--bs=4k-64k",
        "--size=8M",
        "--randseed=1",
    ]
    words += ["--verify=crc32c", "--verify_fatal=1", "--fallocate=none", f"--ioengine={engine}", "--norandommap=0"]
    run("fio", *words, "--do_verify=1", cwd=mounted.directory)
    mounted.remount()
    run("fio", *words, "--verify_only", cwd=mounted.directory)
