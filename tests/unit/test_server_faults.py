"""Faults and caps as pure decisions."""

from __future__ import annotations

import pytest

from b2fs.errors import ConfigError
from b2fs.server.classes import Caps, transaction_class
from b2fs.server.faults import Breakage, FaultRule, Faults
from b2fs.server.wire.errors import S3Error


@pytest.mark.parametrize("text", ["", "PutObject", "PutObject:503", "PutObject:999:5%", "PutObject:503:5", "a:503:x"])
def test_bad_rules(text: str) -> None:
    with pytest.raises(ConfigError):
        FaultRule.parse(text)


def strikes(faults: Faults, operation: str) -> bool:
    try:
        return faults.choose(operation) is not None
    except S3Error:
        return True


def test_a_share_is_the_same_for_a_seed() -> None:
    runs = [
        [strikes(Faults([FaultRule.parse("Put*:503:25%")], seed=7), "PutObject") for _ in range(1)] for _ in range(2)
    ]
    assert runs[0] == runs[1]
    faults = Faults([FaultRule.parse("Put*:503:25%")], seed=7)
    struck = sum(strikes(faults, "PutObject") for _ in range(1000))
    assert 200 < struck < 300
    assert not any(strikes(faults, "GetObject") for _ in range(100))


def test_a_count_ends() -> None:
    faults = Faults([FaultRule.parse("*:reset:x2")])
    assert [faults.choose("x") for _ in range(3)] == [Breakage.RESET, Breakage.RESET, None]


def test_caps_start_anew_at_midnight_utc() -> None:
    now = [86_399.0]
    caps = Caps({"class-b": 1}, lambda: 0, lambda: now[0])
    caps.charge("GetObject", 0)
    with pytest.raises(S3Error):
        caps.charge("GetObject", 0)
    now[0] += 1
    caps.charge("GetObject", 0)


def test_downloaded_bytes_are_capped() -> None:
    caps = Caps({"download": 10}, lambda: 0)
    caps.charge("GetObject", 0)
    caps.downloaded(10)
    with pytest.raises(S3Error, match="download bandwidth"):
        caps.charge("HeadObject", 0)


def test_classes() -> None:
    assert [transaction_class(name) for name in ("PutObject", "GetObject", "CopyObject", "-")] == ["A", "B", "C", "-"]
