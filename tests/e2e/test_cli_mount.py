"""b2fs mount as a user runs it: refusals before anything happens, the background, and what a mount keeps to itself."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from b2fs.daemon.exits import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from tests.e2e.programs import B2FS, DEADLINE_S, force_unmount, is_mounted, is_running, run_b2fs, wait_until
from tests.mounting import require_fuse
from tests.servers import ACCESS_KEY, SECRET_KEY, Server

#: No credentials but those that a test gives, from nowhere.
NO_KEYS = {
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_EC2_METADATA_DISABLED": "true",
}
KEYS = {**NO_KEYS, "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


@pytest.fixture(autouse=True)
def fuse() -> None:
    require_fuse()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with an empty mnt/, which is unmounted in the end, and no daemon left."""
    # Not below pytest's own directories: other users may not enter those.
    with tempfile.TemporaryDirectory(prefix="b2fs-cli-") as parent:
        os.chmod(parent, 0o755)
        mountpoint = Path(parent) / "mnt"
        mountpoint.mkdir()
        yield Path(parent)
        if is_mounted(mountpoint):
            run_b2fs("umount", mountpoint, "--timeout=10s")
        force_unmount(mountpoint)


def mount(place: Path, url: str | None = None, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Mount in the background, everything below place."""
    words = ("--cache-dir", str(place / "cache"), *words)
    return run_b2fs("mount", *words, url or f"file://{place}/store/photos", place / "mnt", **environ)


def refused(done: subprocess.CompletedProcess[str], status: int, *parts: str) -> None:
    """One line on stderr that holds all the parts."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("b2fs: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for part in parts:
        assert part in done.stderr


def test_an_unusable_mountpoint_is_refused(place: Path) -> None:
    url = f"file://{place}/store/photos"
    (place / "file").write_text("")
    (place / "mnt" / "inside").write_text("")
    refused(run_b2fs("mount", url, place / "missing"), EXIT_USAGE, "does not exist")
    refused(run_b2fs("mount", url, place / "file"), EXIT_USAGE, "is not a directory")
    refused(run_b2fs("mount", url, place / "mnt"), EXIT_USAGE, "is not empty")
    refused(run_b2fs("mount", url, "/proc"), EXIT_USAGE, "already a mountpoint")
    assert not (place / "store").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_mountpoint_of_somebody_else_is_refused(place: Path) -> None:
    # The interpreter may be in a directory that only root can enter, so the process changes when it is loaded.
    # Whether users may open /dev/fuse is the machine's affair, so this user is given what can always be opened.
    program = (
        "import difflib, os, shutil; import b2fs.cli.mounting, b2fs.cli.plain, b2fs.cli.statuses; "
        "from b2fs.cli.main import main; "
        "from b2fs.daemon import mounts; mounts.FUSE_DEVICE = '/dev/null'; "
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); main()"
    )
    words = ["mount", f"file://{place}/store/photos", str(place / "mnt")]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    refused(done, EXIT_USAGE, "You may not mount on")


def test_an_unreachable_endpoint_is_refused(place: Path) -> None:
    done = mount(place, "s3://photos", "--endpoint=http://127.0.0.1:1", **KEYS)
    refused(done, EXIT_FAILED, "127.0.0.1:1")
    assert not is_mounted(place / "mnt")


def test_a_missing_bucket_is_refused(place: Path, seaweedfs: Server) -> None:
    done = mount(place, "s3://missing-bucket", f"--endpoint={seaweedfs.endpoint}", **KEYS)
    refused(done, EXIT_FAILED, "missing-bucket")


def test_a_wrong_key_is_refused_and_not_repeated(place: Path, seaweedfs: Server) -> None:
    keys = {**KEYS, "AWS_SECRET_ACCESS_KEY": "wrong-and-secret"}
    done = mount(place, f"s3://{seaweedfs.new_bucket()}", f"--endpoint={seaweedfs.endpoint}", **keys)
    refused(done, EXIT_FAILED)
    assert "wrong-and-secret" not in done.stderr


def test_missing_keys_are_refused(place: Path) -> None:
    done = mount(place, "s3://photos", "--endpoint=http://127.0.0.1:1", **NO_KEYS)
    refused(done, EXIT_FAILED, "AWS_ACCESS_KEY_ID")


def test_the_master_key_of_b2_is_refused_before_any_request(place: Path) -> None:
    keys = {**KEYS, "AWS_ACCESS_KEY_ID": "0123456789ab"}
    done = mount(place, "b2://my-photos", "--region=us-west-004", **keys)
    refused(done, EXIT_USAGE, "application key")


def test_a_background_mount_answers_when_the_command_returns(place: Path) -> None:
    done = mount(place)
    assert (done.returncode, done.stdout, done.stderr) == (EXIT_OK, "", "")
    (place / "mnt" / "hello").write_text("hello\n")
    assert run_b2fs("umount", place / "mnt").returncode == EXIT_OK
    assert mount(place).returncode == EXIT_OK
    assert (place / "mnt" / "hello").read_text() == "hello\n"


def test_a_mountpoint_or_cache_in_use_is_refused(place: Path) -> None:
    assert mount(place).returncode == EXIT_OK
    refused(mount(place), EXIT_USAGE, "is already a mountpoint")
    (place / "other").mkdir()
    command = ("mount", "--cache-dir", place / "cache", f"file://{place}/store/photos", place / "other")
    refused(run_b2fs(*command), EXIT_USAGE, "in use by a live b2fs mount", str(place / "mnt"))
    assert not is_mounted(place / "other")


def test_what_a_mount_keeps_is_private_and_holds_no_key(place: Path, seaweedfs: Server) -> None:
    url = f"s3://{seaweedfs.new_bucket()}"
    done = mount(place, url, f"--endpoint={seaweedfs.endpoint}", "--log-level=debug", **KEYS)
    assert done.returncode == EXIT_OK, done.stderr
    (place / "mnt" / "hello").write_text("hello\n")
    (identity,) = (place / "cache").iterdir()
    pid = int((identity / "lock").read_text().partition('"pid": ')[2].partition(",")[0])
    assert SECRET_KEY.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert run_b2fs("umount", place / "mnt").returncode == EXIT_OK
    assert "is mounted at" in (identity / "b2fs.log").read_text()
    for path in (identity, *identity.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
        assert not path.is_file() or SECRET_KEY.encode() not in path.read_bytes()


def test_an_interrupted_mount_leaves_nothing(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(DEADLINE_S)
        endpoint = f"--endpoint=http://127.0.0.1:{silent.getsockname()[1]}"
        words = ["mount", "--cache-dir", str(place / "cache"), endpoint, "s3://photos", str(place / "mnt")]
        command = subprocess.Popen([*B2FS, *words], env={**os.environ, **KEYS}, stderr=subprocess.PIPE, text=True)
        with command:
            silent.accept()[0].close()
            command.send_signal(signal.SIGINT)
            assert command.wait(DEADLINE_S) == EXIT_FAILED
            assert command.stderr is not None
            assert command.stderr.read() == "b2fs: stopped before the bucket was mounted\n"
    assert not is_mounted(place / "mnt")
    assert not any(place.glob("cache/*"))


def test_a_line_is_held_back(place: Path) -> None:
    assert mount(place, None, "--bwlimit=256K:off").returncode == EXIT_OK
    began = time.monotonic()
    (place / "mnt" / "a").write_bytes(bytes(768 << 10))
    assert time.monotonic() - began < 1, "only the line is slow"
    assert run_b2fs("sync", place / "mnt").returncode == EXIT_OK
    assert time.monotonic() - began > 1.9


def test_a_read_only_mount_refuses_changes(place: Path) -> None:
    assert mount(place).returncode == EXIT_OK
    (place / "mnt" / "hello").write_text("hello\n")
    assert run_b2fs("umount", place / "mnt").returncode == EXIT_OK
    assert mount(place, None, "--read-only").returncode == EXIT_OK
    assert (place / "mnt" / "hello").read_text() == "hello\n"
    with pytest.raises(OSError, match="Read-only"):
        (place / "mnt" / "other").write_text("")


def test_options_reach_the_files(place: Path) -> None:
    assert mount(place, None, "--uid=7", "--gid=8", "--umask=077", "-o", "noexec").returncode == EXIT_OK
    info = (place / "mnt").stat()
    assert (info.st_uid, info.st_gid) == (7, 8)
    with open("/proc/self/mountinfo") as mounts:
        (line,) = (line for line in mounts if f" {place / 'mnt'} " in line)
    assert "noexec" in line


@pytest.mark.skipif(os.geteuid() != 0, reason="devices need root")
@pytest.mark.parametrize("options", ["allow_other", "allow_other,dev,suid"])
def test_devices_and_set_id_bits_count_if_asked_for(place: Path, options: str) -> None:
    assert mount(place, None, "-o", options).returncode == EXIT_OK
    mountpoint = place / "mnt"
    os.mknod(mountpoint / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    shutil.copy("/usr/bin/id", mountpoint / "id")
    os.chown(mountpoint / "id", 65533, 65533)
    os.chmod(mountpoint / "id", 0o4755)
    shown = subprocess.run([mountpoint / "id", "-u"], capture_output=True, text=True, check=True, user=65534)
    if "dev" in options:
        (mountpoint / "null").write_bytes(b"nothing")
        assert shown.stdout == "65533\n"
    else:
        with pytest.raises(PermissionError):
            (mountpoint / "null").write_bytes(b"nothing")
        assert shown.stdout == "65534\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change the flags of a mount")
def test_a_mount_becomes_read_only_and_back(place: Path) -> None:
    """As mount(8) has it done through mount.fuse(8)."""
    mountpoint = place / "mnt"
    assert mount(place).returncode == EXIT_OK
    done = run_b2fs(f"file://{place}/store/photos", mountpoint, "-o", "ro,relatime,remount,user_id=0,dev,suid")
    assert done.returncode == EXIT_OK, done.stderr
    with pytest.raises(OSError, match="Read-only"):
        (mountpoint / "f").write_text("")
    assert run_b2fs(f"file://{place}/store/photos", mountpoint, "-o", "rw,remount").returncode == EXIT_OK
    (mountpoint / "f").write_text("")
    refused(run_b2fs(f"file://{place}/store/photos", mountpoint, "-o", "rw"), EXIT_USAGE, "No such command")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_others_enter_what_root_mounts_unless_that_is_closed(place: Path) -> None:
    def readable(path: Path) -> bool:
        return not subprocess.run(["cat", path], capture_output=True, user=65534, group=65534, check=False).returncode

    shown, hidden = place / "mnt" / "shown", place / "mnt" / "hidden"
    assert mount(place).returncode == EXIT_OK
    shown.write_text("for all")
    hidden.write_text("for root")
    hidden.chmod(0o600)
    assert (readable(shown), readable(hidden)) == (True, False)
    for word, entered in (("--umask=077", False), ("--no-allow-other", False), ("--allow-other", True)):
        assert run_b2fs("umount", place / "mnt").returncode == EXIT_OK
        assert mount(place, None, word).returncode == EXIT_OK
        assert (readable(shown), readable(hidden)) == (entered, False), word


def test_a_quota_is_the_size_and_the_end(place: Path) -> None:
    assert mount(place, None, "--quota=10M:5").returncode == EXIT_OK
    mountpoint = place / "mnt"
    (mountpoint / "f").write_bytes(bytes(9 << 20))
    found = os.statvfs(mountpoint)
    assert (found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize) == (10 << 20, 1 << 20)
    assert (found.f_files, found.f_favail) == (5, 4)
    with pytest.raises(OSError, match="quota") as refused:
        (mountpoint / "g").write_bytes(bytes(2 << 20))
    assert refused.value.errno == errno.EDQUOT
    (mountpoint / "f").unlink()
    (mountpoint / "g").write_bytes(bytes(2 << 20))


def test_interrupting_a_foreground_mount_uploads_and_unmounts(place: Path) -> None:
    words = ["mount", "-f", "--cache-dir", str(place / "cache"), f"file://{place}/store/photos", str(place / "mnt")]
    with subprocess.Popen([*B2FS, *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "is mounted at" in process.stdout.readline()
        (place / "mnt" / "hello").write_text("hello\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == EXIT_OK
    assert not is_mounted(place / "mnt")


def test_a_killed_mount_is_recovered_without_mounting(place: Path) -> None:
    assert mount(place).returncode == EXIT_OK
    (place / "mnt" / "hello").write_text("hello\n")
    (identity,) = (place / "cache").iterdir()
    pid = int((identity / "lock").read_text().partition('"pid": ')[2].partition(",")[0])
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid), "the daemon has ended")
    force_unmount(place / "mnt")
    done = run_b2fs("recover", identity)
    assert (done.returncode, "is in the bucket" in done.stderr) == (EXIT_OK, True)
    # A fresh cache shows what the bucket has.
    words = ("--cache-dir", str(place / "fresh"))
    assert run_b2fs("mount", *words, f"file://{place}/store/photos", place / "mnt").returncode == EXIT_OK
    assert (place / "mnt" / "hello").read_text() == "hello\n"


def test_a_mount_takes_the_place_of_a_killed_one(place: Path) -> None:
    assert mount(place).returncode == EXIT_OK
    (identity,) = (place / "cache").iterdir()
    pid = int((identity / "lock").read_text().partition('"pid": ')[2].partition(",")[0])
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid), "the daemon has ended")
    done = mount(place)
    assert done.returncode == EXIT_OK, done.stderr
    assert os.listdir(place / "mnt") == []


def test_sync_of_a_path_below_a_prefix_has_it_in_the_bucket(place: Path, seaweedfs: Server) -> None:
    bucket = seaweedfs.new_bucket()
    done = mount(place, f"s3://{bucket}/some/prefix", f"--endpoint={seaweedfs.endpoint}", **KEYS)
    assert done.returncode == EXIT_OK, done.stderr
    (place / "mnt" / "a").mkdir()
    (place / "mnt" / "a" / "hello").write_text("hello\n")
    assert run_b2fs("sync", place / "mnt", "a/hello").returncode == EXIT_OK
    body = seaweedfs.client().get_object(Bucket=bucket, Key="some/prefix/a/hello")["Body"]
    with body:
        assert body.read() == b"hello\n"
