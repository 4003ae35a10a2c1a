"""Two real mounts that make the same new name, on a server that minds conditions and on one that is as B2."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from tests.e2e.programs import run_b2fs, wait_until
from tests.e2e.sites import Bucket, Site, new_site, server_bucket
from tests.e2e.wire import Wire


@pytest.fixture(params=["conditions", "as B2"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    if request.param == "conditions":
        return server_bucket(request.getfixturevalue("seaweedfs"))
    wire: Wire = request.getfixturevalue("wire")
    return wire.as_bucket(past_proxy=True)


@pytest.fixture
def sites(bucket: Bucket) -> Iterator[list[Site]]:
    with new_site(lambda _: bucket) as first, new_site(lambda _: bucket) as second:
        first.troubled = second.troubled = True
        yield [first, second]


def conflicts(site: Site) -> int:
    found = json.loads(run_b2fs("status", site.root, "--json").stdout)["writeback"]["conflicts"]
    assert isinstance(found, int)
    return found


def test_two_mounts_that_make_the_same_name(sites: list[Site], bucket: Bucket) -> None:
    for site in sites:
        assert os.listdir(site.mount("--conflict=keep-both", "--metadata-ttl=10m")) == []
    for site, body in zip(sites, (b"theirs", b"ours"), strict=True):
        (site.root / "name.txt").write_bytes(body)
        (site.root / f"of {body.decode()}").write_bytes(body)
        assert run_b2fs("sync", site.root).returncode == 0
    wait_until(lambda: conflicts(sites[1]) == 1, "the second one finds out")
    assert conflicts(sites[0]) == 0
    contents = bucket.contents()
    assert (contents.pop("name.txt"), contents.pop("of ours"), contents.pop("of theirs")) == (
        b"ours",
        b"ours",
        b"theirs",
    )
    ((name, body),) = contents.items()
    assert (name.startswith("name (conflict "), body) == (True, b"theirs")
    for site in sites:
        site.umount()
    assert "name.txt was changed by somebody else" in sites[1].log()
