"""Faults on the wire between the S3 client and a real server: when they end everything has arrived, and is right.

Each fault strikes the first call of every kind that the work makes, so each meets it at its worst place.
"""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest
import trio

from b2fs.errors import AccessDenied, BadCredentials, CapExceeded, StoreError, errno_of
from tests.e2e.wire import IMPATIENT, MIB, Wire, WiredCalls
from tests.faultproxy import (
    READS,
    WRITES,
    Delay,
    Fault,
    LoseAnswer,
    Refuse,
    ResetAnswer,
    ResetUpload,
    StallAnswer,
    StallUpload,
    TruncateAnswer,
)

CAP = "Cannot upload files, storage cap exceeded. See the Caps &amp; Alerts page to increase your cap."

#: Faults before the server has carried the call out: they may leave no trace.
REFUSED: dict[str, Fault] = {
    "500": Refuse(500, "InternalError"),
    "503": Refuse(503, "ServiceUnavailable", "no tomes available"),
    "reset while sending": ResetUpload(),
    "stalled while sending": StallUpload(),
}
#: Faults after it: what was made stays made.
DONE: dict[str, Fault] = {
    "answer lost": LoseAnswer(),
    "answer reset": ResetAnswer(),
    "answer cut": TruncateAnswer(),
    "answer stalled": StallAnswer(),
    "arrives late": Delay(),
}


OLD = {
    "changed": os.urandom(11 * MIB),
    "moved": b"moved" * 1000,
    "removed": b"removed",
    "d/one": b"one",
    "d/two": b"two" * 100,
    "read": os.urandom(300_000),
}
LARGE = os.urandom(11 * MIB)
NEW = {
    "changed": OLD["changed"][:100] + b"new" + OLD["changed"][103:],
    "moved away": OLD["moved"],
    "e/one": OLD["d/one"],
    "e/two": OLD["d/two"],
    "read": OLD["read"],
    "small": b"small" * 100,
    "large": LARGE,
}


def fill(wire: Wire) -> None:
    for key, body in OLD.items():
        wire.s3.put_object(Bucket=wire.bucket, Key=key, Body=body)


async def work(mount: WiredCalls) -> None:
    """Calls of every kind: whole files, large ones, changes, renames, removals, reading."""
    assert await mount.read("read") == OLD["read"]
    handle = await mount.open("changed")
    await mount.write(handle, 100, b"new")
    await mount.close(handle)
    await mount.save("small", NEW["small"])
    await mount.save("large", LARGE)
    await mount.rename("moved", "moved away")
    await mount.rename("d", "e")
    await mount.unlink("removed")


async def settle(mount: WiredCalls) -> None:
    """Return when nothing is pending, whatever fails on the way."""
    with trio.fail_after(200):
        while mount.fs.writeback.status().pending_files:
            try:
                await mount.fs.writeback.wait_drained()
            except StoreError:
                await trio.sleep(0.05)


def patience(fault: Fault) -> dict[str, Any] | None:
    return IMPATIENT if isinstance(fault, StallUpload | StallAnswer | Delay) else None


async def check_cold(wire: Wire) -> None:
    """A machine that has never seen the bucket reads what is right."""
    async with wire.mount(cold=True) as mount:
        for path, body in NEW.items():
            assert await mount.read(path) == body, path
        assert await mount.names() == {path.split("/")[0] for path in NEW}


@pytest.mark.parametrize("fault", REFUSED.values(), ids=REFUSED)
async def test_every_call_is_struck_before_it_is_carried_out(wire: Wire, fault: Fault) -> None:
    fill(wire)
    wire.proxy.harm_each(fault, (*WRITES, *READS))
    async with wire.mount(s3=patience(fault)) as mount:
        await work(mount)
        await settle(mount)
        check_budgets(mount)
    assert set(wire.proxy.struck) >= {*WRITES, "GetObject"} - {"DeleteObject"}
    wire.proxy.heal()
    assert wire.contents() == NEW
    assert {key: len(found) for key, found in wire.versions().items() if key in ("small", "large", "moved away")} == {
        "small": 1,
        "large": 1,
        "moved away": 1,
    }
    assert wire.uploads() == 0
    await check_cold(wire)


@pytest.mark.parametrize("fault", DONE.values(), ids=DONE)
async def test_every_call_is_struck_after_it_was_carried_out(wire: Wire, fault: Fault) -> None:
    fill(wire)
    wire.proxy.harm_each(fault, (*WRITES, *READS))
    async with wire.mount(s3=patience(fault)) as mount:
        await work(mount)
        await settle(mount)
        check_budgets(mount)
        assert mount.fs.writeback.status().conflicts == 0
    wire.proxy.heal()
    assert wire.contents() == NEW
    # What was made and not heard of stays as history: at most one version for each call that was struck.
    made = sum(len(found) for found in wire.versions().values())
    before = len(OLD) + len(set(NEW) - set(OLD)) + 1
    assert made <= before + wire.proxy.struck.total()
    assert wire.uploads() <= wire.proxy.struck["CreateMultipartUpload"]
    await check_cold(wire)


def check_budgets(mount: WiredCalls) -> None:
    """Whatever failed, what it held was given back."""
    mount.store.gate.check_invariants()
    assert mount.store.gate.in_flight == 0
    assert mount.fs._core.reader.memory_used <= mount.fs._core.config.reader.memory_bytes
    mount.fs._core.reader.check_invariants()


async def test_many_files_in_a_storm(wire: Wire) -> None:
    """A quarter of all calls meets one fault or another; names come, change and go meanwhile."""
    storm = (*REFUSED.values(), *DONE.values())
    for fault in (fault for fault in storm if not isinstance(fault, StallUpload | StallAnswer | Delay)):
        wire.proxy.harm(fault, (*WRITES, *READS), times=None, probability=0.04)
    expected: dict[str, bytes] = {}
    async with wire.mount() as mount:
        for number in range(80):
            name, body = f"f{number}", b"%d " % number * 50
            await mount.save(name, body)
            if number % 4 == 1:
                await mount.unlink(name)
            elif number % 4 == 2:
                await mount.rename(name, f"g{number}")
                expected[f"g{number}"] = body
            else:
                expected[name] = body
            if number % 20 == 19:
                await settle(mount)
        await settle(mount)
        check_budgets(mount)
    assert wire.proxy.struck.total() > 10
    wire.proxy.heal()
    assert wire.contents() == expected


async def test_retry_after_is_kept_on_the_wire(wire: Wire) -> None:
    """The S3 client keeps the first 503 to itself, so it is asked for once more, in a way that shows Retry-After."""
    wire.proxy.harm(Refuse(503, "SlowDown", headers=(("Retry-After", "1"),)), "PutObject", times=2)
    async with wire.mount() as mount:
        await mount.save("a", b"1", fsync=True)
    assert wire.contents() == {"a": b"1"}
    _, second, third = (request for request in wire.proxy.seen if request.operation == "PutObject")
    assert third.at - second.at >= 1


@pytest.mark.parametrize(
    ("refusal", "kind", "number"),
    [
        (Refuse(403, "AccessDenied", CAP), CapExceeded, errno.EDQUOT),
        (Refuse(403, "ExpiredToken", "the token has expired"), BadCredentials, errno.EACCES),
        (Refuse(401, "Unauthorized", "bad auth token"), BadCredentials, errno.EACCES),
        (Refuse(403, "AccessDenied", "not entitled"), AccessDenied, errno.EACCES),
    ],
    ids=["cap exceeded", "expired token", "401", "not entitled"],
)
async def test_a_refusal_is_told_and_when_it_ends_uploads_go_on_by_themselves(
    wire: Wire, refusal: Refuse, kind: type[StoreError], number: int
) -> None:
    body = os.urandom(2 * MIB)
    async with wire.mount() as mount:
        await mount.save("old", b"old", fsync=True)
        wire.proxy.harm(refusal, WRITES, times=None)
        small, large = await mount.create("small"), await mount.create("large")
        await mount.write(small, 0, b"small")
        await mount.write(large, 0, body)
        for handle in (small, large):
            with pytest.raises(kind) as caught:
                await mount.fs.fsync(handle, False)
            assert errno_of(caught.value) == number
        await mount.rename("old", "older")
        assert await mount.read("large") == body
        assert wire.contents() == {"old": b"old"}
        assert mount.fs.writeback.status().failed
        wire.proxy.heal()
        await settle(mount)
        assert mount.fs.writeback.status().failed == ()
        for handle in (small, large):
            await mount.fs.release(handle)
    assert wire.contents() == {"older": b"old", "small": b"small", "large": body}


async def test_the_answer_to_a_listing_and_to_a_read_that_stall(wire: Wire) -> None:
    """A reader waits no longer than a stall may last, and is served by the next attempt."""
    fill(wire)
    wire.proxy.harm_each(StallAnswer(), ("ListObjectsV2", "GetObject", "HeadObject"))
    async with wire.mount(s3=IMPATIENT) as mount:
        with trio.fail_after(20):
            assert await mount.names() == {"changed", "moved", "removed", "d", "read"}
            assert await mount.read("read") == OLD["read"]
    assert wire.proxy.struck["GetObject"] == wire.proxy.struck["ListObjectsV2"] == 1
