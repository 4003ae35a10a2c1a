"""What programs do to a mount that the filesystem core does not see as one operation."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vfs.driver import CREAT, EXCL, RW, R, W, fails
from tests.vfs.kernel import KernelDriver

MiB = 1 << 20


def test_a_shared_mapping_writes_the_file(kernel: KernelDriver) -> None:
    kernel.write("f", bytes(20_000))
    with kernel.opened("f", RW) as fd:
        with mmap.mmap(fd, 20_000) as mapping:
            mapping[5_000:5_006] = b"mapped"
            mapping.flush()
        assert kernel.pread(fd, 6, 5_000) == b"mapped"
    assert kernel.read("f") == bytes(5_000) + b"mapped" + bytes(14_994)


def test_a_mapping_outlives_its_descriptor_and_its_name(kernel: KernelDriver) -> None:
    kernel.write("f", b"before" + bytes(4090))
    with kernel.opened("f", RW) as fd:
        mapping = mmap.mmap(fd, 4096)
    with mapping:
        kernel.rename("f", "g")
        mapping[:6] = b"after "
        mapping.flush()
    assert kernel.read("g")[:6] == b"after "


def test_sendfile_and_copy(kernel: KernelDriver) -> None:
    content = random.Random(3).randbytes(3 * MiB + 5)
    kernel.write("f", content)
    shutil.copyfile(kernel.path("f"), kernel.path("g"))
    assert kernel.read("g") == content


@pytest.mark.parametrize("flags", [os.O_SYNC, os.O_DSYNC, os.O_DIRECT], ids=["sync", "dsync", "direct"])
def test_synchronous_and_direct_writing(kernel: KernelDriver, flags: int) -> None:
    with mmap.mmap(-1, 8192) as aligned, kernel.opened("f", RW | CREAT | flags) as fd:
        aligned[:] = b"ab" * 4096
        assert os.pwrite(fd, aligned, 0) == 8192
        assert os.pwrite(fd, aligned, 4096) == 8192
    assert kernel.read("f") == b"ab" * 6144


def test_processes_that_append_lose_nothing(kernel: KernelDriver) -> None:
    kernel.write("log")
    path = kernel.path("log")
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        pool.starmap(_append_lines, [(path, name) for name in "abcd"])
        pool.close()
        pool.join()
    lines = kernel.read("log").split()
    assert len(lines) == 400
    for name in "abcd":
        mine = [line for line in lines if line.startswith(name.encode())]
        assert mine == [b"%s%05d" % (name.encode(), number) for number in range(100)]


def _append_lines(path: str, name: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    for number in range(100):
        os.write(fd, b"%s%05d\n" % (name.encode(), number))
    os.close(fd)


def test_only_one_process_creates_a_lock_file(kernel: KernelDriver) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        won = pool.map(_try_locks, [kernel.path(".")] * 4)
        pool.close()
        pool.join()
    assert sorted(name for names in won for name in names) == sorted(f"lock{number}" for number in range(50))


def _try_locks(directory: str) -> list[str]:
    won = []
    for number in range(50):
        try:
            os.close(os.open(f"{directory}/lock{number}", W | CREAT | EXCL))
        except FileExistsError:
            continue
        won.append(f"lock{number}")
    return won


@pytest.mark.parametrize("kind", ["flock", "lockf"])
def test_locks_between_processes(kernel: KernelDriver, kind: str) -> None:
    kernel.write("f")
    program = f"import fcntl,sys; f=open(sys.argv[1],'r+'); fcntl.{kind}(f, fcntl.LOCK_EX|fcntl.LOCK_NB)"
    command = [sys.executable, "-c", program, kernel.path("f")]
    with kernel.opened("f", RW) as fd:
        getattr(fcntl, kind)(fd, fcntl.LOCK_EX)
        refused = subprocess.run(command, capture_output=True, check=False)
        assert b"BlockingIOError" in refused.stderr
    subprocess.run(command, check=True)


def test_an_unlinked_program_text_goes_on(kernel: KernelDriver) -> None:
    """A script that is replaced while it is read, as package managers do."""
    kernel.write("script", b"echo one\n", 0o755)
    with kernel.opened("script", R) as fd:
        kernel.write("script.new", b"echo two\n", 0o755)
        kernel.rename("script.new", "script")
        assert kernel.pread(fd, 100, 0) == b"echo one\n"
    done = subprocess.run(["sh", kernel.path("script")], capture_output=True, check=True)
    assert done.stdout == b"two\n"


def test_a_directory_lists_itself_and_the_one_above(kernel: KernelDriver) -> None:
    kernel.mkdir("d")
    for directory in (".", "d"):
        listed = subprocess.run(["ls", "-aif", kernel.path(directory)], capture_output=True, text=True, check=True)
        numbers = {name: number for number, name in map(str.split, listed.stdout.splitlines())}
        assert int(numbers["."]) == kernel.stat(directory).ino
        assert int(numbers[".."]) == kernel.stat(f"{directory}/..").ino


def test_a_short_buffer_for_an_attribute(kernel: KernelDriver) -> None:
    kernel.write("f")
    kernel.setxattr("f", "user.key", b"v" * 200)
    libc, path = ctypes.CDLL(None, use_errno=True), os.fsencode(kernel.path("f"))
    buffer = ctypes.create_string_buffer(1 << 17)

    def answer(size: int, *, listed: bool = False) -> int:
        """What getxattr(2) or listxattr(2) returns for a buffer of this size, or its errno with a minus."""
        words = (path,) if listed else (path, b"user.key")
        found: int = (libc.listxattr if listed else libc.getxattr)(*words, buffer, ctypes.c_size_t(size))
        return found if found >= 0 else -ctypes.get_errno()

    assert [answer(size) for size in (0, 1, 199, 200, 65_536, 1 << 17)] == [
        200,
        -errno.ERANGE,
        -errno.ERANGE,
        200,
        200,
        200,
    ]
    assert [answer(size, listed=True) for size in (0, 8, 9, 1 << 17)] == [9, -errno.ERANGE, 9, 9]


def test_a_tree_is_copied_and_removed(kernel: KernelDriver, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    for number in range(100):
        directory = source / f"d{number % 7}" / f"e{number % 3}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number}").write_bytes(random.Random(number).randbytes(number * 37))
        (directory / f"l{number}").symlink_to(f"f{number}")
    target = kernel.path("tree")
    subprocess.run(["cp", "-a", str(source), target], check=True)
    subprocess.run(["diff", "-r", "--no-dereference", str(source), target], check=True)
    subprocess.run(["rm", "-r", target], check=True)
    assert not kernel.exists("tree")


def test_crossing_to_another_filesystem(kernel: KernelDriver, tmp_path: Path) -> None:
    kernel.write("f")
    for call in (os.rename, os.link):
        with fails(errno.EXDEV):
            call(kernel.path("f"), str(tmp_path / "f"))


def test_a_busy_program_may_not_be_written(kernel: KernelDriver) -> None:
    shutil.copy("/bin/sleep", kernel.path("program"))
    running = subprocess.Popen([kernel.path("program"), "60"])
    try:
        with fails(errno.ETXTBSY):
            kernel.open("program", W)
    finally:
        running.kill()
        running.wait()
