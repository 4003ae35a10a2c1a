"""Access control lists: their form, and the rules of acl(5)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b2fs.core.acl import GROUP, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, Acl, Entry

bits = st.integers(0, 7)
ids = st.lists(st.integers(0, 2**32 - 2), unique=True, max_size=4)


@st.composite
def lists(draw: st.DrawFn) -> Acl:
    users, groups = draw(ids), draw(ids)
    masked = draw(bits) > 3
    entries = [Entry(USER_OBJ, draw(bits)), *(Entry(USER, draw(bits), uid) for uid in users)]
    entries += [Entry(GROUP_OBJ, draw(bits)), *(Entry(GROUP, draw(bits), gid) for gid in groups)]
    if users or groups or masked:
        entries.append(Entry(MASK, draw(bits)))
    return Acl((*entries, Entry(OTHER, draw(bits))))


def acl(*entries: tuple[int, int] | tuple[int, int, int]) -> Acl:
    return Acl(tuple(Entry(*entry) for entry in entries))


@given(lists())
def test_a_list_comes_back(value: Acl) -> None:
    assert Acl.parse(value.pack()) == value


@given(lists(), st.integers(0, 0o777))
def test_the_list_and_the_mode_stay_in_step(value: Acl, mode: int) -> None:
    assert value.with_mode(mode).mode == mode
    assert value.created(mode).mode == value.mode & mode


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [(USER_OBJ, 7), (GROUP_OBJ, 5)],
        [(USER_OBJ, 7), (USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 5)],
        [(USER_OBJ, 7), (USER, 7), (GROUP_OBJ, 5), (OTHER, 5)],
        [(USER_OBJ, 7), (GROUP_OBJ, 5), (MASK, 7), (MASK, 7), (OTHER, 5)],
        [(USER_OBJ, 8), (GROUP_OBJ, 5), (OTHER, 5)],
        [(USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 5), (0x40, 1)],
    ],
)
def test_what_is_no_list(entries: list[tuple[int, int]]) -> None:
    body = b"".join(struct.pack("<HHi", *entry, -1) for entry in entries)
    for version in (1, 2):
        with pytest.raises(ValueError, match="access control list"):
            Acl.parse(struct.pack("<I", version) + body)
    with pytest.raises(ValueError, match="access control list"):
        Acl.parse(b"\2\0\0\0x")


LIST = acl((USER_OBJ, 6), (USER, 7, 10), (GROUP_OBJ, 2), (GROUP, 4, 20), (GROUP, 5, 21), (MASK, 6), (OTHER, 1))


@pytest.mark.parametrize(
    ("uid", "groups", "granted"),
    [
        (1, {0}, 6),  # the owner; nothing masks that
        (10, {0}, 6),  # named, masked
        (2, {0}, 2),  # the file's group
        (2, {20}, 4),
        (2, {21}, 4),  # masked
        (2, {0, 20}, None),  # 2 or 4, but not both at once
        (2, {99}, 1),
    ],
)
def test_whom_it_grants_what(uid: int, groups: set[int], granted: int | None) -> None:
    for asked in range(8):
        expected = not asked & ~granted if granted is not None else asked in (0, 2, 4)
        got = LIST.grants(asked, is_owner=uid == 1, uid=uid, in_group=groups.__contains__, gid=0)
        assert got == expected, asked
