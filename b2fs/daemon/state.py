"""The state of one running mount, and what others may see of it.

Owner: `run` moves the phase forward (starting, mounted, draining, stopped); everybody else reads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Literal

import trio

from b2fs import __version__
from b2fs.config.settings import MountSettings
from b2fs.daemon.interfaces import Core
from b2fs.daemon.messages import Figures, MountReport, ReadFigures

Phase = Literal["starting", "mounted", "draining", "stopped"]


class MountState:
    """The phase of a mount and its core while there is one."""

    def __init__(self, settings: MountSettings) -> None:
        self.settings = settings
        self.phase: Phase = "starting"
        self.core: Core | None = None
        self.cache_dir = ""
        self.stopped = trio.Event()
        #: Ends the drain at once: another mount goes on with what is left.
        self.give_way: Callable[[], None] = lambda: None
        #: Whether the mount has ever answered.
        self.mounted = False
        self._started = time.monotonic()
        self._last_figures = Figures()
        self._last_reading = ReadFigures()

    def figures(self) -> Figures:
        """The write-back now, or as it was when the core ended."""
        if self.core is not None:
            self._last_figures = Figures.of(self.core.writeback.status())
        return self._last_figures

    def _reading(self) -> ReadFigures:
        if self.core is not None:
            self._last_reading = ReadFigures.of(self.core.reading)
        return self._last_reading

    def detach_core(self) -> None:
        """Keep the last figures and forget the core, which is about to end."""
        self.figures()
        self._reading()
        self.core = None

    def stop(self) -> None:
        """Tell everybody who follows that nothing more will happen."""
        self.phase = "stopped"
        self.stopped.set()

    def report(self) -> MountReport:
        return MountReport(
            url=self.settings.location.url,
            mountpoint=self.settings.mountpoint,
            cache_dir=self.cache_dir,
            pid=os.getpid(),
            version=__version__,
            phase=self.phase,
            read_only=self.settings.read_only,
            uptime_s=round(time.monotonic() - self._started, 3),
            writeback=self.figures(),
            reading=self._reading(),
            set_aside=self.core.set_aside() if self.core is not None else 0,
        )
