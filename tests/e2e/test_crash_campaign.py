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
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

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
from tests.e2e.programs import B2FS, DEADLINE_S, force_unmount, is_mounted, is_running, wait_until
from tests.e2e.sites import LONG, RESERVED, Bucket, Site, long_only, new_site
from tests.e2e.wire import Wire
from tests.faultproxy import WRITES, Way
from tests.server.harness import KEY_ID, REGION, SECRET
from tests.server.harness import Server as ServeServer
from tests.servers import Server, boto3_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

RUNS = 200 if LONG else 20
TIMEOUT_S = 3600 if LONG else 300
SEED = int(os.environ.get("B2FS_SEED", "2026"))
_POLL_S = 0.1


class Onlooker:
    """A client of its own that reads every object again and again, in a thread."""

    def __init__(self, connect: Callable[[], S3Client], bucket: str) -> None:
        self._connect, self._bucket = connect, bucket
        self._stop = threading.Event()
        self.looked = 0
        self.torn: list[tuple[str, bytes]] = []
        #: Contents that are not whole, and that the files had all the same.
        self.allowed: set[bytes] = set()

    def run(self) -> None:
        with closing(self._connect()) as client:
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
            self.torn.append((key, found))

    def body(self, key: str) -> bytes | None:
        """What the bucket has under a key now."""
        with closing(self._connect()) as client:
            try:
                with client.get_object(Bucket=self._bucket, Key=key)["Body"] as body:
                    return body.read()
            except client.exceptions.NoSuchKey:
                return None

    def rows(self, key: str) -> list[str]:
        """All that the bucket has had under a key, for whoever has to explain what is found there."""
        with closing(self._connect()) as client:
            answer = client.list_object_versions(Bucket=self._bucket, Prefix=key)
        versions = [(row["LastModified"], f"{row['Key']} {row.get('Size')}") for row in answer.get("Versions", ())]
        markers = [(row["LastModified"], f"{row['Key']} hidden") for row in answer.get("DeleteMarkers", ())]
        return [f"{when} {what}" for when, what in sorted(versions + markers)]

    def is_allowed(self, found: bytes) -> bool:
        """Whether it is what a write has left in part, or that with whole records behind it."""
        return any(found.startswith(part) for part in self.allowed)

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
        with mounting(site) as mount:
            with pytest.raises(subprocess.TimeoutExpired):
                mount.wait(chance.uniform(0.3, 1.5))
            mount.kill()
        force_unmount(site.root)


def mounting(site: Site) -> subprocess.Popen[bytes]:
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


def check_durable(site: Site, log: Path, onlooker: Onlooker, end: str) -> None:
    history = replay(log)
    found, wanted = site.bucket.contents(), history.tree.look()
    for path in history.durable:
        held = wanted[path]
        assert held is not None
        # SeaweedFS leaves a key out of a listing now and then, so the key itself is asked for.
        if found.get(path) != held[0] and onlooker.body(path) != held[0]:
            calls = [line for line in log.read_text().splitlines() if path in line][-10:]
            pytest.fail(
                f"not in the bucket as a fsync had promised, after {end}: {path}\n{calls}\n{onlooker.rows(path)}"
            )
    for directory in history.complete:
        names = {path for path in found if os.path.dirname(path) == directory and not path.endswith("/")}
        expected = {path for path, held in wanted.items() if held is not None and os.path.dirname(path) == directory}
        if names != expected:
            rows = [row for path in names ^ expected for row in onlooker.rows(path)]
            pytest.fail(f"not in the bucket as a fsync had promised, after {end}: {directory or 'the root'}\n{rows}")


def check_mount(site: Site, log: Path, history: History, onlooker: Onlooker | None = None) -> None:
    """What is there is what the model says; the call that was under way is decided by what is found."""
    found = look(site.root)
    if onlooker is not None and (part := part_written(history, found)) is not None:
        onlooker.allowed.add(part)
    carried_out = found != history.tree.look()
    if carried_out:
        after = apply(history.tree, history.open_call) if history.open_call is not None else history.tree
        expected = after.look()
        differing = [path for path in found.keys() | expected.keys() if found.get(path, 0) != expected.get(path, 0)]
        told = [f"{path}: found {_told(found, path)}, wanted {_told(expected, path)}" for path in sorted(differing)]
        assert not told, f"{told} after {history.open_call}"
    if history.open_call is not None:
        history.end(carried_out, returned=False)
    settle(log, history)


def part_written(history: History, found: Look) -> bytes | None:
    """What a write under way has left, if that is a part of it: the kernel hands long ones over in pieces.

    The model then takes the part for what the call was to write.
    """
    call = history.open_call
    if call is None or call[0] not in ("write", "osync", "append"):
        return None
    path = str(call[1])
    held, before, after = found.get(path), history.tree.file(path), apply(history.tree, call).file(path)
    if held is None or held[0] in (before[0], after[0]):
        return None
    assert len(before[0]) < len(held[0]) < len(after[0])
    assert after[0].startswith(held[0]), "what a write has left is not the beginning of what it was given"
    history.tree.change(path, held[0])
    return held[0]


def _told(tree: Look, path: str) -> str:
    if path not in tree:
        return "nothing"
    held = tree[path]
    return "a directory" if held is None else f"{len(held[0])} bytes {held[0][14:20].hex()} {held[1]:o}"


@pytest.mark.timeout(TIMEOUT_S)
def test_kills_at_random_instants(seaweedfs_site: Site, seaweedfs: Server) -> None:
    run_campaign(seaweedfs_site, seaweedfs.client)


@long_only
@pytest.mark.timeout(TIMEOUT_S)
def test_kills_at_random_instants_before_b2fs_serve(wire: Wire) -> None:
    with new_site(lambda _: wire.as_bucket(past_proxy=True)) as site:
        run_campaign(site, lambda: boto3_client(wire.proxy.upstream, KEY_ID, SECRET, REGION))


@long_only
@pytest.mark.timeout(TIMEOUT_S)
def test_kills_at_random_instants_on_an_embedded_bucket(served: ServeServer, wire: Wire) -> None:
    """The other client comes through a server of the same directory."""
    with new_site(lambda _: Bucket(f"file://{served.directory}/store/{wire.bucket}", (), {}, wire.contents)) as site:
        run_campaign(site, lambda: boto3_client(wire.proxy.upstream, KEY_ID, SECRET, REGION), wire.bucket)


class Slow:
    """The server takes its time, and carries out what it was asked for whether or not the client is still alive."""

    def __init__(self) -> None:
        self._chance = random.Random(SEED)

    def strike(self, way: Way) -> None:
        way.body()
        time.sleep(self._chance.uniform(0, 2.0))  # it is the fault, and nothing waits for its end
        way.answer(way.ask())


@long_only
@pytest.mark.timeout(TIMEOUT_S)
def test_kills_at_random_instants_before_a_slow_server(wire: Wire) -> None:
    """What a killed mount had on its way lands within the time in which the next one waits for that."""
    wire.proxy.harm(Slow(), WRITES, times=None, probability=0.15)
    with new_site(lambda _: wire.as_bucket()) as site:
        run_campaign(site, lambda: boto3_client(wire.proxy.upstream, KEY_ID, SECRET, REGION))


def run_campaign(site: Site, connect: Callable[[], S3Client], bucket: str | None = None) -> None:
    chance = random.Random(SEED)
    site.troubled = True  # the log says that changes from before are being stored
    log = site.directory / "campaign.log"
    onlooker = Onlooker(connect, bucket or site.bucket.url.removeprefix("s3://"))
    with onlooker.looking():
        for _ in range(RUNS):
            site.mount()
            check_mount(site, log, replay(log), onlooker)
            end = chance.choice(ENDS)
            end(site, log, chance)
            clear_mountpoint(site)
            check_durable(site, log, onlooker, end.__name__)
        site.mount()
        check_mount(site, log, replay(log), onlooker)
        site.umount()
    assert [(key, len(body)) for key, body in onlooker.torn if not onlooker.is_allowed(body)] == []
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
