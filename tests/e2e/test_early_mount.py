"""A mount that is there before the program is loaded: what it says is true, and whatever happens then leaves none."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from b2fs.daemon.exits import EXIT_FAILED, EXIT_OK
from tests.e2e.programs import DEADLINE_S, force_unmount, is_mounted, run_b2fs, wait_until
from tests.mounting import require_fuse
from tests.servers import Server

#: b2fs, which loads libfuse only when somebody has opened a pipe for writing.
_HELD = """
import sys

class Gate:
    def find_spec(self, name, path=None, target=None):
        if name == "pyfuse3":
            open({pipe!r}).close()

sys.meta_path.insert(0, Gate())
from b2fs.cli.main import main
main()
"""


class Site:
    """A bucket, and one place to mount it at."""

    def __init__(self, directory: Path, server: Server) -> None:
        self.mnt = directory / "mnt"
        self.mnt.mkdir()
        self.cache = directory / "cache"
        self._pipe = directory / "pipe"
        os.mkfifo(self._pipe)
        self.server = server
        self.bucket = server.new_bucket()
        self._words = ["--cache-dir", str(self.cache), f"--endpoint={server.endpoint}", f"s3://{self.bucket}"]
        self._environ = dict(server.environment())

    def mount(self, *options: str) -> None:
        done = run_b2fs("mount", *options, *self._words, self.mnt, **self._environ)
        assert done.returncode == EXIT_OK, done.stderr

    def umount(self) -> None:
        done = run_b2fs("umount", self.mnt)
        assert done.returncode == EXIT_OK, done.stderr

    def forget(self) -> None:
        """From now on the cache knows nothing of the bucket."""
        shutil.rmtree(self.cache)

    @contextmanager
    def held(self) -> Iterator[subprocess.Popen[str]]:
        """A mount in the foreground that is there and does not go on loading before `let_go`."""
        program = _HELD.format(pipe=str(self._pipe))
        words = [sys.executable, "-W", "error", "-c", program, "mount", "-f", *self._words, str(self.mnt)]
        output = subprocess.PIPE
        with subprocess.Popen(words, env={**os.environ, **self._environ}, stderr=output, text=True) as command:
            try:
                wait_until(lambda: is_mounted(self.mnt), "it is mounted")
                self.mnt.stat()  # from now on it is not only there, but answers
                yield command
            finally:
                command.kill()

    def let_go(self, command: subprocess.Popen[str]) -> None:
        """Let it load, unless it has ended before."""

        def opened() -> bool:
            try:
                os.close(os.open(self._pipe, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:  # nobody reads yet
                return command.poll() is not None
            return True

        wait_until(opened, "it loads libfuse")

    def first_mode(self) -> int:
        """The mode of the root in the first answer of a mount that is being made in the background."""
        before = self.mnt.stat().st_dev
        making = threading.Thread(target=self.mount)
        making.start()
        seen: list[os.stat_result] = []

        def is_there() -> bool:
            seen.append(self.mnt.stat())
            return seen[-1].st_dev != before

        wait_until(is_there, "it is mounted")
        making.join(DEADLINE_S)
        return seen[-1].st_mode & 0o7777


@pytest.fixture
def site(seaweedfs: Server) -> Iterator[Site]:
    """Where a mount was before, so that the kernel's first question has an answer."""
    require_fuse()
    with tempfile.TemporaryDirectory(prefix="b2fs-early-") as directory:
        site = Site(Path(directory), seaweedfs)
        site.mount()
        site.umount()
        yield site
        if is_mounted(site.mnt):
            run_b2fs("umount", site.mnt, "--timeout=10s")
        force_unmount(site.mnt)


def ended(command: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and last words."""
    status = command.wait(DEADLINE_S)
    assert command.stderr is not None
    return status, command.stderr.read()


def test_the_root_is_there_at_once_and_everything_else_when_it_is_loaded(site: Site) -> None:
    listed: list[list[str]] = []
    with site.held() as command:
        early = site.mnt.stat()
        listing = threading.Thread(target=lambda: listed.append(os.listdir(site.mnt)))
        listing.start()
        assert listed == []
        site.let_go(command)
        listing.join(DEADLINE_S)
        assert listed == [[]]
        now = site.mnt.stat()
        assert (early.st_mode, early.st_uid, early.st_gid, early.st_nlink, early.st_mtime_ns, early.st_blksize) == (
            *(now.st_mode, now.st_uid, now.st_gid, now.st_nlink, now.st_mtime_ns, now.st_blksize),
        )
        (site.mnt / "f").write_bytes(b"content")
        site.umount()
        status, words = ended(command)
    assert status == EXIT_OK
    assert "WARNING" not in words
    assert "ERROR" not in words


def test_what_cannot_be_loaded_is_not_left_mounted(site: Site) -> None:
    (identity,) = site.cache.iterdir()
    with site.held() as command:
        (identity / "ledger.db").write_bytes(b"damaged" * 1000)
        site.let_go(command)
        status, words = ended(command)
    assert (status, words.count("b2fs: ")) == (EXIT_FAILED, 1), words
    assert not is_mounted(site.mnt)
    (identity / "ledger.db").unlink()
    site.mount()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_while_it_is_loaded_takes_it_away(site: Site, number: signal.Signals) -> None:
    with site.held() as command:
        command.send_signal(number)
        site.let_go(command)
        assert ended(command) == (EXIT_FAILED, "b2fs: stopped before the bucket was mounted\n")
    assert not is_mounted(site.mnt)


def test_one_that_is_unmounted_while_it_is_loaded_is_gone(site: Site) -> None:
    with site.held() as command:
        subprocess.run(["fusermount3", "-u", site.mnt], check=True)
        site.let_go(command)
        status, words = ended(command)
    assert status == EXIT_FAILED
    assert words.endswith("b2fs: stopped before the bucket was mounted\n")
    assert not is_mounted(site.mnt)


def test_b2fs_umount_ends_it_as_soon_as_it_is_loaded(site: Site) -> None:
    with site.held() as command:
        site.let_go(command)
        wait_until(lambda: run_b2fs("umount", site.mnt).returncode == EXIT_OK, "it is loaded, and unmounted")
        assert ended(command)[0] == EXIT_OK


def test_one_that_is_killed_while_it_is_loaded_is_replaced(site: Site) -> None:
    with site.held() as command:
        command.kill()
        command.wait(DEADLINE_S)
        assert is_mounted(site.mnt)
    site.mount()
    assert os.listdir(site.mnt) == []


def test_the_first_answer_has_the_roots_own_mode(site: Site) -> None:
    assert site.first_mode() == 0o755
    site.umount()
    with closing(site.server.client()) as client:
        client.put_object(Bucket=site.bucket, Key=".b2fs/root", Metadata={"mode": str(stat.S_IFDIR | 0o710)})
    site.forget()
    assert site.first_mode() == 0o710
