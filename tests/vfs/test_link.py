"""link(2) and symlink(2)."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from tests.vfs.driver import ALICE, CREAT, EXCL, RW, Driver, R, W, fails, make_node


def test_two_names_are_one_file(fs: Driver) -> None:
    fs.write("a", b"content")
    fs.link("a", "b")
    one, other = fs.stat("a"), fs.stat("b")
    assert one == other
    assert one.nlink == 2


def test_what_is_done_through_one_name_is_seen_through_all(fs: Driver) -> None:
    fs.mkdir("d")
    fs.write("a", b"content")
    fs.link("a", "d/b")
    with fs.opened("d/b", W) as fd:
        fs.pwrite(fd, b"CON", 0)
    assert fs.read("a") == b"CONtent"
    fs.truncate("a", 3)
    assert fs.stat("d/b").size == 3
    fs.chmod("d/b", 0o640)
    assert fs.bits("a") == 0o640
    fs.setxattr("a", "user.k", b"v")
    assert fs.getxattr("d/b", "user.k") == b"v"


def test_link_counts(fs: Driver) -> None:
    fs.write("n0")
    for number in range(1, 10):
        fs.link("n0", f"n{number}")
        assert fs.stat("n0").nlink == number + 1
    for number in range(9):
        fs.unlink(f"n{number}")
        assert fs.stat("n9").nlink == 9 - number


@pytest.mark.parametrize("kind", ["file", "symlink", "dangling", "fifo"])
def test_everything_but_a_directory_can_be_linked(fs: Driver, kind: str) -> None:
    make_node(fs, "a", kind)
    fs.link("a", "b")
    assert fs.lstat("a") == fs.lstat("b")
    assert fs.lstat("b").nlink == 2


def test_directories_cannot_be_linked(fs: Driver) -> None:
    fs.mkdir("d")
    with fails(errno.EPERM):
        fs.link("d", "e")
    assert fs.names() == {"d"}


def test_a_link_survives_the_end_of_the_first_name_and_of_its_directory(fs: Driver) -> None:
    fs.mkdir("d")
    fs.write("d/a", b"x")
    fs.link("d/a", "b")
    fs.unlink("d/a")
    fs.rmdir("d")
    assert fs.read("b") == b"x"


def test_the_target_directory_must_be_writable(fs: Driver) -> None:
    fs.make_file("f", 0o666, ALICE)
    fs.make_dir("d", 0o755)
    with fs.user(ALICE), fails(errno.EACCES):
        fs.link("f", "d/g")
    assert fs.stat("f").nlink == 1


# -- symbolic links


@pytest.mark.parametrize("target", ["t", "../up", "/absolute/../path", "with space", "ünïcode", "x" * 255, "a/" * 500])
def test_a_link_says_what_it_was_given(fs: Driver, target: str) -> None:
    fs.symlink(target, "link")
    assert fs.readlink("link") == target
    found = fs.lstat("link")
    assert stat.S_ISLNK(found.mode)
    assert found.mode & 0o777 == 0o777
    assert found.size == len(target.encode())


def test_calls_follow_a_link(fs: Driver) -> None:
    fs.mkdir("d")
    fs.write("d/f", b"content")
    fs.symlink("d", "to-d")
    fs.symlink("to-d/f", "to-f")
    assert fs.stat("to-f").ino == fs.stat("d/f").ino
    assert fs.read("to-f") == b"content"
    assert fs.names("to-d") == {"f"}
    fs.chmod("to-f", 0o600)
    assert fs.bits("d/f") == 0o600
    fs.truncate("to-f", 2)
    assert fs.read("d/f") == b"co"
    fs.chown("to-f", ALICE, ALICE)
    assert (fs.stat("d/f").uid, fs.lstat("to-f").uid) == (ALICE, 0)
    fs.lchown("to-f", 5, 6)
    assert (fs.lstat("to-f").uid, fs.lstat("to-f").gid, fs.stat("to-f").uid) == (5, 6, ALICE)


def test_a_link_that_leads_nowhere(fs: Driver) -> None:
    fs.symlink("nowhere", "link")
    assert stat.S_ISLNK(fs.lstat("link").mode)
    for call in (fs.stat, fs.read, fs.opendir):
        with fails(errno.ENOENT):
            call("link")


def test_exclusive_creation_does_not_follow_a_link(fs: Driver) -> None:
    fs.symlink("nowhere", "link")
    with fails(errno.EEXIST):
        fs.open("link", RW | CREAT | EXCL)
    assert not fs.exists("nowhere")


def test_creation_follows_a_link(kernel: Driver) -> None:
    kernel.symlink("target", "link")
    kernel.write("link", b"through")
    assert kernel.read("target") == b"through"


def test_a_chain_of_links(fs: Driver) -> None:
    fs.write("l0", b"end")
    for number in range(1, 30):
        fs.symlink(f"l{number - 1}", f"l{number}")
    assert fs.read("l29") == b"end"


def test_a_chain_of_links_that_is_too_long(fs: Driver) -> None:
    fs.write("l0")
    for number in range(1, 50):
        fs.symlink(f"l{number - 1}", f"l{number}")
    with fails(errno.ELOOP):
        fs.stat("l49")


@pytest.mark.parametrize("kind", ["file", "directory", "fifo"])
def test_readlink_of_something_else(fs: Driver, kind: str) -> None:
    make_node(fs, "a", kind)
    with fails(errno.EINVAL):
        fs.readlink("a")


def test_the_kernel_refuses_an_empty_target(kernel: Driver) -> None:
    with fails(errno.ENOENT):
        kernel.symlink("", "link")


def test_the_kernel_does_not_follow_where_it_is_told_not_to(kernel: Driver) -> None:
    kernel.write("f")
    kernel.symlink("f", "link")
    with fails(errno.ELOOP):
        kernel.open("link", R | os.O_NOFOLLOW)
