"""Attributes in metadata: round trips, what other programs write, and what is malformed."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b2fs.core.attrs import Defaults, Posix, carries_posix, decode, encode, format_time, kept, parse_time

DEFAULTS = Defaults(uid=7, gid=8, file_mode=0o640, dir_mode=0o750)
FILES = (stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
times = st.integers(-(2**62), 2**62)
ids = st.integers(0, 2**32 - 2)


@st.composite
def posix(draw: st.DrawFn) -> Posix:
    kind = draw(st.sampled_from((*FILES, stat.S_IFDIR)))
    return Posix(
        mode=kind | draw(st.integers(0, 0o7777)),
        uid=draw(ids),
        gid=draw(ids),
        mtime_ns=draw(times),
        atime_ns=draw(times),
        ctime_ns=draw(times),
        rdev=draw(st.integers(0, 2**32 - 1)) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
        xattrs=draw(st.dictionaries(st.binary(min_size=1, max_size=9), st.binary(max_size=9), max_size=3)),
        link_id=draw(st.none() | st.text("0123456789abcdef", min_size=32, max_size=32)),
    )


@given(posix())
def test_every_attribute_comes_back(attrs: Posix) -> None:
    metadata = encode(attrs)
    assert decode(metadata, is_dir=stat.S_ISDIR(attrs.mode), modified_ns=5, defaults=DEFAULTS) == attrs
    assert carries_posix(metadata)


@given(posix())
def test_metadata_fits_into_headers(attrs: Posix) -> None:
    for name, value in encode(attrs).items():
        assert name == name.lower()
        assert value.isascii()
        assert value.isprintable()


@given(times)
def test_times_come_back(time_ns: int) -> None:
    assert parse_time(format_time(time_ns)) == time_ns


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("5", 5_000_000_000),
        ("1.5", 1_500_000_000),
        ("1.0000000019", 1_000_000_001),
        ("-0.5", -500_000_000),
        ("", None),
        (None, None),
        ("1.5e3", None),
        ("٣", None),
        ("9" * 30, None),
        ("1.-5", None),
    ],
)
def test_times_of_others(text: str | None, time_ns: int | None) -> None:
    assert parse_time(text) == time_ns


@given(
    st.dictionaries(st.sampled_from(["mode", "uid", "gid", "rdev", "mtime", "xattr", "b2fs-link"]), st.text(max_size=9))
)
def test_nothing_malformed_is_an_error(metadata: dict[str, str]) -> None:
    for is_dir in (False, True):
        found = decode(metadata, is_dir=is_dir, modified_ns=5, defaults=DEFAULTS)
        assert stat.S_ISDIR(found.mode) == is_dir
        assert 0 <= found.uid < 2**32 - 1


@pytest.mark.parametrize(
    "metadata",
    [
        {"mtime": "9" * 6000},
        {"mtime": "1", "atime": "-" + "9" * 6000},
        {"xattr": "[" * 6000},
        {"xattr": "%7B%22%5Cud800%22%3A%22%22%7D"},
        {"rdev": "9" * 20, "mode": str(stat.S_IFBLK | 0o600)},
        {"xattr": '{"": "", "user.a%00b": "", "user.' + "n" * 300 + '": "", "user.c": 5, "user.d": ["x"]}'},
    ],
)
def test_what_only_looks_like_attributes(metadata: dict[str, str]) -> None:
    found = decode(metadata, is_dir=False, modified_ns=5, defaults=DEFAULTS)
    assert found.mtime_ns == (10**9 if metadata.get("mtime") == "1" else 5)
    assert (found.xattrs, found.rdev) == ({}, 0)


def test_an_object_without_attributes_gets_the_defaults() -> None:
    plain = decode({}, is_dir=False, modified_ns=5, defaults=DEFAULTS)
    assert plain == Posix(stat.S_IFREG | 0o640, 7, 8, 5, 5, 5)
    assert decode({}, is_dir=True, modified_ns=5, defaults=DEFAULTS).mode == stat.S_IFDIR | 0o750
    assert not carries_posix({"color": "blue"})


def test_times_that_b2s_own_tools_write() -> None:
    assert (
        decode({"src_last_modified_millis": "1500"}, is_dir=False, modified_ns=5, defaults=DEFAULTS).mtime_ns
        == 15 * 10**8
    )


def test_a_mode_without_a_type_and_one_of_the_wrong_type() -> None:
    assert decode({"mode": "420"}, is_dir=False, modified_ns=0, defaults=DEFAULTS).mode == stat.S_IFREG | 0o644
    directory = str(stat.S_IFDIR | 0o700)
    assert decode({"mode": directory}, is_dir=False, modified_ns=0, defaults=DEFAULTS).mode == stat.S_IFREG | 0o700


def test_the_time_that_others_read_follows_ours() -> None:
    foreign = {"colour": "red", "src_last_modified_millis": "1"}
    assert kept(foreign, 1_700_000_000_123_456_789) == {**foreign, "src_last_modified_millis": "1700000000123"}
    assert kept(foreign, -5)["src_last_modified_millis"] == "0"
    assert kept({"colour": "red"}, 5) == {"colour": "red"}
    assert foreign["src_last_modified_millis"] == "1"
