"""Random operations, crashes, cold mounts and other clients against the reference model; the bucket loses answers.

See tests/model/sites.py.  A cold mount compares with the model what is in the bucket: keys, contents, metadata.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import rule, run_state_machine_as_test

from tests.model.machine import ModelMachine, Pick, Real, handles
from tests.model.sites import Site

LONG = os.environ.get("B2FS_LONG") == "1"

_sites: list[Site] = []


@contextmanager
def _real() -> Iterator[Real]:
    with tempfile.TemporaryDirectory(prefix="b2fs-crash-") as directory:
        site = Site(Path(directory))
        _sites.append(site)
        try:
            yield Real(
                site.driver,
                crash_and_remount=site.crash,
                clean_remount=site.cold,
                foreign_put=site.put_by_another,
                foreign_delete=site.removed_by_another,
            )
        finally:
            _sites.pop()
            site.close()


class CrashMachine(ModelMachine):
    """The model's machine; a fsync that returns has put the bytes into the bucket."""

    @staticmethod
    def make_real() -> AbstractContextManager[Real]:
        return _real()

    def link(self, pick: Pick, to: Pick) -> None:
        """No rule: after a cold mount the names of a hard-linked file are files of their own."""

    @rule(index=handles)
    def fsync_handle(self, index: int) -> None:
        super().on_handle(index, lambda driver, fd: driver.fsync(fd))
        if self._handles:
            real, model = self._handles[index % len(self._handles)]
            size = self.model.fstat(model).size
            for body in _sites[-1].stored(real):
                assert body is not None, "a fsync has returned and the bucket has nothing"
                assert len(body) == size

    def teardown(self) -> None:
        try:
            self._close_all()
            self._go_on_with(_sites[-1].cold())
        finally:
            super().teardown()


@pytest.mark.timeout(600)
def test_random_operations_and_crashes() -> None:
    run_state_machine_as_test(CrashMachine, settings=settings(max_examples=400 if LONG else 15, stateful_step_count=30))
