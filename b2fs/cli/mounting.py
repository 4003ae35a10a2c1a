"""What `b2fs mount` does once its words are understood: the checks that can be made at once, then the daemon.

What the daemon needs is imported inside the functions that run it: refusals are quick, and a mount in the background
forks while nothing of it is loaded (see daemon.background).  Knows no click, whose loading a mount need not wait for.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from b2fs.cli.console import DrainDisplay, complain, say
from b2fs.config.mount_options import raw_from_options
from b2fs.config.settings import MountSettings, build_settings, raw_from_environment
from b2fs.daemon.background import in_background
from b2fs.daemon.exits import EXIT_FAILED, EXIT_LEFT, EXIT_OK, STOPPED_EARLY
from b2fs.daemon.mounts import check_fuse, check_mountpoint, clear_dead_mount

if TYPE_CHECKING:
    from b2fs.daemon.parts import Parts
    from b2fs.daemon.run import Outcome


def mount_as_asked(
    url: str, mountpoint: str, lists: Sequence[str], given: Mapping[str, str], *, foreground: bool
) -> int:
    """Mount; the exit status.  lists are the texts of -o, given the texts of options by name.  Raises ConfigError."""
    raw = {**raw_from_environment(os.environ), **raw_from_options(list(lists)), **given}
    settings = checked_settings(url, mountpoint, raw)
    return serve_foreground(settings) if foreground else mount_in_background(settings)


def checked_settings(url: str, mountpoint: str, raw: dict[str, str]) -> MountSettings:
    """Settings of a mount that can be tried, with the canonical mountpoint; raises ConfigError."""
    settings = build_settings(url, mountpoint, raw)
    check_fuse(allow_other=settings.allow_other)
    clear_dead_mount(mountpoint)
    return settings._replace(mountpoint=check_mountpoint(mountpoint, nonempty=settings.nonempty))


def serve_foreground(settings: MountSettings) -> int:
    """Run the mount here; the exit status."""
    with _begun(settings) as parts, DrainDisplay() as display:
        from b2fs.daemon import process
        from b2fs.daemon.run import Events

        def ready() -> None:
            say(f"{settings.location.url} is mounted at {settings.mountpoint}; Ctrl-C unmounts it.")

        return report_outcome(process.serve(settings, parts, Events(ready, display.update)))


@contextmanager
def _begun(settings: MountSettings) -> Iterator[Parts]:
    """What makes up the mount, with what can begin now under way, while the rest of the program is loaded."""
    gc.disable()  # until the mount answers: loading makes nothing but what stays
    from b2fs.daemon.build import parts_begun

    parts = parts_begun(settings)
    try:
        yield parts
    finally:
        if parts.begun is not None:
            parts.begun.abandon()


def mount_in_background(settings: MountSettings) -> int:
    """Return, with the exit status, when the mount answers or cannot be made; the daemon goes on without us."""
    return in_background(lambda ready_fd: _serve_background(settings, ready_fd))


def _serve_background(settings: MountSettings, ready_fd: int) -> int:
    with _begun(settings) as parts:
        from b2fs.daemon import process
        from b2fs.daemon.run import Events

        return report_outcome(process.serve(settings, parts, Events(), ready_fd))


def report_outcome(outcome: Outcome | None) -> int:
    """Say what is left, if anything, or that nothing was mounted; the exit status."""
    if outcome is None:
        complain(STOPPED_EARLY)
        return EXIT_FAILED
    if outcome.left_files == 0 and not outcome.reason:
        return EXIT_OK
    complain(outcome.sentence)
    return EXIT_LEFT
