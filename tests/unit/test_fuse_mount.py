"""The life of a mount: made, tuned, ended in every way, and its mountpoint's state before."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio

from b2fs.core.nodes import Attr, Caller, HandleId, InodeId, StatFs
from b2fs.errors import ConfigError, Unavailable
from b2fs.fuse.config import FuseConfig
from b2fs.fuse.handshake import Handshake
from b2fs.fuse.kernel import MountInfo, mount_at, parse_mountinfo
from b2fs.fuse.mount import FuseMount, serve
from b2fs.fuse.wire import Feature
from b2fs.vfs.api import ROOT
from tests.model.memfs import MemFs
from tests.mounting import require_fuse

MOUNTINFO = rb"""22 1 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw
31 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 31 0:35 / /mnt/with\040space rw,nosuid,nodev shared:9 master:2 - fuse.b2fs b2://bucket rw,user_id=0
41 31 0:36 / /mnt/with\040space rw - tmpfs none rw
"""


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[str]:
    require_fuse()
    path = tmp_path / "mnt"
    path.mkdir()
    yield str(path)
    assert mount_at(os.fsencode(path)) is None


def test_mountinfo() -> None:
    mounts = parse_mountinfo(MOUNTINFO)
    assert mounts[2] == MountInfo("0:35", b"/mnt/with space", "fuse.b2fs", b"b2://bucket")
    assert [mount.is_fuse for mount in mounts] == [False, False, True, False]


def test_options_are_safe_for_libfuse() -> None:
    options = FuseConfig(fsname="b2://bücket,dev/x y", read_only=True, mount_options=frozenset({"noexec"})).options()
    assert options == {
        "fsname=b2://b%C3%BCcket%2Cdev/x%20y",
        "subtype=b2fs",
        "ro",
        "default_permissions",
        "noexec",
    }


async def test_it_answers_when_it_says_so_and_ends_when_asked(mountpoint: str) -> None:
    config = FuseConfig(fsname="memory", read_ahead_kib=512, max_background=20)
    async with trio.open_nursery() as nursery:
        mount: FuseMount = await nursery.start(serve, MemFs(check_permissions=False), config, mountpoint)
        found = mount_at(os.fsencode(mountpoint))
        assert found is not None
        assert (found.fstype, found.source) == ("fuse.b2fs", b"memory")
        await in_thread(Path(mountpoint, "f").write_bytes, b"content")
        assert await in_thread(Path(mountpoint, "f").read_bytes) == b"content"
        if os.geteuid() == 0:
            await in_thread(_check_tuned, found.device)
        mount.unmount()
        mount.unmount()


def _check_tuned(device: str) -> None:
    assert Path(f"/sys/class/bdi/{device}/read_ahead_kb").read_text() == "512\n"
    connection = Path("/sys/fs/fuse/connections", device.split(":")[1])
    if connection.exists():
        assert (connection / "max_background").read_text() == "20\n"


async def test_it_ends_when_somebody_unmounts(mountpoint: str) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, MemFs(), FuseConfig(), mountpoint)
        await trio.run_process(["fusermount3", "-u", mountpoint])


async def test_it_ends_when_cancelled_even_while_in_use(mountpoint: str) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, MemFs(), FuseConfig(), mountpoint)
        fd = await in_thread(os.open, mountpoint, os.O_RDONLY)
        nursery.cancel_scope.cancel()
    with pytest.raises(OSError, match=r"not connected|aborted"):
        os.listdir(fd)
    os.close(fd)


async def test_a_request_that_hangs_does_not_hold_the_end_up(mountpoint: str) -> None:
    class Hanging(MemFs):
        async def statfs(self) -> StatFs:
            entered.set()
            await trio.sleep_forever()
            raise AssertionError

    entered = trio.Event()
    async with trio.open_nursery() as nursery:
        mount: FuseMount = await nursery.start(serve, Hanging(), FuseConfig(grace_s=0.1), mountpoint)
        nursery.start_soon(_fails_in_thread, os.statvfs, mountpoint)
        await entered.wait()
        mount.unmount()


async def _fails_in_thread(call: Callable[[str], object], argument: str) -> None:
    with pytest.raises(OSError):
        await in_thread(call, argument)


async def test_what_the_core_tells_the_kernel_arrives(mountpoint: str) -> None:
    """A change behind the kernel's back is seen after a notification, and not before."""
    fs = MemFs(check_permissions=False, ttl_s=1000)
    mount = FuseMount(mountpoint)
    mount.notifier.invalidate_inode(ROOT, attributes_only=True)  # nobody to tell yet: not an error
    ready = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mount.serve, fs, ready.set)
        await ready.wait()
        path = Path(mountpoint, "f")
        await in_thread(path.write_bytes, b"old")
        ino = InodeId((await in_thread(path.stat)).st_ino)
        (await fs.getattr(ino)).mode = 0o100600
        assert (await in_thread(path.stat)).st_mode == 0o100644
        mount.notifier.invalidate_inode(ino, attributes_only=True)
        await _until(lambda: path.stat().st_mode == 0o100600)
        await fs.rename(ROOT, b"f", ROOT, b"g", 0, Caller())
        assert await in_thread(path.exists)
        mount.notifier.invalidate_entry(ROOT, b"f")
        mount.notifier.invalidate_entry(ROOT, b"never known")
        await _until(lambda: not path.exists())
        mount.unmount()


async def _until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(120):
        while not await in_thread(condition):
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(("kind", "code"), [("missing", errno.ENOENT), ("file", errno.ENOTDIR)])
async def test_a_mountpoint_that_cannot_be_used(tmp_path: Path, kind: str, code: int) -> None:
    path = tmp_path / "x"
    if kind == "file":
        path.write_bytes(b"")
    with pytest.raises(ConfigError, match=os.strerror(code)):
        await FuseMount(path).prepare()


async def test_a_mountpoint_in_use(mountpoint: str) -> None:
    async with trio.open_nursery() as nursery:
        mount: FuseMount = await nursery.start(serve, MemFs(), FuseConfig(fsname="first"), mountpoint)
        with pytest.raises(ConfigError, match="first is already mounted"):
            await FuseMount(mountpoint).prepare()
        mount.unmount()


async def test_a_root_that_cannot_be_read_is_said_before_the_mount_is_ready(mountpoint: str) -> None:
    class Unreachable(MemFs):
        async def getattr(self, ino: InodeId) -> Attr:
            raise Unavailable("no network")

    with pytest.raises(ConfigError, match="root cannot be read"):
        await FuseMount(mountpoint).serve(Unreachable(), lambda: pytest.fail("must not say that it is ready"))


async def test_what_a_killed_daemon_left_is_taken_away(mountpoint: str, tmp_path: Path) -> None:
    await in_thread(_mount_and_kill, mountpoint, tmp_path)
    async with trio.open_nursery() as nursery:
        mount: FuseMount = await nursery.start(serve, MemFs(), FuseConfig(), mountpoint)
        assert await in_thread(os.listdir, mountpoint) == []
        mount.unmount()


def _mount_and_kill(mountpoint: str, state: Path) -> None:
    command = [sys.executable, "-m", "tests.mounting", "memfs", str(state), mountpoint]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()
    with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
        os.statvfs(mountpoint)


#: A daemon that asks the kernel about its own mount and does not answer.
UNANSWERED = """
import os, sys, trio
from b2fs.fuse.config import FuseConfig
from b2fs.fuse.mount import FuseMount
from tests.model.memfs import MemFs

class Silent(MemFs):
    async def getattr(self, ino):
        print("asked", flush=True)
        await trio.sleep_forever()

trio.run(FuseMount(sys.argv[1], FuseConfig()).serve, Silent(), lambda: None)
"""


def test_a_daemon_that_is_killed_while_it_asks_about_its_own_mount_is_gone(mountpoint: str) -> None:
    """No thread of it waits for ever for the answer, which would keep the mount open that is to give it."""
    process = subprocess.Popen([sys.executable, "-c", UNANSWERED, mountpoint], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"asked\n"
        process.kill()
        process.wait(20)
        with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
            os.statvfs(mountpoint)
    finally:
        subprocess.run(["umount", "-f", "-l", mountpoint], check=True)
        process.wait()
        process.stdout.close()


async def test_a_mountpoint_behind_a_symbolic_link(mountpoint: str, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(mountpoint)
    async with trio.open_nursery() as nursery:
        mount: FuseMount = await nursery.start(serve, MemFs(), FuseConfig(), str(link))
        assert mount.mountpoint == mountpoint
        mount.unmount()


async def test_a_mount_without_extended_attributes_asks_nothing_before_a_write(mountpoint: str) -> None:
    class Watching(MemFs):
        async def getxattr(self, ino: InodeId, name: bytes, caller: Caller) -> bytes:
            raise AssertionError("the core was asked")

    async with trio.open_nursery() as nursery:
        mount: FuseMount = await nursery.start(serve, Watching(), FuseConfig(xattrs=False), mountpoint)
        path = Path(mountpoint, "f")
        await in_thread(path.write_bytes, b"content")
        with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
            await in_thread(os.getxattr, path, "user.k")
        mount.unmount()


async def test_what_a_program_has_written_is_read_from_the_kernels_pages(mountpoint: str) -> None:
    """Until the core says that it is something else."""
    reads: list[int] = []

    class Counting(MemFs):
        async def read(self, handle: HandleId, offset: int, length: int) -> bytes:
            reads.append(length)
            return bytes(await super().read(handle, offset, length))

    fs = Counting(check_permissions=False)
    mount = FuseMount(mountpoint)
    path = Path(mountpoint, "f")

    def write_and_read() -> None:
        for body in (b"a" * 98_304, b"b" * 49_152, b"c" * 196_608):  # whole pages
            path.write_bytes(body)
            assert path.read_bytes() == body
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"d" * 4096)
        assert path.read_bytes() == b"c" * 4096 + b"d" * 4096 + b"c" * (196_608 - 8192)

    ready = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mount.serve, fs, ready.set)
        await ready.wait()
        await in_thread(write_and_read)
        assert reads == []
        ino = InodeId((await in_thread(path.stat)).st_ino)
        handle = (await fs.open(ino, os.O_WRONLY, Caller())).handle
        await fs.write(handle, 0, b"else")
        await fs.release(handle)
        mount.notifier.invalidate_inode(ino, attributes_only=False)
        await _until(lambda: path.read_bytes()[:5] == b"elsec")
        assert reads
        mount.unmount()


@pytest.mark.parametrize(("options", "most"), [(frozenset(), 2), (frozenset({"suid"}), 50)])
async def test_the_kernel_does_not_ask_before_every_write(mountpoint: str, options: frozenset[str], most: int) -> None:
    """Unless set-id bits count on the mount: then it sees to them itself."""
    if options and os.geteuid() != 0:
        pytest.skip("only root may mount with suid")
    asked: list[bytes] = []

    class Counting(MemFs):
        async def getxattr(self, ino: InodeId, name: bytes, caller: Caller) -> bytes:
            asked.append(name)
            return await super().getxattr(ino, name, caller)

    def write_often(path: Path) -> None:
        with path.open("wb", buffering=0) as file:
            for _ in range(50):
                file.write(b"x" * 10240)

    async with trio.open_nursery() as nursery:
        config = FuseConfig(mount_options=options)
        mount: FuseMount = await nursery.start(serve, Counting(check_permissions=False), config, mountpoint)
        await in_thread(write_often, Path(mountpoint, "f"))
        assert set(asked) <= {b"security.capability"}
        assert most == 50 or len(asked) <= most
        assert most == 2 or len(asked) == most
        mount.unmount()


async def test_a_kernel_that_checks_no_lists_is_not_asked_to_keep_them(
    mountpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("b2fs.fuse.config.FuseConfig.features", lambda config: Feature.HANDLE_KILLPRIV_V2)
    with pytest.raises(ConfigError, match="access control lists"):
        await serve(MemFs(), FuseConfig(acl=True), mountpoint)
    await _is_mountable(mountpoint)


async def test_a_handshake_that_fails_leaves_no_mount(mountpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(handshake: Handshake, loop: Callable[[], Awaitable[None]]) -> bool:
        raise OSError(errno.ETIMEDOUT, "no answer")

    with monkeypatch.context() as broken:
        broken.setattr(Handshake, "run", fail)
        with pytest.raises(ConfigError, match="the kernel refuses"):
            await serve(MemFs(), FuseConfig(), mountpoint)
    await _is_mountable(mountpoint)


async def _is_mountable(mountpoint: str) -> None:
    assert mount_at(os.fsencode(mountpoint)) is None
    async with trio.open_nursery() as nursery:
        mount: FuseMount = await nursery.start(serve, MemFs(check_permissions=False), FuseConfig(), mountpoint)
        await in_thread(Path(mountpoint, "f").write_bytes, b"content")
        mount.unmount()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts without a helper")
async def test_without_the_helper_libfuse_mounts(
    mountpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    async with trio.open_nursery() as nursery:
        mount: FuseMount = await nursery.start(serve, MemFs(), FuseConfig(), mountpoint)
        await in_thread(Path(mountpoint, "f").write_bytes, b"content")
        mount.unmount()
    with pytest.raises(ConfigError, match="access control lists"):
        await serve(MemFs(), FuseConfig(acl=True), mountpoint)


async def test_a_read_only_mount_refuses_changes(mountpoint: str) -> None:
    async with trio.open_nursery() as nursery:
        mount: FuseMount = await nursery.start(serve, MemFs(), FuseConfig(read_only=True), mountpoint)
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            await in_thread(os.mkdir, f"{mountpoint}/d")
        mount.unmount()


in_thread = trio.to_thread.run_sync
