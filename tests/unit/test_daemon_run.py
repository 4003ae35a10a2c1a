"""The life of a mount, with a fake kernel and a fake bucket: ready, stop, drain, what is left."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from b2fs.daemon import process, run
from b2fs.daemon.client import ask
from b2fs.daemon.identity import claim, recall
from b2fs.daemon.messages import GIVE_WAY, Reply, Request
from b2fs.daemon.notify import Notifier
from b2fs.daemon.run import Events, Outcome, run_mount, run_recover
from b2fs.daemon.signals import STOPPING
from b2fs.daemon.sockets import bind_control_socket, socket_path
from b2fs.daemon.state import MountState
from b2fs.errors import B2fsError, ConfigError, NoSuchBucket, StoreError
from tests.unit.daemon_fakes import World, fake_settings

UID = os.geteuid()


@pytest.fixture
def own_process() -> Iterator[None]:
    """What a mount changes for its whole process is as it was afterwards."""
    umask = os.umask(0o022)
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    yield
    os.umask(umask)
    for number, handler in handlers.items():
        signal.signal(number, handler)


class Running:
    """A run_mount in the background of a test."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.state = MountState(world.settings)
        self.ready = trio.Event()
        self.ended = trio.Event()
        self.outcome: Outcome | None = None

    async def run(self, notifier: Notifier) -> None:
        events = Events(ready=self.ready.set)
        self.outcome = await run_mount(self.state, self.world.parts, notifier, events)
        self.ended.set()

    async def ask(self, command: str, path: str = "") -> list[Reply]:
        """All replies to one request."""
        request = Request(command, path)
        return await trio.to_thread.run_sync(lambda: list(ask(self.world.settings.mountpoint, UID, request)))


@asynccontextmanager
async def running(world: World, notifier: Notifier | None = None) -> AsyncIterator[Running]:
    """A mount that is ready; ends when the test has ended it."""
    mount = Running(world)
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.run, notifier or Notifier(None))
            await mount.ready.wait()
            yield mount
            await mount.ended.wait()


async def test_unmounting_drains_in_a_hurry_and_leaves_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, pending_files=3)
    async with running(world) as mount:
        assert mount.state.report().phase == "mounted"
        assert world.store.is_open()
        world.frontend.unmounted.set()
        await world.writeback.waiting.wait()
        assert mount.state.report().phase == "draining"
        assert world.writeback.hurried
        world.writeback.uploaded.set()
    assert mount.outcome == Outcome(0, 0, str(world.core_dir))
    assert not world.store.is_open()
    assert world.writeback.paths == [None]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_unmounts_and_drains(tmp_path: Path, number: signal.Signals) -> None:
    world = World(tmp_path, pending_files=1)
    async with running(world) as mount:
        os.kill(os.getpid(), number)
        await world.writeback.waiting.wait()
        assert world.frontend.cancelled
        world.writeback.uploaded.set()
    assert mount.outcome is not None
    assert mount.outcome.left_files == 0


async def test_a_second_signal_stops_at_once_and_counts_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "ONE_REQUEST_S", 0.0)
    world = World(tmp_path, pending_files=2)
    async with running(world) as mount:
        os.kill(os.getpid(), signal.SIGTERM)
        await world.writeback.waiting.wait()
        os.kill(os.getpid(), signal.SIGTERM)
    assert mount.outcome == Outcome(2, 2000, str(world.core_dir))
    assert "2 files (2.0 KiB) not in the bucket yet" in mount.outcome.sentence
    assert f"b2fs recover {world.core_dir}" in mount.outcome.sentence


@pytest.mark.parametrize(("number", "window_s"), [(signal.SIGTERM, 1000.0), (signal.SIGHUP, 0.0)])
async def test_what_a_service_manager_sends_with_the_first_signal_is_no_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int, window_s: float
) -> None:
    monkeypatch.setattr(run, "ONE_REQUEST_S", window_s)
    caplog.set_level(logging.INFO)
    world = World(tmp_path, pending_files=2)
    async with running(world) as mount:
        os.kill(os.getpid(), signal.SIGTERM)
        await world.writeback.waiting.wait()
        os.kill(os.getpid(), number)
        while "stopping already" not in caplog.text:
            await trio.lowlevel.checkpoint()
        world.writeback.uploaded.set()
    assert mount.outcome == Outcome(0, 0, str(world.core_dir))


async def test_an_error_that_stops_the_drain_is_in_the_outcome(tmp_path: Path) -> None:
    world = World(tmp_path, pending_files=1)
    world.writeback.failure = StoreError("the cap is used up")
    async with running(world) as mount:
        world.frontend.unmounted.set()
        world.writeback.uploaded.set()
    assert mount.outcome == Outcome(1, 1000, str(world.core_dir), "the cap is used up")


async def test_a_wrong_bucket_ends_before_anything_is_mounted(tmp_path: Path) -> None:
    world = World(tmp_path, store_error=NoSuchBucket("the bucket photos does not exist"))
    state = MountState(world.settings)
    with pytest.RaisesGroup(NoSuchBucket, flatten_subgroups=True):
        await run_mount(state, world.parts, Notifier(None), Events(ready=lambda: pytest.fail("was mounted")))
    assert world.core_dir is None


@pytest.mark.usefixtures("own_process")
def test_the_process_takes_the_error_out_of_its_groups(tmp_path: Path) -> None:
    world = World(tmp_path, store_error=NoSuchBucket("the bucket photos does not exist"))
    with pytest.raises(NoSuchBucket, match="photos"):
        process.serve(world.settings, world.parts, Events())


@pytest.mark.usefixtures("own_process")
def test_requests_to_end_change_nothing_once_the_run_has_ended(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.frontend.fault = ConfigError("the kernel took the mount away")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    with pytest.raises(ConfigError):
        process.serve(world.settings, world.parts, Events())
    assert {signal.getsignal(number) for number in STOPPING} == {signal.SIG_IGN}
    os.kill(os.getpid(), signal.SIGTERM)  # would end the tests


async def test_what_was_asked_before_the_run_listened_is_heeded(tmp_path: Path) -> None:
    world = World(tmp_path)
    state = MountState(world.settings)
    with trio.fail_after(120):
        outcome = await run_mount(state, world.parts, Notifier(None), Events(), noted=[signal.SIGTERM])
    assert outcome.left_files == 0
    assert not state.mounted


async def test_two_mounts_of_one_bucket_are_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with running(world) as mount:
        assert world.core_dir is not None
        with pytest.raises(ConfigError, match=f"in use by a live b2fs mount.*{world.settings.mountpoint}"):
            async with claim(world.core_dir, "/elsewhere"):
                pytest.fail("the lock was given twice")
        mount.world.frontend.unmounted.set()
    async with claim(world.core_dir, "/elsewhere"):
        pass


async def test_a_mount_waits_for_one_that_is_still_uploading(tmp_path: Path) -> None:
    world = World(tmp_path, pending_files=1)
    claimed = trio.Event()

    async def claim_next() -> None:
        assert world.core_dir is not None
        async with claim(world.core_dir, "/next", wait_s=20):
            assert world.writeback.pending_files == 0
            claimed.set()

    async with running(world), trio.open_nursery() as nursery:
        world.frontend.unmounted.set()
        await world.writeback.waiting.wait()
        nursery.start_soon(claim_next)
        await trio.testing.wait_all_tasks_blocked()
        assert not claimed.is_set()
        world.writeback.uploaded.set()
    assert claimed.is_set()


async def test_a_mount_takes_over_from_one_that_is_still_uploading(tmp_path: Path) -> None:
    world, following = World(tmp_path, pending_files=2), World(tmp_path)
    async with running(world) as mount:
        world.frontend.unmounted.set()
        await world.writeback.waiting.wait()
        async with running(following) as next_mount:
            assert mount.outcome == Outcome(2, 2000, str(world.core_dir), taken_over=True)
            assert mount.outcome.sentence.endswith("another mount has taken over, and uploads them")
            assert next_mount.state.report().phase == "mounted"
            assert following.core_dir == world.core_dir
            following.frontend.unmounted.set()


async def test_a_mount_elsewhere_takes_over_as_well(tmp_path: Path) -> None:
    world = World(tmp_path, pending_files=2)
    async with running(world) as mount:
        world.frontend.unmounted.set()
        await world.writeback.waiting.wait()
        assert world.core_dir is not None
        async with claim(world.core_dir, "/elsewhere", takes_over=True):
            assert mount.outcome is not None
            assert mount.outcome.left_files == 2


@pytest.mark.parametrize("other", [{"read_only": "yes"}, {"cache_dir": "{}/other"}])
async def test_who_does_not_upload_the_same_waits(tmp_path: Path, other: dict[str, str]) -> None:
    """A read-only mount, and one of another bucket or with another cache: else nobody would go on uploading."""
    world, following = World(tmp_path, pending_files=2), World(tmp_path)
    following.settings = fake_settings(tmp_path, **{name: value.format(tmp_path) for name, value in other.items()})
    waiting = Running(following)
    async with running(world) as mount, trio.open_nursery() as nursery:
        world.frontend.unmounted.set()
        await world.writeback.waiting.wait()
        nursery.start_soon(waiting.run, Notifier(None))
        await mount.ask("status")
        await mount.ask("status")
        assert mount.state.phase == "draining"
        world.writeback.uploaded.set()
        await waiting.ready.wait()
        assert mount.outcome == Outcome(0, 0, str(world.core_dir))
        following.frontend.unmounted.set()


async def test_recover_takes_over_as_well(tmp_path: Path) -> None:
    world, recovering = World(tmp_path, pending_files=2), World(tmp_path)
    recovering.writeback.uploaded.set()
    async with running(world) as mount:
        world.frontend.unmounted.set()
        await world.writeback.waiting.wait()
        await run_recover(MountState(recovering.settings), recovering.parts, Events())
        assert mount.outcome is not None
        assert mount.outcome.taken_over


async def test_a_live_mount_does_not_give_way(tmp_path: Path) -> None:
    world = World(tmp_path, pending_files=2)
    async with running(world) as mount:
        (reply,) = await mount.ask(GIVE_WAY, str(world.core_dir))
        assert (reply.kind, reply.message) == ("error", "the mount is mounted")
        refusal = pytest.RaisesExc(ConfigError, match="has not ended yet")
        with pytest.RaisesGroup(refusal, flatten_subgroups=True):
            await run_mount(MountState(world.settings), World(tmp_path).parts, Notifier(None), Events())
        world.writeback.uploaded.set()
        world.frontend.unmounted.set()


async def test_a_signal_ends_the_wait_for_an_earlier_mount(tmp_path: Path) -> None:
    world = World(tmp_path, pending_files=2)
    state = MountState(fake_settings(tmp_path, read_only="yes"))
    async with running(world):
        world.frontend.unmounted.set()
        await world.writeback.waiting.wait()
        outcome = await run_mount(state, World(tmp_path).parts, Notifier(None), Events(), noted=[signal.SIGTERM])
        assert (outcome.left_files, state.mounted) == (0, False)
        world.writeback.uploaded.set()


async def test_status_tells_what_is_going_on(tmp_path: Path) -> None:
    world = World(tmp_path, pending_files=2)
    world.writeback.failure = StoreError("refused")
    async with running(world) as mount:
        (reply,) = await mount.ask("status")
        world.writeback.pending_files = 0
        world.frontend.unmounted.set()
    assert reply.kind == "status"
    assert reply.report.phase == "mounted"
    assert reply.report.url == world.settings.location.url
    assert reply.report.cache_dir == str(world.core_dir)
    assert reply.report.writeback.pending_files == 2
    assert [(item.path, item.error) for item in reply.report.writeback.failed] == [("a/b", "refused")]


async def test_sync_streams_progress_and_ends_when_the_path_is_uploaded(tmp_path: Path) -> None:
    world = World(tmp_path, pending_files=2)
    async with running(world) as mount, trio.open_nursery() as nursery:

        async def upload_when_asked() -> None:
            await world.writeback.waiting.wait()
            world.writeback.uploaded.set()

        nursery.start_soon(upload_when_asked)
        *progress, last = await mount.ask("sync", "a/b")
        assert world.writeback.paths == ["a/b"]
        assert not world.writeback.hurried
        world.frontend.unmounted.set()
    assert all(reply.kind == "progress" for reply in progress)
    assert (last.kind, last.report.writeback.pending_files) == ("done", 0)


async def test_sync_reports_the_error_that_stops_it(tmp_path: Path) -> None:
    world = World(tmp_path, pending_files=1)
    world.writeback.failure = StoreError("the cap is used up")
    world.writeback.uploaded.set()
    async with running(world) as mount:
        *_, last = await mount.ask("sync")
        world.frontend.unmounted.set()
    assert (last.kind, last.message) == ("error", "the cap is used up")


async def test_whoever_follows_hears_the_end_and_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "ONE_REQUEST_S", 0.0)
    world = World(tmp_path, pending_files=2)
    replies: list[Reply] = []
    following = trio.Event()

    def follow() -> None:
        for reply in ask(world.settings.mountpoint, UID, Request("follow", "")):
            replies.append(reply)
            trio.from_thread.run_sync(following.set)

    async with running(world), trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, follow)
        await following.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await world.writeback.waiting.wait()
        os.kill(os.getpid(), signal.SIGTERM)
    last = replies[-1]
    assert (last.kind, last.report.phase, last.report.writeback.pending_files) == ("stopped", "stopped", 2)


async def test_an_unknown_command_and_garbage_are_answered_with_an_error(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with running(world) as mount:
        (reply,) = await mount.ask("dance")
        assert (reply.kind, "dance" in reply.message) == ("error", True)
        await trio.to_thread.run_sync(_send_garbage, world.settings.mountpoint)
        (reply,) = await mount.ask("status")
        assert reply.kind == "status"
        world.frontend.unmounted.set()


def _send_garbage(mountpoint: str) -> None:
    for garbage in (b"", b"\xff\x00\n", b"[1]\n", b"{}\n"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(socket_path(mountpoint, UID))
            client.sendall(garbage)
            client.shutdown(socket.SHUT_WR)
            assert Reply.decode(client.makefile("rb").readline()).kind == "error"


async def test_the_socket_is_private_and_goes_with_the_mount(tmp_path: Path) -> None:
    world = World(tmp_path)
    path = socket_path(world.settings.mountpoint, UID)
    async with running(world):
        assert os.stat(path).st_mode & 0o777 == 0o600
        assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o700
        assert world.core_dir is not None
        assert os.stat(world.core_dir).st_mode & 0o777 == 0o700
        world.frontend.unmounted.set()
    assert os.path.basename(path) not in os.listdir(os.path.dirname(path))


async def test_a_socket_that_a_killed_daemon_left_is_replaced(tmp_path: Path) -> None:
    world = World(tmp_path)
    bind_control_socket(socket_path(world.settings.mountpoint, UID)).close()
    async with running(world):
        world.frontend.unmounted.set()


async def test_the_next_mount_keeps_its_socket_while_the_last_one_says_its_last_words(tmp_path: Path) -> None:
    """A client that asks nothing has it wait, and nobody is answered any more meanwhile."""
    world = World(tmp_path)
    path = socket_path(world.settings.mountpoint, UID)
    async with running(world) as mount:
        idle = await trio.open_unix_socket(path)
        assert [reply.kind for reply in await mount.ask("status")] == ["status"]  # so it is being listened to
        world.frontend.unmounted.set()
        with pytest.raises(ConfigError):
            while True:
                await mount.ask("status")
        bind_control_socket(path).close()
        await idle.aclose()
    os.unlink(path)  # it is still there


async def test_recover_drains_without_a_kernel(tmp_path: Path) -> None:
    world = World(tmp_path, pending_files=2)
    world.writeback.uploaded.set()
    outcome = await run_recover(MountState(world.settings), world.parts, Events())
    assert outcome == Outcome(0, 0, str(world.core_dir))
    assert world.writeback.hurried


async def test_a_mount_leaves_word_of_how_to_reach_its_bucket(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with running(world):
        world.frontend.unmounted.set()
    assert world.core_dir is not None
    assert recall(world.core_dir)["url"] == world.settings.location.url
    with pytest.raises(ConfigError, match="is not the cache directory"):
        recall(tmp_path)


@pytest.mark.parametrize("abstract", [False, True])
async def test_systemd_hears_ready_stopping_and_the_watchdog(tmp_path: Path, abstract: bool) -> None:
    world = World(tmp_path, pending_files=1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(60)
        name = f"@b2fs-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
        manager.bind("\0" + name[1:] if abstract else name)
        environ = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "400000", "WATCHDOG_PID": str(os.getpid())}
        notifier = Notifier.from_environment(environ)
        assert environ == {}
        async with running(world, notifier):
            world.frontend.unmounted.set()
            await world.writeback.waiting.wait()
            world.writeback.uploaded.set()
        notifier.close()
        messages = await trio.to_thread.run_sync(_drain_socket, manager)
    assert messages[0] == "WATCHDOG=1"
    ready = next(index for index, text in enumerate(messages) if text.startswith("READY=1\nSTATUS="))
    stopping = next(index for index, text in enumerate(messages) if text.startswith("STOPPING=1\nSTATUS="))
    assert ready < stopping
    assert "EXTEND_TIMEOUT_USEC=30000000" in messages[stopping:]
    assert any(text == "STATUS=1 file (1000 B) left to upload" for text in messages[stopping:])


def _drain_socket(manager: socket.socket) -> list[str]:
    messages = []
    manager.setblocking(False)
    while True:
        try:
            messages.append(manager.recv(4096).decode())
        except BlockingIOError:
            return messages


async def test_no_more_time_is_asked_for_while_the_bucket_cannot_be_reached(tmp_path: Path) -> None:
    world = World(tmp_path, pending_files=1)
    world.writeback.offline = True
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        notifier = Notifier(str(tmp_path / "notify"))
        async with running(world, notifier):
            world.frontend.unmounted.set()
            await world.writeback.waiting.wait()
            world.writeback.uploaded.set()
        notifier.close()
        messages = _drain_socket(manager)
    assert any(text.startswith("STOPPING=1") for text in messages)
    assert not any(text.startswith("EXTEND_TIMEOUT_USEC") for text in messages)


def test_a_watchdog_for_another_process_is_not_ours() -> None:
    environ = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    notifier = Notifier.from_environment(environ)
    assert notifier.watchdog_interval_s is None
    notifier.ready("nobody listens, and that is no error")
    notifier.close()


@pytest.mark.usefixtures("own_process")
def test_an_error_that_nobody_foresaw_is_in_the_log_and_becomes_one_sentence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path)
    world.frontend.fault = RuntimeError("a bug")
    with pytest.raises(B2fsError, match="nobody foresaw"):
        process.serve(world.settings, world.parts, Events())
    assert any(record.exc_info and "a bug" in caplog.text for record in caplog.records)


@pytest.mark.usefixtures("own_process")
def test_an_error_after_the_mount_was_there_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    world = World(tmp_path)
    world.frontend.fault = ConfigError("the kernel took the mount away")
    world.frontend.fault_after_ready = True
    with pytest.raises(ConfigError, match="took the mount away"):
        process.serve(world.settings, world.parts, Events(ready=world.frontend.unmounted.set))
    assert "the kernel took the mount away" in caplog.text
