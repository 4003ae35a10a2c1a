"""Where the control sockets are: the same answer for the daemon and for the command line.

One socket a mount, named after its mountpoint, in a directory that only the mount's user (and root) can enter.
"""

from __future__ import annotations

import hashlib
import os
import socket
import stat

from b2fs.errors import ConfigError

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


def bind_control_socket(path: str) -> socket.socket:
    """A listening socket at path, in a private directory; replaces one that a killed daemon left.

    Raises ConfigError when a daemon still answers there or the directory is not ours.
    """
    directory = os.path.dirname(path)
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        info = os.lstat(directory)
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
            raise ConfigError(f"{directory} is not a directory of yours")
        os.chmod(directory, 0o700)
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listener.bind(path)
            os.chmod(path, 0o600)
            listener.listen(16)
        except BaseException:
            listener.close()
            raise
        return listener
    except OSError as error:
        raise ConfigError(f"The control socket {path} cannot be made: {error.strerror}") from None


def _remove_stale(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(path)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise ConfigError("The previous mount of this mountpoint has not ended yet: it is still uploading")
