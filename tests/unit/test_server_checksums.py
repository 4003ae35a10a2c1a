"""Checksums: put together from parts' without reading the content again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b2fs.server.auth.checksums import CYCLIC, decode, digest_of, joined
from b2fs.server.wire.errors import S3Error


@pytest.mark.parametrize("name", sorted(CYCLIC))
@given(parts=st.lists(st.binary(max_size=200), min_size=1, max_size=5))
def test_parts_give_the_checksum_of_the_whole(name: str, parts: list[bytes]) -> None:
    sums = [(digest_of(name, part), len(part)) for part in parts]
    assert joined(name, sums) == digest_of(name, b"".join(parts))


def test_long_parts_too() -> None:
    body = bytes(range(256)) * 40_000
    cut = 5_000_000
    sums = [(digest_of("crc64nvme", part), len(part)) for part in (body[:cut], body[cut:])]
    assert joined("crc64nvme", sums) == digest_of("crc64nvme", body)


@pytest.mark.parametrize("text", ["", "bad", "AAAAAA", "AAAAAAA=", "é"])
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(S3Error) as caught:
        decode("crc32", text)
    assert caught.value.code == "BadDigest"
