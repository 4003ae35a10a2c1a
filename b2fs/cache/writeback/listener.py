"""What the engine tells whoever is above it; the default hears nothing."""

from __future__ import annotations

from b2fs.cache.inode import Inode
from b2fs.core.types import VersionId
from b2fs.errors import B2fsError


class Listener:
    """Override what is of interest.  None of these may wait."""

    def settled(self, key: str, inode: Inode | None) -> None:
        """The bucket holds what it should under this key."""

    def failed(self, key: str, inode: Inode | None, error: B2fsError) -> None:
        """A try failed in a way that a user must hear of; it will be tried again."""

    def replaced(self, inode: Inode) -> None:
        """A file that nobody has open has the content of somebody else's version from now on."""

    def in_use(self, version: VersionId) -> bool:
        """Whether an open file reads from this version."""
        return False
