"""rename(2) and renameat2(2)."""

from __future__ import annotations

import errno
import stat

import pytest

from b2fs.vfs.api import RENAME_EXCHANGE, RENAME_NOREPLACE
from tests.vfs.driver import ALICE, BOB, CREAT, KINDS, NOT_DIRECTORIES, RW, Driver, R, fails, make_node


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["b", "d/b"])
def test_moves_whatever_it_is(fs: Driver, kind: str, target: str) -> None:
    fs.mkdir("d")
    make_node(fs, "a", kind)
    before = fs.lstat("a")
    fs.rename("a", target)
    after = fs.lstat(target)
    assert (after.ino, after.mode, after.nlink, after.size) == (before.ino, before.mode, before.nlink, before.size)
    assert after.mtime_ns == before.mtime_ns
    assert not fs.exists("a")


@pytest.mark.parametrize("kind", NOT_DIRECTORIES)
@pytest.mark.parametrize("replaced", NOT_DIRECTORIES)
def test_replaces_what_is_no_directory(fs: Driver, kind: str, replaced: str) -> None:
    make_node(fs, "a", kind)
    make_node(fs, "b", replaced)
    ino = fs.lstat("a").ino
    fs.rename("a", "b")
    assert fs.lstat("b").ino == ino
    assert not fs.exists("a")


@pytest.mark.parametrize("kind", NOT_DIRECTORIES)
def test_a_directory_does_not_replace_something_else(fs: Driver, kind: str) -> None:
    fs.mkdir("d")
    make_node(fs, "other", kind)
    with fails(errno.ENOTDIR):
        fs.rename("d", "other")
    assert {"d", "other"} <= fs.names()


@pytest.mark.parametrize("kind", NOT_DIRECTORIES)
def test_nothing_else_replaces_a_directory(fs: Driver, kind: str) -> None:
    fs.mkdir("d")
    make_node(fs, "other", kind)
    with fails(errno.EISDIR):
        fs.rename("other", "d")
    assert {"d", "other"} <= fs.names()


def test_a_directory_replaces_an_empty_one(fs: Driver) -> None:
    fs.mkdir("a")
    fs.write("a/f", b"kept")
    fs.mkdir("b")
    ino = fs.stat("a").ino
    fs.rename("a", "b")
    assert fs.stat("b").ino == ino
    assert fs.read("b/f") == b"kept"
    assert fs.names() == {"b"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_does_not_replace_a_full_one(fs: Driver, kind: str) -> None:
    fs.mkdir("a")
    fs.mkdir("b")
    make_node(fs, "b/x", kind)
    with fails(errno.ENOTEMPTY):
        fs.rename("a", "b")
    assert fs.names() == {"a", "b"}


def test_content_comes_along(fs: Driver) -> None:
    fs.write("a", b"new")
    fs.write("b", b"old content")
    fs.rename("a", "b")
    assert fs.read("b") == b"new"
    assert fs.names() == {"b"}


def test_onto_itself_changes_nothing(fs: Driver) -> None:
    fs.write("a", b"x")
    before = fs.stat("a")
    fs.rename("a", "a")
    assert fs.stat("a") == before


def test_onto_another_name_of_the_same_file_changes_nothing(fs: Driver) -> None:
    fs.write("a", b"x")
    fs.link("a", "b")
    fs.rename("a", "b")
    assert fs.names() == {"a", "b"}
    assert fs.stat("a").nlink == 2


@pytest.mark.parametrize("target", ["d/d", "d/e/d", "d/e"])
def test_a_directory_does_not_move_into_itself(fs: Driver, target: str) -> None:
    fs.mkdir("d")
    fs.mkdir("d/e")
    with fails(errno.EINVAL):
        fs.rename("d", target)
    assert fs.names("d") == {"e"}


def test_a_directory_does_not_take_the_place_of_one_that_holds_it(fs: Driver) -> None:
    fs.mkdir("d")
    fs.mkdir("d/e")
    fs.mkdir("d/e/f")
    with fails(errno.ENOTEMPTY):
        fs.rename("d/e/f", "d")
    with fails(errno.ENOTEMPTY):
        fs.rename("d/e", "d")
    assert fs.names("d/e") == {"f"}


def test_a_tree_moves_as_a_whole(fs: Driver) -> None:
    fs.mkdir("a")
    fs.mkdir("a/b")
    fs.mkdir("a/b/c")
    fs.write("a/b/c/f", b"deep")
    fs.mkdir("target")
    fs.rename("a", "target/z")
    assert fs.read("target/z/b/c/f") == b"deep"
    assert fs.stat("target/z/..").ino == fs.stat("target").ino
    fs.rename("target/z/b", "b")
    assert fs.read("b/c/f") == b"deep"
    assert fs.names("target/z") == set()


def test_files_stay_open_while_their_tree_moves(fs: Driver) -> None:
    fs.mkdir("a")
    with fs.opened("a/f", RW | CREAT) as fd:
        fs.pwrite(fd, b"before", 0)
        fs.rename("a", "b")
        fs.pwrite(fd, b" after", 6)
        assert fs.pread(fd, 100, 0) == b"before after"
        assert fs.fstat(fd).ino == fs.stat("b/f").ino
    assert fs.read("b/f") == b"before after"


def test_an_open_file_lives_on_when_it_is_replaced(fs: Driver) -> None:
    fs.write("old", b"old content")
    fs.write("new", b"new")
    with fs.opened("old", RW) as fd:
        fs.rename("new", "old")
        assert fs.pread(fd, 100, 0) == b"old content"
        fs.pwrite(fd, b"OLD", 0)
        assert fs.pread(fd, 100, 0) == b"OLD content"
        assert fs.fstat(fd).nlink == 0
    assert fs.read("old") == b"new"


def test_one_of_two_names_replaced_leaves_the_other(fs: Driver) -> None:
    fs.write("a", b"linked")
    fs.link("a", "b")
    fs.write("c", b"new")
    fs.rename("c", "b")
    assert fs.read("a") == b"linked"
    assert fs.stat("a").nlink == 1
    assert fs.read("b") == b"new"


def test_a_moved_link_stays_a_link(fs: Driver) -> None:
    fs.mkdir("d")
    fs.write("a", b"x")
    fs.link("a", "b")
    fs.rename("b", "d/c")
    assert fs.stat("a").ino == fs.stat("d/c").ino
    assert fs.stat("a").nlink == 2


def test_link_counts_of_directories_follow(fs: Driver) -> None:
    fs.mkdir("a")
    fs.mkdir("b")
    fs.mkdir("a/d")
    assert (fs.stat("a").nlink, fs.stat("b").nlink) == (3, 2)
    fs.rename("a/d", "b/d")
    assert (fs.stat("a").nlink, fs.stat("b").nlink) == (2, 3)
    fs.mkdir("a/e")
    fs.rename("a/e", "b/d")
    assert (fs.stat("a").nlink, fs.stat("b").nlink) == (2, 3)


def test_renaming_in_a_circle(fs: Driver) -> None:
    for name in "abc":
        fs.write(name, name.encode())
    for source, target in (("a", "t"), ("b", "a"), ("c", "b"), ("t", "c")):
        fs.rename(source, target)
    assert [fs.read(name) for name in "abc"] == [b"b", b"c", b"a"]


# -- RENAME_NOREPLACE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("taken", KINDS)
def test_noreplace_refuses_a_taken_name(fs: Driver, kind: str, taken: str) -> None:
    make_node(fs, "a", kind)
    make_node(fs, "b", taken)
    inos = fs.lstat("a").ino, fs.lstat("b").ino
    with fails(errno.EEXIST):
        fs.rename("a", "b", RENAME_NOREPLACE)
    assert (fs.lstat("a").ino, fs.lstat("b").ino) == inos


@pytest.mark.parametrize("kind", KINDS)
def test_noreplace_moves_to_a_free_name(fs: Driver, kind: str) -> None:
    make_node(fs, "a", kind)
    ino = fs.lstat("a").ino
    fs.rename("a", "b", RENAME_NOREPLACE)
    assert fs.lstat("b").ino == ino
    assert not fs.exists("a")


def test_noreplace_refuses_the_own_name(fs: Driver) -> None:
    fs.write("a")
    with fails(errno.EEXIST):
        fs.rename("a", "a", RENAME_NOREPLACE)


# -- RENAME_EXCHANGE


@pytest.mark.parametrize("one", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_exchange_swaps_whatever_they_are(fs: Driver, one: str, other: str) -> None:
    fs.mkdir("d")
    make_node(fs, "a", one)
    make_node(fs, "d/b", other)
    inos = fs.lstat("a").ino, fs.lstat("d/b").ino
    fs.rename("a", "d/b", RENAME_EXCHANGE)
    assert (fs.lstat("d/b").ino, fs.lstat("a").ino) == inos
    assert fs.stat("d").nlink == 2 + (one == "directory")


def test_exchange_swaps_full_directories(fs: Driver) -> None:
    for name in "ab":
        fs.mkdir(name)
        fs.write(f"{name}/from-{name}", name.encode())
    fs.rename("a", "b", RENAME_EXCHANGE)
    assert fs.names("a") == {"from-b"}
    assert fs.read("b/from-a") == b"a"


@pytest.mark.parametrize("missing", ["a", "b"])
def test_exchange_needs_both(fs: Driver, missing: str) -> None:
    fs.write("b" if missing == "a" else "a")
    with fails(errno.ENOENT):
        fs.rename("a", "b", RENAME_EXCHANGE)


@pytest.mark.parametrize(("source", "target"), [("d", "d/e"), ("d/e", "d"), ("d/e/f", "d")])
def test_exchange_never_makes_a_circle(fs: Driver, source: str, target: str) -> None:
    fs.mkdir("d")
    fs.mkdir("d/e")
    fs.mkdir("d/e/f")
    with fails(errno.EINVAL):
        fs.rename(source, target, RENAME_EXCHANGE)


def test_exchange_keeps_open_files_apart(fs: Driver) -> None:
    fs.write("a", b"A")
    fs.write("b", b"B")
    with fs.opened("a", RW) as fd:
        fs.rename("a", "b", RENAME_EXCHANGE)
        fs.pwrite(fd, b"AA", 0)
    assert fs.read("a") == b"B"
    assert fs.read("b") == b"AA"


@pytest.mark.parametrize("flags", [RENAME_NOREPLACE | RENAME_EXCHANGE, 1 << 10])
def test_flags_that_make_no_sense(fs: Driver, flags: int) -> None:
    fs.write("a")
    fs.write("b")
    with fails(errno.EINVAL):
        fs.rename("a", "b", flags)


# -- permissions


def test_both_directories_must_be_writable(fs: Driver) -> None:
    fs.make_dir("mine", 0o755, ALICE)
    fs.make_dir("others", 0o755)
    fs.make_file("mine/a", 0o644, ALICE)
    fs.make_file("others/b", 0o644, ALICE)
    with fs.user(ALICE):
        with fails(errno.EACCES):
            fs.rename("mine/a", "others/a")
        with fails(errno.EACCES):
            fs.rename("others/b", "mine/b")
        with fails(errno.EACCES):
            fs.rename("mine/a", "others/b")
        fs.rename("mine/a", "mine/c")


def test_a_directory_that_changes_its_parent_must_be_writable(fs: Driver) -> None:
    fs.make_dir("a", 0o777)
    fs.make_dir("b", 0o777)
    fs.make_dir("a/d", 0o755)
    with fs.user(ALICE):
        with fails(errno.EACCES):
            fs.rename("a/d", "b/d")
        fs.rename("a/d", "a/e")  # its '..' stays the same


@pytest.mark.parametrize(
    ("directory_owner", "file_owner", "code"), [(0, BOB, errno.EPERM), (0, ALICE, 0), (ALICE, BOB, 0)]
)
def test_a_sticky_directory_guards_the_source(fs: Driver, directory_owner: int, file_owner: int, code: int) -> None:
    fs.make_dir("sticky", 0o1777, directory_owner)
    fs.make_dir("open", 0o777)
    fs.make_file("sticky/f", 0o666, file_owner)
    with fs.user(ALICE):
        if code:
            with fails(code):
                fs.rename("sticky/f", "open/f")
        else:
            fs.rename("sticky/f", "open/f")


@pytest.mark.parametrize(
    ("directory_owner", "file_owner", "code"), [(0, BOB, errno.EPERM), (0, ALICE, 0), (ALICE, BOB, 0)]
)
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_sticky_directory_guards_what_would_be_replaced(
    fs: Driver, kind: str, directory_owner: int, file_owner: int, code: int
) -> None:
    fs.make_dir("sticky", 0o1777, directory_owner)
    make_node(fs, "sticky/old", kind)
    fs.chown("sticky/old", file_owner, file_owner)
    make_node(fs, "new", kind)
    fs.chown("new", ALICE, ALICE)
    with fs.user(ALICE):
        if code:
            with fails(code):
                fs.rename("new", "sticky/old")
        else:
            fs.rename("new", "sticky/old")


def test_a_sticky_directory_guards_both_of_an_exchange(fs: Driver) -> None:
    fs.make_dir("sticky", 0o1777)
    fs.make_file("sticky/bobs", 0o666, BOB)
    fs.make_file("sticky/mine", 0o666, ALICE)
    with fs.user(ALICE):
        for names in (("sticky/bobs", "sticky/mine"), ("sticky/mine", "sticky/bobs")):
            with fails(errno.EPERM):
                fs.rename(*names, RENAME_EXCHANGE)


def test_modes_and_owners_come_along(fs: Driver) -> None:
    fs.make_file("f", 0o4751, ALICE)
    fs.make_dir("d", 0o1713, BOB)
    fs.rename("f", "g")
    fs.rename("d", "e")
    assert (fs.bits("g"), fs.stat("g").uid) == (0o4751, ALICE)
    assert (fs.bits("e"), fs.stat("e").uid) == (0o1713, BOB)
    assert stat.S_ISDIR(fs.stat("e").mode)


def test_the_kernel_refuses_dots(kernel: Driver) -> None:
    kernel.mkdir("d")
    for source, target in (("d/.", "e"), ("d/..", "e"), ("d", "d/."), ("d", "d/..")):
        with fails(errno.EBUSY):
            kernel.rename(source, target)


def test_a_reader_of_the_old_name_goes_on(fs: Driver) -> None:
    fs.write("a", b"content")
    with fs.opened("a", R) as fd:
        fs.rename("a", "b")
        assert fs.pread(fd, 7, 0) == b"content"
