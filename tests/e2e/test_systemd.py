"""What the system's own tools see: systemd's notifications, the unit, mount(8), umount(8)."""

from __future__ import annotations

import configparser
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from b2fs.daemon.exits import EXIT_OK
from tests.e2e.programs import B2FS, DEADLINE_S, force_unmount, is_mounted
from tests.mounting import require_fuse

UNIT = Path(__file__).parents[2] / "contrib" / "systemd" / "b2fs@.service"
#: Where mount(8) and umount(8) look, and the installed program for it.
HELPERS = {Path("/sbin/mount.b2fs"): "mount.b2fs", Path("/sbin/umount.fuse.b2fs"): "umount.b2fs"}


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with an empty mnt/, which is unmounted in the end."""
    require_fuse()
    with tempfile.TemporaryDirectory(prefix="b2fs-systemd-") as parent:
        (Path(parent) / "mnt").mkdir()
        yield Path(parent)
        force_unmount(Path(parent) / "mnt")


@pytest.mark.parametrize("abstract", [False, True])
def test_the_daemon_tells_systemd_when_it_is_ready_and_when_it_stops(place: Path, abstract: bool) -> None:
    name = f"@b2fs-test-{os.getpid()}" if abstract else str(place / "notify")
    words = ["mount", "-f", "--cache-dir", str(place / "cache"), f"file://{place}/store/photos", str(place / "mnt")]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        manager.settimeout(DEADLINE_S)
        environ = {**os.environ, "NOTIFY_SOCKET": name, "WATCHDOG_USEC": "10000000"}
        with subprocess.Popen([*B2FS, *words], env=environ, stdout=subprocess.DEVNULL) as daemon:
            assert _next(manager, "READY=1").endswith(f"is mounted at {place / 'mnt'}")
            assert is_mounted(place / "mnt")
            (place / "mnt" / "hello").write_text("hello\n")
            daemon.send_signal(signal.SIGTERM)
            _next(manager, "STOPPING=1")
            _next(manager, "EXTEND_TIMEOUT_USEC=")
            assert daemon.wait(DEADLINE_S) == EXIT_OK
    assert not is_mounted(place / "mnt")


def _next(manager: socket.socket, start: str) -> str:
    """The next message that starts so; others are passed over."""
    while True:
        message = manager.recv(4096).decode()
        if message.startswith(start):
            return message


def test_the_unit_waits_for_ready_and_gives_time_to_drain() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names are case-sensitive
    unit.read_string(UNIT.read_text())
    service = unit["Service"]
    assert (service["Type"], service["NotifyAccess"], service["KillMode"]) == ("notify", "main", "mixed")
    assert "--foreground" in service["ExecStart"]
    # Each of these gives the service a mount namespace of its own, in which nobody would see the mount.
    private = ("ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateMounts", "ProtectKernelTunables")
    assert not [name for name in private if name in service]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    # The unit names the usual place of the program; here it is somewhere else.
    unit = tmp_path / "b2fs@test.service"
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/b2fs", shutil.which("true") or "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def helpers() -> Iterator[None]:
    """The helpers where mount(8) finds them, for the time of a test."""
    if os.geteuid() != 0:
        pytest.skip("only root can install mount helpers")
    made: list[Path] = []
    try:
        for link, program in HELPERS.items():
            target = Path(sysconfig.get_path("scripts")) / program
            assert target.exists(), f"{program} is not installed: pip install -e ."
            if link.is_symlink() or link.exists():
                pytest.skip(f"{link} is there already, and not ours to replace")
            link.symlink_to(target)
            made.append(link)
        yield
    finally:
        for link in made:
            with suppress(FileNotFoundError):
                link.unlink()


def _run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def test_mount_and_umount_work_as_for_any_filesystem(place: Path, helpers: None) -> None:
    url, mountpoint = f"file://{place}/store/photos", place / "mnt"
    options = f"noauto,_netdev,x-systemd.automount,noexec,umask=077,cache_dir={place}/cache"
    done = _run("mount", "-t", "b2fs", url, mountpoint, "-o", options)
    assert (done.returncode, done.stderr) == (0, "")
    (mountpoint / "hello").write_text("hello\n")
    done = _run("umount", mountpoint)
    assert done.returncode == 0, done.stderr
    assert not is_mounted(mountpoint)
    # umount returned, so a fresh cache sees everything in the bucket, at once.
    done = _run("mount", "-t", "b2fs", url, mountpoint, "-o", f"ro,cache_dir={place}/fresh")
    assert (done.returncode, done.stderr) == (0, "")
    assert (mountpoint / "hello").read_text() == "hello\n"
    assert _run("umount", mountpoint).returncode == 0


def test_an_fstab_line_mounts(place: Path, helpers: None) -> None:
    fstab = place / "fstab"
    fstab.write_text(f"file://{place}/store/photos {place}/mnt b2fs noauto,_netdev,cache_dir={place}/cache 0 0\n")
    done = _run("mount", "--fstab", fstab, place / "mnt")
    assert (done.returncode, done.stderr) == (0, "")
    assert is_mounted(place / "mnt")
    assert _run("umount", place / "mnt").returncode == 0


def test_mount_reports_what_is_wrong(place: Path, helpers: None) -> None:
    done = _run("mount", "-t", "b2fs", f"file://{place}/store/photos", place / "mnt", "-o", "compress=zlib")
    assert done.returncode != 0
    assert "unknown mount option" in done.stderr
