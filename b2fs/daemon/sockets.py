"""Where the control sockets are: the same answer for the daemon and for the command line.

One socket a mount, named after its mountpoint, in a directory that only the mount's user (and root) can enter.
"""

from __future__ import annotations

import hashlib
import os

RUNTIME_VARIABLE = "B2FS_RUNTIME_DIR"


def runtime_dir(uid: int) -> str:
    """Where the sockets of this user's mounts are.

    B2FS_RUNTIME_DIR, an absolute path, names another place; daemon and commands have to agree on it.
    """
    chosen = os.environ.get(RUNTIME_VARIABLE, "")
    if os.path.isabs(chosen):
        return os.path.join(chosen, str(uid))
    if uid == 0:
        return "/run/b2fs"
    own = os.environ.get("XDG_RUNTIME_DIR") if uid == os.geteuid() else None
    base = own or f"/run/user/{uid}"
    return os.path.join(base, "b2fs") if os.path.isdir(base) else f"/tmp/b2fs-{uid}"


def socket_path(mountpoint: str, uid: int) -> str:
    """The control socket of the mount that user uid has at this canonical mountpoint."""
    digest = hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:16]
    return os.path.join(runtime_dir(uid), f"{digest}.sock")
