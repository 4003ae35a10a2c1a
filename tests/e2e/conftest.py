"""Fixtures of the end-to-end tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.sites import Site, embedded_bucket, new_site, server_bucket
from tests.e2e.trees import python_library
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
