"""A mount of a server whose certificate only its owner knows: `b2fs serve`, over HTTPS."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from b2fs.daemon.exits import EXIT_FAILED, EXIT_USAGE
from tests.e2e.programs import is_mounted, run_b2fs
from tests.e2e.sites import Bucket, Site, new_site
from tests.server.harness import KEY_ID, REGION, SECRET, Authority, Server, run_server

BUCKET = "private"
LARGE = os.urandom(20 << 20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("private")
    with run_server(directory, Authority.make(directory)) as running:
        running.s3().create_bucket(Bucket=BUCKET)
        yield running


@pytest.fixture
def site(server: Server) -> Iterator[Site]:
    words = ("--endpoint", server.url, "--region", REGION)
    keys = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}
    with new_site(lambda _: Bucket(f"s3://{BUCKET}", words, keys, dict)) as site:
        yield site


def refusal(site: Site, status: int, *words: str) -> str:
    """What a mount that is refused says."""
    bucket = site.bucket
    words = (*bucket.words, *words, f"--cache-dir={site.cache}")
    done = run_b2fs("mount", *words, bucket.url, site.root, **bucket.environ)
    assert done.returncode == status, done.stderr
    assert not is_mounted(site.root)
    return done.stderr


def test_it_is_refused_and_the_sentence_names_the_option(site: Site) -> None:
    told = refusal(site, EXIT_FAILED)
    assert "is not trusted" in told
    assert "--ca-bundle" in told


def test_a_bundle_that_is_none_is_a_sentence(site: Site, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no certificate")
    for bundle in (tmp_path / "missing", tmp_path / "text"):
        assert f"cannot read the CA bundle {bundle}" in refusal(site, EXIT_USAGE, f"--ca-bundle={bundle}")


def test_small_and_large_files_go_there_and_come_back(server: Server, site: Site) -> None:
    """Both ways to the server are told whom to trust: our own sockets, and the AWS runtime."""
    bundle = str(server.authority.ca_file)
    root = site.mount(f"--ca-bundle={bundle}")
    (root / "small").write_bytes(b"small")
    (root / "large").write_bytes(LARGE)
    site.umount()
    site.environ["AWS_CA_BUNDLE"] = bundle
    site.mount(cold=True)
    assert (root / "small").read_bytes() == b"small"
    assert (root / "large").read_bytes() == LARGE
    site.umount()
