"""POSIX access control lists as extended attributes hold them, and what they grant: values and rules without I/O.

The form is Linux's (linux/posix_acl_xattr.h): a version, then entries of tag, permissions and id, little endian.  See
acl(5) for the rules.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20

_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_ONCE = (USER_OBJ, GROUP_OBJ, OTHER)
_NAMED = (USER, GROUP)


class Entry(NamedTuple):
    """tag: whom it is about (id for USER and GROUP); bits: read 4, write 2, execute 1."""

    tag: int
    bits: int
    id: int = 0xFFFFFFFF


class Acl(NamedTuple):
    """A valid list: one entry each for the owner, the group and all others, and a mask where somebody is named."""

    entries: tuple[Entry, ...]

    @classmethod
    def parse(cls, value: bytes) -> Acl:
        """Raises ValueError for what is no valid list."""
        if value[:4] != _VERSION or len(value) % _ENTRY.size != 4:
            raise ValueError("not an access control list")
        entries = tuple(Entry(*fields) for fields in _ENTRY.iter_unpack(value[4:]))
        tags = [entry.tag for entry in entries]
        masks = tags.count(MASK)
        named = [(entry.tag, entry.id) for entry in entries if entry.tag in _NAMED]
        if (
            any(tags.count(tag) != 1 for tag in _ONCE)
            or len(tags) != 3 + masks + len(named)
            or len(set(named)) != len(named)
            or masks > 1
            or (named and not masks)
            or any(entry.bits > 7 for entry in entries)
        ):
            raise ValueError("not a valid access control list")
        return cls(entries)

    def pack(self) -> bytes:
        return _VERSION + b"".join(_ENTRY.pack(entry.tag, entry.bits, entry.id) for entry in self.entries)

    @property
    def is_minimal(self) -> bool:
        """Whether it says no more than permission bits can."""
        return len(self.entries) == len(_ONCE)

    @property
    def mode(self) -> int:
        """The nine permission bits that stand for it."""
        return self._bits(USER_OBJ) << 6 | self._bits(self._group_class) << 3 | self._bits(OTHER)

    @property
    def _group_class(self) -> int:
        return MASK if any(entry.tag == MASK for entry in self.entries) else GROUP_OBJ

    def _bits(self, tag: int) -> int:
        return next(entry.bits for entry in self.entries if entry.tag == tag)

    def with_mode(self, mode: int) -> Acl:
        """As chmod(2) leaves it."""
        return self._changed(mode, lambda _, new: new)

    def created(self, mode: int) -> Acl:
        """As the default of a directory it makes this the access list of what is created there with a mode."""
        return self._changed(mode, lambda old, new: old & new)

    def _changed(self, mode: int, change: Callable[[int, int], int]) -> Acl:
        new = {USER_OBJ: mode >> 6 & 7, self._group_class: mode >> 3 & 7, OTHER: mode & 7}
        return Acl(
            tuple(
                entry._replace(bits=change(entry.bits, new[entry.tag])) if entry.tag in new else entry
                for entry in self.entries
            )
        )

    def grants(self, bits: int, *, is_owner: bool, uid: int, in_group: Callable[[int], bool], gid: int) -> bool:
        """Whether it grants all of bits to a user; gid is the file's group, in_group says which the user is in."""
        if is_owner:
            return not bits & ~self._bits(USER_OBJ)
        limit = self._bits(MASK) if self._group_class == MASK else 7
        for entry in self.entries:
            if entry.tag == USER and entry.id == uid:
                return not bits & ~(entry.bits & limit)
        groups = [
            entry.bits
            for entry in self.entries
            if (entry.tag == GROUP_OBJ and in_group(gid)) or (entry.tag == GROUP and in_group(entry.id))
        ]
        if groups:
            return any(not bits & ~(group & limit) for group in groups)
        return not bits & ~self._bits(OTHER)
