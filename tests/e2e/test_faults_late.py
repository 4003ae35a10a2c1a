"""Servers that take back for a moment what they said, confirm what they did not do, or answer twice."""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from urllib.parse import unquote

import pytest
import trio

from b2fs.errors import FsError, StoreError
from tests.e2e.test_faults_lies import FALSE_SUCCESS, LARGE, SMALL, FalseSuccess, check_cold
from tests.e2e.test_faults_wire import settle
from tests.e2e.wire import MIB, Wire, WiredCalls
from tests.faultproxy import READS, WRITES, Answer, Way, error_body

#: For how long a new version is not seen yet, in seconds.
_UNSEEN_S = 0.5


class Unseen:
    """Who asks for a key within a moment after it was put is told that there is none."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def strike(self, way: Way) -> None:
        answer = way.ask()
        key = unquote(way.request.headers.get("x-amz-copy-source", "")).partition("?")[0].partition("/")[2]
        puts = ("PutObject", "CopyObject", "CompleteMultipartUpload")
        put_at = [r.at for r in self._wire.proxy.seen if r.key == (key or way.request.key) and r.operation in puts]
        if put_at and time.monotonic() - put_at[-1] < _UNSEEN_S:
            xml = (("Content-Type", "application/xml"),)
            answer = Answer(404, "Not Found", xml, b"" if way.request.method == "HEAD" else error_body("NoSuchKey"))
        way.answer(answer)


async def append(mount: WiredCalls, path: str, at: int) -> None:
    """A program may be told that what it wants to change cannot be read yet."""
    handle = await mount.create(path) if at == 0 else await mount.open(path)
    while True:
        try:
            await mount.write(handle, at, b"abc")
        except FsError as error:
            assert error.code == errno.ESTALE
            await trio.sleep(_UNSEEN_S / 5)
        else:
            break
    await mount.fs.fsync(handle, False)
    await mount.close(handle)


async def test_what_was_stored_is_not_found_for_a_moment(wire: Wire) -> None:
    """Nothing that was stored here is taken for removed, and in the end everything is right."""
    wire.proxy.harm(Unseen(wire), (*READS, "CopyObject"), times=None)
    expected: dict[str, bytes] = {}
    async with wire.mount(ttl_s=0.0) as mount:
        for number in range(5):
            await mount.save("a", b"%d" % number, fsync=True)
            await mount.save("moved", SMALL + b"%d" % number, fsync=True)
            await mount.rename("moved", f"b{number}")
            expected[f"b{number}"] = SMALL + b"%d" % number
            await append(mount, "grows", number * 3)
        await settle(mount)
    await check_cold(wire, {**expected, "a": b"4", "grows": b"abc" * 5})


@pytest.mark.parametrize("operation", ["PutObject", "UploadPart"])
async def test_bodies_that_were_not_stored_and_say_200(wire: Wire, operation: str) -> None:
    """An answer without the ETag of what was sent is none."""
    wire.proxy.harm(FalseSuccess(), operation, times=len(FALSE_SUCCESS))
    async with wire.mount() as mount:
        await mount.save("small", SMALL)
        await mount.save("large", LARGE[: 2 * MIB])
        await settle(mount)
    assert wire.proxy.struck[operation] == len(FALSE_SUCCESS)
    await check_cold(wire, {"small": SMALL, "large": LARGE[: 2 * MIB]})


class Twice:
    """The same answer a second time, which the next request on the connection finds there."""

    def strike(self, way: Way) -> None:
        answer = way.ask()
        way.answer(answer)
        way.answer(answer)


async def test_answers_that_come_twice(wire: Wire) -> None:
    wire.proxy.harm(Twice(), (*WRITES, *READS), times=None, probability=0.3)
    bodies = {f"f{number}": os.urandom(1000 + number) for number in range(30)}
    async with wire.mount(ttl_s=0.0) as mount:
        for key, body in bodies.items():
            await mount.save(key, body)
        await mount.save("large", LARGE)
        await settle(mount)
        for number in range(10):
            await mount.rename(f"f{number}", f"g{number}")
            bodies[f"g{number}"] = bodies.pop(f"f{number}")
            await mount.unlink(f"f{number + 10}")
            del bodies[f"f{number + 10}"]
        await settle(mount)
        for key, body in bodies.items():
            with suppress(FsError, StoreError):  # but never wrong bytes
                assert await mount.read(key) == body
    await check_cold(wire, {**bodies, "large": LARGE})
