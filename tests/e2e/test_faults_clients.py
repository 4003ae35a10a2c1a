"""Several clients at one bucket: in the end all see the same, and whatever was acknowledged is in some version."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.e2e.programs import run_b2fs
from tests.e2e.sites import LONG, Site, long_only, new_site
from tests.e2e.wire import Wire

ROUNDS = 150 if LONG else 40
NAMES = [*"abc", "d/a", "d/b", "e/a"]


@contextmanager
def two_sites(wire: Wire) -> Iterator[tuple[Site, Site]]:
    """Two machines with the bucket mounted; what the other does is seen within a tenth of a second."""
    with ExitStack() as stack:
        sites = [stack.enter_context(new_site(lambda _: wire.as_bucket("--metadata-ttl=100ms"))) for _ in range(2)]
        for site in sites:
            site.troubled = True
        yield sites[0], sites[1]


class Doings:
    """Random changes by two mounts and boto3.

    acknowledged: what a client was told is in the bucket, by client and name, and has not changed again itself since.
    """

    def __init__(self, wire: Wire, sites: tuple[Site, Site], chance: random.Random, *, common: bool) -> None:
        self.wire, self.sites, self.chance, self.common = wire, sites, chance, common
        self.acknowledged: dict[tuple[int, str], bytes] = {}
        self.counted = 0

    def body(self) -> bytes:
        self.counted += 1
        return b"%d " % self.counted + self.chance.randbytes(self.chance.choice((10, 5000)))

    def name(self, who: int) -> str:
        name = self.chance.choice(NAMES)
        return name if self.common else f"{name} of {who}"

    def step(self) -> None:
        who = self.chance.randrange(3)
        if who == 2:
            body, key = self.body(), self.name(who)
            self.wire.s3.put_object(Bucket=self.wire.bucket, Key=key, Body=body)
            self.acknowledged[who, key] = body
            return
        root = self.sites[who].root
        name, other = self.name(who), self.name(who)
        path = root / name
        for changed in (name, other):
            self.acknowledged.pop((who, changed), None)
        try:
            promised = self._change(path, root / other)
            if promised is not None:
                self.acknowledged[who, name] = promised
        except FileNotFoundError:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            # Somebody else has removed or replaced what was looked at a moment ago.
            assert error.strerror in ("Stale file handle", "Directory not empty"), error

    def _change(self, path: Path, other: Path) -> bytes | None:
        """Change something; what is in the bucket then, if that is promised."""
        kind = self.chance.choice(("write", "write", "replace", "rename", "unlink", "fsync"))
        if kind == "unlink":
            path.unlink()
        elif kind == "rename":
            path.rename(other)
        elif kind == "fsync":
            body = self.body()
            with open(path, "wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            return body
        else:
            body = self.body()
            target = path if kind == "write" else path.with_name(f"tmp {self.counted}")
            target.write_bytes(body)
            if target is not path:
                target.rename(path)
        return None


def tree(site: Site) -> dict[str, bytes]:
    """All files as a mount shows them now."""
    assert run_b2fs("refresh", site.root).returncode == 0
    return {
        os.path.relpath(os.path.join(directory, name), site.root): Path(directory, name).read_bytes()
        for directory, _, names in os.walk(site.root)
        for name in names
    }


def plain(files: dict[str, bytes]) -> dict[str, bytes]:
    """Without the names that conflicts got: a look at new names may find some a while later, and as a mount ends."""
    return {name: body for name, body in files.items() if " (conflict " not in name}


def all_versions(wire: Wire) -> set[bytes]:
    return {
        wire.s3.get_object(Bucket=wire.bucket, Key=key, VersionId=version)["Body"].read()
        for key, versions in wire.versions().items()
        for version in versions
        if not key.startswith(".b2fs/")
    }


@pytest.mark.parametrize(
    ("conflict", "common"),
    [
        pytest.param("ours-on-top", False, id="names of their own", marks=long_only),
        pytest.param("ours-on-top", True, id="the same names"),
        pytest.param("keep-both", True, id="the same names, both kept"),
    ],
)
def test_two_mounts_and_another_client(wire: Wire, conflict: str, common: bool) -> None:
    with two_sites(wire) as sites:
        for site in sites:
            site.mount(f"--conflict={conflict}")
        doings = Doings(wire, sites, random.Random(f"{conflict} {common}"), common=common)
        for _ in range(ROUNDS):
            doings.step()
        for _ in range(2):
            for site in sites:
                assert run_b2fs("sync", site.root).returncode == 0
        objects = {key: body for key, body in wire.contents().items() if not key.endswith("/")}
        assert plain(tree(sites[0])) == plain(tree(sites[1])) == plain(objects)
        kept = all_versions(wire)
        assert [place for place, body in doings.acknowledged.items() if body not in kept] == []
        assert len(doings.acknowledged) > 3
        for site in sites:
            site.umount()
    after = {key: body for key, body in wire.contents().items() if not key.endswith("/")}
    assert plain(after) == plain(objects)
    assert conflict == "keep-both" or plain(after) == after
    assert set(after.values()) <= kept
