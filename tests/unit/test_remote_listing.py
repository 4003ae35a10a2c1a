"""Listings in little memory, and attributes tied to versions."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b2fs.cache.remote.known import KnownAttributes
from b2fs.cache.remote.listing import Found, Listing, pack, unpack
from b2fs.core.types import ETag, ObjectInfo, ObjectRef, VersionId

NS = 1_000_000_000
MD5 = "0123456789abcdef0123456789abcdef"


def _info(
    key: str = "d/f", etag: str = MD5, size: int = 7, second: int = 1000, version: str | None = None
) -> ObjectInfo:
    return ObjectInfo(ObjectRef(key, VersionId(version) if version else None, ETag(etag), size), second * NS)


@given(
    st.one_of(st.just(MD5), st.just(MD5.upper()), st.just(MD5 + "-3"), st.text(max_size=40)),
    st.integers(0, 1 << 60),
    st.integers(0, 1 << 62),
)
def test_a_row_gives_back_what_was_packed(etag: str, size: int, modified_ns: int) -> None:
    info = ObjectInfo(ObjectRef("k", None, ETag(etag), size), modified_ns)
    assert unpack("k", pack(info)) == info


def test_a_name_takes_little_memory() -> None:
    count = 20_000
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        listing = Listing("d/", 0.0)
        for number in range(count):
            listing.add(f"file{number:07d}", _info(f"d/file{number:07d}", f"{number:032x}"))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert listing.count == count
    assert (after - before) / count < 300


def test_a_listing_that_is_cut_knows_only_names_before_the_cut() -> None:
    listing = Listing("d/", 5.0, until="m")
    listing.add("a", _info("d/a"))
    listing.add("sub/", _info("d/sub/"))
    assert listing.find("a") == Found(_info("d/a"), False, 5.0)
    assert listing.find("b") == Found(None, False, 5.0)
    assert listing.find("m") is None
    assert listing.find("sub") is None


def test_an_object_and_a_directory_of_one_name_are_both_listed() -> None:
    listing = Listing("d/", 5.0)
    listing.add("a", _info("d/a"))
    listing.add("a/", _info("d/a/"))
    assert listing.entries() == ["a", "a/"]
    listing.drop("a")
    assert listing.entries() == ["a/"]
    listing.drop("a/")
    assert not listing.count


def _with_metadata(info: ObjectInfo) -> ObjectInfo:
    return ObjectInfo(info.ref, info.modified_ns, {"mode": "33188"}, "text/plain")


def test_attributes_are_known_for_the_version_that_they_describe() -> None:
    known = KnownAttributes(10)
    known.learn(_with_metadata(_info(version="v1")))
    assert known.complete(_info()) == _with_metadata(_info(version="v1"))
    assert known.complete(_info(version="v1")) == _with_metadata(_info(version="v1"))


@pytest.mark.parametrize(
    "other",
    [_info(etag="1" * 32), _info(size=8), _info(second=1001), _info(version="v2"), _info(key="d/g")],
    ids=["etag", "size", "second", "version", "key"],
)
def test_attributes_of_another_version_are_not_used(other: ObjectInfo) -> None:
    known = KnownAttributes(10)
    known.learn(_with_metadata(_info(version="v1")))
    assert known.complete(other) is None


def test_what_is_learnt_in_one_directory_changes_no_other() -> None:
    known = KnownAttributes(10)
    before = {prefix: known.changes(prefix) for prefix in ("", "d/", "e/", "d/e/")}
    known.learn(_with_metadata(_info()))
    assert {prefix for prefix, count in before.items() if known.changes(prefix) != count} == {"d/"}
    learnt = known.changes("d/")
    known.forget("d/f")
    assert known.changes("d/") != learnt


def test_a_change_is_noticed_also_when_there_are_many_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("b2fs.cache.remote.known._DIRECTORIES", 3)
    known = KnownAttributes(100)
    for number in range(10):
        before = known.changes("d/")
        known.learn(_with_metadata(_info()))
        assert known.changes("d/") != before
        between = known.changes("d/")
        known.learn(_with_metadata(_info(key=f"d{number}/f")))
        assert known.changes("d/") >= between


def test_an_upload_may_be_listed_with_a_slightly_earlier_time() -> None:
    known = KnownAttributes(10)
    known.learn(_with_metadata(_info(second=1000)), uploaded=True)
    assert known.complete(_info(second=999)) is not None
    assert known.complete(_info(second=990)) is None
    known.forget("d/f")
    assert known.complete(_info(second=999)) is None
