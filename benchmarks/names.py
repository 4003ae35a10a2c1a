"""What a mount costs that shows very many names: time, processor time, requests and memory.

    python benchmarks/names.py [--names 1000000] [--shape flat|tree] [--round-trip-ms 0] [--carrying]
        [--commands find,find,ls -lR,forget]

A real mount of a bucket that exists only as arithmetic, so that nothing but b2fs and the kernel takes memory.  flat is
one directory, tree has directories of 1,000 names.  --carrying lets the objects carry a mode, as those of b2fs do,
which only a HEAD shows.  --commands are run on the mountpoint; "forget" makes the kernel forget, which needs root.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import md5

import trio

from b2fs.core.types import ETag, ListPage, ObjectInfo, ObjectRef, VersionId
from b2fs.errors import NotFound
from b2fs.fuse.config import FuseConfig
from b2fs.fuse.mount import FuseMount
from b2fs.store.embedded.store import EmbeddedConfig, EmbeddedStore
from b2fs.store.forward import ForwardingStore
from b2fs.store.protocol import ObjectStore
from b2fs.vfs.config import VfsConfig
from b2fs.vfs.filesystem import B2Filesystem, open_filesystem

_MODIFIED_NS = 1_700_000_000_000_000_000
_MIB = 1 << 20


class Keys(Sequence[str]):
    """The keys in order, each made when it is asked for."""

    def __init__(self, count: int, shape: str) -> None:
        self._count = count
        self._is_tree = shape == "tree"

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # nobody asks for slices
        if self._is_tree:
            return f"names/d{index // 1000:05}/f{index % 1000:07}"
        return f"names/f{index:07}"


class ArithmeticStore(ForwardingStore):
    """An embedded store that shows the objects below `names/` beside what it holds."""

    def __init__(self, inner: ObjectStore, keys: Keys, metadata: Mapping[str, str], delay_s: float) -> None:
        super().__init__(inner)
        self._keys = keys
        self._metadata = metadata
        self._delay_s = delay_s
        self.counts: Counter[str] = Counter()

    async def list_objects(
        self,
        prefix: str,
        *,
        delimiter: str | None = None,
        start_after: str | None = None,
        token: str | None = None,
        max_keys: int = 1000,
    ) -> ListPage:
        self.counts["LIST"] += 1
        await trio.sleep(self._delay_s)
        if prefix.startswith(".b2fs/"):
            return await self.inner.list_objects(prefix, delimiter=delimiter, start_after=start_after, token=token)
        return await trio.to_thread.run_sync(self._page, prefix, delimiter, token or start_after, max_keys)

    def _page(self, prefix: str, delimiter: str | None, after: str | None, most: int) -> ListPage:
        keys, end = self._keys, bisect_left(self._keys, prefix + "\U0010fffe")
        at = bisect_left(keys, prefix) if after is None else bisect_right(keys, after)
        objects: list[ObjectInfo] = []
        prefixes: list[str] = []
        while at < end and len(objects) + len(prefixes) < most:
            key = keys[at]
            cut = key.find(delimiter, len(prefix)) + 1 if delimiter else 0
            if cut:
                prefixes.append(key[:cut])
                at = bisect_left(keys, key[:cut] + "\U0010fffe")
            else:
                objects.append(_info(key))
                at += 1
        last = max((*(o.key for o in objects[-1:]), *(p + "\U0010fffe" for p in prefixes[-1:])), default=None)
        return ListPage(tuple(objects), tuple(prefixes), last if at < end else None)

    async def head(self, key: str, *, version_id: VersionId | None = None) -> ObjectInfo:
        self.counts["HEAD"] += 1
        await trio.sleep(self._delay_s)
        if key.startswith(".b2fs/"):
            return await self.inner.head(key, version_id=version_id)
        at = bisect_left(self._keys, key)
        if at == len(self._keys) or self._keys[at] != key:
            raise NotFound(key)
        return _info(key, self._metadata)


def _info(key: str, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
    etag = ETag(md5(key.encode(), usedforsecurity=False).hexdigest())
    return ObjectInfo(ObjectRef(key, None, etag, 100), _MODIFIED_NS, metadata)


def _status(pid: int, field: str) -> float:
    """A line of /proc/PID/status, in MiB."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith(field))
    return int(line.split()[1]) * 1024 / _MIB


def _cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _drop_caches() -> None:
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as control:
        control.write("2\n")


async def _measure(mountpoint: str, commands: str, fs: B2Filesystem, store: ArithmeticStore, done: trio.Event) -> None:
    pid = os.getpid()
    print(f"mounted: {_status(pid, 'VmRSS'):.0f} MiB")  # noqa: T201  # a report
    for what in commands.split(","):
        started, cpu, before = time.monotonic(), _cpu_s(pid), sum(store.counts.values())
        if what == "forget":
            await trio.to_thread.run_sync(_drop_caches)
            found = b""
        else:
            ran = await trio.run_process([*what.split(), mountpoint], capture_stdout=True)
            found = ran.stdout
        print(  # noqa: T201
            f"{what}: {found.count(10)} lines, {time.monotonic() - started:.1f} s, "
            f"processor {_cpu_s(pid) - cpu:.1f} s, {sum(store.counts.values()) - before} requests, "
            f"{fs.held} inodes held, memory {_status(pid, 'VmRSS'):.0f} MiB, at most {_status(pid, 'VmHWM'):.0f} MiB"
        )
        del found
    done.set()


async def _run(arguments: argparse.Namespace, work: str) -> None:
    mountpoint, cache = os.path.join(work, "mnt"), os.path.join(work, "cache")
    for directory in (mountpoint, cache):
        os.mkdir(directory)
    keys = Keys(arguments.names, arguments.shape)
    metadata = {"mode": "33152"} if arguments.carrying else {}
    mount, done = FuseMount(mountpoint, FuseConfig()), trio.Event()
    inner = EmbeddedStore(EmbeddedConfig(os.path.join(work, "store"), "bucket", durable=False))
    async with ArithmeticStore(inner, keys, metadata, arguments.round_trip_ms / 1000) as store:
        assert isinstance(store, ArithmeticStore)
        async with open_filesystem(store, VfsConfig(cache), mount.notifier) as fs, trio.open_nursery() as nursery:
            mounted = trio.Event()
            nursery.start_soon(mount.serve, fs, mounted.set)
            await mounted.wait()
            nursery.start_soon(_measure, mountpoint, arguments.commands, fs, store, done)
            await done.wait()
            mount.unmount()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--names", type=int, default=1_000_000)
    parser.add_argument("--shape", choices=("flat", "tree"), default="flat")
    parser.add_argument("--round-trip-ms", type=float, default=0)
    parser.add_argument("--carrying", action="store_true")
    parser.add_argument("--commands", default="find,find,ls -lR,forget")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    sys.setswitchinterval(0.0002)  # as the daemon has it
    with tempfile.TemporaryDirectory(prefix="b2fs-names-") as work:
        trio.run(_run, arguments, work)


if __name__ == "__main__":
    main()
