"""kill -9 at random instants, again and again, while a program changes things and another client looks on.

Most kills strike while the program works, others a drain, a recovery or a second kill's recovery; some ends are two
signals.  After each: what a fsync had promised is in the bucket (I2).  After each new mount: every call that had
returned is there, and at most one that had not (I1).  And the other client never sees a torn object (I3).
"""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.e2e.campaign_model import (
    MAPPED,
    SYMLINK,
    TEMPORARY,
    History,
    Look,
    apply,
    is_whole,
    look,
    replay,
    settle,
)
from tests.e2e.programs import B2FS, DEADLINE_S, force_unmount, is_mounted, wait_until
from tests.e2e.sites import LONG, RESERVED, Site, is_running
from tests.servers import Server

RUNS = 200 if LONG else 15
SEED = int(os.environ.get("B2FS_SEED", "2026"))
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
        if not is_whole(key, found):
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
    name = key.rpartition("/")[2]
    reserved = key.endswith("/") or key.startswith(RESERVED) or name.startswith(TEMPORARY)
    return not (reserved or name.endswith((MAPPED, SYMLINK)))


# --- How a mount ends


@contextmanager
def working(site: Site, log: Path, chance: random.Random) -> Iterator[subprocess.Popen[str]]:
    """A program at work on the mount; at the end of the block it must have ended because the mount did."""
    lines = len(log.read_text().splitlines()) if log.exists() else 0
    command = [sys.executable, "-m", "tests.e2e.campaign", str(site.root), str(log), str(chance.randrange(1 << 30))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        wait_until(lambda: log.exists() and len(log.read_text().splitlines()) > lines, "the program works")
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(chance.uniform(0, 0.7))
        yield program
        assert program.wait(DEADLINE_S) != 0
        assert program.stderr is not None
        assert program.stderr.read().startswith("ended by: ")


def kill_at_work(site: Site, log: Path, chance: random.Random) -> None:
    """kill -9 while the program works."""
    with working(site, log, chance):
        site.kill()


def kill_at_work_and_in_recovery(site: Site, log: Path, chance: random.Random) -> None:
    """kill -9 while the program works, and again while the next mounts take up what is left."""
    kill_at_work(site, log, chance)
    for _ in range(2):
        with _mounting(site) as mount:
            with pytest.raises(subprocess.TimeoutExpired):
                mount.wait(chance.uniform(0.3, 1.5))
            mount.kill()
        force_unmount(site.root)


def _mounting(site: Site) -> subprocess.Popen[bytes]:
    """A mount that is being made, and that can be killed on the way."""
    words = ["mount", "--foreground", *site.bucket.words, f"--cache-dir={site.cache}", site.bucket.url, str(site.root)]
    environ = {**os.environ, **site.bucket.environ, **site.environ}
    return subprocess.Popen([*B2FS, *words], env=environ, stderr=subprocess.DEVNULL)


def kill_in_drain(site: Site, log: Path, chance: random.Random) -> None:
    """kill -9 while b2fs umount waits for the uploads."""
    pid = site.pid
    with working(site, log, chance) as program:
        program.send_signal(signal.SIGSTOP)
        with subprocess.Popen([*B2FS, "umount", str(site.root)], stderr=subprocess.DEVNULL) as umount:
            _is_gone_within(umount.pid, chance.uniform(0, 1.0))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not is_running(pid), "the daemon has ended")
            force_unmount(site.root)
        program.send_signal(signal.SIGCONT)


def two_signals(site: Site, log: Path, chance: random.Random) -> None:
    """SIGTERM drains; a second one ends at once."""
    pid = site.pid
    with working(site, log, chance):
        os.kill(pid, signal.SIGTERM)
        _is_gone_within(pid, chance.uniform(0, 0.5))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not is_running(pid), "the daemon has ended")
        force_unmount(site.root)


ENDS = [kill_at_work] * 12 + [kill_at_work_and_in_recovery] * 3 + [kill_in_drain] * 3 + [two_signals] * 2


def _is_gone_within(pid: int, seconds: float) -> bool:
    fd = os.pidfd_open(pid)
    try:
        return bool(select.select([fd], [], [], seconds)[0])
    finally:
        os.close(fd)


def clear_mountpoint(site: Site) -> None:
    """What the program did behind the end of a mount that went in good order is in the directory below."""
    assert not is_mounted(site.root)
    shutil.rmtree(site.root)
    site.root.mkdir()


# --- What must be there


def check_durable(site: Site, history: History) -> None:
    found, wanted = site.bucket.contents(), history.tree.look()
    for path in history.durable:
        held = wanted[path]
        assert held is not None
        assert found.get(path) == held[0], f"{path} is not in the bucket as a fsync had promised"
    for directory in history.complete:
        names = {path for path in found if os.path.dirname(path) == directory and not path.endswith("/")}
        expected = {path for path, held in wanted.items() if held is not None and os.path.dirname(path) == directory}
        assert names == expected, f"{directory or 'the root'} is not in the bucket as a fsync had promised"


def check_mount(site: Site, log: Path, history: History) -> None:
    """What is there is what the model says; the call that was under way is decided by what is found."""
    found = look(site.root)
    carried_out = found != history.tree.look()
    if carried_out:
        after = apply(history.tree, history.open_call) if history.open_call is not None else history.tree
        expected = after.look()
        differing = [path for path in found.keys() | expected.keys() if found.get(path, 0) != expected.get(path, 0)]
        told = [f"{path}: found {_told(found, path)}, wanted {_told(expected, path)}" for path in sorted(differing)]
        assert not told, f"{told} after {history.open_call}"
    if history.open_call is not None:
        history.end(carried_out)
    settle(log, history)


def _told(tree: Look, path: str) -> str:
    if path not in tree:
        return "nothing"
    held = tree[path]
    return "a directory" if held is None else f"{len(held[0])} bytes {held[0][14:20].hex()} {held[1]:o}"


def test_kills_at_random_instants(seaweedfs_site: Site, seaweedfs: Server) -> None:
    site, chance = seaweedfs_site, random.Random(SEED)
    site.troubled = True  # the log says that changes from before are being stored
    log = site.directory / "campaign.log"
    onlooker = Onlooker(seaweedfs, site.bucket.url.removeprefix("s3://"))
    with onlooker.looking():
        for _ in range(RUNS):
            site.mount()
            check_mount(site, log, replay(log))
            end = chance.choice(ENDS)
            end(site, log, chance)
            clear_mountpoint(site)
            check_durable(site, replay(log))
        site.mount()
        check_mount(site, log, replay(log))
        site.umount()
    assert onlooker.torn == []
    assert onlooker.looked > 0
    history = replay(log)
    assert history.count > 10 * RUNS
    wanted = history.tree.look()
    assert {key: body for key, body in site.bucket.contents().items() if not key.endswith("/")} == {
        path: held[0] for path, held in wanted.items() if held is not None
    }
    site.mount(cold=True)
    check_mount(site, log, history)
    site.umount()
