"""The real core over a bucket that another client changes, against the model: at once, or after being told."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import ModelMachine, Pick, Real
from tests.model.sites import Site

EXAMPLES = 300 if os.environ.get("B2FS_LONG") == "1" else 15


@pytest.mark.parametrize("ttl_s", [0.0, 1000.0], ids=["at-once", "after-a-refresh"])
@pytest.mark.timeout(600)
def test_what_another_client_changes(ttl_s: float) -> None:
    @contextmanager
    def make() -> Iterator[Real]:
        with tempfile.TemporaryDirectory(prefix="b2fs-foreign-") as directory:
            site = Site(Path(directory), ttl_s=ttl_s, faults=False)
            try:
                yield Real(site.driver, foreign_put=site.put_by_another, foreign_delete=site.removed_by_another)
            finally:
                site.close()

    class Machine(ModelMachine):
        make_real = staticmethod(make)

        def link(self, pick: Pick, to: Pick) -> None:
            """No rule: the link count of names that nobody holds is not promised."""

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=EXAMPLES, stateful_step_count=40, phases=[Phase.generate])
    )
