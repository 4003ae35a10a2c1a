"""status, sync and umount against a real daemon and a real mount, whose uploads the test controls."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from b2fs.cli import control
from b2fs.daemon.exits import EXIT_FAILED, EXIT_LEFT, EXIT_OK, EXIT_USAGE
from tests.e2e.programs import B2FS, DEADLINE_S, force_unmount, is_mounted, run_b2fs, wait_until
from tests.mounting import require_fuse


@dataclass
class Daemon:
    process: subprocess.Popen[str]
    mountpoint: Path
    bucket_file: Path

    def pending(self, text: str) -> None:
        """Set what is pending, at once for every reader."""
        new = self.bucket_file.with_suffix(".new")
        new.write_text(text)
        new.rename(self.bucket_file)

    def wait(self) -> int:
        return self.process.wait(DEADLINE_S)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A mount that is up, with nothing pending."""
    require_fuse()
    mountpoint, bucket_file = tmp_path / "mnt", tmp_path / "bucket"
    mountpoint.mkdir()
    bucket_file.write_text("0")
    command = [sys.executable, "-W", "error", "-m", "tests.e2e.memory_daemon"]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            [*command, str(bucket_file), str(mountpoint), str(tmp_path / "cache")],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", (tmp_path / "log").read_text()
        yield Daemon(process, mountpoint, bucket_file)
    finally:
        process.kill()
        process.communicate()
        force_unmount(mountpoint)


def test_umount_ends_the_daemon_and_says_nothing_when_all_is_well(daemon: Daemon) -> None:
    done = run_b2fs("umount", daemon.mountpoint)
    assert (done.returncode, done.stdout, done.stderr) == (EXIT_OK, "", "")
    assert not is_mounted(daemon.mountpoint)
    assert daemon.wait() == EXIT_OK


def test_umount_waits_for_the_uploads_with_the_mount_still_there(daemon: Daemon) -> None:
    daemon.pending("2")
    umount = subprocess.Popen([*B2FS, "umount", str(daemon.mountpoint)], stderr=subprocess.PIPE, text=True)
    assert umount.stderr is not None
    with umount, umount.stderr:
        assert umount.stderr.readline() == "Uploading: 2 files, 2.0 KiB left\n"
        assert is_mounted(daemon.mountpoint)
        daemon.pending("0")
        assert umount.wait(DEADLINE_S) == EXIT_OK
    assert daemon.wait() == EXIT_OK


def test_umount_leaves_the_mount_when_uploads_fail(daemon: Daemon) -> None:
    daemon.pending("fail")
    done = run_b2fs("umount", daemon.mountpoint)
    assert done.returncode == EXIT_LEFT
    assert "the storage cap of the account is used up; 1 file (1.0 KiB) not in the bucket yet" in done.stderr
    assert is_mounted(daemon.mountpoint)


def test_umount_gives_up_after_the_timeout(daemon: Daemon) -> None:
    daemon.pending("1")
    done = run_b2fs("umount", daemon.mountpoint, "--timeout=100ms")
    assert done.returncode == EXIT_LEFT
    assert "not finished within 0.1 s; the mount stays" in done.stderr
    assert is_mounted(daemon.mountpoint)


def test_umount_of_a_busy_mount_says_so_and_changes_nothing(daemon: Daemon) -> None:
    with open(daemon.mountpoint / "file", "w"):
        done = run_b2fs("umount", daemon.mountpoint)
    assert done.returncode == EXIT_USAGE
    assert f"{daemon.mountpoint} is busy" in done.stderr
    assert is_mounted(daemon.mountpoint)


def test_a_plain_umount_lets_the_daemon_drain_and_b2fs_umount_waits_for_that(daemon: Daemon) -> None:
    daemon.pending("1")
    subprocess.run(["fusermount3", "-u", str(daemon.mountpoint)], check=True)
    umount = subprocess.Popen([*B2FS, "umount", str(daemon.mountpoint)], stderr=subprocess.PIPE, text=True)
    assert umount.stderr is not None
    with umount, umount.stderr:
        assert umount.stderr.readline() == "Uploading: 1 file, 1.0 KiB left\n"
        assert daemon.process.poll() is None
        daemon.pending("0")
        assert umount.wait(DEADLINE_S) == EXIT_OK
    assert daemon.wait() == EXIT_OK


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may have mounts of its own")
def test_umount_says_so_when_somebody_else_still_has_the_mount(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a container does that was begun while it was there: it has a copy of every mount, which only it can undo."""
    monkeypatch.setattr(control, "_ELSEWHERE_S", 0.5)
    own = ["unshare", "--mount", "--propagation=private"]
    if subprocess.run([*own, "true"], check=False).returncode:
        pytest.skip("no mounts of its own can be had here, as in a chroot")
    words = [*own, "sh", "-c", "echo there; exec cat"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as container:
        assert container.stdout is not None
        assert container.stdout.readline() == "there\n"
        assert control.umount_and_wait(str(daemon.mountpoint), None) == EXIT_FAILED
        assert "mounts of its own" in capsys.readouterr().err
        assert not is_mounted(daemon.mountpoint)
        assert daemon.process.poll() is None
        assert container.stdin is not None
        container.stdin.close()
    assert daemon.process.wait(DEADLINE_S) == EXIT_OK


def test_umount_cleans_up_behind_a_killed_daemon(daemon: Daemon) -> None:
    daemon.process.kill()
    daemon.process.wait()
    done = run_b2fs("umount", daemon.mountpoint)
    assert done.returncode == EXIT_LEFT
    assert "had died" in done.stderr
    assert not is_mounted(daemon.mountpoint)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_further_ones_leave_the_rest_for_later(daemon: Daemon, number: signal.Signals) -> None:
    daemon.pending("3")
    daemon.process.send_signal(number)
    wait_until(lambda: not is_mounted(daemon.mountpoint), "the mount is gone")
    # Every millisecond, to the very end: the status says how the mount ended, not how often somebody asked.
    deadline = time.monotonic() + DEADLINE_S
    while daemon.process.poll() is None and time.monotonic() < deadline:
        daemon.process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            daemon.process.wait(0.001)
    assert daemon.wait() == EXIT_LEFT


def test_sync_waits_below_a_path(daemon: Daemon) -> None:
    (daemon.mountpoint / "directory").mkdir()
    assert run_b2fs("sync", daemon.mountpoint, "directory").returncode == EXIT_OK
    assert run_b2fs("sync", daemon.mountpoint / "directory").returncode == EXIT_OK
    daemon.pending("fail")
    done = run_b2fs("sync", daemon.mountpoint)
    assert done.returncode == EXIT_LEFT
    assert "the storage cap" in done.stderr


def test_status_for_people_and_for_programs(daemon: Daemon) -> None:
    daemon.pending("2")
    shown = run_b2fs("status", daemon.mountpoint)
    assert shown.returncode == EXIT_OK
    assert "2 files, 2.0 KiB" in shown.stdout
    assert "file:///nowhere/memory" in shown.stdout
    report = json.loads(run_b2fs("status", daemon.mountpoint, "--json").stdout)
    assert report["phase"] == "mounted"
    assert report["pid"] == daemon.process.pid
    assert report["writeback"]["pending_files"] == 2


def test_status_of_what_is_no_mount(tmp_path: Path) -> None:
    done = run_b2fs("status", tmp_path)
    assert (done.returncode, done.stderr) == (EXIT_USAGE, f"b2fs: {tmp_path} is not on a b2fs mount\n")
    assert run_b2fs("umount", tmp_path).stderr == f"b2fs: {tmp_path} is not a b2fs mount\n"


def test_the_mount_says_what_it_is_in_the_mount_table(daemon: Daemon) -> None:
    with open("/proc/self/mountinfo") as mounts:
        (line,) = (line for line in mounts if f" {daemon.mountpoint} " in line)
    assert " - fuse.b2fs file:///nowhere/memory " in line
    assert f"user_id={os.getuid()}" in line
