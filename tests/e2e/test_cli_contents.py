"""`b2fs refresh` and `b2fs warm` on a real mount, with another client that writes and a server that counts."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from b2fs.daemon.exits import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from tests.e2e.programs import B2FS, force_unmount, is_mounted, run_b2fs, wait_until
from tests.mounting import require_fuse
from tests.server.harness import KEY_ID, SECRET, Authority, Server, run_server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MIB = 1 << 20


@dataclass
class Site:
    """A bucket behind `b2fs serve`, mounted once, and a client that knows nothing of the mount."""

    server: Server
    client: S3Client
    bucket: str
    mountpoint: Path

    def mount(self, *words: str) -> None:
        done = run_b2fs(
            "mount", "--cache-dir", self.mountpoint.parent / "cache", f"--endpoint={self.server.url}",
            "--metadata-ttl=1h", *words, f"s3://{self.bucket}", self.mountpoint,
            AWS_ACCESS_KEY_ID=KEY_ID, AWS_SECRET_ACCESS_KEY=SECRET,
        )  # fmt: skip
        assert done.returncode == EXIT_OK, done.stderr

    def put(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body)

    def log_of_gets(self) -> list[dict[str, Any]]:
        return [entry for entry in self.server.log() if entry["operation"] == "GetObject"]

    def gets(self) -> int:
        return len(self.log_of_gets())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    require_fuse()
    with tempfile.TemporaryDirectory(prefix="b2fs-contents-") as parent:
        place = Path(parent)
        with run_server(place / "server", Authority.make(place), insecure=True) as running:
            yield running


@pytest.fixture
def site(server: Server) -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="b2fs-contents-") as parent:
        mountpoint = Path(parent) / "mnt"
        mountpoint.mkdir()
        client, bucket = server.s3(), f"contents-{uuid.uuid4().hex[:16]}"
        client.create_bucket(Bucket=bucket)
        try:
            yield Site(server, client, bucket, mountpoint)
            if is_mounted(mountpoint):
                assert run_b2fs("umount", mountpoint, "--timeout=20s").returncode == EXIT_OK
        finally:
            force_unmount(mountpoint)


def test_refresh_shows_what_others_did(site: Site) -> None:
    site.put("a/old", b"one")
    site.put("b/old", b"one")
    site.mount()
    top = site.mountpoint
    assert sorted(os.listdir(top / "a")) == sorted(os.listdir(top / "b")) == ["old"]
    assert (top / "a/old").read_text() == (top / "b/old").read_text() == "one"
    assert not (top / "a/new").exists()
    for key in ("a/old", "b/old", "a/new", "b/new"):
        site.put(key, b"three")
    assert (top / "a/old").read_text() == "one"
    assert not (top / "a/new").exists()

    assert run_b2fs("refresh", top, "a").returncode == EXIT_OK
    assert (top / "a/old").read_text() == "three"
    assert (top / "a/new").read_text() == "three"
    assert (top / "b/old").read_text() == "one", "only what was asked for"

    assert run_b2fs("refresh", top).returncode == EXIT_OK
    assert sorted(os.listdir(top / "b")) == ["new", "old"]
    assert (top / "b/old").read_text() == "three"


def test_refresh_keeps_what_was_changed_here_and_what_is_open(site: Site) -> None:
    site.put("open", b"one")
    site.mount()
    top = site.mountpoint
    with (top / "open").open() as file:
        (top / "mine").write_text("mine")
        site.put("open", b"two")
        assert run_b2fs("refresh", top).returncode == EXIT_OK
        assert file.read() == "one"
    assert (top / "open").read_text() == "two"
    assert (top / "mine").read_text() == "mine"


def test_what_is_warm_is_read_without_a_request(site: Site) -> None:
    choose = random.Random(7)
    contents = {f"tree/d{number % 5}/f{number}": choose.randbytes(number * 997) for number in range(100)}
    contents["tree/large"] = choose.randbytes(30 * MIB)
    contents["outside"] = b"outside"
    for key, body in contents.items():
        site.put(key, body)
    site.mount()
    done = run_b2fs("warm", site.mountpoint / "tree")
    assert (done.returncode, done.stderr) == (EXIT_OK, "")
    assert done.stdout.startswith("100 files (")  # the empty one needs nothing
    before = site.gets()
    for key, body in contents.items():
        if key.startswith("tree/"):
            assert (site.mountpoint / key).read_bytes() == body, key
    assert site.gets() == before
    again = run_b2fs("warm", site.mountpoint / "tree")
    assert again.stdout.endswith("0 B of it fetched now.\n")
    single = run_b2fs("warm", site.mountpoint / "outside")
    assert single.stdout.startswith("1 file (7 B)")
    assert site.gets() == before + 1


def test_what_does_not_fit_is_said(site: Site) -> None:
    for number in range(10):
        site.put(f"f{number}", bytes([number]) * (8 * MIB))
    site.mount("--cache-size=64M")
    done = run_b2fs("warm", site.mountpoint)
    assert done.returncode == EXIT_FAILED
    full = "the cache is full (--cache-size); 7 files (56.0 MiB) in the cache"
    assert done.stderr == f"b2fs: {site.mountpoint}: {full}\n"
    before = site.gets()
    assert (site.mountpoint / "f0").read_bytes() == bytes(8 * MIB)
    assert site.gets() == before


def test_an_interrupted_warming_ends_and_leaves_the_mount_alone(site: Site) -> None:
    for number in range(40):
        site.put(f"f{number:02d}", bytes([number]) * (2 * MIB))
    site.mount()
    warm = subprocess.Popen([*B2FS, "warm", str(site.mountpoint)], stderr=subprocess.PIPE, text=True)
    assert warm.stderr is not None
    with warm, warm.stderr:
        # The mount reads for itself too, but these files are read for nobody else: by then the command is under way.
        wait_until(lambda: any("/f" in entry["path"] for entry in site.log_of_gets()), "the first file")
        warm.send_signal(signal.SIGINT)
        # Dying of the signal, which a shell calls 130 as well, is what Python does where it is on its way out already.
        assert warm.wait(60) in (130, -signal.SIGINT, EXIT_OK), warm.stderr.read()
    assert (site.mountpoint / "f39").read_bytes() == bytes([39]) * (2 * MIB)


def test_what_cannot_be_warmed_is_refused(site: Site, tmp_path: Path) -> None:
    site.mount()
    missing = run_b2fs("warm", site.mountpoint / "missing")
    assert missing.returncode == EXIT_FAILED
    assert missing.stderr == f"b2fs: {site.mountpoint}/missing: No such file or directory\n"
    elsewhere = run_b2fs("warm", tmp_path)
    assert elsewhere.returncode == EXIT_USAGE
    assert "is not on a b2fs mount" in elsewhere.stderr
    assert run_b2fs("refresh", tmp_path).returncode == EXIT_USAGE


def test_the_status_tells_what_was_read_and_where_it_came_from(site: Site) -> None:
    body = random.Random(6).randbytes(3 * MIB)
    site.put("a", body)

    def reading() -> dict[str, int]:
        found: dict[str, int] = json.loads(run_b2fs("status", site.mountpoint, "--json").stdout)["reading"]
        return found

    site.mount()
    assert not any(reading().values())
    assert (site.mountpoint / "a").read_bytes() == body
    first = reading()
    assert first["served_bytes"] >= len(body)
    assert first["fetched_bytes"] == len(body)
    assert first["fetches"] == len([entry for entry in site.log_of_gets() if entry["path"] == f"/{site.bucket}/a"])
    assert (first["disk_bytes"], first["wasted_bytes"], first["failures"]) == (0, 0, 0)
    assert run_b2fs("umount", site.mountpoint).returncode == EXIT_OK
    site.mount()
    assert (site.mountpoint / "a").read_bytes() == body
    again = reading()
    assert (again["fetched_bytes"], again["fetches"]) == (0, 0)
    assert again["disk_bytes"] >= len(body)
    assert (
        "3.0 MiB by programs: 0 B from the bucket, 3.0 MiB from the cache" in run_b2fs("status", site.mountpoint).stdout
    )
