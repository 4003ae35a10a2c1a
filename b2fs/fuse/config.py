"""What a mount is asked to be."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote

from b2fs.fuse.agreements import Agreements
from b2fs.fuse.wire import Feature

_SUBTYPE = "b2fs"


class FuseConfig(NamedTuple):
    """How the kernel mounts the filesystem and talks to it.

    Requests carry up to 1 MiB each way: that is what libfuse and the kernel agree on by themselves.
    """

    #: The source that `mount` and `df` show.
    fsname: str = "b2fs"
    read_only: bool = False
    #: Users other than the one who mounts may enter; needs root or user_allow_other in /etc/fuse.conf.
    allow_other: bool = False
    #: The kernel checks permissions from the attributes.  Without it the filesystem core has to.
    default_permissions: bool = True
    #: Let the kernel collect small writes.  Off: it slows large sequential writes and delays their errors.
    writeback_cache: bool = False
    #: Have the kernel check POSIX ACLs that are stored as extended attributes, and leave the umask to the core.
    acl: bool = False
    #: Extended attributes.  Without them the kernel need not ask before every write whether the file has capabilities.
    xattrs: bool = True
    #: Keep no pages in the kernel, for files that change behind its back all the time.
    direct_io: bool = False
    #: How far the kernel reads ahead; needs permission on /sys/class/bdi.
    read_ahead_kib: int = 1024
    #: Asynchronous requests (read-ahead) that the kernel has in flight; needs permission on /sys/fs/fuse.
    max_background: int = 64
    #: Requests that are worked on at a time; further ones wait in the kernel.
    max_requests: int = 128
    #: Further options of mount(8), such as `noexec`, `nosuid` or `dev`.
    mount_options: frozenset[str] = frozenset()
    #: How long an unmount waits for the kernel to hand over pages that programs wrote through mmap, in seconds.
    sync_timeout_s: float = 10.0
    #: How long an unmount lets the requests in flight finish, in seconds.
    grace_s: float = 10.0
    #: A directory of ours, where it is kept what was agreed with the kernel; None keeps nothing.
    agreements_dir: str | None = None

    def features(self) -> Feature:
        """What is agreed with the kernel beyond what libfuse does by itself."""
        # An inode stands for one content that only this mount changes, and it does so through the kernel.
        features = Feature.EXPLICIT_INVAL_DATA
        if "suid" not in self.mount_options:
            # Where set-id bits count, the kernel sees to them itself: it must not go by what it remembers of them.
            features |= Feature.HANDLE_KILLPRIV_V2
        if self.acl:
            features |= Feature.POSIX_ACL | Feature.DONT_MASK
        return features

    def agreements(self) -> Agreements | None:
        """What mounts like this one have agreed with the kernel."""
        if self.agreements_dir is None:
            return None
        asked = (self.features().value, sorted(self.session_options()), self.writeback_cache, self.acl)
        return Agreements(self.agreements_dir, repr(asked))

    def session_options(self) -> set[str]:
        """The options for libfuse when the mount is there already: those of its own session."""
        return {f"subtype={_SUBTYPE}"}

    def options(self) -> set[str]:
        """The mount options for libfuse."""
        # libfuse splits at commas and pyfuse3 takes ASCII only.
        options = {f"fsname={quote(self.fsname, safe='/:@.-_+=~')}", f"subtype={_SUBTYPE}"}
        if self.read_only:
            options.add("ro")
        if self.allow_other:
            options.add("allow_other")
        if self.default_permissions:
            options.add("default_permissions")
        return options | self.mount_options
