"""Pages of a long listing that are asked for ahead: fewer round trips, and never a name more or less."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import pytest
import trio
import trio.testing

from b2fs.cache.remote.guess import extrapolated, remembered
from b2fs.cache.remote.listing import Listing
from b2fs.cache.remote.loading import PAGE, Load
from b2fs.core.types import ETag, ListPage, ObjectInfo, ObjectRef
from b2fs.errors import Unavailable
from b2fs.store.protocol import ObjectStore

PREFIX = "d/"
Order = Callable[[str], str]


def by_key(name: str) -> str:
    """As S3 says: a directory stands where its slash puts it."""
    return name


def by_file(name: str) -> str:
    """As some servers do: a directory stands where its name does."""
    return name.removesuffix("/")


def _info(name: str) -> ObjectInfo:
    return ObjectInfo(ObjectRef(PREFIX + name, None, ETag("e"), 1), 0)


class Bucket:
    """A directory of these names, listed in pages that take a second each; directories end in '/'."""

    def __init__(self, names: Sequence[str], order: Order = by_key) -> None:
        self._order = order
        self.names = sorted(names, key=order)
        self.asked = 0
        self.failing: set[int] = set()
        self.knows_start = True

    async def list_objects(
        self,
        prefix: str,
        *,
        delimiter: str | None = None,
        start_after: str | None = None,
        token: str | None = None,
        max_keys: int = 1000,
    ) -> ListPage:
        self.asked += 1
        fails = self.asked in self.failing
        behind = token if token is not None else (start_after or "")[len(prefix) :] if self.knows_start else ""
        names = [name for name in self.names if self._order(name) > self._order(behind)]
        await trio.sleep(1)
        if fails:
            raise Unavailable("cut")
        page = names[:max_keys]
        return ListPage(
            tuple(_info(name) for name in sorted(page) if not name.endswith("/")),
            tuple(prefix + name for name in sorted(page) if name.endswith("/")),
            page[-1] if len(names) > max_keys else None,
        )


async def _listed(bucket: Bucket, load: Load, between: Callable[[int], None] = lambda page: None) -> list[str]:
    """All entries of all pages, as a reader gets them who lets pages be asked for ahead."""
    store = cast(ObjectStore, bucket)
    async with trio.open_nursery() as nursery:
        while not load.complete:
            load.wanted = len(load.pages) + 8
            for ahead in load.aheads():
                nursery.start_soon(load.fetch, ahead, store)
            try:
                await load.advance(store)
            except Unavailable:
                continue
            between(len(load.pages))
    return [entry for page in load.pages for entry in page.entries]


def _fresh() -> Load:
    return Load(Listing(PREFIX, trio.current_time()), begun=False)


def _random(count: int, seed: int) -> list[str]:
    return [hashlib.md5(f"{seed}/{number}".encode()).hexdigest() for number in range(count)]


KINDS: dict[str, list[str]] = {
    "numbered": [f"f{number:06}" for number in range(10_000)],
    "numbered, of all lengths": [f"IMG_{number}.jpg" for number in range(10_000)],
    "hashes": _random(10_000, 0),
    "dates": [f"2024-{m:02}-{d:02}T{h:02}" for m in range(1, 13) for d in range(1, 29) for h in range(24)],
    "in two heaps": [f"{heap}{number:05}" for heap in "ax" for number in range(3500)],
}


@pytest.mark.parametrize("names", KINDS.values(), ids=KINDS)
async def test_each_name_comes_once_and_in_order(autojump_clock: trio.testing.MockClock, names: list[str]) -> None:
    bucket = Bucket(names)
    load = _fresh()
    assert await _listed(bucket, load) == sorted(names)
    assert set(load.listing.files) == set(names)
    pages = -(-len(names) // PAGE)
    assert bucket.asked <= pages * 3 // 2 + 2


@pytest.mark.parametrize("kind", ["numbered", "numbered, of all lengths", "hashes"])
async def test_ten_thousand_names_take_fewer_round_trips(autojump_clock: trio.testing.MockClock, kind: str) -> None:
    bucket = Bucket(KINDS[kind])
    await _listed(bucket, _fresh())
    assert trio.current_time() <= 7


async def test_names_that_are_known_from_before_are_asked_for_at_once(autojump_clock: trio.testing.MockClock) -> None:
    names = sorted(f"{word}-{number % 7}" for number, word in enumerate(_random(10_000, 1)))
    bucket = Bucket(names)
    load = _fresh()
    load.know(names[::10], 10)
    assert await _listed(bucket, load) == names
    assert trio.current_time() <= 4
    assert bucket.asked <= 12


async def test_what_was_known_may_be_wrong(autojump_clock: trio.testing.MockClock) -> None:
    """Most of it is gone, and much has come."""
    names = sorted({*_random(4000, 2), *(f"8{number:05}" for number in range(4000))})
    bucket = Bucket(names)
    load = _fresh()
    load.know(sorted(_random(30_000, 3)), 1)
    assert await _listed(bucket, load) == names


@pytest.mark.parametrize("order", [by_key, by_file])
@pytest.mark.parametrize("seed", range(8))
async def test_directories_among_the_files(autojump_clock: trio.testing.MockClock, order: Order, seed: int) -> None:
    """Whatever place a server gives them, no name is lost, and none comes twice."""
    rnd = random.Random(seed)
    names: set[str] = set()
    for number in range(6000):
        name = f"n{number:05}"
        names.add(name if rnd.random() < 0.9 else name + "/")
        if rnd.random() < 0.1:
            names.add(name + rnd.choice(("-x", ".y", "0", " z")))
    listed = await _listed(Bucket(sorted(names), order), _fresh())
    assert sorted(listed) == sorted(names)


@pytest.mark.parametrize("seed", range(8))
async def test_pages_that_fail_and_our_own_changes(autojump_clock: trio.testing.MockClock, seed: int) -> None:
    rnd = random.Random(seed)
    names = KINDS["numbered"] if seed % 2 else sorted(KINDS["hashes"])
    bucket = Bucket(names)
    bucket.failing = {rnd.randrange(1, 15) for _ in range(4)}
    load = _fresh()
    gone: set[str] = set()
    made: set[str] = set()

    def change(page: int) -> None:
        for name in rnd.sample(names, 3):
            gone.add(name)
            load.patch(partial(Listing.drop, component=name))
            bucket.names = [other for other in bucket.names if other != name]
        new = f"f00{rnd.randrange(10_000):04}-new"
        made.add(new)
        load.patch(partial(Listing.add, component=new, info=_info(new)))
        bucket.names = sorted({*bucket.names, new})

    listed = await _listed(bucket, load, change)
    assert len(listed) == len(set(listed))
    assert set(load.listing.files) == {*names, *made} - gone
    assert set(listed) >= {*names} - gone


async def test_a_name_that_is_yet_to_come_is_not_absent(autojump_clock: trio.testing.MockClock) -> None:
    """Where `k/` comes in front of `k-...`, that it was listed says nothing of these."""
    names = ["k/", *(f"k-{number:04}" for number in range(5000))]
    bucket = Bucket(names, by_file)
    load = _fresh()
    await load.advance(cast(ObjectStore, bucket))
    assert load.listing.find("k-4000") is None
    found = load.listing.find("k-0500")
    assert found is not None and found.file is not None
    assert sorted(await _listed(bucket, load)) == sorted(names)
    assert bucket.asked <= 10


async def test_a_server_that_knows_no_start(autojump_clock: trio.testing.MockClock) -> None:
    bucket = Bucket(KINDS["numbered"])
    bucket.knows_start = False
    assert await _listed(bucket, _fresh()) == KINDS["numbered"]


async def test_a_listing_that_is_gone_on_with_names_nothing_twice(autojump_clock: trio.testing.MockClock) -> None:
    """What we made behind the page where it stopped is in the listing, and on a later page too."""
    bucket = Bucket(KINDS["numbered"])
    begun = _fresh()
    await begun.advance(cast(ObjectStore, bucket))
    begun.listing.add("f009000", _info("f009000"))
    again = Load(begun.listing, begun=True)
    listed = await _listed(bucket, again)
    assert sorted(listed) == KINDS["numbered"]


def test_where_pages_begin() -> None:
    names = [f"f{number:05}" for number in range(1000)]
    starts = extrapolated(names, names[-1], 3, PAGE)
    assert [name[:4] for name in starts] == ["f019", "f029", "f039"]
    assert all(one > two for one, two in zip(starts, ["f01980", "f02960", "f03940"], strict=True))
    assert extrapolated(["a"] * 1000, "a", 3, PAGE) == []
    assert extrapolated(["a", "é"], "é", 3, PAGE) == []
    assert extrapolated(["9998", "9999"], "9999", 3, PAGE) == []
    assert remembered(names[::10], 10, "f00009", 2, 100) == ["f00090", "f00180"]
    assert remembered(names[::10], 10, "f00950", 2, 100) == []
