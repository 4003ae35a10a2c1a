"""Succession: a mount begins where an earlier one has been unmounted and its daemon is still uploading.

umount(8) returns while that goes on, and who mounts again does not want to wait for it.  What is left is safe in the
cache directory, and a mount of the same directory uploads it: so the earlier daemon is asked to give way, and ends at
once, as it does with a second signal.  A mount that would not upload (read-only), or that is of another bucket, waits.
"""

from __future__ import annotations

import os
from pathlib import Path

import trio

from b2fs.daemon.client import NoDaemon, ask
from b2fs.daemon.messages import GIVE_WAY, Reply, Request
from b2fs.errors import ConfigError

#: How long a mount waits for a daemon that has already unmounted and is still uploading.
FINISHING_WAIT_S = 30.0
POLL_S = 0.1


async def earlier_ended(
    mountpoint: str, cache_dir: Path, *, takes_over: bool, wait_s: float = FINISHING_WAIT_S
) -> None:
    """Return when no daemon answers for this mountpoint that has unmounted it, or it has been waited for long enough.

    cache_dir is the identity directory of who asks; takes_over: that one uploads what is left there.
    """
    deadline = trio.current_time() + wait_s
    while not await has_given_way(mountpoint, cache_dir if takes_over else None):
        if trio.current_time() >= deadline:
            return
        await trio.sleep(POLL_S)


async def has_given_way(mountpoint: str, cache_dir: Path | None) -> bool:
    """Whether no daemon answers for the mountpoint that ends soon; one that uploads from cache_dir is asked to end."""
    request = Request(GIVE_WAY, str(cache_dir)) if cache_dir is not None else Request("status")
    try:
        reply = await trio.to_thread.run_sync(_last_reply, mountpoint, request, abandon_on_cancel=True)
    except NoDaemon:
        return True
    except ConfigError:
        return False  # it ended meanwhile, say
    return reply.kind == "stopped" or reply.report.phase == "mounted"


def _last_reply(mountpoint: str, request: Request) -> Reply:
    *_, last = ask(mountpoint, os.geteuid(), request)
    return last
