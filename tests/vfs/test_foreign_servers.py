"""A bucket of a real server that boto3 has filled: odd keys that it accepts, and paths that are too long for keys."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from b2fs.core.keys import QUOTE as Q
from b2fs.store.s3 import S3Config, S3Store
from b2fs.vfs.api import ROOT
from b2fs.vfs.config import VfsConfig
from tests.servers import Server
from tests.vfs.bucket import ANYBODY, Mount, mount
from tests.vfs.test_foreign_keys import remove_tree

#: Names that look like something else to somebody on the way; SeaweedFS takes a backslash for a slash.
NAMES = [
    *(
        "back\\slash",
        "..\\up",
        "a\\..\\b",
        "\\",
        "end\\",
        "wide\uff3cslash",
        f"quoted{Q}\uff3c",
        "...",
        "..x",
        "x..",
        "-",
    ),
    *(
        "%2f",
        "%5c",
        "%",
        "%25",
        "%zz",
        "+",
        "a+b c",
        " ",
        " both ",
        "two  blanks",
        "?",
        "a?b=c&d#e",
        "#",
        "&amp;",
        "<a>",
    ),
    *(
        "'single'",
        '"double"',
        "`",
        "$(x)",
        "*",
        "[x]",
        "{a,b}",
        "~",
        "^",
        "|",
        ";",
        ":",
        "a:b",
        "@",
        "=",
        "!",
        ",",
        "$",
    ),
    *("e\u0301", "\u00e9", "\ufeff", "\ufffe", "\U0001f600", "\u200d", "\u2028", "\x7f", "\x01", "tab\t", "\udcff"),
]
#: SeaweedFS refuses `.` and `..`, takes `//` for `/`, and keeps no content in `a/`.
KEYS = ["d/a", "d/a/b", f"d/raw{Q}b", "d/picture\u2400", "d/c\nb", "d/" + "n" * 300, "d/" + "é" * 200 + "/x", "d/plain"]


@pytest.fixture
def keys(seaweedfs: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seaweedfs.environment().items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket_name(seaweedfs: Server, keys: None) -> str:
    return seaweedfs.new_bucket()


@asynccontextmanager
async def mounted_at(server: Server, name: str, cache: Path) -> AsyncIterator[Mount]:
    config = VfsConfig("", attr_index=False)
    s3 = S3Config(name, endpoint=server.endpoint, region=server.region)
    async with S3Store(s3) as store, mount(store, cache, config) as mounted:
        yield mounted


def contents(server: Server, name: str) -> dict[str, bytes]:
    """What boto3 sees, without b2fs's own and the objects of directories."""
    client = server.client()
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=name).get("Contents", [])]
    wanted = [key for key in keys if not key.startswith(".b2fs/") and not key.endswith("/")]
    return {key: client.get_object(Bucket=name, Key=key)["Body"].read() for key in wanted}


async def files(mounted: Mount, path: str) -> dict[str, bytes]:
    below = [found for found in await mounted.walk(path) if stat.S_ISREG((await mounted.find(found)).mode)]
    return {found: await mounted.read(found) for found in below}


async def test_every_odd_key_that_boto3_has_put(seaweedfs: Server, bucket_name: str, tmp_path: Path) -> None:
    client = seaweedfs.client()
    for key in KEYS:
        client.put_object(Bucket=bucket_name, Key=key, Body=key.encode())
    async with mounted_at(seaweedfs, bucket_name, tmp_path / "one") as mounted:
        found = await files(mounted, "d")
        assert sorted(found.values()) == sorted(key.encode() for key in KEYS)
        for path in found:
            await mounted.write(path, b"N")
        await mounted.drain()
        assert contents(seaweedfs, bucket_name) == {key: b"N" + key.encode()[1:] for key in KEYS}
        await mounted.fs.rename(ROOT, b"d", ROOT, b"e", 0, ANYBODY)
        await mounted.drain()
    moved = contents(seaweedfs, bucket_name)
    assert sorted(moved.values()) == sorted(b"N" + key.encode()[1:] for key in KEYS)
    assert {key.partition("/")[0] for key in moved} == {"e"}
    async with mounted_at(seaweedfs, bucket_name, tmp_path / "two") as mounted:
        assert sorted((await files(mounted, "e")).values()) == sorted(moved.values())
        await remove_tree(mounted, "e")
        await mounted.drain()
    assert contents(seaweedfs, bucket_name) == {}


async def test_every_name_is_there_on_a_cold_mount(seaweedfs: Server, bucket_name: str, tmp_path: Path) -> None:
    names = {name.encode("utf-8", "surrogateescape") for name in NAMES}
    async with mounted_at(seaweedfs, bucket_name, tmp_path / "one") as mounted:
        await mounted.fs.mkdir(ROOT, b"d", 0o755, ANYBODY)
        parent = (await mounted.find("d")).ino
        for name in names:
            opened, _ = await mounted.fs.create(parent, name, 0o644, os.O_WRONLY, ANYBODY)
            await mounted.fs.write(opened.handle, 0, b"content of " + name)
            await mounted.fs.release(opened.handle)
        await mounted.drain()
    async with mounted_at(seaweedfs, bucket_name, tmp_path / "two") as mounted:
        assert {os.fsencode(path.removeprefix("d/")) for path in await mounted.walk("d")} == names
        for path, content in (await files(mounted, "d")).items():
            assert content == b"content of " + os.fsencode(path.removeprefix("d/"))


async def test_a_path_that_is_too_long_for_a_key(seaweedfs: Server, bucket_name: str, tmp_path: Path) -> None:
    parts = [f"{number}" * 200 for number in range(8)]
    async with mounted_at(seaweedfs, bucket_name, tmp_path / "one") as mounted:
        for depth in range(1, 9):
            await mounted.mkdir("/".join(parts[:depth]), 0o700 + depth)
        await mounted.write("/".join([*parts, "file"]), b"content", 0o640)
        await mounted.drain()
    async with mounted_at(seaweedfs, bucket_name, tmp_path / "two") as mounted:
        walked = await mounted.walk()
        assert walked == ["/".join(parts[:depth]) for depth in range(1, 9)] + ["/".join([*parts, "file"])]
        assert await mounted.read(walked[-1]) == b"content"
        modes = [stat.S_IMODE((await mounted.find(path)).mode) for path in walked]
        assert modes == [0o700 + depth for depth in range(1, 9)] + [0o640]
        with trio.fail_after(60):
            await remove_tree(mounted, parts[0])
            await mounted.drain()
    async with mounted_at(seaweedfs, bucket_name, tmp_path / "three") as mounted:
        assert await mounted.walk() == []


async def test_directories_that_are_listed_in_front_of_names_that_begin_like_them(
    seaweedfs: Server, bucket_name: str, tmp_path: Path
) -> None:
    """S3 has `k-a` in front of `k/0`; this server lists directory by directory, over pages too."""
    client = seaweedfs.client()
    keys = {f"d/t/k/{number:04}" for number in range(1100)} | {"d/t/k-a", "d/t/k.b/1", "d/t/k (1)/2", "d/u"}
    many = {"e/k/1", *(f"e/k-{number:04}" for number in range(1100))}
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: client.put_object(Bucket=bucket_name, Key=key, Body=b""), keys | many))
    async with mounted_at(seaweedfs, bucket_name, tmp_path / "one") as mounted:
        assert await mounted.exists("e/k-1099")
        for top, there in (("d", keys), ("e", many)):
            found = await mounted.walk(top)
            assert len(found) == len(set(found))
            assert there <= set(found)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("versioned", [False, True])
async def test_a_server_of_folders_shows_no_directory_that_was_removed(
    seaweedfs: Server, tmp_path: Path, versioned: bool
) -> None:
    """It makes folders of what is stored below a directory, and lists them when all of that is gone."""
    name, client = seaweedfs.new_bucket(versioned=versioned), seaweedfs.client()
    made = client.put_object(Bucket=name, Key="shown/file", Body=b"")
    if versioned:
        client.delete_object(Bucket=name, Key="shown/file", VersionId=made["VersionId"])
    else:
        client.delete_object(Bucket=name, Key="shown/file")
    assert "CommonPrefixes" in client.list_objects_v2(Bucket=name, Delimiter="/"), "or this shows nothing"
    client.delete_object(Bucket=name, Key="shown/")
    async with mounted_at(seaweedfs, name, tmp_path / "one") as mounted:
        await mounted.mkdir("d", 0o755)
        await mounted.mkdir("d/e", 0o755)
        opened, _ = await mounted.fs.create((await mounted.find("d/e")).ino, b"f", 0o644, os.O_WRONLY, ANYBODY)
        await mounted.fs.write(opened.handle, 0, b"content")
        await mounted.fs.fsync(opened.handle, False)
        await mounted.fs.release(opened.handle)
        assert client.get_object(Bucket=name, Key="d/e/f")["Body"].read() == b"content"
        await remove_tree(mounted, "d")
        await mounted.drain()
    hidden = [entry["Key"] for entry in client.list_object_versions(Bucket=name).get("DeleteMarkers", [])]
    assert [key for key in hidden if key.endswith("/")] == []
    for prefix in ("", ".b2fs/"):
        listed = client.list_objects_v2(Bucket=name, Prefix=prefix, Delimiter="/").get("CommonPrefixes", [])
        assert [entry["Prefix"] for entry in listed if entry["Prefix"] != ".b2fs/"] == []


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("versioned", [False, True])
async def test_on_a_server_of_folders_files_and_directories_take_each_others_place(
    seaweedfs: Server, tmp_path: Path, versioned: bool
) -> None:
    """To it `a` and `a/` are one."""
    name, client = seaweedfs.new_bucket(versioned=versioned), seaweedfs.client()

    def bodies() -> dict[str, bytes]:
        keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=name).get("Contents", [])]
        files = [key for key in keys if not key.startswith(".b2fs/") and not key.endswith("/")]
        return {key: client.get_object(Bucket=name, Key=key)["Body"].read() for key in files}

    async with mounted_at(seaweedfs, name, tmp_path / "one") as mounted:
        for count in range(4):
            await mounted.mkdir("x", 0o750)
            await mounted.write("x/inside", b"content")
            await mounted.write("y", b"file")
            if count % 2:
                await mounted.drain()
            for old, new in (("x", "t"), ("y", "x"), ("t", "y")):
                await mounted.fs.rename(ROOT, old.encode(), ROOT, new.encode(), 0, ANYBODY)
            await mounted.drain()
            assert bodies() == {"x": b"file", "y/inside": b"content"}
            await mounted.fs.unlink(ROOT, b"x", ANYBODY)
            await remove_tree(mounted, "y")
            await mounted.write("y", b"")
            await mounted.drain()
            assert bodies() == {"y": b""}
            await mounted.fs.unlink(ROOT, b"y", ANYBODY)
