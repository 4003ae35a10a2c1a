"""The rows of the ledger: what is kept of an inode, of a key that differs, and of a multipart upload, and how."""

from __future__ import annotations

import json
import os
import struct
from typing import Any, NamedTuple

from b2fs.cache.content import DirtyFiles, LocalContent
from b2fs.cache.inode import Inode
from b2fs.core.extents import Extents
from b2fs.core.nodes import InodeId
from b2fs.core.types import ETag, ObjectRef, UploadId, VersionId

_RANGE = struct.Struct("<QQ")
_NO_CONTENT = None
_COMPLETE = b""
#: As _COMPLETE, of a dirty file that was synced to the disk at least once.
_COMPLETE_SYNCED = b"\1"
#: As _COMPLETE, of one that was not synced and that the base has, too.
_COMPLETE_STORED = b"\2"
#: As _COMPLETE, of one that was not synced and of which every byte was written: a hole is what a power cut has left.
_COMPLETE_DENSE = b"\3"
_ALL_COMPLETE = (_COMPLETE, _COMPLETE_SYNCED, _COMPLETE_STORED, _COMPLETE_DENSE)

#: A statement and its parameters.
Write = tuple[str, tuple[object, ...]]
_SAVE_INODE = f"INSERT OR REPLACE INTO inode VALUES({','.join('?' * 17)})"
#: By `local`, for what was made here and has nothing unusual.  A parameter costs sqlite3 800 instructions, and one that
#: is None, a bool or bytes 2,000.
_SAVE_PLAIN = {
    local: f"INSERT OR REPLACE INTO inode VALUES({','.join('?' * 9)},NULL,NULL,1,NULL,NULL,NULL,NULL,{literal})"
    for local, literal in ((_NO_CONTENT, "NULL"), (_COMPLETE_DENSE, "x'03'"), (_COMPLETE_SYNCED, "x'01'"))
}
_SAVE_ENTRY = "INSERT OR REPLACE INTO entry VALUES(?,?,?,?,?,?)"
#: Of a key under which the bucket is known to hold nothing.
_SAVE_NEW_ENTRY = "INSERT OR REPLACE INTO entry VALUES(?,?,1,NULL,NULL,NULL)"


class Remote(NamedTuple):
    """What the bucket holds under a key, as far as we know: ref None means nothing."""

    known: bool
    ref: ObjectRef | None = None


class EntryRow(NamedTuple):
    key: str
    ino: InodeId | None
    remote: Remote


class PartRow(NamedTuple):
    """An acknowledged part; away: its bytes may have left the dirty file."""

    number: int
    etag: ETag
    size: int
    away: bool = False


class UploadRow(NamedTuple):
    """A multipart upload of ours, and the inode whose content it brings; ino None: it is to be aborted."""

    upload_id: UploadId
    key: str
    ino: InodeId | None
    parts: tuple[PartRow, ...] = ()


def inode_write(inode: Inode) -> Write:
    """What writes the row of an inode."""
    base = inode.base
    extra = None
    if inode.xattrs or inode.link_id is not None or inode.foreign_metadata or inode.content_type is not None:
        xattrs = {name.hex(): value.hex() for name, value in inode.xattrs.items()}
        extra = json.dumps([xattrs, inode.link_id, inode.foreign_metadata, inode.content_type]).encode()
    numbers = (
        inode.ino,
        inode.mode,
        inode.uid,
        inode.gid,
        inode.rdev,
        inode.size,
        inode.atime_ns,
        inode.mtime_ns,
        inode.ctime_ns,
    )
    local = _pack_local(inode)
    if base is None and extra is None and inode.target is None and inode.attrs_known and local in _SAVE_PLAIN:
        return _SAVE_PLAIN[local], numbers
    of_base = (base.key, base.version_id, base.etag, base.size) if base else (None, None, None, None)
    return _SAVE_INODE, (*numbers, inode.target, extra, inode.attrs_known, *of_base, local)


def load_inode(row: tuple[Any, ...], files: DirtyFiles, present: set[InodeId], *, started_anew: bool) -> Inode | None:
    """The inode of a row; None if its content is lost.

    A power cut may leave a row and not the file that was beside it, or only a part of a file that was never synced,
    which is then one of files.torn.  Then the base counts, as if it had not been changed; only what never had more than
    attributes is as the row has it.
    """
    ino, mode, uid, gid, rdev, size, atime, mtime, ctime, target, extra, known, *rest = row
    base_key, base_version, base_etag, base_size, local = rest
    inode = Inode(InodeId(ino), mode)
    for name, value in zip(
        ("uid", "gid", "rdev", "size", "atime_ns", "mtime_ns", "ctime_ns"),
        (uid, gid, rdev, size, atime, mtime, ctime),
        strict=True,
    ):
        setattr(inode, name, value)
    inode.target = target if isinstance(target, bytes) else None
    inode.attrs_known = bool(known)
    if isinstance(extra, bytes):
        table, inode.link_id, inode.foreign_metadata, inode.content_type = json.loads(extra)
        inode.xattrs = {bytes.fromhex(n): bytes.fromhex(v) for n, v in table.items()}
    if isinstance(base_key, str):
        inode.base = object_ref(base_key, base_version, base_etag, base_size)
    if local is _NO_CONTENT and inode.base is None and inode.is_regular and inode.ino in present:
        local = _COMPLETE_DENSE  # made, and only written to since
    torn = started_anew and inode.ino in present and _is_torn(inode, files, local)
    if inode.ino in present and not torn and inode.is_regular and isinstance(local, bytes):
        inode.content = _load_content(inode, files, local)
    elif isinstance(local, bytes):
        if inode.base is None and (inode.size or torn):
            return None
        inode.size = inode.base.size if inode.base is not None else 0
    return inode


def _is_torn(inode: Inode, files: DirtyFiles, local: object) -> bool:
    """Whether the machine may have lost a part of a dirty file that was never synced, as far as can be told."""
    if local == _COMPLETE_STORED:
        return True  # the base has it all
    if local not in (_COMPLETE, _COMPLETE_DENSE):
        return False
    size = os.stat(files.path(inode.ino)).st_size
    torn = size < inode.size or (local == _COMPLETE_DENSE and files.has_hole(inode.ino))
    if torn and size:
        files.torn.append(inode.ino)
    return torn


def _load_content(inode: Inode, files: DirtyFiles, local: bytes) -> LocalContent:
    """The content as the dirty file has it: writes are acknowledged by the file, not by the ledger."""
    found = os.stat(files.path(inode.ino))
    content = LocalContent(files, inode.ino, found.st_size)
    if local == _COMPLETE_SYNCED:
        content.synced_seq = 0
    elif local == _COMPLETE_DENSE:
        content.dense = True
    elif local not in _ALL_COMPLETE:
        content.complete = False
        content.base_limit = min(struct.unpack_from("<Q", local)[0], found.st_size)
        content.local = Extents(_RANGE.iter_unpack(local[8:]))
        # Killed between changing the file and committing that: behind the base all bytes are local, behind the end
        # none.
        content.local.add(content.base_limit, found.st_size)
        content.local.remove(found.st_size, max(found.st_size, content.local.end))
        content.held = content.local.copy()
    inode.size = found.st_size
    if found.st_mtime_ns > inode.ctime_ns:
        inode.mtime_ns = inode.ctime_ns = found.st_mtime_ns
    return content


def _pack_local(inode: Inode) -> bytes | None:
    content = inode.content
    if content is None:
        return _NO_CONTENT
    if content.complete:
        stored = inode.base is not None and inode.base_content_seq == inode.content_seq
        if stored and content.synced_seq != inode.content_seq:
            return _COMPLETE_STORED
        if content.synced_seq >= 0:
            return _COMPLETE_SYNCED
        return _COMPLETE_DENSE if content.dense else _COMPLETE
    return struct.pack("<Q", content.base_limit) + b"".join(_RANGE.pack(*extent) for extent in content.local)


def entry_write(key: str, ino: InodeId | None, remote: Remote) -> Write:
    """What writes the row of a key."""
    ref = remote.ref
    if remote.known and ref is None:
        return _SAVE_NEW_ENTRY, (key, ino)
    of_ref = (ref.version_id, ref.etag, ref.size) if ref else (None, None, None)
    return _SAVE_ENTRY, (key, ino, remote.known, *of_ref)


def object_ref(key: object, version: object, etag: object, size: object) -> ObjectRef | None:
    if not isinstance(key, str) or not isinstance(etag, str) or not isinstance(size, int):
        return None
    return ObjectRef(key, VersionId(version) if isinstance(version, str) else None, ETag(etag), size)
