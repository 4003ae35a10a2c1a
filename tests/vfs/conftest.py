"""The behaviour suite's one fixture: `fs`, each test's own directory of each filesystem, directly and mounted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.mounting import FILESYSTEMS, NoKernel, Place, mounted, require_fuse
from tests.vfs.direct import hosted
from tests.vfs.driver import Driver
from tests.vfs.kernel import KernelDriver


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test runs on every filesystem, directly and mounted; what only the kernel does, mounted."""
    if "driver" in metafunc.fixturenames:
        ways = ("mounted",) if "kernel" in metafunc.fixturenames else ("direct", "mounted")
        variants = [f"{name}-{way}" for name in FILESYSTEMS for way in ways]
        metafunc.parametrize("driver", variants, indirect=True, scope="session")


@pytest.fixture(scope="session")
def driver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A running filesystem, shared by all tests of a session."""
    name, _, way = str(request.param).rpartition("-")
    state = tmp_path_factory.mktemp(request.param)
    if way == "direct":
        place = Place(state, NoKernel(), kernel_checks=False)
        with hosted(lambda: FILESYSTEMS[name](place)) as direct:
            yield direct
    else:
        require_fuse()
        with mounted(name, state) as mount:
            yield KernelDriver(mount.mountpoint)


_numbers = itertools.count(1)


@pytest.fixture
def fs(driver: Driver) -> Iterator[Driver]:
    """The driver, standing in a new empty directory that everybody may change."""
    directory = f"t{next(_numbers)}"
    driver.enter(".")
    with driver.umask(0):
        driver.mkdir(directory, 0o777)
    driver.enter(directory)
    with driver.umask(0o022):
        yield driver


@pytest.fixture
def kernel(fs: Driver) -> KernelDriver:
    """The same for a test of what only the kernel does."""
    assert isinstance(fs, KernelDriver)
    return fs
