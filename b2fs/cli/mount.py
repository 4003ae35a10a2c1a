"""`b2fs mount` and `b2fs recover`: settings, the checks that can be made at once, then the daemon.

What the daemon needs is imported inside the functions that run it: refusals are quick, and a mount in the background
forks while nothing of it is loaded (see daemon.background).
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from b2fs.cli.console import DrainDisplay, complain, say
from b2fs.config.mount_options import raw_from_options
from b2fs.config.settings import OPTIONS, MountSettings, build_settings, raw_from_environment
from b2fs.daemon.background import in_background
from b2fs.daemon.exits import EXIT_FAILED, EXIT_LEFT, EXIT_OK, STOPPED_EARLY
from b2fs.daemon.mounts import check_fuse, check_mountpoint, clear_dead_mount

if TYPE_CHECKING:
    from b2fs.daemon.interfaces import Parts
    from b2fs.daemon.run import Outcome


def mount_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a click command every option of a mount, from the one table."""
    for option in reversed(OPTIONS):
        if option.is_flag:
            words = f"{option.flag}/{option.opposite}" if option.opposite else option.flag
            decorator = click.option(words, option.name, is_flag=True, default=None, help=option.help)
        else:
            decorator = click.option(option.flag, option.name, metavar=option.metavar, help=option.help)
        function = decorator(function)
    return function


@click.command("mount")
@click.argument("url")
@click.argument("mountpoint")
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground; Ctrl-C unmounts.")
@click.option("-o", "lists", multiple=True, metavar="OPT,...", help="Options as in fstab, for example -o ro,uid=1000.")
@mount_options
def mount(url: str, mountpoint: str, foreground: bool, lists: tuple[str, ...], **given: Any) -> int:
    """Mount the bucket at URL on the directory MOUNTPOINT.

    URL is s3://BUCKET[/PREFIX], b2://BUCKET[/PREFIX] or file:///STORE/BUCKET (made when it is not there).

    Keys come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or from a profile in ~/.aws, never from
    the command line.  Every option can also be set as B2FS_NAME in the environment.
    """
    raw = {**raw_from_environment(os.environ), **raw_from_options(list(lists)), **_raw_from_click(given)}
    settings = checked_settings(url, mountpoint, raw)
    return serve_foreground(settings) if foreground else mount_in_background(settings)


def _raw_from_click(given: dict[str, Any]) -> dict[str, str]:
    words = {True: "yes", False: "no"}
    return {name: words.get(value, value) for name, value in given.items() if value is not None}


def checked_settings(url: str, mountpoint: str, raw: dict[str, str]) -> MountSettings:
    """Settings of a mount that can be tried, with the canonical mountpoint; raises ConfigError."""
    settings = build_settings(url, mountpoint, raw)
    check_fuse(allow_other=settings.allow_other)
    clear_dead_mount(mountpoint)
    return replace(settings, mountpoint=check_mountpoint(mountpoint, nonempty=settings.nonempty))


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


@click.command("recover")
@click.argument("cache_dir", type=click.Path(exists=True, file_okay=False))
def recover(cache_dir: str) -> int:
    """Upload what an ended mount left in CACHE_DIR, without mounting.

    CACHE_DIR is the directory that the ended mount named, below ~/.cache/b2fs or /var/cache/b2fs.
    """
    from b2fs.daemon import process
    from b2fs.daemon.build import real_parts
    from b2fs.daemon.identity import recall
    from b2fs.daemon.run import Events

    texts = recall(Path(cache_dir))
    url, mountpoint = texts.pop("url", ""), texts.pop("mountpoint", "")
    texts["cache_dir"] = os.path.dirname(os.path.realpath(cache_dir))
    settings = build_settings(url, mountpoint, texts)
    with DrainDisplay() as display:
        outcome = process.recover(settings, real_parts(), Events(draining=display.update))
    status = report_outcome(outcome)
    if status == EXIT_OK:
        sys.stderr.write(f"Everything of {url} is in the bucket.\n")
    return status
