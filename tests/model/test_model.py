"""The model held against itself through a real mount: the machinery finds what differs, and the kernel agrees."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Real, machine_for
from tests.mounting import FILESYSTEMS, NoKernel, Place, mounted, require_fuse
from tests.vfs.direct import DirectDriver, hosted
from tests.vfs.kernel import KernelDriver

LONG = os.environ.get("B2FS_LONG") == "1"


@pytest.mark.timeout(1800 if LONG else 300)
def test_the_model_agrees_with_itself_on_a_real_mount(tmp_path: Path) -> None:
    require_fuse()
    numbers = itertools.count()
    with mounted("memfs", tmp_path) as mount:
        driver = KernelDriver(mount.mountpoint)

        def make() -> AbstractContextManager[Real]:
            return nullcontext(Real(driver, directory=f"example{next(numbers)}"))

        run_state_machine_as_test(machine_for(make))


class _Forgetful(DirectDriver):
    """A filesystem with a fault: it forgets the set-user-ID bit."""

    def chmod(self, path: str, mode: int) -> None:
        super().chmod(path, mode & ~0o4000)


def test_a_fault_is_found() -> None:
    @contextmanager
    def make() -> Iterator[Real]:
        with hosted(lambda: FILESYSTEMS["memfs"](Place(Path("/nowhere"), NoKernel(), False)), _Forgetful) as driver:
            yield Real(driver)

    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine_for(make), settings=settings(max_examples=100, phases=[Phase.generate]))
