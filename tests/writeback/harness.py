"""Mounts for the tests of write-back: a bucket in memory, calls by path, and crashes.

A crash is what kill -9 leaves: the cache directory and the bucket as they are at that moment, copied.  The mount that
crashed goes on on its own copies, which nobody looks at any more.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import trio

from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.core.nodes import Attr, Caller, HandleId, InodeId, SetAttr
from b2fs.core.types import Capabilities
from b2fs.store.faults import FaultyStore
from b2fs.store.forward import Method, StoreCall
from b2fs.vfs.api import ROOT
from b2fs.vfs.config import VfsConfig
from b2fs.vfs.filesystem import B2Filesystem, open_filesystem
from tests.mounting import NoKernel
from tests.writeback.memstore import MemBucket, MemStore

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound="Calls")

CALLER = Caller()
RW = os.O_RDWR

#: Calls that make a new version of a key.
VERSIONS = frozenset({Method.PUT, Method.COPY, Method.COMPLETE_UPLOAD, Method.HIDE})


@dataclass(frozen=True, slots=True)
class Span:
    """One call of the store: when it was asked and when it was answered, in trio time."""

    method: Method
    key: str
    asked_at: float
    answered_at: float


class TimedStore(FaultyStore):
    """A FaultyStore that remembers when each call began and ended."""

    def __init__(self, inner: MemStore) -> None:
        super().__init__(inner)
        self.spans: list[Span] = []

    async def around(self, call: StoreCall, ask: Callable[[], Awaitable[T]]) -> T:
        asked_at = trio.current_time()
        try:
            return await super().around(call, ask)
        finally:
            self.spans.append(Span(call.method, call.key, asked_at, trio.current_time()))

    def versions_made(self, key: str) -> list[Span]:
        return [span for span in self.spans if span.key == key and span.method in VERSIONS]


@dataclass
class Place:
    """Where mounts come from: one bucket, and cache directories below one path."""

    root: Path
    bucket: MemBucket = field(default_factory=lambda: MemBucket(clock=trio.current_time))
    capabilities: Capabilities = field(default_factory=Capabilities)
    generation: int = 0

    @property
    def cache(self) -> Path:
        return self.root / f"cache{self.generation}"

    def left_behind(self, root: Path) -> Place:
        """What kill -9 leaves at this moment, as a place of its own below root."""
        root.mkdir()
        twin = Place(root, self.bucket.copy(), self.capabilities)
        copy_cache(self.cache, twin.cache)
        return twin

    def crash(self) -> None:
        """Kill -9 now: what is opened next finds what this moment leaves."""
        old = self.cache
        self.generation += 1
        copy_cache(old, self.cache)
        self.bucket = self.bucket.copy()

    def forget_cache(self) -> None:
        """What is opened next has an empty cache."""
        self.generation += 1

    @asynccontextmanager
    async def mount(self, *, config: WriteBackConfig | None = None, **options: object) -> AsyncIterator[Mount]:
        """A running filesystem; leaving does not drain.  The config's delays are the true ones unless given."""
        self.cache.mkdir(mode=0o700, exist_ok=True)
        vfs = VfsConfig(str(self.cache), attr_index=False, writeback=config or WriteBackConfig())._replace(**options)  # type: ignore[arg-type]  # fields by name
        store = TimedStore(MemStore(self.bucket, self.capabilities))
        async with store, open_filesystem(store, vfs, NoKernel()) as fs:
            mount = Mount(fs, store, self.bucket)
            try:
                yield mount
            finally:
                store.heal()
                await store.resume()


def copy_cache(old: Path, new: Path) -> None:
    """The ledger and the dirty files, as the page cache has them."""
    new.mkdir(mode=0o700)
    for name in os.listdir(old):
        if name.startswith("ledger.db"):
            shutil.copyfile(old / name, new / name)
    (new / "dirty").mkdir()
    for name in os.listdir(old / "dirty"):
        with suppress(FileNotFoundError):  # a worker thread was about to remove it
            shutil.copy2(old / "dirty" / name, new / "dirty" / name)  # its time is the file's


#: The references that the present call has to give back.
_held: ContextVar[list[tuple[InodeId, int]] | None] = ContextVar("held", default=None)


def _call(
    method: Callable[Concatenate[C, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[C, P], Coroutine[Any, Any, T]]:
    """A call as a system call is one: at its end it gives back every reference that it was given."""

    async def run(self: C, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if _held.get() is not None:
            return await method(self, *args, **kwargs)
        held: list[tuple[InodeId, int]] = []
        token = _held.set(held)
        try:
            return await method(self, *args, **kwargs)
        finally:
            _held.reset(token)
            self.fs.forget(held)

    return run


@dataclass
class Calls:
    """Calls by path on a running filesystem.  References are given back at once unless `keep` is set."""

    fs: B2Filesystem
    #: As a kernel does that remembers every name.
    keep: bool = field(default=False, kw_only=True)

    def _entered(self, attr: Attr) -> InodeId:
        """attr comes with a reference, which is given back at the end of the call."""
        if not self.keep:
            held = _held.get()
            assert held is not None
            held.append((attr.ino, 1))
        return attr.ino

    async def ino(self, path: str) -> InodeId:
        return (await self.stat(path)).ino

    @_call
    async def stat(self, path: str) -> Attr:
        """The attributes as the last lookup showed them."""
        attr = await self.fs.getattr(ROOT)
        for name in path.split("/") if path else ():
            attr = await self.fs.lookup(attr.ino, name.encode(), CALLER)
            self._entered(attr)
        return attr

    async def _parent(self, path: str) -> tuple[InodeId, bytes]:
        directory, _, name = path.rpartition("/")
        return await self.ino(directory), name.encode()

    # -- files

    @_call
    async def create(self, path: str, flags: int = RW) -> HandleId:
        opened, attr = await self.fs.create(*await self._parent(path), 0o644, flags, CALLER)
        self._entered(attr)
        return opened.handle

    @_call
    async def open(self, path: str, flags: int = RW) -> HandleId:
        return (await self.fs.open(await self.ino(path), flags, CALLER)).handle

    async def write(self, handle: HandleId, offset: int, data: bytes) -> None:
        assert await self.fs.write(handle, offset, data) == len(data)

    async def close(self, handle: HandleId) -> None:
        try:
            await self.fs.flush(handle)
        finally:
            await self.fs.release(handle)

    async def save(self, path: str, data: bytes, *, fsync: bool = False) -> None:
        """Make or replace a file as open(O_CREAT | O_TRUNC) does."""
        handle = await self.create(path, RW | os.O_CREAT | os.O_TRUNC)
        if data:
            await self.write(handle, 0, data)
        if fsync:
            await self.fs.fsync(handle, False)
        await self.close(handle)

    async def fsync(self, path: str) -> None:
        handle = await self.open(path)
        await self.fs.fsync(handle, False)
        await self.close(handle)

    async def read(self, path: str) -> bytes:
        handle = await self.open(path, os.O_RDONLY)
        try:
            return bytes(await self.fs.read(handle, 0, 1 << 30))
        finally:
            await self.close(handle)

    @_call
    async def truncate(self, path: str, size: int) -> None:
        await self.fs.setattr(await self.ino(path), SetAttr(size=size), None, CALLER)

    @_call
    async def chmod(self, path: str, mode: int) -> None:
        await self.fs.setattr(await self.ino(path), SetAttr(mode=mode), None, CALLER)

    # -- names

    @_call
    async def mkdir(self, path: str) -> None:
        self._entered(await self.fs.mkdir(*await self._parent(path), 0o755, CALLER))

    @_call
    async def unlink(self, path: str) -> None:
        await self.fs.unlink(*await self._parent(path), CALLER)

    @_call
    async def rmdir(self, path: str) -> None:
        await self.fs.rmdir(*await self._parent(path), CALLER)

    @_call
    async def link(self, path: str, new: str) -> None:
        self._entered(await self.fs.link(await self.ino(path), *await self._parent(new), CALLER))

    @_call
    async def symlink(self, target: str, path: str) -> None:
        self._entered(await self.fs.symlink(*await self._parent(path), target.encode(), CALLER))

    @_call
    async def rename(self, old: str, new: str, flags: int = 0) -> None:
        await self.fs.rename(*await self._parent(old), *await self._parent(new), flags, CALLER)

    @_call
    async def names(self, path: str = "") -> set[str]:
        handle = await self.fs.opendir(await self.ino(path), CALLER)
        try:
            return {entry.name.decode() async for entry in self.fs.readdir(handle, 0)}
        finally:
            await self.fs.releasedir(handle)

    @_call
    async def tree(self, path: str = "") -> dict[str, bytes | None]:
        """Every path and its content; None for a directory."""
        found: dict[str, bytes | None] = {}
        for name in await self.names(path):
            below = f"{path}/{name}" if path else name
            attr = await self.stat(below)
            if stat.S_ISDIR(attr.mode):
                found |= {below: None, **await self.tree(below)}
            elif stat.S_ISLNK(attr.mode):
                found[below] = await self.fs.readlink(attr.ino)
            else:
                found[below] = await self.read(below)
        return found

    # -- write-back

    async def drain(self) -> None:
        await self.fs.writeback.wait_drained()

    @property
    def pending(self) -> int:
        return self.fs.writeback.status().pending_files


@dataclass
class Mount(Calls):
    """The filesystem on a bucket in memory."""

    store: TimedStore
    bucket: MemBucket


@contextmanager
def changes_counted(store: TimedStore) -> Iterator[list[StoreCall]]:
    """The calls that change the bucket and are made within the block."""
    before = len(store.calls)
    made: list[StoreCall] = []
    yield made
    reads = {Method.LIST_OBJECTS, Method.LIST_VERSIONS, Method.HEAD, Method.GET, Method.LIST_UPLOADS, Method.LIST_PARTS}
    made.extend(call for call in store.calls[before:] if call.method not in reads and not call.key.startswith(".b2fs/"))
