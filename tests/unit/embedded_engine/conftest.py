"""An engine with a clock that stands still, and buckets in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from b2fs.store.embedded.engine import Engine, EngineConfig
from b2fs.store.embedded.rows import (
    BucketSpec,
)
from tests.unit.embedded_engine.tools import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(tmp_path: Path, clock: Clock) -> Iterator[Engine]:
    config = EngineConfig(str(tmp_path / "store"), durable=False, min_part_bytes=10, inline_max=100)
    with Engine(config, clock_ms=clock) as opened:
        yield opened


@pytest.fixture
def bucket(engine: Engine) -> int:
    return engine.create_bucket(BucketSpec("bucket")).id


@pytest.fixture
def locked_bucket(engine: Engine) -> int:
    return engine.create_bucket(BucketSpec("locked-bucket", lock_enabled=True)).id
