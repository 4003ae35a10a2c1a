"""Flat listings give every directory whole, whatever place a server gives to the slash."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest

from b2fs.cache.remote.walk import Walk
from b2fs.core.types import ETag, ListPage, ObjectInfo, ObjectRef
from b2fs.store.protocol import ObjectStore


class Bucket:
    """Lists its keys flat, in pages of which each is sorted by key, as the client's parser does."""

    def __init__(self, keys: set[str], *, by_directory: bool, page: int) -> None:
        self._by_directory = by_directory
        self._page = page
        self._keys = sorted(keys, key=self._place)

    def _place(self, key: str) -> list[str]:
        return key.split("/") if self._by_directory else [key]

    async def list_objects(
        self,
        prefix: str,
        *,
        delimiter: str | None = None,
        start_after: str | None = None,
        token: str | None = None,
        max_keys: int = 1000,
    ) -> ListPage:
        behind = token if token is not None else start_after or ""
        keys = [key for key in self._keys if key.startswith(prefix) and self._place(key) > self._place(behind)]
        page = keys[: self._page]
        infos = (ObjectInfo(ObjectRef(key, None, ETag("e"), 1), 0) for key in sorted(page))
        return ListPage(tuple(infos), (), page[-1] if len(keys) > len(page) else None)


def _truth(keys: set[str], root: str) -> dict[str, tuple[set[str], set[str]]]:
    """By directory: its files and its directories."""
    found: dict[str, tuple[set[str], set[str]]] = {root: (set(), set())}
    for key in keys:
        directory, rest = root, key[len(root) :].split("/")
        for component in rest[:-1]:
            found[directory][1].add(component)
            directory += component + "/"
            found.setdefault(directory, (set(), set()))
        found[directory][0].add(rest[-1])
    return found


async def _walked(bucket: Bucket, root: str) -> dict[str, tuple[set[str], set[str]]]:
    walk = Walk(root, root, "")
    found: dict[str, tuple[set[str], set[str]]] = {}
    while not walk.done:
        for listing in await walk.advance(cast(ObjectStore, bucket)):
            assert listing.prefix not in found
            found[listing.prefix] = set(listing.files), set(listing.dirs)
    return found


@pytest.mark.parametrize("by_directory", [False, True])
async def test_a_directory_over_two_pages_beside_names_that_begin_like_it(by_directory: bool) -> None:
    keys = {f"d/k/{number}" for number in range(15)} | {"d/k-a", "d/k.b/1", "d/k (1)/2", "d/a/1", "d/a-b/1", "d/z"}
    assert await _walked(Bucket(keys, by_directory=by_directory, page=6), "d/") == _truth(keys, "d/")


@pytest.mark.parametrize("by_directory", [False, True])
@pytest.mark.parametrize("seed", range(30))
async def test_random_trees(seed: int, by_directory: bool) -> None:
    rnd = random.Random(seed)
    parts = ["a", "a-", "a.b", "a b", "a0", "b", "b-a", "c!"]
    keys = {
        "d/" + "".join(rnd.choice(parts) + "/" for _ in range(rnd.randrange(4))) + f"f{rnd.randrange(30)}"
        for _ in range(200)
    }
    bucket = Bucket(keys, by_directory=by_directory, page=rnd.randrange(2, 40))
    assert await _walked(bucket, "d/") == _truth(keys, "d/")


async def test_what_changes_while_no_page_is_on_its_way_takes_no_memory() -> None:
    """A walk is kept until others take its place, which may be never, and a mount makes directories all the time."""

    class Changing(Bucket):
        async def list_objects(self, *args: Any, **options: Any) -> ListPage:
            walk.patch("d/meanwhile/", lambda listing: None)
            return await super().list_objects(*args, **options)

    walk = Walk("d/", "d/", "")
    for number in range(10):
        walk.patch(f"d/before{number}/", lambda listing: None)
    await walk.advance(cast(ObjectStore, Changing({"d/a/b"}, by_directory=False, page=5)))
    for number in range(10):
        walk.patch(f"d/after{number}/", lambda listing: None)
    assert walk.changed == {"d/meanwhile/"}
