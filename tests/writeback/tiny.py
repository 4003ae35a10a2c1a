"""Parts of 64 KiB: what takes gigabytes with a real bucket happens with files of a megabyte."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from trio.testing import MockClock

from b2fs.cache import content
from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.core import parts
from b2fs.core.nodes import HandleId
from b2fs.core.types import Capabilities
from tests.writeback.harness import Mount, Place

KIB = 1 << 10
PART = 64 * KIB
#: What dirty files may need on the disk.
ROOM = 16 * PART
TINY = WriteBackConfig(put_max_bytes=PART, stream_bytes=2 * PART, dirty_bytes=ROOM)


@pytest.fixture
def tiny(autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A place where parts have 64 KiB, and where a dirty file's need of space is always looked up."""
    monkeypatch.setattr(parts, "STREAM_PART", PART)
    monkeypatch.setattr(parts, "MIN_PART", PART // 2)
    monkeypatch.setattr(content, "_SMALL_BYTES", 0)
    yield Place(tmp_path, capabilities=Capabilities()._replace(min_part_bytes=PART // 2))


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


async def append(mount: Mount, handle: HandleId, body: bytes, start: int = 0, step: int = 16 * KIB) -> None:
    """Write body from start on, in pieces, within the room that there is."""
    for at in range(0, len(body), step):
        await mount.write(handle, start + at, body[at : at + step])
        assert held(mount) <= ROOM + step


def held(mount: Mount) -> int:
    """What dirty files need on the disk."""
    return mount.fs._core.files.held_bytes()


def away(mount: Mount) -> int:
    """How many bytes are only in parts of unfinished uploads."""
    return sum(content.away.total for content in mount.fs._core.files.contents.values())


def digest(body: bytes | None) -> str:
    """A short name for a content, for messages of failed tests."""
    return "nothing" if body is None else f"{len(body)} bytes {hashlib.md5(body).hexdigest()[:8]}"
