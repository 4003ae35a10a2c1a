"""Directory trees for programs to work on."""

from __future__ import annotations

import os
import shutil
import stat
import sysconfig
from pathlib import Path

#: Not part of a source tree, or large without telling more.
_LEFT_OUT = ("__pycache__", "site-packages", "config-*", "*.so", "*.a", "*.pyc")


def python_library(target: Path, most_files: int) -> Path:
    """Copy the Python standard library's source, up to that many files, and add what it lacks to be a varied tree."""
    source = sysconfig.get_path("stdlib")
    counted = 0

    def leave_out(directory: str, names: list[str]) -> set[str]:
        nonlocal counted
        out = set(shutil.ignore_patterns(*_LEFT_OUT)(directory, names))
        for name in sorted(set(names) - out):
            if not os.path.isdir(os.path.join(directory, name)):
                counted += 1
                if counted > most_files:
                    out.add(name)
        return out

    shutil.copytree(source, target, symlinks=True, ignore=leave_out)
    _vary(target)
    return target


def _vary(tree: Path) -> None:
    """Times with nanoseconds, modes, symbolic links (dangling ones too), odd names, an empty directory."""
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    for number, path in enumerate(files):
        os.utime(path, ns=(path.stat().st_atime_ns, 1_500_000_000_123_456_789 + number * 1_000_000_007))
        if number % 7 == 0:
            path.chmod((0o600, 0o755, 0o444, 0o4711)[number // 7 % 4])
    links = tree / "links"
    links.mkdir(mode=0o750)
    for number, path in enumerate(files[::50]):
        (links / f"link{number}").symlink_to(os.path.relpath(path, links))
    (links / "dangling").symlink_to("nowhere/at/all")
    (links / "directory").symlink_to("../json", target_is_directory=True)
    odd = tree / "odd names"
    odd.mkdir()
    # No backslash: SeaweedFS takes it for a slash.
    for name in (
        "a b",
        "ünïcode",
        "plus+and&more",
        "percent%20",
        "quote'\"",
        "-dash",
        ".hidden",
        "new\nline",
    ):
        (odd / name).write_text(f"{name}\n")
    (tree / "empty directory").mkdir(mode=0o1777)
    (tree / "empty directory").chmod(0o1777)
    (tree / "empty file").touch()


def attributes(path: Path) -> tuple[object, ...]:
    """What is to be kept of one file: type and mode, owner, mtime, and by type the target or size, device and links."""
    status = path.lstat()
    kept: tuple[object, ...] = (stat.filemode(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns)
    if stat.S_ISLNK(status.st_mode):
        return (*kept, os.readlink(path))
    return kept if stat.S_ISDIR(status.st_mode) else (*kept, status.st_size, status.st_rdev, status.st_nlink)


def described(tree: Path) -> dict[str, tuple[object, ...]]:
    """What is to be kept of a tree: of each path its attributes, and the first of the names that are the same file."""
    found: dict[str, tuple[object, ...]] = {}
    linked: dict[int, str] = {}
    for path in sorted((tree, *tree.rglob("*"))):
        name = str(path.relative_to(tree))
        found[name] = (*attributes(path), linked.setdefault(path.lstat().st_ino, name))
    return found


def file_contents(tree: Path) -> dict[str, bytes]:
    """The content of every regular file, by its path below the tree, but what b2fs keeps for itself in a bucket."""
    return {
        str(path.relative_to(tree)): path.read_bytes()
        for path in tree.rglob("*")
        if path.is_file() and not path.is_symlink() and path.relative_to(tree).parts[0] != ".b2fs"
    }


def special_tree(target: Path) -> Path:
    """Some 150 files with everything that a POSIX filesystem can hold."""
    python_library(target, 120)
    special = target / "special"
    special.mkdir()
    first = special / "hard link 1"
    first.write_bytes(b"linked" * 1000)
    os.link(first, special / "hard link 2")
    os.link(first, target / "hard link 3")
    os.mkfifo(special / "fifo", 0o640)
    os.mknod(special / "socket", stat.S_IFSOCK | 0o755)
    if os.geteuid() == 0:
        os.mknod(special / "character device", stat.S_IFCHR | 0o620, os.makedev(5, 7))
        os.mknod(special / "block device", stat.S_IFBLK | 0o660, os.makedev(259, 1_000_000))
        for number, path in enumerate(sorted(special.iterdir())):
            os.lchown(path, 1000 + number, 2000 + number)
        os.setxattr(first, "trusted.mine", b"\0\xff")
    os.setxattr(first, "user.colour", "grün".encode())
    os.setxattr(special, "user.colour", b"blue")
    os.symlink("special/fifo", target / "to fifo")
    os.utime(target / "to fifo", ns=(1, 1_234_567_890_987_654_321), follow_symlinks=False)
    os.chmod(special, 0o2775)
    os.utime(special, ns=(1, 999_999_999))
    return target
