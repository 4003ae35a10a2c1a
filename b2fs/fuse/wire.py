"""What the kernel and we say to each other when libfuse is not, or not yet, in between: requests and answers as bytes.

From the kernel's include/uapi/linux/fuse.h.  Loads next to nothing: a mount begins with it.
"""

from __future__ import annotations

import enum
import struct

ROOT_NODE = 1

#: Operations.
FORGET = 2
GETATTR = 3
INIT = 26
INTERRUPT = 36
BATCH_FORGET = 42

#: struct fuse_in_header up to the inode.
_REQUEST = struct.Struct("<IIQQ")
_REQUEST_HEADER_BYTES = 40
#: struct fuse_init_in up to the flags, behind that header.
_INIT_REQUEST = struct.Struct("<IIII")
#: struct fuse_out_header.
_ANSWER = struct.Struct("<IiQ")
_FLAGS = struct.Struct("<I")
#: Where struct fuse_init_out has its flags and the most that a write may carry.
_FLAGS_AT = _ANSWER.size + 12
_MAX_WRITE_AT = _ANSWER.size + 20
#: struct fuse_attr_out.
_ATTR_ANSWER = struct.Struct("<QII6Q10I")
_BLOCK_BYTES = 4096


class Feature(enum.IntFlag):
    """Bits of FUSE_INIT."""

    #: The kernel leaves the umask to us: a default ACL of the directory counts in its place.
    DONT_MASK = 1 << 6
    #: The kernel checks access control lists.
    POSIX_ACL = 1 << 20
    #: The kernel drops pages only when we tell it to.  Else it drops them whenever it learns of another mtime, that of
    #: the program's own latest write among them.
    EXPLICIT_INVAL_DATA = 1 << 25
    #: We take set-id bits and capabilities away from a file that is written, truncated or given to somebody else, so
    #: the kernel need not ask before every single write whether there are any.
    HANDLE_KILLPRIV_V2 = 1 << 28


#: FUSE_AUTO_INVAL_DATA, which libfuse agrees to by itself, and which would come before EXPLICIT_INVAL_DATA.
_AUTO_INVAL_DATA = 1 << 12


def operation_of(request: bytes) -> tuple[int, int]:
    """The operation and the inode of a request; (0, 0) if it is none."""
    if len(request) < _REQUEST_HEADER_BYTES:
        return 0, 0
    _, operation, _, node = _REQUEST.unpack_from(request)
    return operation, node


def without_number(request: bytes) -> bytes:
    """What a first request says, whatever its number and whoever is behind it."""
    return request[:8] + request[_REQUEST_HEADER_BYTES:]


def renumbered(answer: bytes, request: bytes) -> bytes:
    """An answer of before, as the answer to this request."""
    return answer[:8] + request[8:16] + answer[16:]


def is_answer_to(answer: bytes, request: bytes) -> bool:
    """Whether a first request was answered, with success and with all that is looked at here."""
    if operation_of(request)[0] != INIT or len(answer) < _MAX_WRITE_AT + _FLAGS.size:
        return False
    _, error, number = _ANSWER.unpack_from(answer)
    return not error and number == _REQUEST.unpack_from(request)[2]


def offered(request: bytes) -> int:
    """The features that the kernel offers in its first request."""
    flags: int = _INIT_REQUEST.unpack_from(request, _REQUEST_HEADER_BYTES)[3]
    return flags


def amended(answer: bytes, agreed: Feature) -> bytes:
    """The answer to the first request with further features, all of which the kernel has offered."""
    (flags,) = _FLAGS.unpack_from(answer, _FLAGS_AT)
    if Feature.EXPLICIT_INVAL_DATA in agreed:
        flags &= ~_AUTO_INVAL_DATA
    changed = bytearray(answer)
    _FLAGS.pack_into(changed, _FLAGS_AT, flags | agreed)
    return bytes(changed)


def max_write(answer: bytes) -> int:
    """The bytes that a write may carry, by the answer to the first request."""
    most: int = _FLAGS.unpack_from(answer, _MAX_WRITE_AT)[0]
    return most


def root_attributes(request: bytes, mode: int, uid: int, gid: int, time_ns: int) -> bytes:
    """The answer to a question for the attributes of a root of which nothing is listed yet; valid for this once."""
    second, rest = divmod(time_ns, 1_000_000_000)
    times = (second, second, second, rest, rest, rest)
    links, device, flags = 2, 0, 0
    size = _ANSWER.size + _ATTR_ANSWER.size
    attributes = (ROOT_NODE, 0, 0, *times, mode, links, uid, gid, device, _BLOCK_BYTES, flags)
    return _ANSWER.pack(size, 0, _REQUEST.unpack_from(request)[2]) + _ATTR_ANSWER.pack(0, 0, 0, *attributes)
