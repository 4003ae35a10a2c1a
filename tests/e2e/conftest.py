"""Fixtures of the end-to-end tests."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.sites import Site, embedded_bucket, new_site, server_bucket
from tests.e2e.trees import python_library
from tests.e2e.wire import Wire, wire_to
from tests.server.harness import KEY_ID, SECRET, Authority, run_server
from tests.server.harness import Server as ServeServer
from tests.servers import Server, temporary_directory


@pytest.fixture
def embedded_site() -> Iterator[Site]:
    """An embedded bucket, not mounted yet."""
    with new_site(embedded_bucket) as site:
        yield site


@pytest.fixture
def seaweedfs_site(seaweedfs: Server) -> Iterator[Site]:
    """A new bucket of SeaweedFS, not mounted yet."""
    with new_site(lambda _: server_bucket(seaweedfs)) as site:
        yield site


@pytest.fixture(params=["embedded", "seaweedfs"])
def site(request: pytest.FixtureRequest) -> Site:
    """Each kind of bucket in turn."""
    found = request.getfixturevalue(f"{request.param}_site")
    assert isinstance(found, Site)
    return found


@pytest.fixture(scope="session")
def python_tree() -> Iterator[Path]:
    """The source of the Python standard library, 2,000 files; not to be changed."""
    with temporary_directory("b2fs-tree-") as directory:
        yield python_library(Path(directory) / "tree", 2000)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeServer]:
    """`b2fs serve` over plain HTTP."""
    directory = tmp_path_factory.mktemp("served")
    with run_server(directory, Authority.make(directory), ["--max-buckets", "1000"], insecure=True) as running:
        yield running


_WIRES = itertools.count(1)


@pytest.fixture
def wire(served: ServeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """A new bucket of a real server behind a proxy that does harm."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with wire_to(served, f"wire-{next(_WIRES)}", tmp_path) as wire:
        yield wire
