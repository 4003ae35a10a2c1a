"""What every call that takes a path says of a bad one: the common part of the ERRORS sections of the POSIX pages."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

import pytest

from tests.vfs.driver import ALICE, CREAT, EXCL, KINDS, RW, Driver, R, W, fails, make_node
from tests.vfs.kernel import KernelDriver

Call = Callable[[Driver, str], object]

#: Calls on something that is there.
EXISTING: dict[str, Call] = {
    "stat": lambda fs, path: fs.stat(path),
    "lstat": lambda fs, path: fs.lstat(path),
    "open-read": lambda fs, path: fs.open(path, R),
    "open-write": lambda fs, path: fs.open(path, W),
    "truncate": lambda fs, path: fs.truncate(path, 0),
    "chmod": lambda fs, path: fs.chmod(path, 0o600),
    "chown": lambda fs, path: fs.chown(path, 0, 0),
    "lchown": lambda fs, path: fs.lchown(path, 0, 0),
    "utimensat": lambda fs, path: fs.utime(path, None),
    "access": lambda fs, path: fs.access(path, os.R_OK),
    "readlink": lambda fs, path: fs.readlink(path),
    "unlink": lambda fs, path: fs.unlink(path),
    "rmdir": lambda fs, path: fs.rmdir(path),
    "rename-from": lambda fs, path: fs.rename(path, "new"),
    "link-from": lambda fs, path: fs.link(path, "new"),
    "opendir": lambda fs, path: fs.opendir(path),
    "getxattr": lambda fs, path: fs.getxattr(path, "user.a"),
    "setxattr": lambda fs, path: fs.setxattr(path, "user.a", b""),
    "listxattr": lambda fs, path: fs.listxattr(path),
    "removexattr": lambda fs, path: fs.removexattr(path, "user.a"),
}
#: Calls that make a new name.
MAKING: dict[str, Call] = {
    "create": lambda fs, path: fs.close(fs.open(path, W | CREAT)),
    "create-excl": lambda fs, path: fs.close(fs.open(path, RW | CREAT | EXCL)),
    "mkdir": lambda fs, path: fs.mkdir(path),
    "mkfifo": lambda fs, path: fs.mknod(path, stat.S_IFIFO | 0o644),
    "mknod": lambda fs, path: fs.mknod(path, stat.S_IFREG | 0o644),
    "symlink": lambda fs, path: fs.symlink("target", path),
    "link-to": lambda fs, path: fs.link("file", path),
    "rename-to": lambda fs, path: fs.rename("file", path),
}
ALL = EXISTING | MAKING
LONGEST = "n" * 255
TOO_LONG = "n" * 256


def cases(calls: dict[str, Call]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("call", calls.values(), ids=calls.keys())


@pytest.fixture(autouse=True)
def _a_file(fs: Driver) -> None:
    fs.write("file")


@cases(EXISTING)
def test_a_missing_name(fs: Driver, call: Call) -> None:
    with fails(errno.ENOENT):
        call(fs, "missing")


@cases(ALL)
def test_a_missing_directory_on_the_way(fs: Driver, call: Call) -> None:
    with fails(errno.ENOENT):
        call(fs, "missing/name")


@cases(ALL)
def test_a_file_on_the_way(fs: Driver, call: Call) -> None:
    with fails(errno.ENOTDIR):
        call(fs, "file/name")


@cases(ALL)
def test_a_name_that_is_too_long(fs: Driver, call: Call) -> None:
    with fails(errno.ENAMETOOLONG):
        call(fs, TOO_LONG)


@cases(ALL)
def test_a_name_on_the_way_that_is_too_long(fs: Driver, call: Call) -> None:
    with fails(errno.ENAMETOOLONG):
        call(fs, f"{TOO_LONG}/name")


@cases(ALL)
def test_a_directory_that_may_not_be_searched(fs: Driver, call: Call) -> None:
    fs.make_dir("closed", 0o666)
    with fs.user(ALICE), fails(errno.EACCES):
        call(fs, "closed/name")


@cases(ALL)
def test_a_loop_of_symbolic_links_on_the_way(fs: Driver, call: Call) -> None:
    fs.symlink("b", "a")
    fs.symlink("a", "b")
    with fails(errno.ELOOP):
        call(fs, "a/name")


@cases({name: EXISTING[name] for name in ("stat", "open-read", "truncate", "chmod", "chown", "opendir", "access")})
def test_a_loop_of_symbolic_links_at_the_end(fs: Driver, call: Call) -> None:
    fs.symlink("self", "self")
    with fails(errno.ELOOP):
        call(fs, "self")


@cases(MAKING)
def test_the_longest_name(fs: Driver, call: Call) -> None:
    call(fs, LONGEST)
    assert LONGEST in fs.names()
    fs.lstat(LONGEST)


@cases({name: call for name, call in MAKING.items() if name not in ("create", "rename-to")})
@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_is_taken(fs: Driver, call: Call, kind: str) -> None:
    make_node(fs, "taken", kind)
    with fails(errno.EEXIST):
        call(fs, "taken")


@cases(MAKING)
def test_a_directory_that_may_not_be_written(fs: Driver, call: Call) -> None:
    fs.make_dir("locked", 0o755)
    fs.make_file("mine", 0o644, ALICE)
    fs.chmod("file", 0o666)
    with fs.user(ALICE), fails(errno.EACCES):
        call(fs, "locked/name")
    assert fs.names("locked") == set()


@cases(MAKING)
def test_a_directory_that_was_removed(fs: Driver, call: Call) -> None:
    fs.mkdir("gone")
    fs.rmdir("gone")
    with fails(errno.ENOENT):
        call(fs, "gone/name")


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "with space",
        "ünïcode-名前",
        "-dash",
        "a*b?c",
        "back\\slash",
        "tab\tnewline\n",
        "\udcff\udc80",
        "...",
        "~",
    ],
)
def test_any_name_comes_back_as_it_was_given(fs: Driver, name: str) -> None:
    fs.write(name, b"content")
    assert name in fs.names()
    assert fs.read(name) == b"content"
    fs.mkdir(f"{name}-d")
    fs.rename(name, f"{name}-d/{name}")
    assert fs.names(f"{name}-d") == {name}


def test_names_differ_by_case_and_by_normalisation(fs: Driver) -> None:
    names = {"name", "Name", "\u00e9", "e\u0301"}
    for name in names:
        fs.write(name, name.encode())
    assert fs.names() == names | {"file"}
    assert {fs.read(name).decode() for name in names} == names


def test_dots_lead_where_they_should(fs: Driver) -> None:
    fs.mkdir("d")
    fs.mkdir("d/e")
    assert fs.stat("d/e/..").ino == fs.stat("d").ino
    assert fs.stat("d/./e/../../file").ino == fs.stat("file").ino


def test_the_kernel_refuses_paths_that_are_too_long(kernel: KernelDriver) -> None:
    for call in ALL.values():
        with fails(errno.ENAMETOOLONG):
            call(kernel, "./" * 2048 + "file")


def test_the_kernel_refuses_the_empty_path(kernel: KernelDriver) -> None:
    for call in ALL.values():
        with fails(errno.ENOENT):
            call(kernel, "")


@cases({name: EXISTING[name] for name in ("stat", "lstat", "open-read", "chmod", "truncate", "unlink", "rename-from")})
def test_a_slash_behind_a_file(kernel: KernelDriver, call: Call) -> None:
    with fails(errno.ENOTDIR):
        call(kernel, "file/")


def test_a_slash_behind_a_directory(kernel: KernelDriver) -> None:
    kernel.mkdir("d/")
    assert stat.S_ISDIR(kernel.stat("d/").mode)
    kernel.rename("d/", "e/")
    kernel.rmdir("e/")
