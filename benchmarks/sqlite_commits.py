"""How long sqlite takes for autocommits on a mount: b2fs with --fsync=bucket and =local, and s3fs, on one SeaweedFS.

    python -m benchmarks.sqlite_commits [COMMITS]

Run it on a quiet machine, from the checkout, as a user who may mount; s3fs is left out where it is not installed.
Each commit is an INSERT of its own with a rollback journal: a file is made, synced and removed, the database synced.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

from tests.servers import Server, seaweedfs_server

COMMITS = 1000


@contextmanager
def b2fs(server: Server, directory: Path, level: str) -> Iterator[Path]:
    root = directory / f"b2fs-{level}"
    root.mkdir()
    command = [sys.executable, "-m", "b2fs"]
    options = [f"--endpoint={server.endpoint}", f"--fsync={level}", f"--cache-dir={directory / f'cache-{level}'}"]
    environ = {**os.environ, **server.environment()}
    bucket = f"s3://{server.new_bucket()}"
    subprocess.run([*command, "mount", *options, bucket, str(root)], env=environ, check=True)
    try:
        yield root
    finally:
        subprocess.run([*command, "umount", str(root)], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def s3fs(server: Server, directory: Path) -> Iterator[Path]:
    root, secret = directory / "s3fs", directory / "s3fs.passwd"
    root.mkdir()
    secret.touch(mode=0o600)
    secret.write_text(f"{server.access_key}:{server.secret_key}\n")
    options = f"url={server.endpoint},use_path_request_style,passwd_file={secret},endpoint={server.region}"
    subprocess.run(["s3fs", server.new_bucket(), root, "-o", options], check=True)
    try:
        yield root
    finally:
        subprocess.run(["fusermount3", "-u", root], check=True)


def commit(root: Path, count: int) -> float:
    """Seconds for `count` autocommits into a new database."""
    with closing(sqlite3.connect(root / "rows.db", isolation_level=None)) as database:
        database.execute("CREATE TABLE rows(number INTEGER PRIMARY KEY, text TEXT)")
        began = time.monotonic()
        for number in range(count):
            database.execute("INSERT INTO rows VALUES(?, ?)", (number, "text" * 10))
        took = time.monotonic() - began
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("SELECT count(*) FROM rows").fetchone() == (count,)
    return took


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(count: int) -> None:
    say(f"{count} autocommits; load {os.getloadavg()[0]:.1f}")
    with seaweedfs_server() as server, tempfile.TemporaryDirectory(prefix="b2fs-sqlite-") as directory:
        place = Path(directory)
        mounts: dict[str, Callable[[], AbstractContextManager[Path]]] = {
            "b2fs --fsync=bucket": lambda: b2fs(server, place, "bucket"),
            "b2fs --fsync=local": lambda: b2fs(server, place, "local"),
        }
        if shutil.which("s3fs"):
            mounts["s3fs"] = lambda: s3fs(server, place)
        for name, mount in mounts.items():
            with mount() as root:
                took = commit(root, count)
            say(f"{name:22} {took:8.2f} s  {1000 * took / count:7.2f} ms a commit")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else COMMITS)
