"""Buckets that are mounted, unmounted and mounted again, as users do it, and what is seen of them from elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from b2fs.daemon.exits import EXIT_OK
from b2fs.store.embedded.store import EmbeddedConfig, EmbeddedStore
from tests.e2e.programs import force_unmount, is_mounted, is_running, run_b2fs, wait_until
from tests.mounting import require_fuse
from tests.servers import Server

#: Lines of a daemon's log that no test expects.
_UNWANTED = re.compile(r"^\S+ \S+ (WARNING|ERROR|CRITICAL) |^Traceback ", re.MULTILINE)

#: Where b2fs keeps in a bucket what is not a user's.
RESERVED = ".b2fs/"
#: Whether the long forms of the tests are wanted.
LONG = os.environ.get("B2FS_LONG") == "1"
long_only = pytest.mark.skipif(not LONG, reason="part of the long form: B2FS_LONG=1")


@dataclass(frozen=True, slots=True)
class Bucket:
    """How b2fs is told to mount a bucket, and a way to its objects that is not ours."""

    url: str
    #: Options of b2fs mount.
    words: tuple[str, ...]
    environ: Mapping[str, str]
    #: Every object by its key, b2fs's own below `.b2fs/` left out.  An embedded bucket must not be mounted.
    contents: Callable[[], dict[str, bytes]]


def embedded_bucket(directory: Path) -> Bucket:
    """A bucket in a directory of its own, which mounting makes."""
    return Bucket(f"file://{directory}/bucket", (), {}, lambda: trio.run(_embedded_contents, str(directory)))


async def _embedded_contents(directory: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    async with EmbeddedStore(EmbeddedConfig(directory, "bucket", create=False)) as store:
        token: str | None = None
        while True:
            page = await store.list_objects("", token=token)
            for info in page.objects:
                if info.key.startswith(RESERVED):
                    continue
                found[info.key] = bytes((await store.get(info.key))[1])
            token = page.next_token
            if token is None:
                return found


def server_bucket(server: Server) -> Bucket:
    """A new bucket of a real server."""
    name = server.new_bucket()
    words = (f"--endpoint={server.endpoint}",)
    return Bucket(f"s3://{name}", words, server.environment(), lambda: server_contents(server, name))


def server_contents(server: Server, bucket: str) -> dict[str, bytes]:
    """As `Bucket.contents`, as boto3 sees it."""
    found: dict[str, bytes] = {}
    with closing(server.client()) as client:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for row in page.get("Contents", ()):
                if row["Key"].startswith(RESERVED):
                    continue
                with client.get_object(Bucket=bucket, Key=row["Key"])["Body"] as body:
                    found[row["Key"]] = body.read()
    return found


@dataclass
class Site:
    """A bucket, a mountpoint, and caches that come and go; `directory` may also hold what a test needs beside them."""

    directory: Path
    bucket: Bucket
    #: How many caches there have been.
    caches: int = 0
    #: Whether the log may hold warnings: for tests in which something goes wrong on purpose.
    troubled: bool = False
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The mountpoint."""
        return self.directory / "mnt"

    @property
    def cache(self) -> Path:
        return self.directory / f"cache{self.caches}"

    def mount(self, *words: str, cold: bool = False) -> Path:
        """Mount in the background; cold: with an empty cache, as a machine does that has never seen the bucket."""
        self.caches += cold
        words = (*self.bucket.words, *words, f"--cache-dir={self.cache}")
        done = run_b2fs("mount", *words, self.bucket.url, self.root, **self.bucket.environ, **self.environ)
        assert done.returncode == EXIT_OK, done.stderr
        return self.root

    def umount(self) -> None:
        """Unmount and wait until all is in the bucket and the daemon has gone."""
        pid = self.pid
        done = run_b2fs("umount", self.root)
        assert done.returncode == EXIT_OK, done.stderr + self.log()
        assert not is_running(pid)
        if not self.troubled:
            assert not _UNWANTED.search(self.log()), self.log()

    def remount(self, *words: str, cold: bool = True) -> Path:
        self.umount()
        return self.mount(*words, cold=cold)

    @property
    def identity(self) -> Path:
        """The directory where the daemon keeps what it has to keep."""
        (path,) = self.cache.iterdir()
        return path

    @property
    def pid(self) -> int:
        """The daemon's."""
        held = json.loads((self.identity / "lock").read_text())
        assert isinstance(held["pid"], int)
        return held["pid"]

    def log(self) -> str:
        return (self.identity / "b2fs.log").read_text()

    def kill(self, let_end: Callable[[], object] = lambda: None) -> None:
        """End the daemon with SIGKILL and take away the mount that it leaves.

        let_end waits for the programs at work: each sees a mount that is dead before it is the empty directory below.
        """
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_running(pid), "the daemon has ended")
        try:
            let_end()
        finally:
            force_unmount(self.root)

    def close(self) -> None:
        """For the end of a test, whatever happened: no mount, no daemon."""
        if not is_mounted(self.root):
            return
        pid = self.pid
        run_b2fs("umount", self.root, "--timeout=20s")
        force_unmount(self.root)
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def new_site(make_bucket: Callable[[Path], Bucket]) -> Iterator[Site]:
    """A site that is not mounted yet.  make_bucket gets a directory that does not exist."""
    require_fuse()
    # Not below pytest's own directories: they are kept for days, and this is large.
    with tempfile.TemporaryDirectory(prefix="b2fs-site-") as directory:
        site = Site(Path(directory), make_bucket(Path(directory) / "store"))
        site.root.mkdir()
        try:
            yield site
        finally:
            site.close()


def need(*programs: str) -> None:
    """Skip the test where a program is missing; with CI=true that is a failure."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"not installed: {', '.join(missing)}")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def run(
    *words: str | Path,
    cwd: Path | None = None,
    stdin: str | None = None,
    expect: Sequence[int] = (0,),
    timeout_s: float = 200.0,
    environ: Mapping[str, str] | None = None,
) -> str:
    """Run a program to its end and return its output; fails with all that it said unless it ended as expected."""
    done = subprocess.run(
        list(map(str, words)),
        cwd=cwd,
        input=stdin,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(environ or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="surrogateescape",
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode in expect, f"{words}: {done.returncode}\n{done.stdout}"
    return done.stdout
