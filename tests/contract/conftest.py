"""Fixtures and marks of the contract suite: every test runs once for each Case.

`needs(name, ...)` skips a test on a store without these capabilities, `lacks(name)` on a store that has one.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from b2fs.core.types import Capabilities
from b2fs.store.protocol import ObjectStore
from tests.contract.cases import CASES, SERVED_BUCKET, Case, StoreMaker
from tests.server.harness import Authority, Server, run_server


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*names): skip on a store without these capabilities")
    config.addinivalue_line("markers", "lacks(name): skip on a store that has this capability")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`b2fs serve` with a bucket, over HTTPS; strict, so that our client is seen to send no checksum headers."""
    directory = tmp_path_factory.mktemp("served")
    with run_server(directory, Authority.make(directory), ["--refuse-checksums"]) as running:
        running.s3().create_bucket(Bucket=SERVED_BUCKET)
        yield running


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    """The store that this test runs on."""
    chosen: Case = request.param
    return chosen


@pytest.fixture
def make_store(case: Case, request: pytest.FixtureRequest, tmp_path: Path) -> StoreMaker:
    """Makes store objects of one bucket."""
    return case.open(request, tmp_path)


@pytest.fixture(scope="session")
def probed() -> dict[str, Capabilities]:
    """What the stores of this run were found to be capable of, by the name of the case."""
    return {}


@pytest.fixture
def capabilities(case: Case, make_store: StoreMaker, probed: dict[str, Capabilities]) -> Capabilities:
    """What this store can do, by its own probe, which is made once a run."""

    async def probe() -> Capabilities:
        async with make_store() as store:
            return store.capabilities

    if case.name not in probed:
        probed[case.name] = trio.run(probe)
    return probed[case.name]


@pytest.fixture(autouse=True)
def _skip_by_capability(request: pytest.FixtureRequest, case: Case, capabilities: Capabilities) -> None:
    for mark in request.node.iter_markers("needs"):
        for name in mark.args:
            if name in case.lacks:
                pytest.skip(case.lacks[name])
            if not getattr(capabilities, name, True):
                pytest.skip(f"the store has no {name}")
    for mark in request.node.iter_markers("lacks"):
        if getattr(capabilities, mark.args[0]):
            pytest.skip(f"the store has {mark.args[0]}")


@pytest.fixture
async def store(make_store: StoreMaker, capabilities: Capabilities) -> AsyncIterator[ObjectStore]:
    """An entered store."""
    async with make_store(capabilities=capabilities) as entered:
        yield entered


@pytest.fixture
def root() -> str:
    """A prefix that no other test uses, with '/' at its end."""
    return f"t-{uuid.uuid4().hex[:12]}/"
