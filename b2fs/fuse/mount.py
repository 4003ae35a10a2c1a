"""The life of the one mount that a process can have: made, served, ended.

It ends when somebody unmounts it, when `unmount` is called, or when `serve` is cancelled; the last two by the same
orderly way: pages that programs wrote through mmap are handed over, notifications end while requests are still
answered, then the loop ends, and the mountpoint is detached, however busy it is.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable
from functools import partial

import pyfuse3
import trio

from b2fs.errors import ConfigError
from b2fs.fuse.config import FuseConfig
from b2fs.fuse.early import Begun
from b2fs.fuse.handshake import Disagreement, Handshake, is_over, mount_device
from b2fs.fuse.kernel import MountInfo, mount_at, tune
from b2fs.fuse.notifier import Notifier
from b2fs.fuse.operations import Shell
from b2fs.fuse.outside import ask_kernel
from b2fs.fuse.turns import Turns
from b2fs.fuse.wire import Feature
from b2fs.vfs.api import FileSystem

log = logging.getLogger(__name__)

#: How long a mountpoint may take to answer before we call whatever is mounted there stuck, in seconds.  A guess.
_ANSWER_TIMEOUT_S = 10.0


class FuseMount:
    """A mountpoint and how it is to be mounted; `notifier` is the core's door to the kernel."""

    def __init__(
        self,
        mountpoint: str | os.PathLike[str],
        config: FuseConfig | None = None,
        begun: Callable[[], Begun | None] = lambda: None,
    ) -> None:
        """begun() gives the mount that is there already, if one is; called once, when it can be taken over."""
        #: Absolute; without symbolic links once `prepare` has looked.
        self.mountpoint = os.path.abspath(mountpoint)
        self.notifier = Notifier()
        self._config = config or FuseConfig()
        self._begun = begun
        self._turns = Turns()
        self._stop = trio.Event()
        #: The kernel's side of a mount that was not made by libfuse.
        self._device: int | None = None
        self._handshake: Handshake | None = None

    def unmount(self) -> None:
        """Ask `serve` to end the mount; call it from the trio thread.  Any number of calls is one."""
        self._stop.set()

    async def serve(self, core: FileSystem, ready: Callable[[], None]) -> None:
        """Mount core and answer the kernel until the mount ends; calls ready() once the mount answers.

        Raises ConfigError if the mountpoint cannot be used.  References that the kernel still held at the end are not
        given back by forget.  Cancelling unmounts.
        """
        begun = self._begun()
        if begun is None:
            await self.prepare()
        await self._init(core, begun)
        try:
            async with trio.open_nursery() as watching:
                watching.start_soon(self._stop_when_cancelled)
                with trio.CancelScope(shield=True):
                    fault = await self._run_session(ready)
                watching.cancel_scope.cancel()
        finally:
            await self._close()
        if fault is not None:
            raise fault

    async def prepare(self) -> None:
        """See that the mountpoint can be used; a mount that a killed daemon left there is taken away.

        Raises ConfigError with a sentence for the user.
        """
        code, mounted = await self._probe()
        if code == errno.ENOTCONN and mounted is not None and mounted.is_fuse:
            log.info("%s was left mounted by a daemon that died; it is taken away", self.mountpoint)
            await _detach(self.mountpoint)
            code, mounted = await self._probe()
        if code:
            raise ConfigError(f"cannot use the mountpoint {self.mountpoint}: {os.strerror(code)}")
        if mounted is not None and mounted.is_fuse:
            source = os.fsdecode(mounted.source)
            raise ConfigError(f"{source} is already mounted at {self.mountpoint}: unmount it first")

    async def _probe(self) -> tuple[int, MountInfo | None]:
        """0 if the mountpoint is a directory that answers, else an errno; and what is mounted there."""
        code = errno.ETIMEDOUT
        with trio.move_on_after(_ANSWER_TIMEOUT_S):
            # Abandoned when it does not answer: the thread waits in the kernel for a daemon that is stuck.
            probing = trio.to_thread.run_sync(_resolve_directory, self.mountpoint, abandon_on_cancel=True)
            self.mountpoint, code = await probing
        return code, mount_at(os.fsencode(self.mountpoint))

    async def _init(self, fs: FileSystem, begun: Begun | None) -> None:
        shell = Shell(fs, self._config, self._turns.waits)
        self._turns.install()
        try:
            if begun is not None:
                try:
                    await self._agree(shell, begun.device, begun)
                    return
                except Disagreement as error:
                    log.warning("%s; it is mounted anew", error)
            device = await mount_device(self.mountpoint, self._config.options())
            if device is None:
                self._check_lists(Feature(0))
                pyfuse3.init(shell, self.mountpoint, self._config.options())
            else:
                await self._agree(shell, device, None)
        except (RuntimeError, OSError) as error:
            if isinstance(error, RuntimeError):
                pyfuse3.close(unmount=False)
            # libfuse or fusermount3 has written the reason to stderr, and gives none to us.
            raise ConfigError(f"the kernel refuses to mount at {self.mountpoint}{_why_refused()}") from error

    async def _agree(self, shell: Shell, device: int, begun: Begun | None) -> None:
        """Let libfuse agree with the kernel on the mount that is there, with features that it does not know."""
        handshake = Handshake(device, self._config.features(), begun, self._config.agreements())
        self._device, self._handshake = handshake.number, handshake
        try:
            pyfuse3.init(shell, handshake.path, self._config.session_options())
            try:
                over = await handshake.run(partial(pyfuse3.main, min_tasks=1, max_tasks=1))
                self._check_lists(handshake.agreed)
            except BaseException:
                pyfuse3.close(unmount=False)
                raise
        except BaseException:
            with trio.CancelScope(shield=True):
                await _detach(self.mountpoint)
            handshake.close()
            raise
        if not over:
            self._turns.first_lies_ready(handshake.take_over)

    def _check_lists(self, agreed: Feature) -> None:
        """Lists that the kernel does not obey must not be kept: programs would leave a file's mode to them."""
        needed = Feature.POSIX_ACL | Feature.DONT_MASK
        if self._config.acl and agreed & needed != needed:
            raise ConfigError("this kernel does not check access control lists: mount without --acl")

    async def _close(self) -> None:
        """Detach the mountpoint, even while it is in use, unless it was unmounted already."""
        if self._device is not None and not is_over(self._device):
            with trio.CancelScope(shield=True):
                await _detach(self.mountpoint)
        if self._handshake is not None:
            self._handshake.close()
        pyfuse3.close(unmount=True)
        self._turns.uninstall()

    async def _stop_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._stop.set()

    async def _run_session(self, ready: Callable[[], None]) -> ConfigError | None:
        """Answer requests until unmounted or stopped; the answer is why the mount never became usable, if so.

        Runs shielded, so that it can end in the right order.
        """
        fault = None
        async with trio.open_nursery() as session:
            session.start_soon(self._run_loop, session.cancel_scope)
            async with trio.open_nursery() as notifying:
                notifying.start_soon(self.notifier.run)
                fault = await self._announce(ready)
                if fault is None:
                    await self._stop.wait()
                    await self._flush_pages()
                notifying.cancel_scope.cancel()
            pyfuse3.terminate()
            session.cancel_scope.deadline = trio.current_time() + self._config.grace_s
        return fault

    async def _run_loop(self, session: trio.CancelScope) -> None:
        await pyfuse3.main(min_tasks=1, max_tasks=self._config.max_requests)
        session.cancel()

    async def _announce(self, ready: Callable[[], None]) -> ConfigError | None:
        try:
            device = (await ask_kernel(os.stat, self.mountpoint)).st_dev
        except OSError as error:
            return ConfigError(f"{self.mountpoint} was mounted but its root cannot be read: {error.strerror}")
        if self._device is not None and is_over(self._device):
            return None  # somebody was quicker: what answered is what was below
        tune(f"{os.major(device)}:{os.minor(device)}", self._config)
        ready()
        return None

    async def _flush_pages(self) -> None:
        """Let the kernel write back what programs changed through mmap and it has not sent yet."""
        if self._config.read_only:
            return
        with trio.move_on_after(self._config.sync_timeout_s):
            try:
                await ask_kernel(pyfuse3.syncfs, self.mountpoint)
            except OSError as error:
                log.warning("the kernel could not hand over all changed pages: %s", error.strerror)


async def serve(
    fs: FileSystem,
    config: FuseConfig,
    mountpoint: str,
    *,
    task_status: trio.TaskStatus[FuseMount] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Mount fs for as long as this runs; started() with the mount once it answers.  See FuseMount.serve."""
    mount = FuseMount(mountpoint, config)
    await mount.serve(fs, lambda: task_status.started(mount))


def _why_refused() -> str:
    return "" if os.path.exists("/dev/fuse") else ": /dev/fuse is missing"


def _resolve_directory(path: str) -> tuple[str, int]:
    """The path without symbolic links, and why it is no usable directory, or 0."""
    path = os.path.realpath(path)
    try:
        mode = os.stat(path).st_mode
        # The kernel may remember the attributes of a mount whose daemon is dead; this it always asks for.
        os.statvfs(path)
    except OSError as error:
        return path, error.errno or errno.EIO
    return path, 0 if stat.S_ISDIR(mode) else errno.ENOTDIR


async def _detach(mountpoint: str) -> None:
    """Take a dead mount away, even while processes still stand in it.

    fusermount3 does it for root and for the user who mounted; what it says goes to stderr.
    """
    await trio.run_process(["fusermount3", "-u", "-z", mountpoint], check=False)
