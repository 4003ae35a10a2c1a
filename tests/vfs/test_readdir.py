"""opendir(3), readdir(3), rewinddir(3), also while the directory changes."""

from __future__ import annotations

import errno
from contextlib import suppress

import pytest

from b2fs.vfs.api import RENAME_EXCHANGE
from tests.vfs.driver import CREAT, KINDS, Driver, Fd, W, fails, make_node


def test_an_empty_directory(fs: Driver) -> None:
    assert fs.names() == set()
    fs.mkdir("d")
    assert fs.names("d") == set()


def test_whatever_is_there_is_listed(fs: Driver) -> None:
    for kind in KINDS:
        make_node(fs, kind, kind)
    assert fs.names() == {*KINDS, "symlink-target"}


@pytest.mark.parametrize("count", [1, 2, 100, 1500])
def test_every_name_once(fs: Driver, count: int) -> None:
    names = {f"name-{number:05}-{'x' * (number % 200)}" for number in range(count)}
    for name in names:
        fs.close(fs.open(name, W | CREAT))
    assert fs.names() == names


@pytest.mark.parametrize("step", [1, 3, 50])
def test_in_steps(fs: Driver, step: int) -> None:
    names = _fill(fs, 60)
    fd = fs.opendir(".")
    seen = _rest(fs, fd, step)
    fs.closedir(fd)
    assert sorted(seen) == sorted(names)


def test_the_order_is_stable(fs: Driver) -> None:
    _fill(fs, 100)
    fd = fs.opendir(".")
    first = _rest(fs, fd, 7)
    fs.rewinddir(fd)
    assert _rest(fs, fd, 1000) == first
    fs.closedir(fd)


def test_rewinding_shows_what_is_new(fs: Driver) -> None:
    names = _fill(fs, 20)
    fd = fs.opendir(".")
    _rest(fs, fd, 100)
    fs.write("new")
    fs.unlink(names[3])
    fs.rewinddir(fd)
    assert set(_rest(fs, fd, 100)) == {*names, "new"} - {names[3]}
    fs.closedir(fd)


def test_removing_while_listing_skips_nothing(fs: Driver) -> None:
    """What rm -r does: nothing may be left out because something before it went away."""
    names = _fill(fs, 400)
    fd = fs.opendir(".")
    seen: list[str] = []
    while some := fs.readdir(fd, 10):
        seen += some
        for name in some:
            fs.unlink(name)
    fs.closedir(fd)
    assert sorted(seen) == sorted(names)
    assert fs.names() == set()


def test_adding_while_listing_repeats_nothing(fs: Driver) -> None:
    names = set(_fill(fs, 200))
    fd = fs.opendir(".")
    seen: list[str] = []
    number = 0
    while some := fs.readdir(fd, 10):
        seen += some
        if number < 100:
            fs.write(f"added{number}")
            number += 1
    fs.closedir(fd)
    assert len(seen) == len(set(seen))
    assert names <= set(seen)


def test_renaming_while_listing_loses_no_other(fs: Driver) -> None:
    names = _fill(fs, 200)
    fd = fs.opendir(".")
    seen = fs.readdir(fd, 50)
    last = seen[-1]
    fs.rename(last, "renamed")
    seen += _rest(fs, fd, 10)
    fs.closedir(fd)
    assert set(names) - {last} <= set(seen)
    assert seen.count(last) == 1
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("whole", [False, True])
def test_a_directory_that_is_removed_while_it_is_listed_has_no_more_names(fs: Driver, whole: bool) -> None:
    """Of one that is wholly gone the kernel itself asks no more."""
    fs.mkdir("d")
    for number in range(300):
        fs.write(f"d/f{number:03}")
    fd = fs.opendir("d")
    seen = fs.readdir(fd, 10)
    for number in range(300):
        fs.unlink(f"d/f{number:03}")
    if whole:
        fs.rmdir("d")
    with suppress(FileNotFoundError):
        seen += _rest(fs, fd, 10)
    fs.closedir(fd)
    assert len(seen) == len(set(seen))


def test_renaming_all_while_listing_comes_to_an_end(fs: Driver) -> None:
    """A new name may be listed too, but not the names that it is given then, and so on."""
    names = _fill(fs, 40)
    fd = fs.opendir(".")
    seen: list[str] = []
    while (some := fs.readdir(fd, 10)) and len(seen) < 500:
        for name in some:
            fs.rename(name, f"{name}+")
            with fs.opened(f"{name}+", W) as renamed:
                fs.fsync(renamed)  # a bucket has it by then
        seen += some
    fs.closedir(fd)
    assert len(seen) <= 2 * len(names)
    assert set(names) <= set(seen)
    assert len(fs.names()) == len(names)


def test_two_listings_at_once(fs: Driver) -> None:
    names = _fill(fs, 80)
    one, two = fs.opendir("."), fs.opendir(".")
    halves = [fs.readdir(one, 40), fs.readdir(two, 10)]
    halves[1] += _rest(fs, two, 33)
    halves[0] += _rest(fs, one, 33)
    fs.closedir(one)
    fs.closedir(two)
    assert sorted(halves[0]) == sorted(halves[1]) == sorted(names)


def test_a_listing_of_a_directory_that_is_renamed(fs: Driver) -> None:
    fs.mkdir("d")
    for number in range(50):
        fs.write(f"d/{number}")
    fd = fs.opendir("d")
    seen = fs.readdir(fd, 10)
    fs.rename("d", "e")
    seen += _rest(fs, fd, 10)
    fs.closedir(fd)
    assert sorted(seen) == sorted(map(str, range(50)))


def test_listing_tells_nothing_stale_to_stat(fs: Driver) -> None:
    """The attributes that come with a listing must not hide a change made after it."""
    fs.write("f", b"short")
    fs.names()
    assert fs.stat("f").size == 5
    with fs.opened("f", W) as fd:
        fs.pwrite(fd, b"something longer", 0)
        fs.names()
        assert fs.stat("f").size == 16
    fs.chmod("f", 0o600)
    fs.names()
    assert fs.bits("f") == 0o600


def test_nothing_but_directories(fs: Driver) -> None:
    fs.write("f")
    with fails(errno.ENOTDIR):
        fs.opendir("f")


def _fill(fs: Driver, count: int) -> list[str]:
    names = [f"name{number:04}" for number in range(count)]
    for name in names:
        fs.write(name)
    return names


def _rest(fs: Driver, fd: Fd, step: int) -> list[str]:
    names: list[str] = []
    while some := fs.readdir(fd, step):
        names += some
    return names


def test_a_name_that_stands_for_something_else_now_is_listed_once(fs: Driver) -> None:
    """Also while a bucket still shows what it stood for."""
    fs.mkdir("was-directory")
    for path in ("was-file", "was-directory/x", "x-file", "other"):
        fs.write(path, b"stored")
        with fs.opened(path, W) as fd:
            fs.fsync(fd)
    fs.rename("was-file", "moved-file")
    fs.mkdir("was-file")
    fs.rename("was-directory", "moved-directory")
    fs.write("was-directory")
    fs.mkdir("y-directory")
    fs.rename("x-file", "y-directory", RENAME_EXCHANGE)
    expected = {"was-file", "was-directory", "moved-file", "moved-directory", "x-file", "y-directory", "other"}
    assert fs.names() == expected


def test_a_name_that_becomes_something_else_while_listing_is_listed_once(fs: Driver) -> None:
    for name in "abcd":
        fs.write(name, b"stored")
        with fs.opened(name, W) as fd:
            fs.fsync(fd)
    fs.mkdir("e")
    fd = fs.opendir(".")
    try:
        fs.rename("d", "e", RENAME_EXCHANGE)
        listed = fs.readdir(fd, 1 << 30)
    finally:
        fs.closedir(fd)
    assert sorted(listed) == ["a", "b", "c", "d", "e"]
