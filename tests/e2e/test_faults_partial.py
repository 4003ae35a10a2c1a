"""What a small change of a large object sends, counted on the wire, and that the result is right, byte by byte."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tests.e2e.sites import LONG
from tests.e2e.wire import MIB, Wire

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

SIZE = 1024 * MIB if LONG else 48 * MIB
_PART = 64 * MIB
#: What a change of 4 KiB may send at most: a part has at least 5 MiB, and the change may lie across two.
MOST_SENT = 12_000_000


def chunk(number: int) -> bytes:
    """The mebibyte of this number of the object."""
    return random.Random(number).randbytes(MIB)


def fill(wire: Wire, size: int) -> None:
    """Put an object of size bytes under "large", past the proxy."""
    upload = wire.s3.create_multipart_upload(Bucket=wire.bucket, Key="large")["UploadId"]
    parts: list[CompletedPartTypeDef] = []
    for number, start in enumerate(range(0, size, _PART), 1):
        body = b"".join(map(chunk, range(start // MIB, min(size, start + _PART) // MIB)))
        done = wire.s3.upload_part(Bucket=wire.bucket, Key="large", UploadId=upload, PartNumber=number, Body=body)
        parts.append({"ETag": done["ETag"], "PartNumber": number})
    wire.s3.complete_multipart_upload(
        Bucket=wire.bucket, Key="large", UploadId=upload, MultipartUpload={"Parts": parts}
    )


def check(wire: Wire, size: int, changes: dict[int, bytes]) -> None:
    """The object has size bytes: those of its chunks, with the changes on top."""
    found = wire.s3.get_object(Bucket=wire.bucket, Key="large")
    assert found["ContentLength"] == size
    with found["Body"] as stream:
        for start in range(0, size, MIB):
            expected = bytearray(chunk(start // MIB))
            for at, data in changes.items():
                if start <= at < start + MIB:
                    expected[at - start : at - start + len(data)] = data
            assert stream.read(min(MIB, size - start)) == expected[: size - start], f"in the mebibyte at {start}"


async def test_four_kilobytes_in_the_middle(wire: Wire) -> None:
    fill(wire, SIZE)
    at, data = SIZE // 2 + 1234, random.Random(-1).randbytes(4096)
    async with wire.mount() as mount:
        handle = await mount.open("large")
        await mount.write(handle, at, data)
        await mount.fs.fsync(handle, False)
        await mount.close(handle)
    assert sum(wire.proxy.bytes_up.values()) <= MOST_SENT
    assert wire.proxy.count("PutObject") == 0
    check(wire, SIZE, {at: data})


async def test_many_small_changes_send_a_part_each_at_most(wire: Wire) -> None:
    fill(wire, SIZE)
    data = random.Random(-2).randbytes(100)
    places = [MIB * number + 77 for number in range(5, SIZE // MIB, SIZE // MIB // 4)]
    async with wire.mount() as mount:
        handle = await mount.open("large")
        for at in places:
            await mount.write(handle, at, data)
        await mount.fs.fsync(handle, False)
        await mount.close(handle)
    assert sum(wire.proxy.bytes_up.values()) <= len(places) * 6_000_000
    check(wire, SIZE, dict.fromkeys(places, data))


async def test_an_append_sends_little_more_than_what_is_appended(wire: Wire) -> None:
    fill(wire, SIZE)
    async with wire.mount() as mount:
        handle = await mount.open("large")
        await mount.write(handle, SIZE, chunk(SIZE // MIB)[:5000])
        await mount.fs.fsync(handle, False)
        await mount.close(handle)
    assert wire.proxy.bytes_up["UploadPart"] == 5000
    assert sum(wire.proxy.bytes_up.values()) <= 5000 + 64_000
    check(wire, SIZE + 5000, {})


async def test_a_cut_sends_nothing_of_the_content(wire: Wire) -> None:
    fill(wire, SIZE)
    async with wire.mount() as mount:
        await mount.truncate("large", SIZE - 10 * MIB - 1)
        await mount.fsync("large")
    assert wire.proxy.bytes_up["UploadPart"] == wire.proxy.bytes_up["PutObject"] == 0
    check(wire, SIZE - 10 * MIB - 1, {})
