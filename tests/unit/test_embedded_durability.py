"""The engine across crashes, damage, two processes and a full disk."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from b2fs.errors import CapExceeded, NotFound, Unavailable
from b2fs.store.embedded import content as content_module
from b2fs.store.embedded import database
from b2fs.store.embedded.engine import Engine, EngineConfig
from b2fs.store.embedded.errors import DamagedStore
from b2fs.store.embedded.rows import BucketChanges, BucketSpec, FsckReport
from b2fs.store.embedded.schema import APPLICATION_ID, MIGRATIONS

BIG = bytes(range(256)) * 400

# Writes small and large bodies and copies from three threads, and names each one that was acknowledged.
WRITER = """
import sys, threading
from b2fs.store.embedded.engine import Engine, EngineConfig
engine = Engine(EngineConfig(sys.argv[1]))
bucket = engine.bucket("bucket").id
lock = threading.Lock()
def work(name):
    n = 0
    while True:
        body = f"{name}-{n}-".encode() * (3 + n % 5 * 2000)
        row = engine.put(bucket, f"{name}/{n}", body)
        if n % 3 == 0:
            engine.put(bucket, "shared", body)
        if n % 7 == 0:
            engine.delete_version(bucket, f"{name}/{n}", row.version_id)
        else:
            with lock:
                print(name, n, flush=True)
        n += 1
for name in sys.argv[2:]:
    threading.Thread(target=work, args=(name,)).start()
"""


def open_store(path: Path, **options: bool) -> Engine:
    return Engine(EngineConfig(str(path), **options))


def make_store(path: Path) -> None:
    with open_store(path) as engine:
        engine.create_bucket(BucketSpec("bucket"))


@contextmanager
def running_writer(path: Path, *names: str) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-c", WRITER, str(path), *names]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as writer:
        try:
            yield writer
        finally:
            writer.kill()


def read_acknowledged(writer: subprocess.Popen[str], count: int) -> list[tuple[str, int]]:
    """At least count acknowledged writes, then SIGKILL, then what was still in the pipe."""
    assert writer.stdout is not None
    lines = [writer.stdout.readline() for _ in range(count)]
    writer.send_signal(signal.SIGKILL)
    lines += writer.stdout.readlines()
    return [(name, int(n)) for name, n in (line.split() for line in lines if line.endswith("\n"))]


def check_acknowledged(engine: Engine, acknowledged: list[tuple[str, int]]) -> None:
    bucket = engine.bucket("bucket").id
    for name, n in acknowledged:
        assert engine.read(bucket, f"{name}/{n}")[1] == f"{name}-{n}-".encode() * (3 + n % 5 * 2000)


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    make_store(tmp_path)
    for run in range(4):
        with running_writer(tmp_path, f"a{run}", f"b{run}", f"c{run}") as writer:
            acknowledged = read_acknowledged(writer, 25 + 20 * run)
        with open_store(tmp_path) as engine:
            assert list(tmp_path.glob("incoming/*")) == []
            report = engine.fsck()
            assert report.clean, report.problems
            check_acknowledged(engine, acknowledged)


def test_the_directories_above_a_new_store_are_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[str] = set()
    fsync = os.fsync

    def watched(fd: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", watched)
        make_store(tmp_path / "a" / "b" / "store")
    assert {
        str(tmp_path),
        str(tmp_path / "a"),
        str(tmp_path / "a" / "b"),
        str(tmp_path / "a" / "b" / "store"),
    } <= synced


def test_two_processes_share_a_store(tmp_path: Path) -> None:
    make_store(tmp_path)
    with running_writer(tmp_path, "theirs") as writer, open_store(tmp_path) as engine:
        bucket = engine.bucket("bucket").id
        for n in range(40):
            engine.put(bucket, f"ours/{n}", BIG if n % 4 == 0 else b"small")
            engine.put(bucket, "shared", b"ours")
        acknowledged = read_acknowledged(writer, 30)
        check_acknowledged(engine, acknowledged)
        assert len(engine.list_objects(bucket, "ours/").rows) == 40
        assert engine.fsck().clean
        fids = [row.fid for row in engine.list_versions(bucket).rows]
        assert len(set(fids)) == len(fids)


def test_opening_leaves_the_bodies_of_a_running_writer_alone(tmp_path: Path) -> None:
    make_store(tmp_path)
    with open_store(tmp_path) as first, first.writer() as writer:
        writer.write(BIG)
        with open_store(tmp_path) as second:
            assert len(list(tmp_path.glob("incoming/*"))) == 1
            bucket = first.bucket("bucket").id
            first.put(bucket, "a", writer)
            assert second.read(bucket, "a")[1] == BIG


def test_what_a_crash_leaves_in_incoming(tmp_path: Path) -> None:
    """A body that was committed and not yet in its place counts; one without a row is removed."""
    make_store(tmp_path)
    with open_store(tmp_path) as engine:
        engine.put(engine.bucket("bucket").id, "a", BIG)
    [placed] = tmp_path.glob("content/*/*")
    placed.rename(tmp_path / "incoming" / placed.name)
    (tmp_path / "incoming" / "0123").write_bytes(b"half a bo")
    with open_store(tmp_path) as engine:
        assert engine.read(engine.bucket("bucket").id, "a")[1] == BIG
        assert engine.fsck().clean
    assert list(tmp_path.glob("incoming/*")) == []
    assert placed.exists()


def test_files_whose_removal_a_crash_prevented(tmp_path: Path) -> None:
    make_store(tmp_path)
    with open_store(tmp_path) as engine:
        bucket = engine.bucket("bucket").id
        row = engine.put(bucket, "a", BIG)
        [placed] = tmp_path.glob("content/*/*")
        engine.delete_version(bucket, "a", row.version_id)
    placed.write_bytes(BIG)  # as if the process had died between commit and unlink: the trash still names it
    with open_store(tmp_path):
        assert not placed.exists()
    database = sqlite3.connect(tmp_path / "store.db")
    assert database.execute("SELECT count(*) FROM trash").fetchone() == (0,)
    database.close()


# --- fsck


def damaged_store(path: Path, damage: Callable[[Path], object]) -> Engine:
    make_store(path)
    with open_store(path) as engine:
        bucket = engine.bucket("bucket").id
        engine.put(bucket, "a", b"older")
        engine.put(bucket, "a", BIG)
        engine.copy(bucket, "a", None, bucket, "copy")
        engine.put(bucket, "small", b"small")
    damage(path)
    return open_store(path)


def kinds(report: FsckReport) -> set[str]:
    return {problem.kind for problem in report.problems}


def test_a_sound_store(tmp_path: Path) -> None:
    with damaged_store(tmp_path, lambda path: None) as engine:
        report = engine.fsck()
        assert report.clean
        assert (report.versions, report.contents) == (4, 3)
        assert report.bytes_checked == len(BIG) + 10


def test_a_lost_file(tmp_path: Path) -> None:
    with damaged_store(tmp_path, lambda path: next(path.glob("content/*/*")).unlink()) as engine:
        bucket = engine.bucket("bucket").id
        with pytest.raises(DamagedStore):
            engine.read(bucket, "a")
        assert kinds(engine.fsck()) == {"missing"}
        assert all(problem.repaired for problem in engine.fsck(repair=True).problems)
        assert engine.fsck().clean
        assert engine.read(bucket, "a")[1] == b"older"
        with pytest.raises(NotFound):
            engine.head(bucket, "copy")


def test_ranges_of_a_large_file_are_right_or_refused(tmp_path: Path) -> None:
    content = BIG * 30
    make_store(tmp_path)
    with open_store(tmp_path) as engine:
        bucket = engine.bucket("bucket").id
        engine.put(bucket, "a", content)
        for start, end in ((0, 1 << 20), (12345, 2_500_000), (0, len(content))):
            assert engine.read(bucket, "a", None, start, end)[1] == content[start:end]
        (file,) = tmp_path.glob("content/*/*")
        os.truncate(file, len(content) - 1)
        assert engine.read(bucket, "a", None, 0, 1 << 20)[1] == content[: 1 << 20]
        with pytest.raises(DamagedStore):
            engine.read(bucket, "a", None, 1 << 20, len(content))


@pytest.mark.parametrize(("content", "kind"), [(b"short", "size"), (bytes(len(BIG)), "md5")])
def test_a_changed_file_is_found_and_left(tmp_path: Path, content: bytes, kind: str) -> None:
    with damaged_store(tmp_path, lambda path: next(path.glob("content/*/*")).write_bytes(content)) as engine:
        report = engine.fsck(repair=True)
        assert kinds(report) == {kind}
        assert not report.problems[0].repaired
        if kind == "size":
            with pytest.raises(DamagedStore):
                engine.read(engine.bucket("bucket").id, "a")


@pytest.mark.parametrize("refused", ["unlink", "sync_directory"])
def test_a_disk_that_does_not_let_bodies_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    """They are left to the next start, and everything else goes on."""
    make_store(tmp_path)
    asked = threading.Event()

    def refuse(*_: object) -> None:
        asked.set()
        raise OSError(errno.EIO, "refused")

    monkeypatch.setattr(database, "_REST_S", 0.0)
    with open_store(tmp_path) as engine:
        bucket = engine.bucket("bucket").id
        row = engine.put(bucket, "a", BIG)
        with monkeypatch.context() as patch:
            patch.setattr(os if refused == "unlink" else content_module, refused, refuse)
            engine.delete_version(bucket, "a", row.version_id)
            assert asked.wait(60)
            engine.put(bucket, "b", b"small")
        assert engine.fsck().clean
    with open_store(tmp_path) as engine:
        assert engine.fsck().clean
        assert [*tmp_path.glob("content/*/*")] == []
        with engine._database.reader() as connection:
            assert connection.execute("SELECT count(*) FROM trash").fetchone() == (0,)


def test_an_orphan_file(tmp_path: Path) -> None:
    def damage(path: Path) -> None:
        (path / "content" / "ab").mkdir(exist_ok=True)
        (path / "content" / "ab" / "abcd").write_bytes(b"orphan")

    with damaged_store(tmp_path, damage) as engine:
        assert kinds(engine.fsck()) == {"orphan"}
        engine.fsck(repair=True)
        assert engine.fsck().clean
    # Files go behind the transaction; closing waits for that.
    assert not (tmp_path / "content" / "ab" / "abcd").exists()


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("UPDATE versions SET is_latest = 0 WHERE key = 'a'", "order"),
        ("INSERT INTO contents VALUES (999, 0, 1, '', NULL, x'00')", "dangling"),
        ("UPDATE versions SET content = 999 WHERE key = 'small'", "missing"),
        ("DELETE FROM contents WHERE kind = 1", "missing"),
    ],
)
def test_damaged_rows(tmp_path: Path, statement: str, kind: str) -> None:
    def damage(path: Path) -> None:
        database = sqlite3.connect(path / "store.db")
        database.execute(statement)
        database.commit()
        database.close()

    with damaged_store(tmp_path, damage) as engine:
        assert kind in kinds(engine.fsck())
        engine.fsck(repair=True)
        assert engine.fsck().clean


def test_a_directory_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(DamagedStore):
        open_store(tmp_path)


def test_a_database_of_another_program_or_a_newer_b2fs(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "store.db")
    database.execute("CREATE TABLE theirs (x)")
    database.commit()
    with pytest.raises(DamagedStore):
        open_store(tmp_path)
    database.execute("DROP TABLE theirs")
    database.execute("PRAGMA user_version = 9999")
    database.close()
    with pytest.raises(DamagedStore):
        open_store(tmp_path)


def test_a_store_of_the_first_version_is_brought_forward(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "store.db")
    for statement in MIGRATIONS[0]:
        database.execute(statement)
    database.execute(
        "INSERT INTO buckets VALUES (1, ?, 'bucket', 'owner', '', 0, 3, 'private', NULL, NULL, NULL, NULL, 0,"
        " NULL, NULL, NULL)",
        ("a" * 24,),
    )
    database.execute("INSERT INTO contents VALUES (2, 0, 1, ?, NULL, 'x')", (hashlib.md5(b"x").hexdigest(),))
    database.execute(
        "INSERT INTO versions VALUES (3, 1, 'k', 5, 1, ?, 5000, 5000, 1, 0, 2, '{}', NULL, NULL, NULL)",
        (hashlib.md5(b"x").hexdigest(),),
    )
    database.execute("UPDATE sequence SET next_id = 4")
    database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    database.execute("PRAGMA user_version = 1")
    database.commit()
    database.close()
    with open_store(tmp_path) as engine:
        bucket = engine.bucket("bucket")
        assert (bucket.revision, bucket.replication_json, bucket.notifications_json) == (3, None, None)
        assert engine.head(bucket.id, "k").size == 1
        changed = engine.update_bucket(bucket.id, BucketChanges(replication_json="{}"))
        assert (changed.revision, changed.replication_json, changed.owner) == (4, "{}", "owner")
    with open_store(tmp_path) as engine:
        assert engine.bucket("bucket") == changed


# --- Faults


def test_a_full_disk_is_a_cap_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path)
    with open_store(tmp_path) as engine:
        bucket = engine.bucket("bucket").id
        engine.put(bucket, "a", b"old")
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", _no_space)
            with pytest.raises(CapExceeded):
                engine.put(bucket, "a", BIG)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", _no_space)
            with pytest.raises(CapExceeded):
                engine.put(bucket, "a", BIG)
        assert list(tmp_path.glob("incoming/*")) == []
        assert engine.read(bucket, "a")[1] == b"old"
        engine.put(bucket, "a", BIG)
        assert engine.fsck().clean


def _no_space(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_database_fails_its_changes_and_recovers(tmp_path: Path) -> None:
    make_store(tmp_path)
    with open_store(tmp_path) as engine:
        bucket = engine.bucket("bucket").id
        (limit,) = engine.transact(lambda connection: connection.execute("PRAGMA max_page_count = 60").fetchone())
        assert limit == 60
        with pytest.raises(CapExceeded):
            for n in range(100):
                engine.put(bucket, f"{n}", bytes(8000))
        engine.transact(lambda connection: connection.execute("PRAGMA max_page_count = 100000").fetchone())
        engine.put(bucket, "again", bytes(8000))
        assert engine.fsck().clean


def test_one_refused_change_does_not_touch_the_others_of_its_batch(tmp_path: Path) -> None:
    make_store(tmp_path)
    with open_store(tmp_path) as engine:
        bucket = engine.bucket("bucket").id
        hold = threading.Event()
        blocker = threading.Thread(target=engine.transact, args=(lambda connection: hold.wait(),))
        blocker.start()
        futures = [engine.put_nowait(bucket, "a", str(n).encode(), if_none_match=True) for n in range(5)]
        others = [engine.put_nowait(bucket, f"b{n}", b"x") for n in range(5)]
        hold.set()
        blocker.join()
        assert [future.exception() is None for future in futures] == [True, False, False, False, False]
        assert [future.result().key for future in others] == [f"b{n}" for n in range(5)]
        assert engine.read(bucket, "a")[1] == b"0"


def test_a_closed_engine_says_so(tmp_path: Path) -> None:
    make_store(tmp_path)
    engine = open_store(tmp_path)
    bucket = engine.bucket("bucket").id
    future = engine.put_nowait(bucket, "a", b"x")
    engine.close()
    engine.close()
    assert future.result().key == "a"
    with pytest.raises(Unavailable):
        engine.put(bucket, "a", b"x")
    with pytest.raises(Unavailable):
        engine.head(bucket, "a")
