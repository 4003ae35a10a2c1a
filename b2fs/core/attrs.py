"""POSIX attributes in object metadata, in s3fs's convention, so that s3fs and rclone read ours and we read theirs.

Names (lower-case, without `x-amz-meta-`): mode, uid, gid, rdev in decimal; mtime, atime, ctime in decimal seconds with
a fraction of nine digits (rclone's `mtime` has the same form; B2's own tools write `src_last_modified_millis`);
xattr is percent-encoded JSON from name to base64, as s3fs writes it.  A symbolic link's target is the object's body.
Reading never fails: what is malformed is taken as missing.
"""

from __future__ import annotations

import base64
import binascii
import json
import stat
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote, unquote

DIRECTORY_TYPE = "application/x-directory"
DEFAULT_TYPE = "application/octet-stream"

#: By this name an object tells which cache directory has put it (`cache/writeback/writer.py`).
WRITER = "b2fs-writer"
#: The metadata names that `encode` may write, and that one.
OURS = frozenset(("mode", "uid", "gid", "rdev", "mtime", "atime", "ctime", "xattr", "b2fs-link", WRITER))

#: The extended attribute that lets a program do more than who runs it; it is said of one content and one owner.
CAPABILITY = b"security.capability"
#: What other programs say of an object's content: rclone and B2's tools its checksum, s3cmd that among all else.
ABOUT_CONTENT = frozenset(("md5chksum", "large_file_sha1", "s3cmd-attrs"))
#: The time of change by B2's tools, in milliseconds.
_MILLIS = "src_last_modified_millis"

_NS = 1_000_000_000
#: Times are kept in 64 bits, in nanoseconds: from 1677 to 2262.
_LAST_NS = (1 << 63) - 1
#: More digits are no time, and Python refuses to read very many.
_TIME_DIGITS = 20
#: What the kernel takes.
_XATTR_NAME_BYTES = 255
_MODE_MASK = 0o177777
_TYPES = frozenset((stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK))


class Defaults(NamedTuple):
    """What an object without attributes of its own gets; modes are permission bits without the type."""

    uid: int = 0
    gid: int = 0
    file_mode: int = 0o644
    dir_mode: int = 0o755


class Posix(NamedTuple):
    """The attributes that an object carries or is given."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    atime_ns: int
    ctime_ns: int
    rdev: int = 0
    xattrs: Mapping[bytes, bytes] = MappingProxyType({})
    #: The identity that all names of a hard-linked file share, or None.
    link_id: str | None = None


def encode(attrs: Posix) -> dict[str, str]:
    """The metadata of an object with these attributes; ASCII only."""
    metadata = {
        "mode": str(attrs.mode),
        "uid": str(attrs.uid),
        "gid": str(attrs.gid),
        "mtime": format_time(attrs.mtime_ns),
        "atime": format_time(attrs.atime_ns),
        "ctime": format_time(attrs.ctime_ns),
    }
    if stat.S_IFMT(attrs.mode) in (stat.S_IFCHR, stat.S_IFBLK):
        metadata["rdev"] = str(attrs.rdev)
    if attrs.xattrs:
        metadata["xattr"] = _encode_xattrs(attrs.xattrs)
    if attrs.link_id is not None:
        metadata["b2fs-link"] = attrs.link_id
    return metadata


def kept(foreign: Mapping[str, str], mtime_ns: int) -> dict[str, str]:
    """What an object of this time of change goes on carrying of other programs' metadata.

    The time by which B2's tools decide whether a file has changed follows ours, if it is there.
    """
    metadata = dict(foreign)
    if _MILLIS in metadata:
        metadata[_MILLIS] = str(max(0, mtime_ns // 1_000_000))
    return metadata


def decode(metadata: Mapping[str, str], *, is_dir: bool, modified_ns: int, defaults: Defaults) -> Posix:
    """The attributes of an object; is_dir says what its key makes of it."""
    kind = stat.S_IFDIR if is_dir else stat.S_IFREG
    if not metadata:  # as of what only a listing has shown: these are many
        plain = kind | (defaults.dir_mode if is_dir else defaults.file_mode)
        return Posix(plain, defaults.uid, defaults.gid, modified_ns, modified_ns, modified_ns)
    mode = _integer(metadata.get("mode"))
    if mode is None or not 0 <= mode <= _MODE_MASK:
        mode = kind | (defaults.dir_mode if is_dir else defaults.file_mode)
    elif is_dir or stat.S_IFMT(mode) not in _TYPES or stat.S_ISDIR(mode):
        mode = kind | stat.S_IMODE(mode)
    mtime = _first_time(metadata, modified_ns)
    uid, gid, rdev = (_integer(metadata.get(name)) for name in ("uid", "gid", "rdev"))
    return Posix(
        mode=mode,
        uid=defaults.uid if uid is None or not _is_id(uid) else uid,
        gid=defaults.gid if gid is None or not _is_id(gid) else gid,
        mtime_ns=mtime,
        atime_ns=_or(parse_time(metadata.get("atime")), mtime),
        ctime_ns=_or(parse_time(metadata.get("ctime")), mtime),
        rdev=rdev if rdev is not None and rdev < 1 << 32 else 0,
        xattrs=_decode_xattrs(metadata["xattr"]) if "xattr" in metadata else {},
        link_id=metadata.get("b2fs-link"),
    )


def carries_posix(metadata: Mapping[str, str]) -> bool:
    """Whether an object carries attributes that its listing does not show."""
    return not metadata.keys().isdisjoint(("mode", "uid", "gid", "mtime", "xattr", _MILLIS))


def format_time(time_ns: int) -> str:
    """Decimal seconds with nine digits of fraction."""
    seconds, fraction = divmod(abs(time_ns), _NS)
    return f"{'-' if time_ns < 0 else ''}{seconds}.{fraction:09d}"


def kept_time(time_ns: int) -> int:
    """The nearest time that can be kept, as utimensat(2) sets it where a filesystem's range ends."""
    return max(-_LAST_NS, min(time_ns, _LAST_NS))


def parse_time(text: str | None) -> int | None:
    """Nanoseconds of decimal seconds with or without a fraction; None for anything else."""
    if not text:
        return None
    sign = -1 if text.startswith("-") else 1
    whole, _, fraction = text.lstrip("+-").partition(".")
    if not whole.isascii() or not whole.isdigit() or (fraction and not (fraction.isascii() and fraction.isdigit())):
        return None
    if len(whole) > _TIME_DIGITS:
        return None
    value = sign * (int(whole) * _NS + int((fraction + "000000000")[:9]))
    return value if abs(value) <= _LAST_NS else None


def _first_time(metadata: Mapping[str, str], modified_ns: int) -> int:
    mtime = parse_time(metadata.get("mtime"))
    if mtime is not None:
        return mtime
    millis = _integer(metadata.get(_MILLIS))
    return modified_ns if millis is None or not 0 <= millis < 1 << 43 else millis * 1_000_000


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _is_id(value: int) -> bool:
    return 0 <= value < 0xFFFFFFFF


def _integer(text: str | None) -> int | None:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 20:
        return None
    return int(text)


def _encode_xattrs(xattrs: Mapping[bytes, bytes]) -> str:
    table = {
        name.decode("utf-8", "surrogateescape"): base64.b64encode(value).decode() for name, value in xattrs.items()
    }
    return quote(json.dumps(table, separators=(",", ":"), ensure_ascii=True), safe="")


def _decode_xattrs(text: str) -> dict[bytes, bytes]:
    try:
        table = json.loads(unquote(text))
    except (ValueError, RecursionError):
        return {}
    found: dict[bytes, bytes] = {}
    for name, value in table.items() if isinstance(table, dict) else ():
        try:
            key = name.encode("utf-8", "surrogateescape")
            if 0 < len(key) <= _XATTR_NAME_BYTES and b"\0" not in key:
                found[key] = base64.b64decode(value, validate=True)
        except (ValueError, TypeError, binascii.Error):
            continue
    return found
