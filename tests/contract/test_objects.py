"""put, get and head."""

from __future__ import annotations

import time

import pytest

from b2fs.core.types import ETag, VersionId
from b2fs.errors import InvalidRange, NoSuchBucket, NotFound, PreconditionFailed, StoreError, Unsupported
from b2fs.store.protocol import Body, ObjectStore
from tests.contract.cases import Bucket, StoreMaker
from tests.contract.helpers import MIB, md5, noise

TIDY_ODD_KEYS = [
    "ünï cödé",
    "日本語/ファイル.txt",
    "😀/🎉",
    "e\u0301 is not \u00e9",
    "with space",
    "plus+and%20percent%2Fslash%",
    "amp&eq=quest?hash#semi;colon:",
    "quotes\"'`",
    "angle<b>&amp;",
    "star*brackets[]{}|^~",
    "dollar$at@comma,excl!",
    ".hidden/..dots../...",
    "UPPER/lower",
    "a" * 200 + "/" + "b" * 200,
]
CONTENT = {
    "Cache-Control": "max-age=60, public",
    "Content-Disposition": 'attachment; filename="a b.txt"',
    "Content-Encoding": "gzip",
    "Content-Language": "de, en",
    "Expires": "Thu, 01 Dec 2033 16:00:00 GMT",
}
UNTIDY_KEYS = ["/leading", "double//slash", "a/./b", "a/../b", "..", "trailing/", "//", " "]


async def test_what_was_put_is_got(store: ObjectStore, root: str) -> None:
    put = await store.put(root + "a", b"hello", metadata={"mode": "33188"}, content_type="text/plain")
    info, body = await store.get(root + "a")
    assert body == b"hello"
    assert (info.key, info.size, info.ref.etag) == (root + "a", 5, md5(b"hello"))
    assert info.metadata is not None
    assert info.metadata["mode"] == "33188"
    assert info.content_type == "text/plain"
    assert put.ref == info.ref


async def test_head_tells_what_get_tells(store: ObjectStore, root: str) -> None:
    await store.put(root + "a", b"hello", metadata={"uid": "7"}, content_type="image/png")
    info, _ = await store.get(root + "a")
    assert await store.head(root + "a") == info


@pytest.mark.needs("content_headers")
async def test_what_whoever_fetches_it_is_told_is_kept(store: ObjectStore, root: str) -> None:
    await store.put(root + "a", b"hello", metadata={**CONTENT, "colour": "red", "expires": "never"})
    info, _ = await store.get(root + "a")
    assert info.metadata is not None
    assert {name: info.metadata[name] for name in CONTENT} == CONTENT
    assert (info.metadata["colour"], info.metadata["expires"]) == ("red", "never")
    assert await store.head(root + "a") == info


async def test_metadata_in_another_encoding_is_kept(store: ObjectStore, root: str) -> None:
    # Each character is a byte where the store is a server: two words in UTF-8, one in Latin-1, a tab between them.
    title = "Gr\xc3\xbc\xc3\x9fe \xe2\x82\xac\tGr\xfc\xdfe \xc3\xa0"
    put = await store.put(root + "a", b"hello", metadata={"title": title})
    assert put.metadata is not None
    info = await store.head(root + "a")
    assert info.metadata is not None
    assert info.metadata["title"] == title
    large = await store.put(root + "b", noise(1 << 20), metadata={"title": title})
    assert (await store.head(root + "b")).metadata == info.metadata
    assert (await store.get(root + "b"))[1] == noise(1 << 20)
    assert large.size == 1 << 20


async def test_version_id_is_given_where_there_are_versions(store: ObjectStore, root: str) -> None:
    put = await store.put(root + "a", b"1")
    assert (put.ref.version_id is not None) == store.capabilities.versioning
    assert (await store.head(root + "a")).ref.version_id == put.ref.version_id


async def test_modified_is_now_in_whole_seconds(store: ObjectStore, root: str) -> None:
    before = time.time_ns() // 10**9
    await store.put(root + "a", b"1")
    info = await store.head(root + "a")
    assert info.modified_ns % 10**9 == 0
    assert before - 1 <= info.modified_ns // 10**9 <= time.time_ns() // 10**9 + 1


@pytest.mark.parametrize("body", [b"bytes", bytearray(b"array"), memoryview(b"view of bytes")[2:8]], ids=type)
async def test_all_kinds_of_bodies(store: ObjectStore, root: str, body: Body) -> None:
    await store.put(root + "a", body)
    assert (await store.get(root + "a"))[1] == bytes(body)


async def test_empty_object(store: ObjectStore, root: str) -> None:
    put = await store.put(root + "empty", b"", metadata={"mode": "1"})
    info, body = await store.get(root + "empty")
    assert body == b""
    assert info.size == 0
    assert info.ref.etag == put.ref.etag == md5(b"")
    assert info.metadata is not None
    assert info.metadata["mode"] == "1"


@pytest.mark.parametrize("size", [1, 4096, 32 << 10, (32 << 10) + 1, 300_000, 9 * MIB + 3])
async def test_bodies_of_all_sizes_come_back_whole(store: ObjectStore, root: str, size: int) -> None:
    data = noise(size)
    put = await store.put(root + "a", data)
    info, body = await store.get(root + "a")
    assert body == data
    assert info.size == put.size == size
    assert info.ref.etag == md5(data)


async def test_put_replaces(store: ObjectStore, root: str) -> None:
    await store.put(root + "a", b"long old content", metadata={"old": "1"}, content_type="text/plain")
    await store.put(root + "a", b"new", metadata={"new": "2"})
    info, body = await store.get(root + "a")
    assert body == b"new"
    assert info.metadata is not None
    assert "old" not in info.metadata
    assert info.metadata["new"] == "2"


# --- Keys


@pytest.mark.parametrize("name", TIDY_ODD_KEYS)
async def test_odd_keys(store: ObjectStore, root: str, name: str) -> None:
    await _check_key(store, root, root + name)


@pytest.mark.needs("backslash_keys")
async def test_a_backslash_is_no_slash(store: ObjectStore, root: str) -> None:
    await _check_key(store, root, root + "back\\slash")


@pytest.mark.needs("untidy_keys")
@pytest.mark.parametrize("name", UNTIDY_KEYS)
async def test_keys_that_are_no_tidy_paths(store: ObjectStore, root: str, name: str) -> None:
    await _check_key(store, root, root + name)


async def _check_key(store: ObjectStore, root: str, key: str) -> None:
    data = key.encode()
    await store.put(key, data)
    info, body = await store.get(key)
    assert (info.key, body) == (key, data)
    assert (await store.head(key)).key == key
    assert [item.key for item in (await store.list_objects(root)).objects] == [key]
    await store.hide(key)
    with pytest.raises(NotFound):
        await store.head(key)


async def test_longest_key(store: ObjectStore, root: str) -> None:
    key = root
    while len(key) < 1024:
        key += "d" * min(99, 1024 - len(key)) + ("/" if len(key) < 900 else "")
    key = key[:1024].rstrip("/")
    await store.put(key, b"x")
    assert (await store.get(key))[1] == b"x"


@pytest.mark.needs("marker_metadata")
async def test_a_directory_marker_keeps_its_metadata(store: ObjectStore, root: str) -> None:
    await store.put(root + "dir/", b"", metadata={"mode": "16877"}, content_type="application/x-directory")
    info = await store.head(root + "dir/")
    assert info.metadata is not None
    assert info.metadata["mode"] == "16877"
    assert info.content_type == "application/x-directory"


@pytest.mark.needs("untidy_keys")
async def test_a_key_and_one_below_it_live_together(store: ObjectStore, root: str) -> None:
    await store.put(root + "a", b"file")
    await store.put(root + "a/b", b"below")
    assert (await store.get(root + "a"))[1] == b"file"
    assert (await store.get(root + "a/b"))[1] == b"below"


# --- Metadata


async def test_metadata_names_are_lower_case(store: ObjectStore, root: str) -> None:
    await store.put(root + "a", b"", metadata={"Mode": "1", "src_last_modified_millis": "2"})
    metadata = (await store.head(root + "a")).metadata
    assert metadata is not None
    assert (metadata["mode"], metadata["src_last_modified_millis"]) == ("1", "2")


async def test_metadata_values_of_all_printable_ascii(store: ObjectStore, root: str) -> None:
    value = "".join(chr(point) for point in range(33, 127)) + " and spaces"
    await store.put(root + "a", b"", metadata={"v": value})
    metadata = (await store.head(root + "a")).metadata
    assert metadata is not None
    assert metadata["v"] == value


async def test_as_much_metadata_as_every_server_takes(store: ObjectStore, root: str) -> None:
    """B2 takes 2,048 bytes with encryption, rclone 2,000 and counts the names' prefix on the wire."""
    metadata = {f"name{i}": f"{i}-" + "v" * 90 for i in range(15)}
    await store.put(root + "a", b"", metadata=metadata)
    kept = (await store.head(root + "a")).metadata
    assert kept is not None
    assert {name: kept.get(name) for name in metadata} == metadata


# --- Ranges


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize(
    ("start", "end"), [(0, 1), (0, 10), (3, 7), (9, 10), (4, None), (0, None), (5, 10**9), (9, 10**15)]
)
async def test_ranges(store: ObjectStore, root: str, size: int, start: int, end: int | None) -> None:
    data = noise(size)
    await store.put(root + "a", data)
    info, body = await store.get(root + "a", start=start, end=end)
    assert body == data[start:end]
    assert info.size == size
    assert info.ref.etag == md5(data)


@pytest.mark.parametrize("start", [10, 11, 10**12])
async def test_a_range_behind_the_end(store: ObjectStore, root: str, start: int) -> None:
    await store.put(root + "a", b"0123456789")
    with pytest.raises(InvalidRange):
        await store.get(root + "a", start=start)
    with pytest.raises(InvalidRange):
        await store.get(root + "a", start=start, end=start + 5)


async def test_ranges_of_an_empty_object(store: ObjectStore, root: str) -> None:
    await store.put(root + "a", b"")
    assert (await store.get(root + "a", start=0, end=100))[1] == b""
    with pytest.raises(InvalidRange):
        await store.get(root + "a", start=1)


# --- What is not there


async def test_missing_keys(store: ObjectStore, root: str) -> None:
    with pytest.raises(NotFound):
        await store.head(root + "missing")
    with pytest.raises(NotFound):
        await store.get(root + "missing")
    with pytest.raises(NotFound):
        await store.get(root + "missing", start=3, end=5)


async def test_a_prefix_is_no_object(store: ObjectStore, root: str) -> None:
    await store.put(root + "dir/file", b"x")
    with pytest.raises(NotFound):
        await store.head(root + "dir")
    with pytest.raises(NotFound):
        await store.get(root + "di")


@pytest.mark.needs("versioning")
async def test_missing_versions(store: ObjectStore, root: str) -> None:
    gone = await store.put(root + "a", b"1")
    other = await store.put(root + "b", b"2")
    assert gone.ref.version_id is not None
    await store.delete_version(root + "a", gone.ref.version_id)
    for version_id in (gone.ref.version_id, other.ref.version_id):
        with pytest.raises(NotFound):
            await store.head(root + "a", version_id=version_id)
        with pytest.raises(NotFound):
            await store.get(root + "a", version_id=version_id)


@pytest.mark.needs("versioning")
async def test_a_text_that_is_no_version_id_is_an_error(store: ObjectStore, root: str) -> None:
    await store.put(root + "a", b"1")
    with pytest.raises(StoreError):
        await store.get(root + "a", version_id=VersionId("no-such-version"))


async def test_a_missing_bucket(make_store: StoreMaker) -> None:
    with pytest.raises(NoSuchBucket):
        async with make_store(Bucket.MISSING):
            pass


# --- Conditions


@pytest.mark.needs("conditional_get")
async def test_get_if_match(store: ObjectStore, root: str) -> None:
    old = await store.put(root + "a", b"old")
    assert (await store.get(root + "a", if_match=old.ref.etag))[1] == b"old"
    await store.put(root + "a", b"new")
    with pytest.raises(PreconditionFailed):
        await store.get(root + "a", if_match=old.ref.etag)
    with pytest.raises(PreconditionFailed):
        await store.get(root + "a", start=1, end=2, if_match=old.ref.etag)


@pytest.mark.needs("conditional_put")
async def test_put_if_none_match(store: ObjectStore, root: str) -> None:
    await store.put(root + "a", b"first", if_none_match=True)
    with pytest.raises(PreconditionFailed):
        await store.put(root + "a", b"second", if_none_match=True)
    assert (await store.get(root + "a"))[1] == b"first"
    await store.hide(root + "a")
    await store.put(root + "a", b"third", if_none_match=True)
    assert (await store.get(root + "a"))[1] == b"third"


@pytest.mark.needs("conditional_put")
async def test_put_if_match(store: ObjectStore, root: str) -> None:
    first = await store.put(root + "a", b"first")
    second = await store.put(root + "a", b"second", if_match=first.ref.etag)
    with pytest.raises(PreconditionFailed):
        await store.put(root + "a", b"third", if_match=first.ref.etag)
    assert (await store.get(root + "a"))[1] == b"second"
    await store.put(root + "a", b"third", if_match=second.ref.etag)
    with pytest.raises(PreconditionFailed):
        await store.put(root + "a", b"fourth", if_match=ETag("0" * 32))


@pytest.mark.lacks("conditional_put")
async def test_conditional_put_is_refused_where_it_is_not_offered(store: ObjectStore, root: str) -> None:
    with pytest.raises(Unsupported):
        await store.put(root + "a", b"x", if_none_match=True)
    with pytest.raises(Unsupported):
        await store.put(root + "a", b"x", if_match=ETag("0" * 32))
    with pytest.raises(NotFound):
        await store.head(root + "a")


async def test_identity_is_the_same_for_every_store_of_the_bucket(store: ObjectStore, make_store: StoreMaker) -> None:
    async with make_store() as second:
        assert store.identity == second.identity
    assert "secret" not in store.identity
