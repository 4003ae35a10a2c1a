"""The server refuses parts that it had acknowledged (InvalidPart), while some bytes are only there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from b2fs.core.types import ETag, UploadId
from b2fs.errors import StoreError
from b2fs.store.forward import Method
from tests.writeback.harness import Mount, Place
from tests.writeback.memstore import MemBucket
from tests.writeback.tiny import PART, ROOM, TINY, append, away, digest, noise

BODY = noise(2 * ROOM + 777)

Spoil = Callable[[MemBucket, UploadId, int], None]


def lose(bucket: MemBucket, upload_id: UploadId, number: int) -> None:
    del bucket.uploads[upload_id].parts[number]


def exchange(bucket: MemBucket, upload_id: UploadId, number: int) -> None:
    part, _ = bucket.uploads[upload_id].parts[number]
    bucket.uploads[upload_id].parts[number] = part._replace(etag=ETag("0" * 32)), bytes(part.size)


def parts_by_place(mount: Mount) -> tuple[list[int], list[int]]:
    """The numbers of the parts that are away, and of those that are here as well."""
    (upload,) = mount.fs._core.transfer.uploads
    numbers = sorted(mount.bucket.uploads[UploadId(str(upload.upload_id))].parts)
    return [n for n in numbers if n in upload._away], [n for n in numbers if n not in upload._away]


@pytest.mark.parametrize("spoil", [lose, exchange])
async def test_what_is_here_is_sent_again(tiny: Place, autojump_clock: MockClock, spoil: Spoil) -> None:
    async with tiny.mount(config=TINY) as mount:
        handle = await mount.create("a")
        await append(mount, handle, BODY)
        await trio.sleep(10)
        assert away(mount) > 0
        gone, here = parts_by_place(mount)
        assert gone
        (upload_id,) = mount.bucket.uploads
        for number in here[:2]:
            spoil(mount.bucket, upload_id, number)
        mount.store.reset_counts()
        await mount.fs.fsync(handle, False)
        assert mount.store.counts[Method.CREATE_UPLOAD] == 0, "the same upload"
        assert mount.store.counts[Method.UPLOAD_PART] <= 2 + 1
        await mount.close(handle)
        await mount.drain()
    assert digest(tiny.bucket.contents()["a"]) == digest(BODY)
    assert tiny.bucket.uploads == {}


@pytest.mark.parametrize("spoil", [lose, exchange])
async def test_what_was_only_there_is_told_and_asked_for_seldom(
    tiny: Place, autojump_clock: MockClock, spoil: Spoil
) -> None:
    async with tiny.mount(config=TINY) as mount:
        handle = await mount.create("a")
        await append(mount, handle, BODY)
        gone, _ = parts_by_place(mount)
        (upload_id,) = mount.bucket.uploads
        spoil(mount.bucket, upload_id, gone[0])
        with pytest.raises(StoreError, match=f"has lost part {gone[0]}"):
            await mount.fs.fsync(handle, False)
        mount.store.reset_counts()
        await trio.sleep(300)
        assert mount.store.counts[Method.COMPLETE_UPLOAD] == 0, "never with a part that is not ours"
        assert mount.store.counts[Method.UPLOAD_PART] <= len(BODY) // PART
        assert len(mount.store.calls) < 50
        with pytest.raises(StoreError):
            await mount.fs.read(handle, (gone[0] - 1) * PART, 100)
        assert bytes(await mount.fs.read(handle, len(BODY) - 10, 10)) == BODY[-10:]
        with pytest.raises(StoreError):
            await mount.close(handle)
        (item,) = mount.fs.writeback.status().failed
        assert item.path == "a"
        assert "a" not in mount.bucket.contents()
        await mount.save("a", b"anew")
        await trio.sleep(60)
        await mount.drain()
    assert tiny.bucket.contents() == {"a": b"anew"}
    assert tiny.bucket.uploads == {}


async def test_nothing_more_leaves_for_an_upload_that_is_lost(tiny: Place, autojump_clock: MockClock) -> None:
    """What is here can be read as long as it is here."""
    async with tiny.mount(config=TINY) as mount:
        handle = await mount.create("a")
        await append(mount, handle, BODY)
        await trio.sleep(10)
        _, here = parts_by_place(mount)
        mount.bucket.uploads.clear()
        with pytest.raises(StoreError, match="dropped"):
            await mount.fs.fsync(handle, False)
        await mount.save("b", noise(3 * PART))
        await trio.sleep(10)
        start = (here[0] - 1) * PART
        assert digest(bytes(await mount.fs.read(handle, start, PART))) == digest(BODY[start : start + PART])
        await mount.close(handle)
