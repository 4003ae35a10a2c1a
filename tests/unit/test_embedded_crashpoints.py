"""The engine across a power failure at every single step.

A program forks once per step of a workload, and fails there as a machine does that loses its power: bytes that were not
synced are gone, names that were not synced in their directory are gone or old, and those that were removed are there
again; or of all that only the removals are lost, for a disk is free to write the rest.  (What SQLite writes is left as
it is: its own commits are synced before they return.)  The test then opens each store and looks for what was
acknowledged.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from b2fs.errors import NotFound
from b2fs.store.embedded.engine import Engine, EngineConfig

# Arguments: a directory for the stores, and how many steps to go on by.
PROGRAM = """
import json, os, sqlite3, sys
from b2fs.store.embedded import database
from b2fs.store.embedded.engine import Engine, EngineConfig
from b2fs.store.embedded.rows import BucketSpec, PartClaim

BIG = b"0123456789abcdef" * 8192
database._REST_S = 0.0  # every pause is one
unsynced, names, steps = {}, [], 0

def step():
    global steps
    steps += 1
    if steps == fail_at:
        for kind, path, old in reversed(names):
            if kind == "removed":
                real_rename(old, path)
            elif fail_at % 2:
                continue
            elif kind == "made" and os.path.exists(path):
                real_unlink(path)
            elif kind == "renamed" and os.path.exists(path):
                real_rename(path, old)
        for path in unsynced.values():
            if os.path.exists(path) and not fail_at % 2:
                os.truncate(path, 0)
        os._exit(7)

def wrap(name, note):
    real = getattr(os, name)
    def wrapped(*args, **options):
        step()
        result = real(*args, **options)
        note(result, *args)
        return result
    wrapped.__wrapped__ = real
    setattr(os, name, wrapped)

def note_open(fd, path, flags, mode=0o777):
    if flags & os.O_CREAT:
        names.append(("made", path, None))
        unsynced[fd] = path

def note_fsync(_, fd):
    path = os.readlink(f"/proc/self/fd/{fd}")
    names[:] = [name for name in names if os.path.dirname(name[1]) != path]
    unsynced.pop(fd, None)

wrap("open", note_open)
wrap("write", lambda _, fd, data: None)
wrap("fsync", note_fsync)
wrap("rename", lambda _, old, new: names.append(("renamed", new, old)))
real_rename, real_unlink = os.rename.__wrapped__, os.unlink

def unlink(path):
    step()
    kept = f"{directory}.{len(names)}.{steps}"
    os.link(path, kept)
    real_unlink(path)
    names.append(("removed", path, kept))

os.unlink = unlink

real_connect = sqlite3.connect
def connect(*args, **options):
    connection = real_connect(*args, **options)
    connection.set_trace_callback(lambda text: step())
    return connection
sqlite3.connect = connect

def work(directory, acknowledge):
    with Engine(EngineConfig(directory)) as engine:
        bucket = engine.create_bucket(BucketSpec("bucket")).id
        acknowledge("bucket", True)
        engine.put(bucket, "small", b"small")
        acknowledge("small", "small")
        first = engine.put(bucket, "big", BIG)
        acknowledge("big", "BIG")
        engine.put(bucket, "big", BIG[1:])
        acknowledge("big", "BIG[1:]")
        engine.delete_version(bucket, "big", first.version_id)
        acknowledge("big", "BIG[1:]")
        engine.copy(bucket, "big", None, bucket, "copy")
        acknowledge("copy", "BIG[1:]")
        upload = engine.create_upload(bucket, "parts")
        etags = [engine.put_part(bucket, "parts", upload.upload_id, n, BIG * 40).etag for n in (1, 2)]
        claims = [PartClaim(n, etag) for n, etag in enumerate(etags, 1)]
        engine.complete_upload(bucket, "parts", upload.upload_id, claims)
        acknowledge("parts", "BIG*80")
        engine.hide(bucket, "small")
        acknowledge("small", None)
    acknowledge("end", True)

root, stride = sys.argv[1], int(sys.argv[2])
fail_at = 0
while True:
    fail_at += stride
    directory = os.path.join(root, str(fail_at))
    child = os.fork()
    if child == 0:
        log = open(directory + ".log", "w", buffering=1)
        work(directory, lambda key, value: log.write(json.dumps([key, value]) + "\\n"))
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
"""
BIG = b"0123456789abcdef" * 8192
CONTENTS = {"small": b"small", "BIG": BIG, "BIG[1:]": BIG[1:], "BIG*80": BIG * 80}


def acknowledged(log: Path) -> dict[str, Any]:
    """The last acknowledged state of each key; the step that was under way may have happened, too."""
    return dict(json.loads(line) for line in log.read_text().splitlines())


def allowed(key: str, value: str | None) -> list[bytes | None]:
    """What may be seen where `value` was acknowledged: it, or what the workload does next to that key."""
    following: dict[tuple[str, str | None], str | None] = {("big", "BIG"): "BIG[1:]", ("small", "small"): None}
    texts = [value, following.get((key, value), value)]
    return [CONTENTS[text] if text is not None else None for text in texts]


def seen(engine: Engine, bucket: int, key: str) -> bytes | None:
    try:
        return bytes(engine.read(bucket, key)[1])
    except NotFound:
        return None


@pytest.mark.timeout(300)
def test_every_step_may_be_the_last(tmp_path: Path) -> None:
    stride = 1 if os.environ.get("B2FS_LONG") == "1" else 5
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path), str(stride)], check=True, timeout=200)
    logs = sorted(tmp_path.glob("*.log"), key=lambda path: int(path.stem))
    assert len(logs) * stride > 100
    assert "end" in acknowledged(logs[-1])
    for log in logs:
        states = acknowledged(log)
        states.pop("end", None)
        with Engine(EngineConfig(str(tmp_path / log.stem), durable=False)) as engine:
            report = engine.fsck()
            assert report.clean, (log.stem, report.problems)
            if states.pop("bucket", None):
                bucket = engine.bucket("bucket").id
                for key, value in states.items():
                    assert seen(engine, bucket, key) in allowed(key, value), (log.stem, key, value)
                engine.put(bucket, "after", BIG)
                assert seen(engine, bucket, "after") == BIG
