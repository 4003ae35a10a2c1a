"""Mounts that are there before libfuse is loaded: what they answer, and how they are handed over."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from b2fs.cache.ledger import Ledger
from b2fs.cache.ledger_peek import may_hold_entry
from b2fs.cache.ledger_rows import Remote
from b2fs.core.nodes import Caller, HandleId, InodeId
from b2fs.fuse import early
from b2fs.fuse.agreements import Agreements
from b2fs.fuse.config import FuseConfig
from b2fs.fuse.early import EarlyMount
from b2fs.fuse.kernel import mount_at
from b2fs.fuse.mount import FuseMount
from b2fs.fuse.wire import INIT, root_attributes
from tests.model.memfs import MemFs
from tests.mounting import require_fuse

DEADLINE_S = 20.0
in_thread = partial(trio.to_thread.run_sync, abandon_on_cancel=True)
ROOT_OF = partial(root_attributes, mode=stat.S_IFDIR | 0o750, uid=7, gid=8, time_ns=1_600_000_000_123_456_789)


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[str]:
    require_fuse()
    path = tmp_path / "mnt"
    path.mkdir()
    yield str(path)
    assert mount_at(os.fsencode(path)) is None


@pytest.fixture
def config(tmp_path: Path) -> FuseConfig:
    return FuseConfig(agreements_dir=str(tmp_path))


def agreements_of(config: FuseConfig) -> Agreements:
    agreements = config.agreements()
    assert agreements is not None
    return agreements


def begin(mountpoint: str, config: FuseConfig) -> EarlyMount:
    mount = early.begin(mountpoint, config.options(), agreements_of(config))
    assert mount is not None
    return mount


@contextmanager
def answering(mount: EarlyMount) -> Iterator[Callable[[], None]]:
    """A thread that answers for the mount until the yielded call, or the end of the context."""
    thread = threading.Thread(target=mount.answer, args=(ROOT_OF,))
    thread.start()

    def stop() -> None:
        if thread.is_alive():
            mount.stop()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()

    try:
        yield stop
    finally:
        stop()


async def served(mount: FuseMount, core: MemFs, use: Callable[[], None] = lambda: None) -> None:
    """Serve until use() has run in a thread."""

    async def end() -> None:
        await in_thread(use)
        mount.unmount()

    async with trio.open_nursery() as nursery:
        with trio.fail_after(DEADLINE_S):
            await mount.serve(core, lambda: nursery.start_soon(end))


def kept_in(directory: Path) -> Path:
    (path,) = directory.glob("agreed-*")
    return path


async def agreed(mountpoint: str, config: FuseConfig) -> None:
    """Let a mount leave word of what libfuse has agreed."""
    await served(FuseMount(mountpoint, config), MemFs(check_permissions=False))


async def test_a_machine_without_an_agreement_waits_for_libfuse_and_keeps_what_it_says(
    mountpoint: str, config: FuseConfig, tmp_path: Path
) -> None:
    mount = begin(mountpoint, config)
    with answering(mount) as stop:
        stop()
    begun = mount.hand_over()
    assert begun.told is None

    def write() -> None:
        Path(mountpoint, "f").write_bytes(b"content")

    await served(FuseMount(mountpoint, config, lambda: begun), MemFs(check_permissions=False), write)
    assert kept_in(tmp_path).stat().st_mode & 0o777 == 0o600


async def test_the_root_answers_before_libfuse_and_what_else_is_asked_waits_for_it(
    mountpoint: str, config: FuseConfig
) -> None:
    await agreed(mountpoint, config)
    mount = begin(mountpoint, config)
    listed: list[list[str]] = []
    core = MemFs(check_permissions=False)
    with answering(mount) as stop:
        for _ in range(3):
            root = await in_thread(os.stat, mountpoint)
            assert (root.st_mode, root.st_uid, root.st_gid) == (stat.S_IFDIR | 0o750, 7, 8)
            assert (root.st_ino, root.st_nlink, root.st_mtime_ns) == (1, 2, 1_600_000_000_123_456_789)
        lister = threading.Thread(target=lambda: listed.append(os.listdir(mountpoint)))
        lister.start()
        await in_thread(mount_waits_for_somebody, stop, mount)
    begun = mount.hand_over()
    assert begun.told is not None
    assert begun.kept is not None
    assert not listed
    await served(FuseMount(mountpoint, config, lambda: begun), core, lambda: lister.join(DEADLINE_S))
    assert listed == [[]]


def mount_waits_for_somebody(stop: Callable[[], None], mount: EarlyMount) -> None:
    """Return when a request came that is kept: the thread ends by itself."""
    for thread in threading.enumerate():
        if getattr(thread, "_target", None) == mount.answer:
            thread.join(DEADLINE_S)
    stop()


async def test_a_kept_request_that_takes_long_holds_nothing_up(mountpoint: str, config: FuseConfig) -> None:
    await agreed(mountpoint, config)
    mount = begin(mountpoint, config)
    release = trio.Event()

    class Slow(MemFs):
        async def opendir(self, ino: InodeId, caller: Caller) -> HandleId:
            await release.wait()
            return await super().opendir(ino, caller)

    with answering(mount) as stop:
        lister = threading.Thread(target=os.listdir, args=(mountpoint,))
        lister.start()
        await in_thread(mount_waits_for_somebody, stop, mount)
    begun = mount.hand_over()
    token = trio.lowlevel.current_trio_token()

    def use() -> None:
        Path(mountpoint, "f").write_bytes(b"content")
        token.run_sync_soon(release.set)
        lister.join(DEADLINE_S)

    await served(FuseMount(mountpoint, config, lambda: begun), Slow(check_permissions=False), use)
    assert not lister.is_alive()


async def test_a_libfuse_that_says_something_else_is_mounted_anew_and_believed(
    mountpoint: str, config: FuseConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await agreed(mountpoint, config)
    path = kept_in(tmp_path)
    kept = json.loads(path.read_text())
    answer = bytearray.fromhex(kept["answer"])
    answer[24] ^= 1  # the read-ahead that was agreed
    path.write_text(json.dumps({**kept, "answer": answer.hex()}))
    mount = begin(mountpoint, config)
    begun = mount.hand_over()
    assert begun.told is not None
    seen: list[int] = []
    await served(
        FuseMount(mountpoint, config, lambda: begun),
        MemFs(check_permissions=False),
        lambda: seen.append(os.stat(mountpoint).st_ino),
    )
    assert seen == [1]
    assert "otherwise than the last time" in caplog.text
    assert json.loads(path.read_text()) == kept


async def test_what_is_abandoned_is_gone_and_who_waits_hears_it(mountpoint: str, config: FuseConfig) -> None:
    await agreed(mountpoint, config)
    mount = begin(mountpoint, config)
    failures: list[int | None] = []

    def ask() -> None:
        try:
            os.listdir(mountpoint)
        except OSError as error:
            failures.append(error.errno)

    with answering(mount) as stop:
        asking = threading.Thread(target=ask)
        asking.start()
        await in_thread(mount_waits_for_somebody, stop, mount)
    await in_thread(mount.abandon)
    asking.join(DEADLINE_S)
    assert failures in ([errno.ECONNABORTED], [errno.ENOTCONN])


def test_a_place_that_cannot_be_mounted_on_begins_nothing(tmp_path: Path) -> None:
    require_fuse()
    config = FuseConfig(agreements_dir=str(tmp_path))
    assert early.begin(str(tmp_path / "missing"), config.options(), agreements_of(config)) is None


@pytest.mark.parametrize("damage", ["other library", "no library", "format", "error", "cut", "garbage", "writable"])
def test_an_agreement_counts_for_the_same_files_and_whole(tmp_path: Path, damage: str) -> None:
    agreements = Agreements(str(tmp_path), "features")
    request = (104).to_bytes(4, "little") + INIT.to_bytes(4, "little") + bytes(96)
    answer = (80).to_bytes(4, "little") + bytes(76)
    library = tmp_path / "libfuse3.so"
    library.write_bytes(b"code")
    agreements.remember(request, answer)
    path = kept_in(tmp_path)
    info = library.stat()
    libraries = {str(library): [info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns]}
    kept = {**json.loads(path.read_text()), "libraries": libraries}
    path.write_text(json.dumps(kept))
    other = request[:8] + (5).to_bytes(8, "little") + request[16:]
    assert agreements.recall(other) == answer[:8] + (5).to_bytes(8, "little") + answer[16:]
    assert Agreements(str(tmp_path), "others").recall(request) is None
    assert agreements.recall(request[:-1] + b"\1") is None
    if damage == "other library":
        library.write_bytes(b"other code")
    elif damage == "garbage":
        path.write_bytes(b"\xff{")
    elif damage == "writable":
        path.chmod(0o666)
    else:
        changes: dict[str, dict[str, object]] = {
            "no library": {"libraries": {}},
            "format": {"format": 2},
            "error": {"answer": answer[:4].hex() + "ffffffff" + answer[8:].hex()},
            "cut": {"answer": answer[:20].hex()},
        }
        path.write_text(json.dumps({**kept, **changes[damage]}))
    assert agreements.recall(request) is None


def test_a_ledger_that_may_hold_the_root_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "ledger ?#.db"
    assert not may_hold_entry(path, "")
    ledger = Ledger(str(path))
    ledger.save_entry("other", None, Remote(False, None))
    ledger.commit()
    assert may_hold_entry(path, ""), "it is open, with a log"
    ledger.close()
    before = path.read_bytes()
    assert not may_hold_entry(path, "")
    assert may_hold_entry(path, "other")
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    path.write_bytes(b"no database at all")
    assert may_hold_entry(path, "")
