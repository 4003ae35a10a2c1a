"""PendingTable: all pending entries, and who waits for whom among them.

Two kinds of order between keys: a key that others are still to be copied from is not removed before they are, and a
removed directory's own key comes after everything below it.  The table says when a key must wait, and `freed` is told
of a key that need not any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import trio

from b2fs.cache.inode import Inode
from b2fs.cache.ledger_rows import Remote
from b2fs.cache.writeback.pending import Pending
from b2fs.core.keys import split_key
from b2fs.core.types import Capabilities, VersionId

#: So many keys that were copied from are remembered, at about 150 bytes each: hard links copy from what stays.
MOST_COPIED = 4096


class PendingTable:
    """See the module."""

    def __init__(self, freed: Callable[[Pending], None]) -> None:
        self._freed = freed
        self._all: dict[str, Pending] = {}
        self._by_prefix: dict[str, set[str]] = {}
        #: Directory prefix -> how many pending keys are below it, at any depth, its own key not counted.
        self._below: dict[str, int] = {}
        #: Keys whose content is still to be copied to other pending keys: source key -> those keys.
        self._users: dict[str, set[str]] = {}
        #: Keys that were copied from, as far as the journal on the disk may not know that yet, and when: a count.
        self._copied: dict[str, int] = {}
        self._copies = 0

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Pending]:
        return iter(self._all.values())

    def __contains__(self, key: str) -> bool:
        return key in self._all

    def get(self, key: str) -> Pending | None:
        return self._all.get(key)

    def of(self, inode: Inode) -> list[Pending]:
        """The entries of all names of an inode."""
        return [self._all[key] for key in inode.all_keys() if key in self._all]

    def add(self, key: str, inode: Inode | None, remote: Remote) -> Pending:
        now = trio.current_time()
        p = self._all[key] = Pending(key, inode, remote, remote, now, now)
        self._by_prefix.setdefault(split_key(key)[0], set()).add(key)
        for prefix in _ancestors(key):
            self._below[prefix] = self._below.get(prefix, 0) + 1
        return p

    def remove(self, p: Pending) -> None:
        del self._all[p.key]
        siblings = self._by_prefix[split_key(p.key)[0]]
        siblings.discard(p.key)
        if not siblings:
            del self._by_prefix[split_key(p.key)[0]]
        for prefix in _ancestors(p.key):
            self._below[prefix] -= 1
            if not self._below[prefix]:
                del self._below[prefix]
                above = self._all.get(prefix)
                if above is not None and above.inode is None:
                    self._freed(above)
        self.free_source(p)

    def must_wait(self, p: Pending, capabilities: Capabilities) -> bool:
        """Whether other keys come first; `freed` is told when they are done.

        One name of a file goes up at a time: the others are copied from it.  Without versions a key that others are to
        be copied from may not even be replaced.  Where `a` and `a/` are one, nothing is done to both at a time, and a
        directory is not stored before the file is removed (what else there is to that: OwnVersions.remove).
        """
        if p.inode is None:
            if self.count_below(p.key) > 0 or p.key in self._users:
                return True
        elif p.inode.storing or (p.key in self._users and not capabilities.versioning):
            return True
        twin = self._all.get(_twin(p.key)) if capabilities.keys_are_paths else None
        if twin is None:
            return False
        return twin.running or (p.inode is not None and twin.inode is None and p.key.endswith("/"))

    def ended(self, p: Pending) -> None:
        """A try for the entry has ended, or it is gone: what waited for that need not any more."""
        twin = self._all.get(_twin(p.key))
        if twin is not None:
            self._freed(twin)

    # ---- directories --------------------------------------------------------------------------------------------

    def directly_below(self, prefix: str) -> set[str]:
        """The pending keys of a directory's own entries."""
        return self._by_prefix.get(prefix, set())

    def count_below(self, prefix: str) -> int:
        """How many pending keys are below a directory (or "", the bucket), its own not counted."""
        return self._below.get(prefix, 0) if prefix else len(self._all) - ("" in self._all)

    # ---- copies -------------------------------------------------------------------------------------------------

    def use_source(self, p: Pending) -> None:
        """The entry's content is to be copied from another key, if it is."""
        if p.inode is not None and p.inode.base is not None and p.inode.base.key != p.key:
            p.source = p.inode.base.key
            self._users.setdefault(p.source, set()).add(p.key)

    def free_source(self, p: Pending) -> None:
        """The entry does not need the key any more that it was to be copied from."""
        source, p.source = p.source, None
        if source is None:
            return
        self._copies += 1
        self._copied[source] = self._copies
        users = self._users[source]
        users.discard(p.key)
        if not users:
            del self._users[source]
            waiting = self._all.get(source)
            if waiting is not None:
                self._freed(waiting)

    def was_copied(self, key: str) -> bool:
        """Whether something was copied from a key, or was to be, and the journal on the disk may not know that.

        So is every key, once there are many: then the journal is written for their number alone.
        """
        return key in self._copied or len(self._copied) >= MOST_COPIED

    @property
    def copies(self) -> int:
        """For `journaled`: what was copied until now."""
        return self._copies

    def journaled(self, copies: int) -> None:
        """The journal is on the disk as it was when so much had been copied."""
        self._copied = {key: count for key, count in self._copied.items() if count > copies}

    def is_source_version(self, key: str, version: VersionId) -> bool:
        """Whether this version of the key is still to be copied from; of a listed source it may be any."""
        bases = (inode.base for inode in self._users_of(key))
        return any(base is not None and base.version_id in (None, version) for base in bases)

    def listed_users(self, key: str) -> list[Inode]:
        """The files that are to be copied from this key, of which only a listing has told what it holds."""
        return [inode for inode in self._users_of(key) if inode.base is not None and inode.base.version_id is None]

    def _users_of(self, key: str) -> list[Inode]:
        inodes = (self._all[user].inode for user in self._users.get(key, ()))
        return [inode for inode in inodes if inode is not None]


def _twin(key: str) -> str:
    """The key of the directory of the same name, or of the file."""
    return key[:-1] if key.endswith("/") else key + "/"


def _ancestors(key: str) -> Iterator[str]:
    """The prefixes of every directory above a key, nearest first, the root's "" left out."""
    cut = key.rfind("/", 0, -1) + 1
    while cut:
        yield key[:cut]
        cut = key.rfind("/", 0, cut - 1) + 1
