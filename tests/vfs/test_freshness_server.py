"""What another client changes on a server of another kind, while this mount has it listed and open."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from b2fs.core.nodes import InodeId
from b2fs.store.s3 import S3Config, S3Store
from b2fs.vfs.config import VfsConfig
from tests.mounting import NoKernel
from tests.servers import Server
from tests.vfs.bucket import Mount, mount

TTL_S = 1.0
#: How much longer than it has to a slow machine may take.
PATIENCE_S = 30.0


async def _wait_listed(mounted: Mount, path: str, names: list[str]) -> None:
    with trio.fail_after(TTL_S + PATIENCE_S):
        while sorted(await mounted.ls(path)) != names:  # noqa: ASYNC110  # only the clock makes it so
            await trio.sleep(TTL_S / 20)


async def test_changes_are_seen_and_open_files_keep_their_version(
    tmp_path: Path, seaweedfs: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in seaweedfs.environment().items():
        monkeypatch.setenv(name, value)
    other, bucket = seaweedfs.client(), seaweedfs.new_bucket()

    def put(**bodies: bytes) -> None:
        for key, body in bodies.items():
            other.put_object(Bucket=bucket, Key=f"d/{key}", Body=body)

    def change() -> None:
        put(changed=b"something longer", new=b"new")
        other.delete_object(Bucket=bucket, Key="d/gone")

    await trio.to_thread.run_sync(lambda: put(changed=b"as it was", gone=b"as it was", same=b"same"))
    config = S3Config(bucket, endpoint=seaweedfs.endpoint, region=seaweedfs.region)
    async with (
        S3Store(config) as store,
        mount(store, tmp_path / "cache", VfsConfig("", ttl_s=TTL_S), NoKernel()) as mounted,
    ):
        before: dict[str, InodeId] = {name: attr.ino for name, attr in (await mounted.ls("d")).items()}
        opened = [await mounted.open(f"d/{name}") for name in ("changed", "gone")]
        await trio.to_thread.run_sync(change)
        await _wait_listed(mounted, "d", ["changed", "new", "same"])
        after = await mounted.ls("d")
        assert after["same"].ino == before["same"]
        assert after["changed"].ino != before["changed"]
        assert after["changed"].ttl_s <= TTL_S
        assert await mounted.read("d/changed") == b"something longer"
        assert [await mounted.pread(each.handle) for each in opened] == [b"as it was", b"as it was"]
        for each in opened:
            await mounted.fs.release(each.handle)


async def test_a_refresh_shows_at_once_what_was_listed_before(
    tmp_path: Path, seaweedfs: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in seaweedfs.environment().items():
        monkeypatch.setenv(name, value)
    other, bucket = seaweedfs.client(), seaweedfs.new_bucket()
    await trio.to_thread.run_sync(lambda: other.put_object(Bucket=bucket, Key="d/a", Body=b"a"))
    told: list[bytes] = []

    class Kernel(NoKernel):
        def invalidate_entry(self, parent: InodeId, name: bytes) -> None:
            told.append(name)

    config = S3Config(bucket, endpoint=seaweedfs.endpoint, region=seaweedfs.region)
    async with (
        S3Store(config) as store,
        mount(store, tmp_path / "cache", VfsConfig("", ttl_s=3600), Kernel()) as mounted,
    ):
        assert sorted(await mounted.ls("d")) == ["a"]
        await trio.to_thread.run_sync(lambda: other.put_object(Bucket=bucket, Key="d/b", Body=b"b"))
        assert sorted(await mounted.ls("d")) == ["a"]
        await mounted.fs.refresh(b"d")
        assert sorted(await mounted.ls("d")) == ["a", "b"]
        assert b"a" in told
