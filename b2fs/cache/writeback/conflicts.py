"""ConflictGuard: nobody's new version is replaced silently.

Before a version that we know is replaced, the bucket is asked whether it is still the current one.  If somebody else
has put another one on top, it stays in the bucket as a version, the log and the status say so, and with `keep-both`
it is also copied to a name of its own beside ours.  Where there are versions, what we ourselves put a moment ago is not
asked for again, unless the store would bring back an older content.

Of a key under which nothing is known to be nobody is asked: it is put on the condition that nothing is there, where
the server minds that, and `newnames` looks behind all others.
"""

from __future__ import annotations

import hashlib
import logging
import re
import socket
import time
from enum import Enum

import trio

from b2fs.cache.inode import Inode
from b2fs.cache.ledger_rows import Remote
from b2fs.cache.remote.listing import NS
from b2fs.cache.writeback import merge
from b2fs.cache.writeback.claim import Claim
from b2fs.cache.writeback.doubts import Doubts
from b2fs.cache.writeback.pending import Pending
from b2fs.cache.writeback.writer import Writer
from b2fs.core.attrs import WRITER
from b2fs.core.types import ObjectInfo, ObjectRef
from b2fs.errors import AccessDenied, NotFound, StoreError
from b2fs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

#: Our own version of this age, in seconds, is taken to be the current one still, where an older one would survive.
_TRUSTED_S = 5.0
_PLAIN_MD5 = re.compile("[0-9a-f]{32}")
#: On servers that cannot copy, the other version is kept by reading and writing it, up to this size.
_THROUGH_HERE_BYTES = 64 << 20


class ConflictPolicy(Enum):
    """What becomes of the other version: it stays as an older version below ours, or gets a name of its own too."""

    OURS_ON_TOP = "ours-on-top"
    KEEP_BOTH = "keep-both"


class ConflictGuard:
    """See the module."""

    def __init__(self, store: ObjectStore, policy: ConflictPolicy, writer: Writer, doubts: Doubts) -> None:
        self._store = store
        self._policy = policy
        self._writer = writer
        self._doubts = doubts
        self.count = 0

    async def check(self, p: Pending, ours_s_ago: float) -> ObjectInfo | None:
        """Look before the key gets a new version.

        The answer is somebody else's version, if what the key should hold is to be merged with it; what cannot be
        merged is seen to here.  Raises StoreError.
        """
        expected = p.remote.ref
        if not p.key:
            return None  # the root of a bucket has no object of its own
        directory = p.inode if p.inode is not None and p.inode.is_dir else None
        if expected is None and (p.remote.known or directory is None):
            return None
        if ours_s_ago < _TRUSTED_S and self._store.capabilities.versioning and not _is_old_content(p):
            return None
        try:
            info = await self._store.head(p.key)
        except NotFound:
            p.remote = Remote(True, None)  # somebody removed it: ours is put in its place
            return None
        except AccessDenied:
            if expected is None:
                return None  # nothing is known of another version, and this key may not look
            raise
        current = info.ref
        if self._tells_nothing(current):
            return None
        if directory is not None and not current.size:
            return info if self._merges(p, directory, info) else None
        if expected is not None and expected.is_version(current):
            return None
        if (not p.remote.known or self._doubts.threaten(p)) and await self._is_ours(p, info):
            p.layered = True
            return None
        if self._carries(p, info):
            return info
        await self.keep(current)
        p.found(current)
        return None

    def _merges(self, p: Pending, directory: Inode, info: ObjectInfo) -> bool:
        """A directory's own object is all attributes: those that somebody else has changed stay, unless we did too.

        Its times change with every name in it, here and there; that is no conflict.
        """
        if self.is_signed(info) or _is_known(directory, p.remote.ref, info):
            return False
        p.found(info.ref)
        if not merge.loses(directory, info):
            return False
        if not directory.times_only:
            self._told_of_attributes(p.key)
            return False
        return True

    def _carries(self, p: Pending, info: ObjectInfo) -> bool:
        """Whether only attributes of a file have changed here, so that they go onto somebody else's version of it.

        One of ours has come late, from before what we have stored since: its content is not what the file should have.
        """
        if p.inode is None or self.is_signed(info) or not merge.can_carry(p.inode, p.key, info):
            return False
        p.found(info.ref)
        if merge.has_rights(p.inode):
            self.count += 1
            log.warning("%s was replaced by somebody else, so it loses its set-id bits and capabilities", p.key)
        elif merge.loses(p.inode, info):
            self._told_of_attributes(p.key)
        else:
            log.info("%s was replaced by somebody else; what changed of its attributes here goes onto theirs", p.key)
        return True

    def _told_of_attributes(self, key: str) -> None:
        self.count += 1
        log.warning("%s was given other attributes by somebody else as well; ours are on top", key)

    def claim(self, p: Pending, inode: Inode, *, many: bool) -> Claim | None:
        """What we know of the key, if what else is found there is somebody else's.

        Of a hard-linked file not every name was looked at: what is there may be the file itself.  Directories are the
        same whoever makes them.  many: so are many other keys stored.
        """
        if p.inode is not inode or inode.is_dir:
            return None
        if p.remote.ref is not None:
            # Where there are versions what is replaced stays, and it was looked at before the upload began.
            return None if self._store.capabilities.versioning else Claim(p.key, asks=False, expected=p.remote.ref)
        if not p.remote.known and inode.link_id is not None:
            return None
        failed = p.attempts > 0
        return Claim(p.key, asks=not failed and not (many and self._store.capabilities.versioning), failed=failed)

    async def taken(self, p: Pending) -> None:
        """Something is under a key that we believed to be free.  Raises StoreError."""
        try:
            info = await self._store.head(p.key)
        except NotFound:
            p.remote = Remote(True, None)
            return
        if not await self._is_ours(p, info):
            await self.keep(info.ref)
        p.found(info.ref)

    async def is_covered(self, p: Pending) -> bool:
        """Whether the version that we made is hidden now, or below another one of ours; p.remote is what is there."""
        if not p.key:
            return False
        try:
            info = await self._store.head(p.key)
        except NotFound:
            p.remote = Remote(True, None)
            return True
        ref = p.remote.ref
        if ref is None or ref.is_version(info.ref) or not self.is_signed(info):
            return False
        p.remote = Remote(True, info.ref)
        return True

    async def has_returned(self, p: Pending) -> bool:
        """Whether a version of ours is under a key that we have removed; p.remote is what is there.

        Raises StoreError.
        """
        try:
            info = await self._store.head(p.key)
        except (NotFound, AccessDenied):
            return False
        if not self.is_signed(info):
            return False
        p.found(info.ref)
        return True

    def _tells_nothing(self, current: ObjectRef) -> bool:
        """Whether it is a directory's marker without content on a server that keeps no attributes on it."""
        marker = current.key.endswith("/") and not current.size
        return marker and not self._store.capabilities.marker_metadata

    def is_signed(self, info: ObjectInfo) -> bool:
        """Whether a version, of which its metadata is known, says that we have made it."""
        return self._writer.made(info.key, info.metadata)

    async def _is_ours(self, p: Pending, info: ObjectInfo) -> bool:
        """Whether we made this version, when the answer to that was lost, or a crash came before it."""
        if self.is_signed(info):
            return True
        if info.metadata is not None and WRITER in info.metadata and p.inode is not None and p.inode.attrs_known:
            return False  # another b2fs made it, or another program has changed the attributes of one of ours
        return await _has_its_content(p, info.ref)

    async def keep(self, other: ObjectRef) -> None:
        """See that somebody else's version, which ours replaces, survives, and tell of it.  Raises StoreError."""
        await self._save(other)
        self.count += 1
        log.warning("%s was changed by somebody else; both versions are kept, ours on top", other.key)

    def left(self, other: ObjectRef) -> None:
        """Somebody else's version stays under a name that was removed here."""
        self.count += 1
        log.warning("%s was changed by somebody else and is not removed", other.key)

    async def _save(self, other: ObjectRef) -> None:
        """The other version survives by itself where there are versions, else as a copy."""
        if self._policy is ConflictPolicy.KEEP_BOTH or not self._store.capabilities.versioning:
            key = conflict_key(other.key, socket.gethostname(), time.gmtime())
            if self._store.capabilities.copy:
                await self._store.copy(other, key)
                return
            if other.size > _THROUGH_HERE_BYTES:
                raise StoreError(f"{other.key} was changed by somebody else, and this server cannot keep both versions")
            info, body = await self._store.get(other.key, version_id=other.version_id, if_match=other.etag)
            await self._store.put(key, body, metadata=info.metadata, content_type=info.content_type)


def conflict_key(key: str, host: str, when: time.struct_time) -> str:
    """`dir/name (conflict HOST TIME).ext` for `dir/name.ext`."""
    cut = key.rfind("/") + 1
    stem, dot, ending = key[cut:].rpartition(".")
    if not stem:
        stem, dot, ending = key[cut:], "", ""
    return f"{key[:cut]}{stem} (conflict {host} {time.strftime('%Y%m%dT%H%M%SZ', when)}){dot}{ending}"


def _is_old_content(p: Pending) -> bool:
    """Whether a store would put the content of an older version on top of whatever is there."""
    return p.inode is not None and merge.has_base_content(p.inode)


async def _has_its_content(p: Pending, current: ObjectRef) -> bool:
    """Whether the bucket has what the key is to hold now: for versions that do not say who made them.

    An ETag that is no plain MD5 cannot be compared; then the size decides.
    """
    inode = p.inode
    if inode is None:
        return False
    content, base = inode.content, inode.base
    if base is not None and not inode.attrs_known:
        return (base.etag, base.size) == (current.etag, current.size)  # a plain copy
    if content is None or not content.complete or content.size != current.size:
        return False
    if not _PLAIN_MD5.fullmatch(current.etag):
        return True
    return await trio.to_thread.run_sync(_md5_of_file, content.path()) == current.etag


def _md5_of_file(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _is_known(directory: Inode, expected: ObjectRef | None, info: ObjectInfo) -> bool:
    """Whether this version of a directory's own object is the one that its attributes come from.

    All these have one content, so a listing tells them apart by their times alone.
    """
    if expected is not None and expected.version_id is not None and expected.version_id == info.ref.version_id:
        return True
    return directory.base_modified_ns != 0 and directory.base_modified_ns // NS == info.modified_ns // NS
