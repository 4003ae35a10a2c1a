"""No version that ever becomes visible is anything but one whole content that the file had (I3)."""

from __future__ import annotations

import os
import random

import pytest
import trio
from trio.testing import MockClock

from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.store.forward import Method
from tests.writeback.harness import Mount, Place

MIB = 1 << 20
#: Files of a few megabytes already go up in parts.
SMALL_PUTS = WriteBackConfig(put_max_bytes=1 * MIB, stream_bytes=12 * MIB, quiet_s=0.1, open_quiet_s=0.3)


class Written:
    """What a file has held, at each moment."""

    def __init__(self, body: bytes = b"") -> None:
        self.body = bytearray(body)
        self.seen = {bytes(self.body)}

    def write(self, offset: int, data: bytes) -> None:
        self.body.extend(bytes(max(0, offset - len(self.body))))
        self.body[offset : offset + len(data)] = data
        self.seen.add(bytes(self.body))

    def check(self, place: Place, key: str) -> None:
        for body in place.bucket.shown.get(key, ()):
            assert body is None or body in self.seen, "a content that the file never had"


async def write(mount: Mount, handle: object, written: Written, offset: int, data: bytes) -> None:
    await mount.write(handle, offset, data)  # type: ignore[arg-type]  # a handle
    written.write(offset, data)


@pytest.mark.parametrize("seed", range(4))
async def test_a_file_that_is_written_all_the_time(place: Place, autojump_clock: MockClock, seed: int) -> None:
    chance = random.Random(seed)
    written = Written()
    async with place.mount(config=SMALL_PUTS) as mount:
        mount.store.latency_s = 0.2
        handle = await mount.create("a")
        await write(mount, handle, written, 0, chance.randbytes(14 * MIB))
        for _ in range(25):
            await write(mount, handle, written, chance.randrange(14 * MIB), chance.randbytes(1000))
            await trio.sleep(chance.choice([0, 0.05, 0.3, 1.5]))
        await mount.close(handle)
        await mount.drain()
    written.check(place, "a")
    assert place.bucket.contents() == {"a": bytes(written.body)}


@pytest.mark.parametrize("seed", range(4))
async def test_partial_changes_of_an_object_that_is_there(place: Place, autojump_clock: MockClock, seed: int) -> None:
    chance = random.Random(seed)
    written = Written(chance.randbytes(24 * MIB))
    place.bucket.add("a", bytes(written.body), {"mode": "33188"})
    async with place.mount(config=SMALL_PUTS) as mount:
        mount.store.latency_s = 0.2
        handle = await mount.open("a")
        for _ in range(12):
            await write(mount, handle, written, chance.randrange(24 * MIB), chance.randbytes(1000))
            await trio.sleep(chance.choice([0, 0.05, 0.3, 3]))
        await mount.close(handle)
        await trio.sleep(200)
        assert mount.pending == 0
    written.check(place, "a")
    assert place.bucket.contents() == {"a": bytes(written.body)}


async def test_writes_while_an_upload_is_being_begun(place: Place, autojump_clock: MockClock) -> None:
    """First to a range that was to be copied from the base, then to one that is sent: never the second alone."""
    written = Written(os.urandom(24 * MIB))
    place.bucket.add("a", bytes(written.body), {"mode": "33188"})
    async with place.mount(config=SMALL_PUTS) as mount:
        handle = await mount.open("a")
        mount.store.pause([Method.CREATE_UPLOAD])
        await write(mount, handle, written, 0, b"first")
        await mount.close(handle)
        await mount.store.wait_held()
        handle = await mount.open("a")
        await write(mount, handle, written, 20 * MIB, b"second")
        await write(mount, handle, written, 1, b"third")
        await mount.store.resume()
        await mount.close(handle)
        await trio.sleep(100)
    written.check(place, "a")
    assert place.bucket.contents() == {"a": bytes(written.body)}


async def test_a_large_file_of_two_names_that_is_written_meanwhile(place: Place, autojump_clock: MockClock) -> None:
    written = Written()
    async with place.mount(config=SMALL_PUTS) as mount:
        handle = await mount.create("a")
        await mount.link("a", "b")
        await write(mount, handle, written, 0, os.urandom(11 * MIB))
        await mount.close(handle)
        handle = await mount.open("a")
        mount.store.latency_s = 0.3
        for number in range(20):
            await trio.sleep(0.25)
            await write(mount, handle, written, number * 500_000, b"%d" % number)
            await write(mount, handle, written, 11 * MIB - 5, b"%d" % number)
        await mount.close(handle)
        await trio.sleep(100)
        assert mount.pending == 0
    for key in ("a", "b"):
        written.check(place, key)
    assert place.bucket.contents() == {"a": bytes(written.body), "b": bytes(written.body)}
    assert place.bucket.uploads == {}


@pytest.mark.parametrize("size", [0, 3, 2 * MIB], ids=["empty", "small", "smaller"])
async def test_a_large_file_that_is_cut_while_it_goes_up(place: Place, autojump_clock: MockClock, size: int) -> None:
    written = Written()
    async with place.mount(config=SMALL_PUTS) as mount:
        handle = await mount.create("a")
        await write(mount, handle, written, 0, os.urandom(11 * MIB))
        await mount.close(handle)
        mount.store.pause([Method.UPLOAD_PART])
        await mount.store.wait_held()
        await mount.truncate("a", size)
        del written.body[size:]
        written.seen.add(bytes(written.body))
        await mount.store.resume()
        await mount.drain()
    written.check(place, "a")
    assert place.bucket.contents() == {"a": bytes(written.body)}
    assert place.bucket.uploads == {}


async def test_a_small_file_that_is_written_while_it_is_put(place: Place, autojump_clock: MockClock) -> None:
    written = Written()
    async with place.mount() as mount:
        mount.store.latency_s = 0.3
        handle = await mount.create("a")
        for number in range(80):
            await write(mount, handle, written, (number * 37) % 900_000, b"%d" % number * 100)
            await trio.sleep(0.21)
        await mount.close(handle)
        await mount.drain()
    written.check(place, "a")
    assert place.bucket.contents() == {"a": bytes(written.body)}


async def test_a_crash_between_two_uploads_of_a_changed_object(place: Place, autojump_clock: MockClock) -> None:
    """The version that local changes stand on may be gone only when the ledger knows the next one."""
    written = Written(os.urandom(6 * MIB))
    async with place.mount(config=SMALL_PUTS) as mount:
        await mount.save("a", bytes(written.body))
        await mount.drain()
        await trio.sleep(10)
        handle = await mount.open("a")
        await write(mount, handle, written, 0, b"one")
        await mount.fs.fsync(handle, False)
        await write(mount, handle, written, 0, b"two")
        mount.store.pause([Method.DELETE_VERSION])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.fs.fsync, handle, False)
            await mount.store.wait_held()
            await write(mount, handle, written, 1, b"W")
            await mount.store.resume()
        place.crash()
    async with place.mount(config=SMALL_PUTS) as mount:
        assert await mount.read("a") == bytes(written.body)
        await mount.drain()
    written.check(place, "a")
    assert place.bucket.contents() == {"a": bytes(written.body)}


@pytest.mark.parametrize("seed", range(3))
async def test_a_crash_while_a_large_file_goes_up(place: Place, autojump_clock: MockClock, seed: int) -> None:
    chance = random.Random(seed)
    written = Written()
    async with place.mount(config=SMALL_PUTS) as mount:
        mount.store.latency_s = 0.2
        handle = await mount.create("a")
        for _ in range(25):
            await write(mount, handle, written, len(written.body), chance.randbytes(MIB))
            await trio.sleep(0.1)
        place.crash()
    async with place.mount(config=SMALL_PUTS) as mount:
        assert await mount.read("a") == bytes(written.body)
        await mount.drain()
        await trio.sleep(100)
    written.check(place, "a")
    assert place.bucket.contents() == {"a": bytes(written.body)}
    assert place.bucket.uploads == {}, "an upload that was cut off costs storage"
