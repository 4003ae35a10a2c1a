"""open(2), read(2), write(2), truncate(2): the content of regular files."""

from __future__ import annotations

import errno
import os
import random
import stat

import pytest

from tests.vfs.driver import ALICE, APPEND, CREAT, EXCL, RW, TRUNC, Driver, Fd, R, W, fails, make_node

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30


# -- open and create


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0o666, 0o777, 0o600, 0o000, 0o4755])
def test_a_new_file_has_its_mode_less_the_umask(fs: Driver, mode: int, umask: int) -> None:
    with fs.umask(umask), fs.opened("f", RW | CREAT, mode) as fd:
        assert stat.S_IMODE(fs.fstat(fd).mode) == mode & ~umask
        assert stat.S_ISREG(fs.fstat(fd).mode)
        # The mode counts for the next open, not for this one.
        assert fs.pwrite(fd, b"x", 0) == 1
    assert fs.bits("f") == mode & ~umask


def test_a_new_file_is_the_callers_and_empty(fs: Driver) -> None:
    with fs.user(ALICE, 77):
        fs.close(fs.open("f", W | CREAT))
    found = fs.stat("f")
    assert (found.uid, found.gid, found.size, found.nlink) == (ALICE, 77, 0, 1)


def test_create_opens_what_is_there(fs: Driver) -> None:
    fs.write("f", b"content", 0o640)
    with fs.opened("f", RW | CREAT, 0o777) as fd:
        assert fs.pread(fd, 100, 0) == b"content"
    assert fs.bits("f") == 0o640


def test_exclusive_create_refuses_what_is_there(fs: Driver) -> None:
    fs.write("f", b"content")
    with fails(errno.EEXIST):
        fs.open("f", RW | CREAT | EXCL | TRUNC)
    assert fs.read("f") == b"content"


@pytest.mark.parametrize("flags", [W, RW, W | TRUNC, R | CREAT, W | CREAT])
def test_directories_cannot_be_opened_for_writing(fs: Driver, flags: int) -> None:
    fs.mkdir("d")
    with fails(errno.EISDIR):
        fs.open("d", flags)


def test_a_directory_can_be_opened_but_not_read(fs: Driver) -> None:
    fs.mkdir("d")
    with fs.opened("d") as fd, fails(errno.EISDIR):
        fs.pread(fd, 1, 0)


@pytest.mark.parametrize("kind", ["file", "fifo"])
def test_only_directories_can_be_listed(fs: Driver, kind: str) -> None:
    make_node(fs, "f", kind)
    with fails(errno.ENOTDIR):
        fs.opendir("f")


def test_truncating_open(fs: Driver) -> None:
    fs.write("f", b"content")
    with fs.opened("f", RW | TRUNC) as fd:
        assert fs.fstat(fd).size == 0
        assert fs.pread(fd, 10, 0) == b""
    assert fs.stat("f").size == 0


def test_truncating_open_is_seen_by_other_handles(fs: Driver) -> None:
    fs.write("f", b"content")
    with fs.opened("f") as reader:
        fs.close(fs.open("f", W | TRUNC))
        assert fs.pread(reader, 10, 0) == b""


def test_a_handle_gives_only_what_it_was_opened_for(fs: Driver) -> None:
    fs.write("f", b"content")
    with fs.opened("f", R) as reader, fails(errno.EBADF):
        fs.pwrite(reader, b"x", 0)
    with fs.opened("f", W) as writer, fails(errno.EBADF):
        fs.pread(writer, 1, 0)
    assert fs.read("f") == b"content"


# -- read and write


def test_reading_stops_at_the_end(fs: Driver) -> None:
    fs.write("f", b"0123456789")
    with fs.opened("f") as fd:
        assert fs.pread(fd, 100, 0) == b"0123456789"
        assert fs.pread(fd, 4, 3) == b"3456"
        assert fs.pread(fd, 4, 8) == b"89"
        assert fs.pread(fd, 4, 10) == b""
        assert fs.pread(fd, 4, 1000) == b""
        assert fs.pread(fd, 0, 0) == b""


def test_writing_in_the_middle_and_at_the_end(fs: Driver) -> None:
    fs.write("f", b"0123456789")
    with fs.opened("f", RW) as fd:
        fs.pwrite(fd, b"ABC", 4)
        assert fs.pread(fd, 100, 0) == b"0123ABC789"
        fs.pwrite(fd, b"XYZ", 8)
        assert fs.pread(fd, 100, 0) == b"0123ABC7XYZ"
        assert fs.fstat(fd).size == 11
        fs.pwrite(fd, b"", 500)
        assert fs.fstat(fd).size == 11
    assert fs.read("f") == b"0123ABC7XYZ"


def test_a_gap_reads_as_zeros(fs: Driver) -> None:
    with fs.opened("f", RW | CREAT) as fd:
        fs.pwrite(fd, b"end", 100_000)
        assert fs.fstat(fd).size == 100_003
        assert fs.pread(fd, 100_010, 0) == bytes(100_000) + b"end"
        fs.pwrite(fd, b"middle", 50_000)
        assert fs.pread(fd, 10, 49_998) == b"\0\0middle\0\0"


@pytest.mark.parametrize("offset", [2 * GiB - 2, 4 * GiB - 2, 5 * GiB + 12345])
def test_offsets_beyond_32_bits(fs: Driver, offset: int) -> None:
    with fs.opened("f", RW | CREAT) as fd:
        fs.pwrite(fd, b"marker", offset)
        assert fs.fstat(fd).size == offset + 6
        assert fs.pread(fd, 8, offset - 2) == b"\0\0marker"
        assert fs.pread(fd, 4096, 1 * GiB) == bytes(4096)
        fs.ftruncate(fd, 3)
    assert fs.read("f") == bytes(3)


@pytest.mark.parametrize("chunk", [1, 4095, 4096, 4097, 128 * KiB, MiB, MiB + 1])
def test_content_survives_any_chunking(fs: Driver, chunk: int) -> None:
    size = min(3 * MiB + 17, chunk * 50)
    content = random.Random(chunk).randbytes(size)
    with fs.opened("f", W | CREAT) as fd:
        for start in range(0, size, chunk):
            piece = content[start : start + chunk]
            assert fs.pwrite(fd, piece, start) == len(piece)
    assert fs.stat("f").size == size
    assert fs.read("f") == content
    with fs.opened("f") as fd:
        assert b"".join(fs.pread(fd, chunk, start) for start in range(0, size, chunk)) == content


def test_random_writes_agree_with_a_buffer(fs: Driver) -> None:
    rng = random.Random(4711)
    expected = bytearray(300_000)
    with fs.opened("f", RW | CREAT) as fd:
        fs.ftruncate(fd, len(expected))
        for _ in range(150):
            start = rng.randrange(len(expected))
            piece = rng.randbytes(min(rng.choice((1, 100, 4096, 40_000)), len(expected) - start))
            fs.pwrite(fd, piece, start)
            expected[start : start + len(piece)] = piece
            at = rng.randrange(len(expected))
            assert fs.pread(fd, 5000, at) == expected[at : at + 5000]
    assert fs.read("f") == expected


def test_writing_backwards(fs: Driver) -> None:
    content = random.Random(1).randbytes(64 * KiB)
    with fs.opened("f", W | CREAT) as fd:
        for start in range(60 * KiB, -1, -4 * KiB):
            fs.pwrite(fd, content[start : start + 4 * KiB], start)
    assert fs.read("f") == content


def test_what_one_handle_writes_another_reads(fs: Driver) -> None:
    fs.write("f", b"old")
    with fs.opened("f", W) as writer, fs.opened("f") as reader:
        assert fs.pread(reader, 10, 0) == b"old"
        fs.pwrite(writer, b"newer", 0)
        assert fs.pread(reader, 10, 0) == b"newer"
        assert fs.fstat(reader).size == 5


def test_appending_goes_to_the_end_wherever_it_is(fs: Driver) -> None:
    fs.write("f", b"start,")
    one, two = fs.open("f", W | APPEND), fs.open("f", W | APPEND)
    for number in range(10):
        _append(fs, one if number % 2 else two, b"%d," % number)
    fs.close(one)
    fs.close(two)
    assert fs.read("f") == b"start,0,1,2,3,4,5,6,7,8,9,"


def test_appending_after_a_truncation(fs: Driver) -> None:
    fs.write("f", b"0123456789")
    with fs.opened("f", W | APPEND) as fd:
        fs.truncate("f", 3)
        _append(fs, fd, b"abc")
    assert fs.read("f") == b"012abc"


def test_fsync_of_files_and_directories(fs: Driver) -> None:
    with fs.opened("f", W | CREAT) as fd:
        fs.pwrite(fd, b"durable", 0)
        fs.fsync(fd)
    with fs.opened(".") as fd:
        fs.fsync(fd)
    assert fs.read("f") == b"durable"


def test_a_file_with_many_handles(fs: Driver) -> None:
    fs.write("f", b"x" * 100)
    fds = [fs.open("f", RW) for _ in range(50)]
    for number, fd in enumerate(fds):
        fs.pwrite(fd, b"%02d" % number, number * 2)
    for fd in fds:
        fs.close(fd)
    assert fs.read("f") == b"".join(b"%02d" % number for number in range(50))


# -- truncate


@pytest.mark.parametrize("through", ["path", "handle"])
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 9999, 10_000, 10_001, 20_000, 300_000])
def test_truncation_both_ways(fs: Driver, through: str, size: int) -> None:
    content = random.Random(7).randbytes(10_000)
    fs.write("f", content)
    _truncate(fs, through, size)
    assert fs.stat("f").size == size
    assert fs.read("f") == content[:size].ljust(size, b"\0")


@pytest.mark.parametrize("through", ["path", "handle"])
def test_what_was_cut_off_never_comes_back(fs: Driver, through: str) -> None:
    fs.write("f", b"secret content")
    _truncate(fs, through, 3)
    _truncate(fs, through, 14)
    assert fs.read("f") == b"sec" + bytes(11)
    with fs.opened("f", RW) as fd:
        fs.ftruncate(fd, 0)
        fs.pwrite(fd, b"z", 5)
        assert fs.pread(fd, 10, 0) == bytes(5) + b"z"


def test_truncation_through_one_handle_is_seen_by_another(fs: Driver) -> None:
    fs.write("f", b"0123456789")
    with fs.opened("f", RW) as one, fs.opened("f", RW) as other:
        fs.ftruncate(one, 4)
        assert fs.pread(other, 10, 0) == b"0123"
        fs.pwrite(other, b"X", 6)
        assert fs.pread(one, 10, 0) == b"0123\0\0X"


def test_a_huge_empty_file(fs: Driver) -> None:
    fs.write("f")
    fs.truncate("f", 5_000 * GiB)
    assert fs.stat("f").size == 5_000 * GiB
    with fs.opened("f") as fd:
        assert fs.pread(fd, 4096, 4_999 * GiB) == bytes(4096)
    fs.truncate("f", 0)


@pytest.mark.parametrize("size", [10_000_000_000_001, 1 << 62])
def test_a_file_beyond_the_largest_object(fs: Driver, size: int) -> None:
    fs.write("f", b"x")
    with fails(errno.EFBIG):
        fs.truncate("f", size)
    with fs.opened("f", W) as fd, fails(errno.EFBIG):
        fs.pwrite(fd, b"x", 10_000_000_000_000)
    assert fs.read("f") == b"x"


def test_truncation_of_something_else(fs: Driver) -> None:
    fs.mkdir("d")
    with fails(errno.EISDIR):
        fs.truncate("d", 0)
    fs.mknod("fifo", stat.S_IFIFO | 0o644)
    with fails(errno.EINVAL):
        fs.truncate("fifo", 0)


def test_truncation_to_a_negative_size(fs: Driver) -> None:
    fs.write("f", b"x")
    with fails(errno.EINVAL):
        fs.truncate("f", -1)
    with fs.opened("f", RW) as fd, fails(errno.EINVAL):
        fs.ftruncate(fd, -1)
    with fs.opened("f", R) as fd, fails(errno.EINVAL):
        fs.ftruncate(fd, 0)
    assert fs.read("f") == b"x"


def test_truncation_needs_write_permission_or_a_handle(fs: Driver) -> None:
    fs.make_file("f", 0o666, data=b"content")
    with fs.user(ALICE), fs.opened("f", RW) as fd:
        with fs.user(0):
            fs.chmod("f", 0o444)
        with fails(errno.EACCES):
            fs.truncate("f", 0)
        fs.ftruncate(fd, 3)
    assert fs.read("f") == b"con"


def test_truncating_open_needs_write_permission(fs: Driver) -> None:
    fs.make_file("f", 0o444, ALICE, b"content")
    with fs.user(ALICE), fails(errno.EACCES):
        fs.open("f", R | TRUNC)
    assert fs.read("f") == b"content"


# -- what only the kernel does


def test_o_directory_and_files(kernel: Driver) -> None:
    kernel.write("f")
    with fails(errno.ENOTDIR):
        kernel.open("f", os.O_DIRECTORY)


def test_a_fifo_carries_bytes(kernel: Driver) -> None:
    kernel.mknod("fifo", stat.S_IFIFO | 0o644)
    reader = kernel.open("fifo", R | os.O_NONBLOCK)
    writer = kernel.open("fifo", W | os.O_NONBLOCK)
    os.write(writer, b"through")
    assert os.read(reader, 100) == b"through"
    kernel.close(writer)
    kernel.close(reader)


def _append(fs: Driver, fd: Fd, data: bytes) -> None:
    assert fs.write_on(fd, data) == len(data)


def _truncate(fs: Driver, through: str, size: int) -> None:
    if through == "path":
        fs.truncate("f", size)
    else:
        with fs.opened("f", RW) as fd:
            fs.ftruncate(fd, size)
