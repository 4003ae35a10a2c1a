"""kill -9 at random instants, again and again, while a program changes things and another client looks on.

After each kill: what a fsync had promised is in the bucket (I2).  After each new mount: every call that had returned is
there, and at most one that had not (I1).  And the other client never sees a torn object (I3).
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.e2e.campaign import TEMPORARY, History, Tree, apply, is_whole, look, replay
from tests.e2e.programs import DEADLINE_S, wait_until
from tests.e2e.sites import Site
from tests.servers import Server

RUNS = 200 if os.environ.get("B2FS_LONG") == "1" else 20
_POLL_S = 0.1


class Onlooker:
    """A client of its own that reads every object again and again, in a thread."""

    def __init__(self, server: Server, bucket: str) -> None:
        self._server, self._bucket = server, bucket
        self._stop = threading.Event()
        self.looked = 0
        self.torn: list[str] = []

    def run(self) -> None:
        with closing(self._server.client()) as client:
            seen: dict[str, str] = {}
            while not self._stop.wait(_POLL_S):
                for page in client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket):
                    for row in page.get("Contents", ()):
                        if _is_whole_key(row["Key"]) and seen.get(row["Key"]) != row["ETag"]:
                            seen[row["Key"]] = row["ETag"]
                            self._look(client, row["Key"])

    def _look(self, client: object, key: str) -> None:
        try:
            with client.get_object(Bucket=self._bucket, Key=key)["Body"] as body:  # type: ignore[attr-defined]  # made at run time
                found = body.read()
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchKey":
                raise
            return
        self.looked += 1
        if not is_whole(found):
            self.torn.append(f"{key}: {len(found)} bytes")

    @contextmanager
    def looking(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()


def _is_whole_key(key: str) -> bool:
    return not key.endswith("/") and not key.startswith(".b2fs/") and not key.rpartition("/")[2].startswith(TEMPORARY)


def work_and_kill(site: Site, log: Path, chance: random.Random) -> None:
    """Let the program work for a while, and kill the daemon in the middle of it."""
    lines = len(log.read_text().splitlines()) if log.exists() else 0
    command = [sys.executable, "-m", "tests.e2e.campaign", str(site.root), str(log), str(chance.randrange(1 << 30))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        wait_until(lambda: log.exists() and len(log.read_text().splitlines()) > lines, "the program works")
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(chance.uniform(0, 0.7))
        site.kill()
        assert program.wait(DEADLINE_S) != 0
        assert program.stderr is not None
        assert program.stderr.read().startswith("ended by: ")


def check_durable(site: Site, history: History) -> None:
    found = site.bucket.contents()
    for path in history.durable:
        held = history.tree[path]
        assert held is not None
        assert found.get(path) == held[0], f"{path} is not in the bucket as a fsync had promised"


def check_mount(site: Site, log: Path, history: History) -> None:
    """What is there is what the model says; the call that was under way is decided by what is found."""
    found = look(site.root)
    if found == history.tree:
        carried_out = False
    else:
        expected = apply(history.tree, history.open_call) if history.open_call is not None else history.tree
        differing = [path for path in found.keys() | expected.keys() if found.get(path, 0) != expected.get(path, 0)]
        told = [f"{path}: found {_told(found, path)}, wanted {_told(expected, path)}" for path in sorted(differing)]
        assert not told, f"{told} after {history.open_call}"
        carried_out = True
    if history.open_call is not None:
        with open(log, "a") as lines:
            lines.write(f"{int(carried_out)}\n")


def _told(tree: Tree, path: str) -> str:
    if path not in tree:
        return "nothing"
    held = tree[path]
    return "a directory" if held is None else f"{len(held[0])} bytes {held[0][14:20].hex()} {held[1]:o}"


def test_kills_at_random_instants(seaweedfs_site: Site, seaweedfs: Server) -> None:
    site, chance = seaweedfs_site, random.Random(2026)
    site.troubled = True  # the log says that changes from before are being stored
    log = site.directory / "campaign.log"
    onlooker = Onlooker(seaweedfs, site.bucket.url.removeprefix("s3://"))
    with onlooker.looking():
        for _ in range(RUNS):
            site.mount()
            check_mount(site, log, replay(log))
            work_and_kill(site, log, chance)
            check_durable(site, replay(log))
        site.mount()
        check_mount(site, log, replay(log))
        site.umount()
    assert onlooker.torn == []
    assert onlooker.looked > 0
    history = replay(log)
    assert history.count > 10 * RUNS
    objects = {key: body for key, body in site.bucket.contents().items() if not key.startswith(".b2fs/")}
    assert {key: body for key, body in objects.items() if not key.endswith("/")} == {
        path: held[0] for path, held in history.tree.items() if held is not None
    }
    site.mount(cold=True)
    check_mount(site, log, history)
    site.umount()
