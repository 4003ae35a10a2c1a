"""What of a mount begins before most of the program is loaded: control socket, lock, and the mount itself.

A thread does it while the main thread goes on loading: socket and lock at once, the mount as soon as the bucket has
answered.  It takes the quick way
only where nothing can be told wrong: a server that answers, a root without attributes of its own, neither in the bucket
nor waiting in the journal.  In all other cases, and where anything fails, it leaves things as it found them: the run
(daemon.run) does everything in its own way and says what is wrong.  What the run does not take over `abandon` undoes.

Loads neither the event loop nor libfuse.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from b2fs.cache.ledger_peek import may_hold_entry
from b2fs.config.components import fuse_config, owner_of, s3_config
from b2fs.config.location import RemoteLocation
from b2fs.config.settings import MountSettings
from b2fs.core import latelog
from b2fs.daemon.directory import LEDGER, identity_path, lock_nowait, unlock
from b2fs.daemon.signals import heeded
from b2fs.daemon.sockets import bind_control_socket, socket_path
from b2fs.errors import B2fsError
from b2fs.fuse import early
from b2fs.fuse.wire import root_attributes
from b2fs.vfs.clock import now_ns

if TYPE_CHECKING:
    from b2fs.store.s3.answers import Response
    from b2fs.store.s3.greeting import Answer, Greeting

#: Requests are served by one thread, and an early mount is made by one; the default of 5 ms lets every thread that
#: wakes up, or loads, hold it that long.  1,000 small files with uploads beside them took three times as long with it.
SWITCH_INTERVAL_S = 0.0002
#: For whom has not answered in this time, there is no hurry.
_GREETING_S = 3.0
#: How soon a signal ends that wait.
_SIGNAL_S = 0.1
#: Where, below the mount's prefix, b2fs keeps what is its own, and the name there of the root's attributes, if it has
#: any (docs/architecture.md).
RESERVED = ".b2fs/"
_ROOT_NAME = b"root</Key>"


class EarlyStart:
    """One mount's beginning; all methods belong to the main thread."""

    def __init__(self, settings: MountSettings, greeting: Greeting, agreements_dir: str) -> None:
        """Begin.  From now on signals that would end the process are only noted."""
        #: When the mount began, which the times of a root without attributes of its own say.
        self.started_ns = now_ns()
        #: The signals that came, in their order.
        self.noted: list[int] = []
        self._settings = settings
        self._greeting = greeting
        self._agreements_dir = agreements_dir
        self._path: Path | None = None
        self._lock: int | None = None
        self._control: socket.socket | None = None
        self._mount: early.EarlyMount | None = None
        self._decided = threading.Event()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._handlers = {number: signal.signal(number, self._note) for number in heeded()}
        self._thread = threading.Thread(target=self._run, name="early", daemon=True)
        self._thread.start()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted.append(number)

    # ---- what the run takes over ------------------------------------------------------------------------------------

    def wait_decided(self) -> None:
        """Return when it is clear what has begun; blocks, for a few seconds at most."""
        self._decided.wait()

    def take_control(self) -> socket.socket | None:
        """The bound control socket, if there is one; after wait_decided."""
        control, self._control = self._control, None
        return control

    def take_lock(self, path: Path) -> int | None:
        """The descriptor that holds the lock of an identity directory, if that is so; after wait_decided."""
        if self._lock is None or path != self._path:
            return None
        lock, self._lock = self._lock, None
        return lock

    def take_mount(self) -> early.Begun | None:
        """The mount, which answers nothing from now on, if there is one; after wait_decided."""
        mount, self._mount = self._mount, None
        if mount is None:
            return None
        mount.stop()
        self._thread.join()
        return mount.hand_over()

    def abandon(self) -> None:
        """Undo what nobody has taken over; signals do again what they did, unless somebody else sees to them now."""
        self._decided.wait()
        mount, self._mount = self._mount, None
        if mount is not None:
            mount.stop()
            self._thread.join()
            mount.abandon()
        self._let_go()
        self._greeting.connections.close()  # if there is no store that has done so
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, handler)

    # ---- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            mount = self._mount = self._begun()
            if mount is None:
                self._let_go()
        except (B2fsError, OSError) as error:
            latelog.debug(__name__, "nothing begins early: %s", error)
            self._let_go()
            return
        finally:
            self._decided.set()
        if mount is not None:
            uid, gid, mode = owner_of(self._settings)
            mount.answer(partial(root_attributes, mode=stat.S_IFDIR | mode, uid=uid, gid=gid, time_ns=self.started_ns))

    def _begun(self) -> early.EarlyMount | None:
        settings = self._settings
        location = settings.location
        if not isinstance(location, RemoteLocation):
            return None
        # All that can be undone without anybody having seen it comes before the server's answers, which take a while.
        self._path = identity_path(
            settings.cache_dir, s3_config(settings, location).identity, location.prefix, location.bucket
        )
        self._control = bind_control_socket(socket_path(settings.mountpoint, os.geteuid()))
        self._lock = lock_nowait(self._path)
        if self._lock is None or may_hold_entry(self._path / LEDGER, location.prefix):
            return None
        config = fuse_config(settings, self._agreements_dir)
        options, agreements = config.options(), config.agreements()
        assert agreements is not None
        return early.begin(settings.mountpoint, options, agreements) if self._is_plain() else None

    def _is_plain(self) -> bool:
        """Whether the server has answered every question well, and knows nothing of the root."""
        deadline = time.monotonic() + _GREETING_S
        listed = self._result(self._greeting.listed, deadline)
        versioned = self._greeting.versioned
        if listed is None or b"ListBucketResult" not in listed.body:
            return False
        if _ROOT_NAME in listed.body or b"<IsTruncated>true" in listed.body:
            return False
        return versioned is None or self._result(versioned, deadline) is not None

    def _result(self, answer: Answer, deadline: float) -> Response | None:
        """The answer; None if it does not come in time, or somebody wants to stop meanwhile."""
        while time.monotonic() < deadline and not self.noted:
            with suppress(TimeoutError):
                return answer.result(_SIGNAL_S)
        return None

    def _let_go(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
            with suppress(FileNotFoundError):
                os.unlink(socket_path(self._settings.mountpoint, os.geteuid()))
        if self._lock is not None and self._path is not None:
            unlock(self._path, self._lock)
            self._lock = None


def is_possible(settings: MountSettings) -> bool:
    """Whether the root can be known before the core is there: that of a bucket, without access control lists."""
    return isinstance(settings.location, RemoteLocation) and not settings.location.prefix and not settings.acl
