"""Open files and directories."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import NamedTuple

from b2fs.cache.inode import Inode
from b2fs.cache.reader import Stream
from b2fs.cache.remote.loading import Load
from b2fs.core.nodes import Attr, Caller, HandleId
from b2fs.core.types import ObjectRef
from b2fs.errors import B2fsError


@dataclass(eq=False, slots=True)
class FileHandle:
    """One open file description."""

    id: HandleId
    inode: Inode
    flags: int
    caller: Caller
    stream: Stream | None = None
    stream_ref: ObjectRef | None = None
    #: A failed upload that this handle has not been told of.
    error: B2fsError | None = None
    #: It made, cut or wrote the file, and no close has waited for that yet.
    wrote: bool = False

    @property
    def writes(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY

    def close_stream(self) -> None:
        if self.stream is not None:
            self.stream.close()
            self.stream = self.stream_ref = None


class DirRow(NamedTuple):
    """A name of a directory that is being read; row and attr are set for a listed file that has no inode.

    entry is what comes behind the directory's prefix in the key, as in Listing.entries.
    plain: attr holds the mount's defaults, as the object carries no attributes.
    """

    name: bytes
    entry: str
    row: bytes | None = None
    attr: Attr | None = None
    plain: bool = False


@dataclass(eq=False, slots=True)
class DirHandle:
    """One open directory.

    entries are its names as far as they are known, in the order of readdir; a cookie is an index behind a name.
    load brings more of them, `taken` pages were used; once the last was (`ended`) what came in by our own changes.
    local were there because of local changes when reading began; late ones wait for the next page; given were handed
    out at the place of what their names stood for before.
    rows is the part of entries from `start` on that is ready to be handed out; its inodes are held.
    """

    id: HandleId
    inode: Inode
    load: Load | None = None
    taken: int = 0
    begun: bool = False
    ended: bool = False
    entries: list[str] = field(default_factory=list)
    local: frozenset[str] = frozenset()
    late: set[str] = field(default_factory=set)
    given: set[str] = field(default_factory=set)
    start: int = 0
    rows: list[DirRow] = field(default_factory=list)
    held: list[Inode] = field(default_factory=list)
