"""`b2fs mount` and `b2fs recover` as click commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from b2fs.cli.console import DrainDisplay
from b2fs.cli.mounting import mount_as_asked, report_outcome
from b2fs.config.settings import OPTIONS, build_settings
from b2fs.daemon.exits import EXIT_OK


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
    return mount_as_asked(url, mountpoint, lists, _raw_from_click(given), foreground=foreground)


def _raw_from_click(given: dict[str, Any]) -> dict[str, str]:
    words = {True: "yes", False: "no"}
    return {name: words.get(value, value) for name, value in given.items() if value is not None}


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
