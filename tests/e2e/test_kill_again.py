"""After kill -9: what programs had committed is in the bucket, and the next mount comes about however it is asked."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from b2fs.daemon.exits import EXIT_OK
from tests.e2e.programs import B2FS, DEADLINE_S, is_mounted, is_running, run_b2fs, wait_until
from tests.e2e.sites import LONG, Site, need
from tests.e2e.trees import file_contents

ROUNDS = 10 if LONG else 1
UNIT = Path(__file__).parents[2] / "contrib" / "systemd" / "b2fs@.service"

#: Commits a row at a time and says so, until it cannot.  EXTRA: that the journal is gone is synced as well.
COMMITTING = """
import sqlite3, sys
with open(sys.argv[2], "a", buffering=1) as log:
    database = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
    database.execute("PRAGMA journal_mode=" + sys.argv[3])
    database.execute("PRAGMA synchronous=EXTRA")
    database.execute("CREATE TABLE IF NOT EXISTS t(number INTEGER PRIMARY KEY, body BLOB)")
    while True:
        number = database.execute("INSERT INTO t(body) VALUES(randomblob(3000))").lastrowid
        log.write(f"{number}\\n")
"""


def fill(root: Path, stored: dict[str, bytes]) -> None:
    """New contents for some names."""
    for number in range(30):
        stored[f"f{number}"] = os.urandom(3000)
        (root / f"f{number}").write_bytes(stored[f"f{number}"])
    stored["large"] = os.urandom(20 << 20)
    (root / "large").write_bytes(stored["large"])


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
    wait_until(lambda: not is_running(pid), "the daemon has ended")


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_rows_that_sqlite_has_committed_are_in_the_bucket(seaweedfs_site: Site, journal: str) -> None:
    """With an empty cache as well: whoever mounts next need not be the machine that was killed."""
    site = seaweedfs_site
    site.troubled = True
    log = site.directory / "log"
    for _ in range(ROUNDS):
        root = site.mount()
        words = [sys.executable, "-c", COMMITTING, str(root / "db"), str(log), journal]
        log.write_text("")
        with subprocess.Popen(words, stderr=subprocess.DEVNULL) as program:
            wait_until(lambda: log.read_text().count("\n") > 5, "rows are committed")
            site.kill()
            assert program.wait(DEADLINE_S) != 0
        committed = int(log.read_text().split()[-1])
        used = site.caches
        for cold in (True, False):
            site.caches = used + 1 if cold else used
            root = site.mount()
            with closing(sqlite3.connect(root / "db", timeout=30)) as database:
                assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                rows, last = database.execute("SELECT count(*), max(number) FROM t").fetchone()
            assert rows == last
            assert committed <= last <= committed + 1
            if cold:
                site.umount()
                shutil.rmtree(site.cache)
                site.caches = used
        site.umount()


def test_recover_that_is_killed_again_and_again(seaweedfs_site: Site) -> None:
    site = seaweedfs_site
    stored: dict[str, bytes] = {}
    fill(site.mount(), stored)
    site.kill()
    chance = random.Random(1)
    words = [*B2FS, "recover", str(site.identity)]
    environ = {**os.environ, **site.bucket.environ}
    for number in (signal.SIGKILL, signal.SIGTERM) * (2 * ROUNDS):
        with subprocess.Popen(words, env=environ, stderr=subprocess.DEVNULL) as recover:
            with suppress(subprocess.TimeoutExpired):
                recover.wait(chance.uniform(0.5, 2.0))
            recover.send_signal(number)
    done = run_b2fs("recover", site.identity, **site.bucket.environ)
    assert done.returncode == EXIT_OK, done.stderr
    assert site.bucket.contents() == stored


def test_a_mount_whose_end_is_cut_short(embedded_site: Site) -> None:
    """SIGTERM, which drains, and at some instant of that SIGKILL; the dead mount is taken away by the next one."""
    site = embedded_site
    site.troubled = True
    stored: dict[str, bytes] = {}
    chance = random.Random(2)
    for _ in range(3 * ROUNDS):
        fill(site.mount(), stored)
        pid = site.pid
        os.kill(pid, signal.SIGTERM)
        with suppress(AssertionError):
            wait_until(lambda pid=pid: not is_running(pid), "it drains", chance.uniform(0, 0.5))  # type: ignore[misc]  # an int
        kill(pid)
    assert file_contents(site.mount()) == stored
    site.umount()
    assert site.bucket.contents() == stored


def test_the_cache_at_another_mountpoint_and_another_bucket_over_the_dead_mount(
    embedded_site: Site, tmp_path: Path
) -> None:
    site = embedded_site
    site.troubled = True
    stored: dict[str, bytes] = {}
    fill(site.mount(), stored)
    kill(site.pid)
    other = tmp_path / "other"
    other.mkdir()
    words = (f"--cache-dir={site.cache}", site.bucket.url, other)
    assert run_b2fs("mount", *words).returncode == EXIT_OK
    try:
        assert file_contents(other) == stored
        words = (f"--cache-dir={tmp_path}/cache", f"file://{tmp_path}/store/another", site.root)
        assert run_b2fs("mount", *words).returncode == EXIT_OK
        assert os.listdir(site.root) == []
        assert run_b2fs("umount", site.root).returncode == EXIT_OK
    finally:
        assert run_b2fs("umount", other).returncode == EXIT_OK
    assert site.bucket.contents() == stored


def test_a_restart_with_the_rights_that_the_unit_gives(embedded_site: Site) -> None:
    """Restart= starts the service over the mount that a killed daemon has left."""
    need("setpriv")
    if os.geteuid() != 0:
        pytest.skip("needs root")
    site = embedded_site
    (line,) = (line for line in UNIT.read_text().splitlines() if line.startswith("CapabilityBoundingSet="))
    rights = [f"+{name.removeprefix('CAP_').lower()}" for name in line.partition("=")[2].split()]
    words = ["setpriv", "--no-new-privs", "--bounding-set", ",".join(["-all", *rights]), *B2FS, "mount", "--foreground"]
    words += [f"--cache-dir={site.cache}", site.bucket.url, str(site.root)]
    stored: dict[str, bytes] = {}
    for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as daemon:
            assert daemon.stdout is not None
            assert "is mounted at" in daemon.stdout.readline()
            assert file_contents(site.root) == stored
            fill(site.root, stored)
            daemon.send_signal(number)
            status = daemon.wait(DEADLINE_S)
    assert status == EXIT_OK
    assert not is_mounted(site.root)
    assert site.bucket.contents() == stored
