"""Which call marks which of the three times, as the POSIX pages say, and utimensat(2).

A mark is seen by putting all times of what matters well into the past before the call, and looking which came back to
the present.  Changing the times of a file marks its ctime, so ctime is told by its growth alone.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

import pytest

from b2fs.vfs.api import RENAME_EXCHANGE
from b2fs.vfs.clock import now_ns
from tests.vfs.driver import ALICE, BOB, CREAT, EXCL, RW, TRUNC, Driver, R, Stat, W, fails, make_node

SECOND = 10**9
PAST = 1_000_000_000 * SECOND
Call = Callable[[Driver], object]
_PATHS = ("d", "e", "d/sub", "d/f", "d/empty", "d/f2", "e/f2", "d/link")

#: What a call on f, d/f, ... marks: atime, mtime and ctime of the file, and of its directory d as D.
MARKS: dict[str, tuple[Call, dict[str, str]]] = {
    "create": (lambda fs: fs.close(fs.open("d/new", W | CREAT)), {"d": "mc", "d/new": "amc"}),
    "mkdir": (lambda fs: fs.mkdir("d/new"), {"d": "mc", "d/new": "amc"}),
    "mkfifo": (lambda fs: fs.mknod("d/new", stat.S_IFIFO | 0o644), {"d": "mc", "d/new": "amc"}),
    "symlink": (lambda fs: fs.symlink("t", "d/new"), {"d": "mc", "d/new": "amc"}),
    "link": (lambda fs: fs.link("d/f", "e/new"), {"d": "", "e": "mc", "d/f": "c"}),
    "unlink": (lambda fs: fs.unlink("d/f"), {"d": "mc"}),
    "unlink-one-of-two": (lambda fs: fs.unlink("d/f2"), {"d": "mc", "e/f2": "c"}),
    "rmdir": (lambda fs: fs.rmdir("d/sub"), {"d": "mc"}),
    "rename-within": (lambda fs: fs.rename("d/f", "d/g"), {"d": "mc", "d/g": "c"}),
    "rename-across": (lambda fs: fs.rename("d/f", "e/f"), {"d": "mc", "e": "mc", "e/f": "c"}),
    "rename-directory": (lambda fs: fs.rename("d/sub", "e/sub"), {"d": "mc", "e": "mc", "e/sub": "c"}),
    "rename-replacing": (lambda fs: fs.rename("d/f", "d/f2"), {"d": "mc", "d/f2": "c", "e/f2": "c"}),
    "exchange": (lambda fs: fs.rename("d/f", "e/f2", RENAME_EXCHANGE), {"d": "mc", "e": "mc", "d/f": "c", "e/f2": "c"}),
    "chmod": (lambda fs: fs.chmod("d/f", 0o600), {"d": "", "d/f": "c"}),
    "chown": (lambda fs: fs.chown("d/f", ALICE, BOB), {"d": "", "d/f": "c"}),
    "truncate-down": (lambda fs: fs.truncate("d/f", 1), {"d": "", "d/f": "mc"}),
    "truncate-up": (lambda fs: fs.truncate("d/f", 100), {"d": "", "d/f": "mc"}),
    "open-truncating": (lambda fs: fs.close(fs.open("d/f", W | TRUNC)), {"d": "", "d/f": "mc"}),
    "open-truncating-empty": (lambda fs: fs.close(fs.open("d/empty", W | TRUNC)), {"d": "", "d/empty": "mc"}),
    "write": (lambda fs: _write(fs, b"x"), {"d": "", "d/f": "mc"}),
    "write-nothing": (lambda fs: _write(fs, b""), {"d": "", "d/f": ""}),
    "open": (lambda fs: fs.close(fs.open("d/f", RW)), {"d": "", "d/f": ""}),
    "read": (lambda fs: fs.read("d/f"), {"d": "", "d/f": "a"}),
    "readdir": (lambda fs: fs.names("d"), {"d": "a"}),
    "readlink": (lambda fs: fs.readlink("d/link"), {"d": "", "d/link": "a"}),
    "setxattr": (lambda fs: fs.setxattr("d/f", "user.a", b"1"), {"d": "", "d/f": "c"}),
    "removexattr": (lambda fs: fs.removexattr("d/f", "user.there"), {"d": "", "d/f": "c"}),
    "stat": (lambda fs: fs.stat("d/f"), {"d": "", "d/f": ""}),
    "access": (lambda fs: fs.access("d/f", 4), {"d": "", "d/f": ""}),
}
#: What changes nothing.
FAILING: dict[str, Call] = {
    "create": lambda fs: fs.open("d/f", W | CREAT | EXCL),
    "mkdir": lambda fs: fs.mkdir("d/f"),
    "unlink": lambda fs: fs.unlink("d/sub"),
    "rmdir": lambda fs: fs.rmdir("d/f"),
    "link": lambda fs: fs.link("d/f", "d/f2"),
    "rename": lambda fs: fs.rename("d/f", "d/sub"),
    "truncate": lambda fs: fs.truncate("d/f", -1),
    "setxattr": lambda fs: fs.setxattr("d/f", "user.there", b"", 1),
}


@pytest.mark.parametrize("call", MARKS)
def test_a_call_marks_exactly_the_times_that_posix_names(fs: Driver, call: str) -> None:
    _prepare(fs)
    function, expected = MARKS[call]
    before = {fs.lstat(path).ino: fs.lstat(path) for path in _PATHS}
    start = _tick()
    function(fs)
    end = now_ns()
    for path, marks in expected.items():
        after = fs.lstat(path)
        assert _marked(before.get(after.ino), after) == marks, path
        for mark, value in (("a", after.atime_ns), ("m", after.mtime_ns), ("c", after.ctime_ns)):
            assert mark not in marks or start <= value <= end, (path, mark)


def test_what_is_touched_is_never_older_than_what_was_written_before(fs: Driver) -> None:
    """As make relies on it: the kernel says the present where a program asks for it, the filesystem where it writes."""
    for name in ("stamp", "other"):
        fs.write(name)
    for _ in range(50):
        fs.write("out", b"made")
        fs.utime("stamp", None)
        fs.write("other", b"made after")
        made, stamped, after = (fs.stat(name).mtime_ns for name in ("out", "stamp", "other"))
        assert made <= stamped <= after


@pytest.mark.parametrize("call", FAILING)
def test_a_call_that_fails_marks_nothing(fs: Driver, call: str) -> None:
    _prepare(fs)
    before = {path: fs.lstat(path) for path in _PATHS}
    _tick()
    with pytest.raises(OSError):
        FAILING[call](fs)
    assert {path: fs.lstat(path) for path in before} == before


def test_new_nodes_have_three_equal_times(fs: Driver) -> None:
    for kind in ("file", "directory", "fifo", "dangling"):
        make_node(fs, kind, kind)
        found = fs.lstat(kind)
        assert found.atime_ns == found.mtime_ns == found.ctime_ns, kind


def test_reading_marks_once_and_not_again_until_something_changes(fs: Driver) -> None:
    fs.write("f", b"content")
    fs.utime("f", (PAST, PAST))
    fs.read("f")
    first = fs.stat("f").atime_ns
    assert first > PAST
    _tick()
    fs.read("f")
    assert fs.stat("f").atime_ns == first


def test_a_program_may_leave_no_trace_of_its_reading(fs: Driver) -> None:
    fs.write("f", b"content")
    fs.utime("f", (PAST, PAST))
    with fs.opened("f", R | os.O_NOATIME) as fd:
        assert fs.pread(fd, 10, 0) == b"content"
    assert fs.stat("f").atime_ns == PAST


# -- utimensat


@pytest.mark.parametrize("kind", ["file", "directory", "fifo"])
@pytest.mark.parametrize("times", [(PAST, PAST + 1), (0, 0), (1, 999_999_999), (2**33 * SECOND + 123, 2**32 * SECOND)])
def test_times_are_kept_to_the_nanosecond(fs: Driver, kind: str, times: tuple[int, int]) -> None:
    make_node(fs, "x", kind)
    fs.utime("x", times)
    found = fs.stat("x")
    assert (found.atime_ns, found.mtime_ns) == times


def test_times_before_1970(fs: Driver) -> None:
    fs.write("f")
    fs.utime("f", (-5 * SECOND, -SECOND))
    assert (fs.stat("f").atime_ns, fs.stat("f").mtime_ns) == (-5 * SECOND, -SECOND)


@pytest.mark.parametrize("seconds", [15_032_385_535, 2**40, -(2**40)])
def test_a_time_that_cannot_be_kept_becomes_the_last_one_that_can(fs: Driver, seconds: int) -> None:
    """As utimensat(2) says; and the file can be used as any other afterwards."""
    fs.write("f")
    fs.utime("f", (seconds * SECOND, seconds * SECOND))
    found = fs.stat("f")
    assert found.atime_ns == found.mtime_ns == (2**63 - 1 if seconds > 0 else 1 - 2**63)
    with fs.opened("f", W) as fd:
        fs.pwrite(fd, b"content", 0)
        fs.fsync(fd)
    fs.chmod("f", 0o600)
    assert fs.stat("f").atime_ns == found.atime_ns
    assert fs.read("f") == b"content"


def test_setting_times_marks_ctime(fs: Driver) -> None:
    fs.write("f")
    before = fs.stat("f").ctime_ns
    start = _tick()
    fs.utime("f", (PAST, PAST))
    assert before < start <= fs.stat("f").ctime_ns <= now_ns()


def test_touching_sets_the_present(fs: Driver) -> None:
    fs.write("f")
    fs.utime("f", (PAST, PAST))
    fs.utime("f", None)
    found = fs.stat("f")
    # The kernel says "now" by a clock of its own that is some milliseconds coarse.
    assert abs(now_ns() - found.atime_ns) < 60 * SECOND
    assert found.atime_ns == found.mtime_ns


def test_times_survive_a_rename_and_a_chmod(fs: Driver) -> None:
    fs.write("f", b"x")
    fs.utime("f", (PAST, PAST + 7))
    fs.rename("f", "g")
    fs.chmod("g", 0o600)
    fs.chown("g", ALICE, ALICE)
    fs.link("g", "h")
    assert (fs.stat("h").atime_ns, fs.stat("h").mtime_ns) == (PAST, PAST + 7)


@pytest.mark.parametrize(
    ("mode", "owner", "now", "code"),
    [
        (0o666, BOB, True, 0),
        (0o644, BOB, True, errno.EACCES),
        (0o666, BOB, False, errno.EPERM),
        (0o000, BOB, False, errno.EPERM),
        (0o000, ALICE, True, 0),
        (0o000, ALICE, False, 0),
    ],
)
def test_who_may_set_times(fs: Driver, mode: int, owner: int, now: bool, code: int) -> None:
    fs.make_file("f", mode, owner)
    times = None if now else (PAST, PAST)
    with fs.user(ALICE):
        if code:
            with fails(code):
                fs.utime("f", times)
        else:
            fs.utime("f", times)


def _prepare(fs: Driver) -> None:
    fs.mkdir("d")
    fs.mkdir("e")
    fs.mkdir("d/sub")
    fs.write("d/f", b"content")
    fs.write("d/empty")
    fs.write("d/f2", b"another")
    fs.link("d/f2", "e/f2")
    fs.symlink("target", "d/link")
    fs.setxattr("d/f", "user.there", b"1")
    for path in _PATHS:
        if not path.endswith("link"):
            fs.utime(path, (PAST, PAST))


def _write(fs: Driver, data: bytes) -> None:
    with fs.opened("d/f", W) as fd:
        fs.pwrite(fd, data, 2)


def _marked(before: Stat | None, after: Stat) -> str:
    """Which times differ, as letters of "amc"; all of them for what was not there before."""
    if before is None:
        return "amc"
    pairs = (
        ("a", before.atime_ns, after.atime_ns),
        ("m", before.mtime_ns, after.mtime_ns),
        ("c", before.ctime_ns, after.ctime_ns),
    )
    return "".join(letter for letter, old, new in pairs if old != new)


def _tick() -> int:
    """Let the clock go on, so that a new mark differs from every one before; returns a time in between."""
    start = now_ns()
    while now_ns() == start:
        pass
    return now_ns()
