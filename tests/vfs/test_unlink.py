"""unlink(2), rmdir(2), and files and directories that are gone but still open."""

from __future__ import annotations

import errno

import pytest

from tests.vfs.driver import ALICE, BOB, CREAT, KINDS, NOT_DIRECTORIES, RW, Driver, R, fails, make_node


@pytest.mark.parametrize("kind", NOT_DIRECTORIES)
def test_unlink_takes_the_name_away(fs: Driver, kind: str) -> None:
    make_node(fs, "a", kind)
    fs.unlink("a")
    assert not fs.exists("a")
    assert "a" not in fs.names()
    with fails(errno.ENOENT):
        fs.unlink("a")


def test_unlink_of_a_link_leaves_its_target(fs: Driver) -> None:
    fs.write("target", b"x")
    fs.symlink("target", "link")
    fs.unlink("link")
    assert fs.read("target") == b"x"


def test_unlink_refuses_directories(fs: Driver) -> None:
    fs.mkdir("d")
    with fails(errno.EISDIR):
        fs.unlink("d")
    fs.symlink("d", "link")
    fs.unlink("link")
    assert fs.names() == {"d"}


@pytest.mark.parametrize("kind", NOT_DIRECTORIES)
def test_rmdir_refuses_everything_else(fs: Driver, kind: str) -> None:
    make_node(fs, "a", kind)
    with fails(errno.ENOTDIR):
        fs.rmdir("a")
    assert fs.exists("a")


def test_rmdir_refuses_a_link_to_a_directory(fs: Driver) -> None:
    fs.mkdir("d")
    fs.symlink("d", "link")
    with fails(errno.ENOTDIR):
        fs.rmdir("link")


@pytest.mark.parametrize("kind", KINDS)
def test_rmdir_refuses_full_directories(fs: Driver, kind: str) -> None:
    fs.mkdir("d")
    make_node(fs, "d/x", kind)
    with fails(errno.ENOTEMPTY):
        fs.rmdir("d")
    assert "x" in fs.names("d")


def test_rmdir_takes_the_directory_away(fs: Driver) -> None:
    fs.mkdir("d")
    assert fs.stat(".").nlink == 3
    fs.rmdir("d")
    assert fs.stat(".").nlink == 2
    assert fs.names() == set()
    with fails(errno.ENOENT):
        fs.rmdir("d")


def test_a_name_can_be_used_again(fs: Driver) -> None:
    fs.write("a", b"first")
    fs.unlink("a")
    fs.mkdir("a")
    fs.rmdir("a")
    fs.symlink("t", "a")
    fs.unlink("a")
    fs.write("a", b"last")
    assert fs.read("a") == b"last"


def test_an_open_file_lives_on(fs: Driver) -> None:
    with fs.opened("a", RW | CREAT) as fd:
        fs.pwrite(fd, b"before", 0)
        fs.unlink("a")
        assert not fs.exists("a")
        assert fs.fstat(fd).nlink == 0
        fs.pwrite(fd, b" after", 6)
        assert fs.pread(fd, 100, 0) == b"before after"
        fs.ftruncate(fd, 3)
        assert fs.pread(fd, 100, 0) == b"bef"
        fs.fchmod(fd, 0o600)
        assert fs.fstat(fd).mode & 0o777 == 0o600
        fs.fsync(fd)
    assert not fs.exists("a")


def test_an_open_file_and_its_successor_are_two(fs: Driver) -> None:
    fs.write("a", b"old")
    with fs.opened("a", RW) as fd:
        fs.unlink("a")
        fs.write("a", b"new")
        fs.pwrite(fd, b"OLD", 0)
        assert fs.pread(fd, 3, 0) == b"OLD"
        assert fs.fstat(fd).ino != fs.stat("a").ino
    assert fs.read("a") == b"new"


def test_every_handle_keeps_an_unlinked_file(fs: Driver) -> None:
    fs.write("a", b"content")
    one, two = fs.open("a", R), fs.open("a", RW)
    fs.unlink("a")
    fs.close(one)
    assert fs.pread(two, 7, 0) == b"content"
    fs.close(two)


def test_a_directory_that_is_gone_but_open(fs: Driver) -> None:
    fs.mkdir("d")
    fd = fs.opendir("d")
    fs.rmdir("d")
    assert fs.fstat(fd).nlink == 0
    fs.closedir(fd)
    assert not fs.exists("d")


def test_one_name_of_several(fs: Driver) -> None:
    fs.write("a", b"x")
    fs.link("a", "b")
    fs.unlink("a")
    assert fs.read("b") == b"x"
    assert fs.stat("b").nlink == 1


@pytest.mark.parametrize("remove", ["unlink", "rmdir"])
def test_the_directory_must_be_writable(fs: Driver, remove: str) -> None:
    fs.make_dir("d", 0o755)
    fs.make_file("d/unlink", 0o666, ALICE)
    fs.make_dir("d/rmdir", 0o777, ALICE)
    with fs.user(ALICE), fails(errno.EACCES):
        fs.unlink("d/unlink") if remove == "unlink" else fs.rmdir("d/rmdir")
    assert fs.names("d") == {"unlink", "rmdir"}


def test_the_file_itself_need_not_be_writable(fs: Driver) -> None:
    fs.make_dir("d", 0o777)
    fs.make_file("d/f", 0o000, BOB)
    with fs.user(ALICE):
        fs.unlink("d/f")
    assert fs.names("d") == set()


@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.parametrize(
    ("directory_owner", "owner", "allowed"), [(0, BOB, False), (0, ALICE, True), (ALICE, BOB, True), (BOB, BOB, False)]
)
def test_sticky_directories(fs: Driver, kind: str, directory_owner: int, owner: int, allowed: bool) -> None:
    fs.make_dir("sticky", 0o1777, directory_owner)
    make_node(fs, "sticky/x", kind)
    fs.chown("sticky/x", owner, owner)
    with fs.user(ALICE):
        remove = fs.unlink if kind == "file" else fs.rmdir
        if allowed:
            remove("sticky/x")
        else:
            with fails(errno.EPERM):
                remove("sticky/x")
    assert fs.exists("sticky/x") != allowed


def test_many_files_come_and_go(fs: Driver) -> None:
    for number in range(200):
        fs.write(f"f{number}", b"%d" % number)
    for number in range(0, 200, 2):
        fs.unlink(f"f{number}")
    assert fs.names() == {f"f{number}" for number in range(1, 200, 2)}
    assert fs.read("f199") == b"199"


@pytest.mark.parametrize(("path", "code"), [("d/.", errno.EINVAL), ("d/..", errno.ENOTEMPTY)])
def test_the_kernel_refuses_dots_to_rmdir(kernel: Driver, path: str, code: int) -> None:
    kernel.mkdir("d")
    with fails(code):
        kernel.rmdir(path)
