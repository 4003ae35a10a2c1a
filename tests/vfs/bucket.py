"""A filesystem on an embedded bucket that others write to as well, with every request counted."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import trio

from b2fs.core.nodes import Attr, Caller, HandleId, InodeId, OpenFile
from b2fs.core.types import Capabilities, ETag, ObjectInfo
from b2fs.errors import FsError
from b2fs.store.embedded.store import EmbeddedConfig, EmbeddedStore
from b2fs.store.faults import FaultyStore
from b2fs.store.forward import ForwardingStore, Method
from b2fs.store.protocol import Body, ObjectStore
from b2fs.vfs.api import ROOT, KernelNotifier
from b2fs.vfs.config import VfsConfig
from b2fs.vfs.filesystem import B2Filesystem, open_filesystem
from tests.mounting import NoKernel

ANYBODY = Caller()


@dataclass
class Mount:
    """A filesystem and the store below it; paths are relative to the mount's root."""

    fs: B2Filesystem
    store: FaultyStore

    async def find(self, path: str) -> Attr:
        """What a path leads to; the reference is kept."""
        attr = replace(await self.fs.getattr(ROOT))
        for component in filter(None, path.split("/")):
            attr = replace(await self.fs.lookup(attr.ino, os.fsencode(component), ANYBODY))
        return attr

    async def exists(self, path: str) -> bool:
        try:
            await self.find(path)
        except FsError:
            return False
        return True

    async def ls(self, path: str = "") -> dict[str, Attr]:
        """The entries of a directory with their attributes, as the kernel's readdirplus gets them."""
        return await self.list_inode((await self.find(path)).ino)

    async def list_inode(self, ino: InodeId) -> dict[str, Attr]:
        handle = await self.fs.opendir(ino, ANYBODY)
        found: dict[str, Attr] = {}
        async for entry in self.fs.readdir(handle, 0):
            self.fs.hold(entry.attr.ino)
            found[os.fsdecode(entry.name)] = replace(entry.attr)
        await self.fs.releasedir(handle)
        return found

    async def walk(self, path: str = "") -> list[str]:
        """Every path below a directory, in the order of find(1)."""
        return [found async for found in self._walk((await self.find(path)).ino, path)]

    async def _walk(self, ino: InodeId, path: str) -> AsyncIterator[str]:
        for name, attr in (await self.list_inode(ino)).items():
            child = f"{path}/{name}" if path else name
            yield child
            if stat.S_ISDIR(attr.mode):
                async for below in self._walk(attr.ino, child):
                    yield below

    async def open(self, path: str) -> OpenFile:
        return await self.fs.open((await self.find(path)).ino, os.O_RDONLY, ANYBODY)

    async def read(self, path: str) -> bytes:
        opened = await self.open(path)
        data = await self.pread(opened.handle)
        await self.fs.release(opened.handle)
        return data

    async def pread(self, handle: HandleId) -> bytes:
        return bytes(await self.fs.read(handle, 0, 1 << 20))

    async def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        parent, _, name = path.rpartition("/")
        ino = (await self.find(parent)).ino
        opened, _ = await self.fs.create(ino, os.fsencode(name), mode, os.O_RDWR, ANYBODY)
        await self.fs.write(opened.handle, 0, data)
        await self.fs.release(opened.handle)

    async def mkdir(self, path: str, mode: int = 0o755) -> None:
        parent, _, name = path.rpartition("/")
        await self.fs.mkdir((await self.find(parent)).ino, os.fsencode(name), mode, ANYBODY)

    async def drain(self) -> None:
        self.fs.writeback.hurry()
        await self.fs.writeback.wait_drained()

    def count(self, *methods: Method) -> int:
        """How many requests of these kinds, or of any kind, were made since the last reset."""
        return sum(self.store.counts[method] for method in methods or Method)


@asynccontextmanager
async def bucket(directory: Path) -> AsyncIterator[EmbeddedStore]:
    """The bucket, as another client sees it."""
    async with EmbeddedStore(EmbeddedConfig(str(directory / "store"), "bucket", durable=False)) as store:
        yield store


class MarkersWithoutMetadata(ForwardingStore):
    """A server that drops the metadata of keys that end in '/', as SeaweedFS does."""

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities._replace(marker_metadata=False)

    async def put(
        self,
        key: str,
        body: Body,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
        if_match: ETag | None = None,
        if_none_match: bool = False,
    ) -> ObjectInfo:
        kept = None if key.endswith("/") else metadata
        return await self.inner.put(
            key, body, metadata=kept, content_type=content_type, if_match=if_match, if_none_match=if_none_match
        )


_OPTIONS = VfsConfig("")


@asynccontextmanager
async def mount(
    store: ObjectStore, cache: Path, config: VfsConfig = _OPTIONS, notifier: KernelNotifier | None = None
) -> AsyncIterator[Mount]:
    """A filesystem of its own on the bucket; it is not drained at the end."""
    await trio.to_thread.run_sync(partial(cache.mkdir, exist_ok=True))
    counted = FaultyStore(store)
    async with open_filesystem(counted, config._replace(cache_dir=str(cache)), notifier or NoKernel()) as fs:
        yield Mount(fs, counted)


async def fill(store: EmbeddedStore, keys: Iterable[str], metadata: Mapping[str, str] | None = None) -> None:
    """Put an object under each key, as another client does; its bytes are its key."""
    for key in keys:
        body = b"" if key.endswith("/") else key.encode()
        await store.put(key, body, metadata=dict(metadata) if metadata is not None else None)
