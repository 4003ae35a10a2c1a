"""Two mounts of one bucket that are killed again and again while both change the same names.

What a mount had acknowledged, and did not change again itself, is in the bucket in the end: as what the name holds, as
an older version of it, or under the name of a conflict.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.e2e.programs import is_mounted, run_b2fs
from tests.e2e.sites import LONG
from tests.e2e.test_crash_campaign import SEED
from tests.e2e.test_faults_clients import Doings, all_versions, tree, two_sites
from tests.e2e.wire import Wire

KILLS = 60 if LONG else 5


class Acknowledged(Doings):
    """Every change that has returned counts, not only what was synced: a kill loses none."""

    def _change(self, path: Path, other: Path) -> bytes | None:
        kind = self.chance.choice(("save", "replace", "other"))
        if kind == "other":
            return super()._change(path, other)
        body = self.body()
        written = path if kind == "save" else path.with_name(f"tmp {self.counted}")
        written.write_bytes(body)
        if written != path:
            written.rename(path)
        return body


@pytest.mark.parametrize("conflict", ["ours-on-top", "keep-both"])
@pytest.mark.timeout(3600 if LONG else 300)
def test_two_mounts_that_are_killed(wire: Wire, conflict: str) -> None:
    chance = random.Random(f"{conflict} {SEED}")
    with two_sites(wire) as sites:
        doings = Acknowledged(wire, sites, chance, common=True)
        for site in sites:
            site.mount(f"--conflict={conflict}")
        for _ in range(KILLS):
            for _ in range(chance.randrange(4, 20)):
                doings.step()
            site = chance.choice(sites)
            site.kill()
            assert not is_mounted(site.root)
            site.mount(f"--conflict={conflict}")
        for _ in range(2):
            for site in sites:
                assert run_b2fs("sync", site.root).returncode == 0
        objects = {key: body for key, body in wire.contents().items() if not key.endswith("/")}
        assert tree(sites[0]) == tree(sites[1]) == objects
        kept = all_versions(wire)
        lost = {place: body[:8] for place, body in doings.acknowledged.items() if body not in kept}
        assert not lost, [line for site in sites for line in site.log().splitlines()]
        assert len(doings.acknowledged) > 3
        for site in sites:
            site.umount()
