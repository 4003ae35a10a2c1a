"""mount.b2fs and umount.b2fs: what mount(8) and umount(8) call for `mount -t b2fs` and for fstab lines.

    mount.b2fs  SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]
    umount.b2fs DIR [-nlfvr] [-N NAMESPACE] [-t TYPE]

Both belong as links into /sbin, the second one as umount.fuse.b2fs, which is the type that the kernel shows.  What is
remounted is of that type: without a link mount(8) asks mount.fuse(8), which calls `b2fs SPEC DIR -o ...,remount,...`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from typing import NoReturn

import click

from b2fs.cli.mounting import checked_settings, mount_in_background
from b2fs.cli.statuses import exit_status
from b2fs.config.mount_options import raw_from_options, split_options
from b2fs.config.settings import raw_from_environment
from b2fs.daemon.exits import EXIT_USAGE

#: mount(8)'s exit statuses.
_USAGE = 1
_MOUNT_FAILURE = 32


@click.command("mount.b2fs")
@click.argument("url")
@click.argument("mountpoint")
@click.option("-o", "lists", multiple=True, metavar="OPT,...", help="Mount options.")
@click.option("-s", "sloppy", is_flag=True, help="Tolerate unknown options.")
@click.option("-f", "fake", is_flag=True, help="Check everything, mount nothing.")
@click.option("-n", "-v", "unused", is_flag=True, help="Accepted for mount(8).")
@click.option("-N", "-t", "unused_value", help="Accepted for mount(8).")
def mount_command(
    url: str, mountpoint: str, lists: tuple[str, ...], sloppy: bool, fake: bool, unused: bool, unused_value: str | None
) -> int:
    """Mount a bucket; the helper of mount -t b2fs."""
    if is_remount(lists):
        return _remount(mountpoint, lists)
    raw = {**raw_from_environment(os.environ), **raw_from_options(list(lists), sloppy=sloppy)}
    settings = checked_settings(url, mountpoint, raw)
    return 0 if fake else mount_in_background(settings)


def is_remount(lists: Iterable[str]) -> bool:
    """Whether the mount that is there is to get other flags."""
    return any("remount" in split_options(text) for text in lists)


def _remount(mountpoint: str, lists: Iterable[str]) -> int:
    """The flags are the kernel's own (`ro`, `nosuid`, ...): mount(8) sets them, without asking a helper; its status."""
    return subprocess.run(["mount", "-i", "-o", ",".join(lists), "--", mountpoint], check=False).returncode


@click.command("umount.b2fs")
@click.argument("mountpoint")
@click.option("-n", "-l", "-f", "-v", "-r", "unused", is_flag=True, help="Accepted for umount(8).")
@click.option("-N", "-t", "unused_value", help="Accepted for umount(8).")
def umount_command(mountpoint: str, unused: bool, unused_value: str | None) -> int:
    """Unmount a bucket when everything is uploaded; the helper of umount."""
    from b2fs.cli.control import umount_and_wait  # a mount does not need it

    return umount_and_wait(mountpoint, None)


def main() -> NoReturn:
    """mount.b2fs."""
    status = exit_status(lambda: mount_command.main(standalone_mode=False))
    sys.exit({0: 0, EXIT_USAGE: _USAGE}.get(status, _MOUNT_FAILURE))


def umount_main() -> NoReturn:
    """umount.b2fs."""
    status = exit_status(lambda: umount_command.main(standalone_mode=False))
    sys.exit({0: 0, EXIT_USAGE: _USAGE}.get(status, _MOUNT_FAILURE))
