"""list_objects."""

from __future__ import annotations

import pytest
import trio

from b2fs.core.types import ListPage
from b2fs.store.protocol import ObjectStore
from tests.contract.helpers import all_objects, md5


async def put_all(store: ObjectStore, root: str, names: list[str]) -> None:
    """Make an object of each name, several at a time."""
    limiter = trio.CapacityLimiter(16)

    async def put(name: str) -> None:
        async with limiter:
            await store.put(root + name, name.encode())

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(put, name)


def keys(page: ListPage, root: str) -> list[str]:
    return [item.key.removeprefix(root) for item in page.objects]


def prefixes(page: ListPage, root: str) -> list[str]:
    return [prefix.removeprefix(root) for prefix in page.prefixes]


async def test_nothing(store: ObjectStore, root: str) -> None:
    page = await store.list_objects(root)
    assert page == ListPage((), (), None)


async def test_an_object_as_it_is_listed(store: ObjectStore, root: str) -> None:
    await store.put(root + "a", b"hello", metadata={"mode": "1"})
    head = await store.head(root + "a")
    [item] = (await store.list_objects(root)).objects
    assert (item.key, item.size, item.ref.etag) == (root + "a", 5, md5(b"hello"))
    assert item.modified_ns // 10**9 == head.modified_ns // 10**9
    assert item.metadata is None


async def test_keys_come_in_utf8_order(store: ObjectStore, root: str) -> None:
    # In UTF-16 the emoji would come before the last but one; by locale, "B" after "a".
    names = ["B", "a", "a b", "a-", "a0", "aa", "é", "\uff5e", "\U0001f600"]
    await put_all(store, root, list(reversed(names)))
    assert keys(await store.list_objects(root), root) == sorted(names, key=str.encode)


async def test_prefix_is_plain_text(store: ObjectStore, root: str) -> None:
    await put_all(store, root, ["a", "ab", "abc/d", "ac", "b"])
    assert keys(await store.list_objects(root + "ab"), root) == ["ab", "abc/d"]
    assert keys(await store.list_objects(root + "abc/d"), root) == ["abc/d"]
    assert keys(await store.list_objects(root + "z"), root) == []


async def test_delimiter(store: ObjectStore, root: str) -> None:
    await put_all(store, root, ["a", "d/1", "d/2", "d/e/3", "f/g/h/4", "z"])
    page = await store.list_objects(root, delimiter="/")
    assert keys(page, root) == ["a", "z"]
    assert prefixes(page, root) == ["d/", "f/"]
    below = await store.list_objects(root + "d/", delimiter="/")
    assert keys(below, root) == ["d/1", "d/2"]
    assert prefixes(below, root) == ["d/e/"]


async def test_delimiter_and_names_that_sort_around_it(store: ObjectStore, root: str) -> None:
    """'-' and '.' sort before '/', so the names of files stand between a directory and its content."""
    await put_all(store, root, ["d/1", "d-file", "d.txt", "d0"])
    page = await store.list_objects(root, delimiter="/")
    assert keys(page, root) == ["d-file", "d.txt", "d0"]
    assert prefixes(page, root) == ["d/"]


async def test_prefix_without_its_slash(store: ObjectStore, root: str) -> None:
    await put_all(store, root, ["dir/1", "dirt/2", "di"])
    page = await store.list_objects(root + "dir", delimiter="/")
    assert keys(page, root) == []
    assert prefixes(page, root) == ["dir/", "dirt/"]


async def test_hidden_keys_are_not_listed(store: ObjectStore, root: str) -> None:
    await put_all(store, root, ["a", "d/1", "e"])
    await store.hide(root + "a")
    await store.hide(root + "d/1")
    page = await store.list_objects(root, delimiter="/")
    assert keys(page, root) == ["e"]
    assert prefixes(page, root) == []


async def test_start_after(store: ObjectStore, root: str) -> None:
    await put_all(store, root, ["a", "b", "c", "d"])
    assert keys(await store.list_objects(root, start_after=root + "b"), root) == ["c", "d"]
    assert keys(await store.list_objects(root, start_after=root + "bb"), root) == ["c", "d"]
    assert keys(await store.list_objects(root, start_after=root + "d"), root) == []


@pytest.mark.parametrize("max_keys", [1, 2, 3, 7])
async def test_pages_without_delimiter(store: ObjectStore, root: str, max_keys: int) -> None:
    names = [f"{i:02d}" for i in range(7)]
    await put_all(store, root, names)
    found = await all_objects(store, root, max_keys=max_keys)
    assert [item.key.removeprefix(root) for item in found] == names


async def entries_in_pages(store: ObjectStore, root: str, max_keys: int) -> list[str]:
    """Keys and common prefixes of a delimiter listing, page by page."""
    entries: list[str] = []
    token = None
    while True:
        page = await store.list_objects(root, delimiter="/", token=token, max_keys=max_keys)
        assert len(page.objects) + len(page.prefixes) <= max_keys
        entries += sorted([*keys(page, root), *prefixes(page, root)])
        token = page.next_token
        if token is None:
            return entries


@pytest.mark.parametrize("max_keys", [1, 2, 3, 100])
async def test_pages_with_delimiter(store: ObjectStore, root: str, max_keys: int) -> None:
    files = ["a", "c", "x", "z"]
    await put_all(store, root, [*files, *(f"b/{i}" for i in range(12)), "d/1", "y/1", "y/2"])
    assert await entries_in_pages(store, root, max_keys) == sorted([*files, "b/", "d/", "y/"])


@pytest.mark.needs("complete_pages")
@pytest.mark.parametrize("max_keys", [1, 2, 3, 4, 100])
async def test_pages_that_end_between_a_directory_and_names_like_it(
    store: ObjectStore, root: str, max_keys: int
) -> None:
    files = ["b-", "b.txt", "b0", "bb"]
    await put_all(store, root, [*files, *(f"b/{i}" for i in range(12))])
    assert await entries_in_pages(store, root, max_keys) == sorted([*files, "b/"])


async def test_more_than_a_thousand_keys(store: ObjectStore, root: str) -> None:
    names = [f"{i:04d}" for i in range(1003)]
    await put_all(store, root, names)
    page = await store.list_objects(root)
    assert len(page.objects) == 1000
    assert page.next_token is not None
    rest = await store.list_objects(root, token=page.next_token)
    assert keys(page, root) + keys(rest, root) == names
    assert rest.next_token is None
    rolled = await store.list_objects(root.rstrip("/"), delimiter="/")
    assert rolled.prefixes == (root,)


async def test_a_listing_shows_what_was_just_written(store: ObjectStore, root: str) -> None:
    for i in range(5):
        await store.put(f"{root}{i}", b"x")
        assert len((await store.list_objects(root)).objects) == i + 1
