"""Indexes that somebody damaged, or made to deceive: the answers are right, and nothing breaks."""

from __future__ import annotations

import json
import logging
import stat
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from b2fs.cache.attrindex_codec import decode
from b2fs.core.nodes import SetAttr
from b2fs.store.embedded.store import EmbeddedStore
from tests.vfs.bucket import ANYBODY, bucket, mount

INDEX = ".b2fs/attrs/index"
#: name, etag, size, second, slack, version, extra: as the index has a file.
Row = list[Any]


def _packed(table: object) -> bytes:
    return b"b2fs-attributes 1\n" + zlib.compress(json.dumps(table).encode())


def _extra(extra: str) -> Callable[[Row], Row]:
    return lambda row: [*row[:6], extra]


def _metadata(**metadata: object) -> Callable[[Row], Row]:
    return _extra(json.dumps([metadata, None]))


#: What a row may become while it still seems to describe the version that is there.
ROWS: dict[str, Callable[[Row], Row]] = {
    "no json": _extra("no json"),
    "a json of another form": _extra("[1, 2, 3]"),
    "metadata that is a list": _extra('[["mode"], null]'),
    "metadata that is null": _extra("[null, null]"),
    "a deep json": _extra("[" * 100_000),
    "a mode that is a number": _metadata(mode=0o777),
    "a mode that is null": _metadata(mode=None),
    "a time that is a list": _metadata(mode="33188", mtime=["1"]),
    "a content type that is a number": _extra(json.dumps([{"mode": "33216"}, 5])),
    "a line break in what goes into requests": _metadata(mode="33216", other="x\r\nx-amz-acl: public-read"),
    "a content type with a line break": _extra(json.dumps([{"mode": "33216"}, "text/plain\r\nx: y"])),
    "names of metadata that are no header": _metadata(**{"mode": "33216", "a b\n": "x"}),
    "text that is no Unicode": _metadata(mode="33216", other="\ud800"),
    "a name that is a number": lambda row: [5, *row[1:]],
    "a name that is no Unicode": lambda row: ["\ud800", *row[1:]],
    "a name that is a list": lambda row: [[], *row[1:]],
    "no fields": lambda row: [],
    "too many fields": lambda row: [*row, "more"],
    "a size that is a text": lambda row: [row[0], row[1], "3", *row[3:]],
    "a size beyond all bounds": lambda row: [row[0], row[1], 10**400, *row[3:]],
}


async def _two_files(store: EmbeddedStore, tmp_path: Path) -> Any:
    """Two files and what their index holds."""
    async with mount(store, tmp_path / "writer") as mounted:
        if not await mounted.exists("d"):
            await mounted.mkdir("d")
        await mounted.write("d/a", b"one", 0o601)
        await mounted.write("d/b", b"two", 0o602)
        await mounted.drain()
    _, body = await store.get(INDEX)
    return json.loads(zlib.decompress(bytes(body).partition(b"\n")[2]))


async def _check(store: EmbeddedStore, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A mount on a machine that has not seen the bucket shows what is there, and can change it."""
    with caplog.at_level(logging.DEBUG):
        async with mount(store, tmp_path / "two") as mounted:
            listed = await mounted.ls("d")
            assert {name: stat.S_IMODE(attr.mode) for name, attr in listed.items()} == {"a": 0o601, "b": 0o602}
            assert await mounted.read("d/a") == b"one"
            await mounted.fs.setattr(listed["a"].ino, SetAttr(mode=0o644), None, ANYBODY)
            await mounted.drain()
            await mounted.fs.write_index()
    info = await store.head("d/a")
    assert info.metadata is not None
    assert stat.S_IMODE(int(info.metadata["mode"])) == 0o644
    assert "other" not in info.metadata
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    decode(bytes((await store.get(INDEX))[1]))


@pytest.mark.parametrize("change", ROWS.values(), ids=ROWS)
async def test_a_row_of_another_form(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Callable[[Row], Row]
) -> None:
    async with bucket(tmp_path) as store:
        table = await _two_files(store, tmp_path)
        table["rows"]["d/"] = [change(row) if row[0] == "a" else row for row in table["rows"]["d/"]]
        await store.put(INDEX, _packed(table))
        await _check(store, tmp_path, caplog)


BODIES: dict[str, bytes] = {
    "a list": _packed([]),
    "rows that are a list": _packed({"rows": []}),
    "a directory that is a number": _packed({"rows": {"d/": 5}}),
    "a deep json": b"b2fs-attributes 1\n" + zlib.compress(b'{"rows":' + b"[" * 200_000),
    "a bomb": b"b2fs-attributes 1\n" + zlib.compress(b" " * (600 << 20), 1),
    "no utf-8": b"b2fs-attributes 1\n" + zlib.compress(b'{"rows": {"\xff": []}}'),
    "directories that are no Unicode": _packed({"rows": {"\ud800/": []}}),
    "a wrong checksum": _packed({"rows": {}})[:-1] + b"!",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_a_body_of_another_form(tmp_path: Path, caplog: pytest.LogCaptureFixture, body: bytes) -> None:
    async with bucket(tmp_path) as store:
        await _two_files(store, tmp_path)
        await store.put(INDEX, body)
        await _check(store, tmp_path, caplog)


async def test_an_index_that_is_very_large_is_not_fetched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with bucket(tmp_path) as store:
        await _two_files(store, tmp_path)
        await store.put(INDEX, bytes(65 << 20))
        await _check(store, tmp_path, caplog)


async def test_the_version_that_an_index_names_is_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It may be an older one, of the same size."""
    async with bucket(tmp_path) as store:
        old = await store.put("d/a", b"old", metadata={"mode": str(stat.S_IFREG | 0o601)})
        table = await _two_files(store, tmp_path)
        for row in table["rows"]["d/"]:
            row[5] = old.ref.version_id if row[0] == "a" else "../../b"
        await store.put(INDEX, _packed(table))
        await _check(store, tmp_path, caplog)


async def test_an_index_speaks_for_its_own_directories_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with bucket(tmp_path) as store:
        table = await _two_files(store, tmp_path)
        rows = table["rows"]["d/"]
        lies = [[*row[:6], json.dumps([{"mode": str(stat.S_IFREG | 0o666)}, None])] for row in rows]
        await store.put(".b2fs/attrs/e/index", _packed({"rows": {"d/": lies, "../d/": lies, "/d/": lies}}))
        await store.put("e/x", b"x")
        async with mount(store, tmp_path / "looks-there-first") as mounted:
            await mounted.ls("e")
            assert stat.S_IMODE((await mounted.ls("d"))["a"].mode) == 0o601
        await _check(store, tmp_path, caplog)
