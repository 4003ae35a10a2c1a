"""Open files and directories."""

from __future__ import annotations

import os
from dataclasses import dataclass

from b2fs.cache.inode import Inode
from b2fs.cache.reader import Stream
from b2fs.core.types import Caller, HandleId, ObjectRef
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


@dataclass(eq=False, slots=True)
class DirHandle:
    """One open directory; entries is the snapshot that readdir walks through."""

    id: HandleId
    inode: Inode
    entries: list[tuple[bytes, Inode]] | None = None
