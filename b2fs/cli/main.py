"""The `b2fs` program."""

from __future__ import annotations

import gc
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run and exit: 0 done, 1 failed, 2 wrong use, 3 data is left to be uploaded."""
    gc.disable()  # loading makes nothing but what stays; a mount does without until it answers
    from b2fs.cli.statuses import exit_status

    sys.exit(exit_status(_run))


def _run() -> object:
    from b2fs.cli.plain import plain_mount

    asked = plain_mount(sys.argv[1:])
    if asked is None:
        from b2fs.cli.commands import cli

        gc.enable()
        return cli.main(prog_name="b2fs", standalone_mode=False)
    from b2fs.cli.mounting import mount_as_asked

    return mount_as_asked(asked.url, asked.mountpoint, asked.lists, asked.given, foreground=asked.foreground)
