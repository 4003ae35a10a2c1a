"""Multipart uploads."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest

from b2fs.core.types import ETag, PartInfo
from b2fs.errors import InvalidRequest, NoSuchUpload, NotFound
from b2fs.store.protocol import ObjectStore
from tests.contract.helpers import MIB, MIN_PART, all_objects, all_versions, md5, noise

ONE = noise(MIN_PART, 1)
TWO = noise(MIN_PART + 12345, 2)
TAIL = noise(777, 3)


def expected_etag(parts: Sequence[bytes]) -> str:
    joined = hashlib.md5(b"".join(bytes.fromhex(md5(part)) for part in parts), usedforsecurity=False)
    return f"{joined.hexdigest()}-{len(parts)}"


async def test_parts_become_one_object(store: ObjectStore, root: str) -> None:
    told = {"mode": "1", "title": "\xc3\xbc"}
    upload = await store.create_upload(root + "a", metadata=told, content_type="text/plain")
    parts = [await store.upload_part(root + "a", upload, n + 1, body) for n, body in enumerate([ONE, TWO, TAIL])]
    assert [(part.number, part.size, part.etag) for part in parts] == [
        (1, len(ONE), md5(ONE)),
        (2, len(TWO), md5(TWO)),
        (3, len(TAIL), md5(TAIL)),
    ]
    with pytest.raises(NotFound):
        await store.head(root + "a")
    done = await store.complete_upload(root + "a", upload, parts)
    info, body = await store.get(root + "a")
    assert body == ONE + TWO + TAIL
    assert info.ref == done.ref
    assert info.size == len(body)
    assert info.content_type == "text/plain"
    assert info.metadata is not None
    assert {name: info.metadata[name] for name in told} == told
    assert [item.size for item in await all_objects(store, root)] == [len(body)]


@pytest.mark.needs("multipart_etag")
async def test_the_etag_of_parts(store: ObjectStore, root: str) -> None:
    upload = await store.create_upload(root + "a")
    parts = [await store.upload_part(root + "a", upload, n + 1, body) for n, body in enumerate([ONE, TAIL])]
    done = await store.complete_upload(root + "a", upload, parts)
    assert done.ref.etag == (await store.head(root + "a")).ref.etag == expected_etag([ONE, TAIL])


async def test_ranges_across_parts(store: ObjectStore, root: str) -> None:
    upload = await store.create_upload(root + "a")
    parts = [await store.upload_part(root + "a", upload, n, body) for n, body in ((1, ONE), (2, TAIL))]
    await store.complete_upload(root + "a", upload, parts)
    whole = ONE + TAIL
    for start, end in ((MIN_PART - 5, MIN_PART + 5), (MIN_PART, MIN_PART + 1), (MIN_PART - 1, None), (100, 200)):
        assert (await store.get(root + "a", start=start, end=end))[1] == whole[start:end]


@pytest.mark.needs("part_gaps")
async def test_parts_may_come_in_any_order_and_with_gaps(store: ObjectStore, root: str) -> None:
    upload = await store.create_upload(root + "a")
    last = await store.upload_part(root + "a", upload, 9000, TAIL)
    first = await store.upload_part(root + "a", upload, 3, ONE)
    await store.complete_upload(root + "a", upload, [first, last])
    assert (await store.get(root + "a"))[1] == ONE + TAIL


@pytest.mark.needs("part_replacement")
async def test_a_part_uploaded_again_replaces_the_first(store: ObjectStore, root: str) -> None:
    upload = await store.create_upload(root + "a")
    await store.upload_part(root + "a", upload, 1, noise(MIN_PART, 8))
    again = await store.upload_part(root + "a", upload, 1, ONE)
    tail = await store.upload_part(root + "a", upload, 2, TAIL)
    assert await store.list_parts(root + "a", upload) == [again, tail]
    await store.complete_upload(root + "a", upload, [again, tail])
    assert (await store.get(root + "a"))[1] == ONE + TAIL


@pytest.mark.needs("part_gaps")
async def test_a_part_that_is_not_named_is_left_out(store: ObjectStore, root: str) -> None:
    upload = await store.create_upload(root + "a")
    one = await store.upload_part(root + "a", upload, 1, ONE)
    await store.upload_part(root + "a", upload, 2, TWO)
    tail = await store.upload_part(root + "a", upload, 3, TAIL)
    await store.complete_upload(root + "a", upload, [one, tail])
    assert (await store.get(root + "a"))[1] == ONE + TAIL


async def test_one_small_part(store: ObjectStore, root: str) -> None:
    upload = await store.create_upload(root + "a")
    part = await store.upload_part(root + "a", upload, 1, b"small")
    done = await store.complete_upload(root + "a", upload, [part])
    assert (await store.get(root + "a"))[1] == b"small"
    assert done.size == 5


@pytest.mark.needs("versioning")
async def test_completion_makes_one_version_on_top(store: ObjectStore, root: str) -> None:
    old = await store.put(root + "a", b"old")
    upload = await store.create_upload(root + "a")
    part = await store.upload_part(root + "a", upload, 1, b"new")
    assert (await store.get(root + "a"))[1] == b"old"
    done = await store.complete_upload(root + "a", upload, [part])
    versions = await all_versions(store, root)
    assert [item.ref.version_id for item in versions] == [done.ref.version_id, old.ref.version_id]


# --- Copied parts


@pytest.mark.needs("part_copy")
async def test_parts_copied_from_another_object(store: ObjectStore, root: str) -> None:
    base = noise(12 * MIB, 4)
    source = await store.put(root + "base", base)
    upload = await store.create_upload(root + "a")
    parts = [
        await store.copy_part(root + "a", upload, 1, source.ref, 0, 6 * MIB),
        await store.upload_part(root + "a", upload, 2, ONE),
        await store.copy_part(root + "a", upload, 3, source.ref, 11 * MIB, 12 * MIB),
    ]
    assert [part.size for part in parts] == [6 * MIB, MIN_PART, MIB]
    await store.complete_upload(root + "a", upload, parts)
    assert (await store.get(root + "a"))[1] == base[: 6 * MIB] + ONE + base[11 * MIB :]


@pytest.mark.needs("part_copy")
async def test_a_part_copied_from_an_assembled_object(store: ObjectStore, root: str) -> None:
    upload = await store.create_upload(root + "base")
    made = [await store.upload_part(root + "base", upload, n, body) for n, body in ((1, ONE), (2, TWO))]
    source = await store.complete_upload(root + "base", upload, made)
    whole = ONE + TWO
    upload = await store.create_upload(root + "a")
    across = await store.copy_part(root + "a", upload, 1, source.ref, 1000, len(whole) - 1000)
    await store.complete_upload(root + "a", upload, [across])
    assert (await store.get(root + "a"))[1] == whole[1000 : len(whole) - 1000]


@pytest.mark.needs("part_copy", "versioning", "copy_from_version")
async def test_a_part_copied_from_a_version_that_is_hidden(store: ObjectStore, root: str) -> None:
    source = await store.put(root + "ba se+", ONE)
    await store.put(root + "ba se+", b"other")
    await store.hide(root + "ba se+")
    upload = await store.create_upload(root + "a")
    part = await store.copy_part(root + "a", upload, 1, source.ref, 5, 1005)
    await store.complete_upload(root + "a", upload, [part])
    assert (await store.get(root + "a"))[1] == ONE[5:1005]


@pytest.mark.needs("part_copy", "versioning", "copy_from_version")
async def test_a_part_of_a_source_that_is_gone(store: ObjectStore, root: str) -> None:
    source = await store.put(root + "base", ONE)
    assert source.ref.version_id is not None
    await store.delete_version(root + "base", source.ref.version_id)
    upload = await store.create_upload(root + "a")
    with pytest.raises(NotFound):
        await store.copy_part(root + "a", upload, 1, source.ref, 0, 10)
    await store.abort_upload(root + "a", upload)


# --- What is unfinished


async def test_unfinished_uploads_are_listed(store: ObjectStore, root: str) -> None:
    one = await store.create_upload(root + "a")
    two = await store.create_upload(root + "b c/ü")
    listed = {(item.key, item.upload_id) for item in await store.list_uploads(root)}
    assert listed == {(root + "a", one), (root + "b c/ü", two)}
    assert [item.upload_id for item in await store.list_uploads(root + "b")] == [two]
    await store.abort_upload(root + "a", one)
    part = await store.upload_part(root + "b c/ü", two, 1, b"x")
    await store.complete_upload(root + "b c/ü", two, [part])
    assert await store.list_uploads(root) == []


async def test_parts_are_listed(store: ObjectStore, root: str) -> None:
    upload = await store.create_upload(root + "a")
    assert await store.list_parts(root + "a", upload) == []
    parts = [await store.upload_part(root + "a", upload, number, b"x" * number) for number in (7, 2, 5)]
    assert await store.list_parts(root + "a", upload) == sorted(parts, key=lambda part: part.number)
    await store.abort_upload(root + "a", upload)


async def test_an_aborted_upload_is_gone(store: ObjectStore, root: str) -> None:
    upload = await store.create_upload(root + "a")
    part = await store.upload_part(root + "a", upload, 1, b"x")
    await store.abort_upload(root + "a", upload)
    with pytest.raises(NoSuchUpload):
        await store.upload_part(root + "a", upload, 2, b"x")
    with pytest.raises(NoSuchUpload):
        await store.list_parts(root + "a", upload)
    with pytest.raises(NoSuchUpload):
        await store.complete_upload(root + "a", upload, [part])
    await store.abort_upload(root + "a", upload)  # a second time is no error
    with pytest.raises(NotFound):
        await store.head(root + "a")


async def test_a_completed_upload_takes_no_more_parts(store: ObjectStore, root: str) -> None:
    upload = await store.create_upload(root + "a")
    part = await store.upload_part(root + "a", upload, 1, b"x")
    await store.complete_upload(root + "a", upload, [part])
    with pytest.raises(NoSuchUpload):
        await store.upload_part(root + "a", upload, 2, b"x")


# --- What is refused


@pytest.mark.needs("part_checks")
async def test_small_parts_are_refused_except_the_last(store: ObjectStore, root: str) -> None:
    upload = await store.create_upload(root + "a")
    parts = [await store.upload_part(root + "a", upload, number, b"small") for number in (1, 2)]
    with pytest.raises(InvalidRequest):
        await store.complete_upload(root + "a", upload, parts)
    with pytest.raises(NotFound):
        await store.head(root + "a")


@pytest.mark.needs("part_checks")
async def test_a_part_with_another_etag_is_refused(store: ObjectStore, root: str) -> None:
    upload = await store.create_upload(root + "a")
    part = await store.upload_part(root + "a", upload, 1, b"x")
    with pytest.raises(InvalidRequest):
        await store.complete_upload(root + "a", upload, [PartInfo(1, ETag(md5(b"y")), 1)])
    with pytest.raises(InvalidRequest):
        await store.complete_upload(root + "a", upload, [part, PartInfo(2, part.etag, 1)])
    with pytest.raises(NotFound):
        await store.head(root + "a")


@pytest.mark.parametrize("number", [0, 10_001])
async def test_part_numbers_out_of_range(store: ObjectStore, root: str, number: int) -> None:
    upload = await store.create_upload(root + "a")
    with pytest.raises(InvalidRequest):
        await store.upload_part(root + "a", upload, number, b"x")
    await store.abort_upload(root + "a", upload)
