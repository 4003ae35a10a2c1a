"""`b2fs status`, `b2fs sync` and `b2fs umount`: talking to a running mount."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import closing

import click

from b2fs.cli.console import DrainDisplay, complain, show_status
from b2fs.config.units import parse_duration, show_files, show_size
from b2fs.daemon.client import DeadlinePassed, NoDaemon, ask
from b2fs.daemon.exits import EXIT_FAILED, EXIT_LEFT, EXIT_OK
from b2fs.daemon.messages import Reply, Request, as_plain
from b2fs.daemon.mounts import MountEntry, find_b2fs_mount, mount_at, unmount
from b2fs.errors import ConfigError

#: A daemon whose mount is gone hears of it at once; one that has not in this time, in seconds, has another one.
_ELSEWHERE_S = 10.0


class _MountedElsewhere(Exception):
    """The mountpoint is free here, and the kernel still has the daemon serve."""


@click.command("status")
@click.argument("mountpoint")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def status(mountpoint: str, as_json: bool) -> int:
    """Show how the mount at MOUNTPOINT is doing."""
    entry, _ = find_b2fs_mount(mountpoint)
    reply = _follow_to_end(entry.mountpoint, entry.owner_uid, Request("status"), None)
    if as_json:
        click.echo(json.dumps(as_plain(reply.report), indent=2))
    else:
        show_status(reply.report)
    return EXIT_OK


@click.command("sync")
@click.argument("mountpoint")
@click.argument("path", required=False)
@click.option("--timeout", metavar="TIME", help="Give up waiting after TIME, for example 10m; uploads go on.")
def sync(mountpoint: str, path: str | None, timeout: str | None) -> int:
    """Wait until the bucket has every change made below MOUNTPOINT (or below PATH in it)."""
    entry, within = find_b2fs_mount(os.path.join(mountpoint, path) if path else mountpoint)
    return _wait_for_uploads(entry, within, _seconds(timeout))


@click.command("umount")
@click.argument("mountpoint")
@click.option("--timeout", metavar="TIME", help="Give up waiting after TIME, for example 10m; the mount stays.")
def umount(mountpoint: str, timeout: str | None) -> int:
    """Upload what is pending, unmount MOUNTPOINT and wait until its daemon has ended.

    When this succeeds, everything is in the bucket.  When uploads fail or take too long, the mount stays as it is.
    """
    return umount_and_wait(mountpoint, _seconds(timeout))


def umount_and_wait(mountpoint: str, timeout_s: float | None) -> int:
    """The work of `b2fs umount`; the exit status."""
    canonical = os.path.realpath(mountpoint)
    entry = mount_at(canonical)
    if entry is None or not entry.is_b2fs:
        return _wait_for_ending_daemon(mountpoint, canonical, timeout_s)
    try:
        waited = _wait_for_uploads(entry, "", timeout_s)
    except NoDaemon:
        unmount(canonical, lazily=True)
        complain(
            f"the daemon of {mountpoint} had died; changes that it had not uploaded are in its cache, "
            "and the next mount of the bucket uploads them"
        )
        return EXIT_LEFT
    if waited != EXIT_OK:
        return waited
    # Listening begins before the mount goes, since a daemon with nothing to do ends at once.
    return _wait_for_end(canonical, entry.owner_uid, timeout_s, then=lambda: unmount(canonical))


def _wait_for_ending_daemon(mountpoint: str, canonical: str, timeout_s: float | None) -> int:
    """For a mountpoint that is no mount any more: perhaps its daemon is still uploading."""
    try:
        return _wait_for_end(canonical, os.geteuid(), timeout_s)
    except NoDaemon:
        raise ConfigError(f"{mountpoint} is not a b2fs mount") from None


def _wait_for_uploads(entry: MountEntry, within: str, timeout_s: float | None) -> int:
    try:
        reply = _follow_to_end(entry.mountpoint, entry.owner_uid, Request("sync", within), timeout_s)
    except DeadlinePassed as error:
        complain(f"{error}; the mount stays and goes on uploading")
        return EXIT_LEFT
    if reply.kind == "done":
        return EXIT_OK
    complain(f"{reply.message or 'the daemon ended'}; {_left(reply)}")
    return EXIT_LEFT


def _wait_for_end(mountpoint: str, uid: int, timeout_s: float | None, then: Callable[[], None] = lambda: None) -> int:
    """Listen to the daemon, call `then`, wait until the daemon has ended."""
    began = time.monotonic()

    def look(reply: Reply) -> None:
        if reply.report.phase == "mounted" and time.monotonic() - began > _ELSEWHERE_S:
            raise _MountedElsewhere

    try:
        reply = _follow_to_end(mountpoint, uid, Request("follow"), timeout_s, then, look)
    except DeadlinePassed as error:
        complain(f"{error}; the daemon goes on uploading")
        return EXIT_LEFT
    except _MountedElsewhere:
        complain(
            f"{mountpoint} is unmounted here, but something that was begun meanwhile (a container, a service) has "
            "mounts of its own, this one among them; the daemon goes on until that ends"
        )
        return EXIT_FAILED
    if reply.kind == "stopped" and reply.report.writeback.pending_files == 0:
        return EXIT_OK
    complain(f"{_left(reply)}; safe in {reply.report.cache_dir}, and the next mount uploads them")
    return EXIT_LEFT


def _follow_to_end(
    mountpoint: str,
    uid: int,
    request: Request,
    timeout_s: float | None,
    then: Callable[[], None] = lambda: None,
    look: Callable[[Reply], None] = lambda reply: None,
) -> Reply:
    """The last reply, with progress shown on the way; `then` is called at the first, `look` with each that follows it.

    Raises ConfigError for an error that has no report.
    """
    with DrainDisplay() as display, closing(ask(mountpoint, uid, request, timeout_s=timeout_s)) as replies:
        reply = next(replies)
        then()
        while not reply.is_last:
            display.update(reply.report.writeback)
            reply = next(replies)
            look(reply)
    if reply.kind == "error" and not reply.report.url:
        raise ConfigError(reply.message)
    return reply


def _left(reply: Reply) -> str:
    figures = reply.report.writeback
    return f"{show_files(figures.pending_files)} ({show_size(figures.pending_bytes)}) not in the bucket yet"


def _seconds(timeout: str | None) -> float | None:
    return None if timeout is None else parse_duration(timeout)
