"""What tests of the engine share: time, and a look at the disk."""

from __future__ import annotations

from pathlib import Path

from b2fs.store.embedded.engine import Engine

DAY_MS = 86_400_000


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_123

    def __call__(self) -> int:
        return self.ms


def content_files(engine: Engine) -> int:
    return sum(1 for path in Path(engine.directory).glob("content/*/*"))
