"""How attribute rows become index objects and back."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b2fs.cache.attrindex_codec import Rows, UnreadableIndex, count, decode, encode, split
from b2fs.cache.remote.known import Row
from b2fs.core.types import VersionId

ROW = Row("0123", 5, 1000, 2, VersionId("v1"), b'[{"mode":"33188"},null]')

rows_of = st.dictionaries(
    st.lists(st.sampled_from("abc"), max_size=4).map(lambda parts: "".join(f"{part}/" for part in parts)),
    st.dictionaries(st.text(min_size=1, max_size=5), st.just(ROW), min_size=1, max_size=12),
    max_size=12,
)


@given(rows_of)
def test_rows_come_back(rows: Rows) -> None:
    assert decode(encode(rows)) == rows


def test_anything_else_is_unreadable() -> None:
    body = encode({"": {"f": ROW}})
    for broken in (body[:-1], body[:20], b"", body.replace(b" 1\n", b" 2\n"), b"\n" + body):
        with pytest.raises(UnreadableIndex):
            decode(broken)


@given(rows_of, st.integers(1, 40), st.integers(1, 10))
def test_splitting_keeps_every_row_once_and_where_it_is_looked_for(rows: Rows, most: int, least: int) -> None:
    parts = split(rows, "", most, least)
    assert sorted(chain.from_iterable(part for part in parts.values())) == sorted(rows)
    for top, part in parts.items():
        for directory, names in part.items():
            nearest = max((other for other in parts if directory.startswith(other)), key=len)
            assert nearest == top
            assert names == rows[directory]
        assert not top or count(part) + sum(count(parts[o]) for o in parts if o != top and o.startswith(top)) >= least


def test_a_small_tree_is_one_object_and_a_large_one_is_split() -> None:
    tree = {f"d{d}/e{e}/": {f"f{f}": ROW for f in range(100)} for d in range(10) for e in range(10)}
    assert list(split(tree, "", 10_000, 256)) == [""]
    parts = split(tree, "", 4_000, 256)
    assert len(parts) == 7
    assert max(map(count, parts.values())) <= 4_000
