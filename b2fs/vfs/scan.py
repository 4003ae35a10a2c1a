"""Scanning directories: what a piece of a listing and the local changes make of each name."""

from __future__ import annotations

import stat
from collections.abc import Sequence

from cachetools import LRUCache

from b2fs.cache.inode import Inode
from b2fs.cache.parallel import for_each
from b2fs.cache.remote import Found, Listing
from b2fs.cache.remote.listing import size_and_time, unpack
from b2fs.core import attrs
from b2fs.core.keys import is_simple, name_of
from b2fs.core.nodes import Attr, InodeId
from b2fs.core.types import ObjectInfo
from b2fs.vfs.core import RESERVED, Core
from b2fs.vfs.foreign import ForeignAttributes
from b2fs.vfs.handles import DirRow
from b2fs.vfs.namespace import Namespace
from b2fs.vfs.numbers import stable_number

#: So many names of files without inodes are remembered as they were made ready last.
_REMEMBERED = 20_000


class Scanner:
    """See the module."""

    def __init__(self, core: Core, namespace: Namespace, foreign: ForeignAttributes) -> None:
        self._core = core
        self._foreign = foreign
        self._names = namespace
        #: By prefix: _state of it, and the rows of such files.
        self._rows: LRUCache[str, tuple[tuple[int, int], dict[str, DirRow]]] = LRUCache(
            2 * _REMEMBERED, getsizeof=lambda remembered: len(remembered[1]) + 1
        )

    async def rows(self, directory: Inode, listing: Listing, entries: Sequence[str], held: list[Inode]) -> list[DirRow]:
        """What a part of Listing.entries is, with attributes known.  Checkpoints unless all is known.

        Directories and special files become inodes; of the other files only those are that have been ones before.
        The inodes are held for the caller, who finds them in `held`, so that none is dropped before its turn.
        """
        there, changed = self._take_there(directory, listing, entries, held)
        known, files = self._known_rows(listing), listing.files
        rows = [there.get(entry) or known.get(entry) for entry in entries]
        new = [
            entry
            for entry, row in zip(entries, rows, strict=True)
            if row is None or (entry not in there and row.row != files.get(entry)) or entry in changed
        ]
        if new:
            made = await self._make(directory, listing, new, changed)
            known.update((entry, row) for entry, row in made.items() if row.attr is not None)
            rows = [made.get(entry, row) for entry, row in zip(entries, rows, strict=True)]
            self._hold(directory, listing, new, held)
            self._remember(listing, known)
        await for_each([child for child in held if not child.attrs_known and not child.presumed], self._names.known)
        # What turned out to be gone keeps its place, since cookies count places.
        return [
            row if row is not None else DirRow(self._name(directory, listing, entry), entry)
            for entry, row in zip(entries, rows, strict=True)
        ]

    def row_now(self, directory: Inode, listing: Listing, entry: str) -> DirRow:
        """What one name is by now, as far as that is known: it may have become an inode."""
        row = None if entry.endswith("/") else listing.row(entry)
        info = unpack(listing.prefix + entry, row) if row is not None else None
        return self._row(directory, listing, entry, self._core.remote.head_nowait(info) if info else None)

    def forget(self) -> None:
        """Remember nothing of what was made ready; it is made anew when it is needed."""
        self._rows.clear()

    def is_shown(self, directory: Inode, listing: Listing, entry: str) -> bool:
        """Whether the bucket shows something that we have not removed."""
        return self._core.is_at(directory, listing.prefix) and self._is_left(listing, entry)

    def _is_left(self, listing: Listing, entry: str) -> bool:
        """Whether a name is listed, and was not removed here."""
        there = entry[:-1] in listing.dirs if entry.endswith("/") else listing.row(entry) is not None
        return there and not self._core.engine.is_gone(listing.prefix + entry)

    async def is_empty(self, directory: Inode) -> bool:
        """Whether a directory has no names, neither here nor in the bucket.  Checkpoints."""
        assert directory.children is not None
        if any(self._names.is_local(child) for child in directory.children.values()):
            return False
        if not self._core.has_name(directory):
            return not directory.children
        remote = self._core.remote
        load = await remote.open(directory.prefix)
        try:
            taken = 0
            while True:
                for page in load.pages[taken:]:
                    if any(self.is_shown(directory, load.listing, entry) for entry in page.entries):
                        return False
                taken = len(load.pages)
                if load.complete:
                    self.drop_vanished(directory, load.listing)
                    return not directory.children
                await remote.more(load, taken)
        finally:
            remote.close(load)

    def drop_vanished(self, directory: Inode, listing: Listing) -> None:
        """Clean children that a complete listing does not show were removed by somebody else."""
        assert directory.children is not None
        if not self._core.is_at(directory, listing.prefix):
            return
        for name, child in list(directory.children.items()):
            if child.validated_at < listing.seen_at and not self._names.is_local(child):
                entry = self.entry(directory, name, child)
                if not self.is_shown(directory, listing, entry) or self._name(directory, listing, entry) != name:
                    self._names.detach_gone(directory, name, child)

    @staticmethod
    def entry(directory: Inode, name: bytes, child: Inode) -> str:
        """What comes behind the directory's prefix in the key of a child."""
        component = directory.component(name)
        return component + "/" if child.is_dir else component

    # ---- what is new --------------------------------------------------------------------------------------------

    def _name(self, directory: Inode, listing: Listing, entry: str) -> bytes:
        is_dir = entry.endswith("/")
        component = entry[:-1] if is_dir else entry
        if is_simple(component) and (is_dir or component not in listing.dirs):
            return component.encode()  # as nearly all are
        return self._names.odd.name(directory, component, is_dir, listing)

    def _hold(self, directory: Inode, listing: Listing, entries: Sequence[str], held: list[Inode]) -> None:
        """Hold what there is of inodes under these names."""
        if directory.children:
            for entry in entries:
                child = directory.children.get(self._name(directory, listing, entry))
                if child is not None:
                    child.holds += 1
                    held.append(child)

    def _take_there(
        self, directory: Inode, listing: Listing, entries: Sequence[str], held: list[Inode]
    ) -> tuple[dict[str, DirRow], set[str]]:
        """Hold what there is of inodes under these names, and mark those as seen that the bucket shows as we have them.

        The rows of these, and under which names the bucket shows something else than what we have.
        """
        there: dict[str, DirRow] = {}
        changed: set[str] = set()
        children = directory.children
        for entry in entries if children else ():
            name = self._name(directory, listing, entry)
            child = children.get(name) if children is not None else None
            if child is None:
                continue
            child.holds += 1
            held.append(child)
            if child.is_ours or self._same(child, listing, entry):
                if not child.is_dir or child.pending:  # what a directory carries its parent's listing does not tell
                    child.validated_at = max(child.validated_at, listing.seen_at_of(entry))
                there[entry] = DirRow(name, entry)
            elif self.is_shown(directory, listing, entry) and not self._names.is_local(child):
                changed.add(entry)
        return there, changed

    async def _make(
        self, directory: Inode, listing: Listing, entries: Sequence[str], changed: set[str]
    ) -> dict[str, DirRow]:
        children = directory.children
        assert children is not None
        here = self._core.is_at(directory, listing.prefix)
        new = [
            entry
            for entry in entries
            if entry in changed
            or (
                here
                and not (children and self._name(directory, listing, entry) in children)
                and self._is_left(listing, entry)
            )
        ]
        dirs = [entry for entry in new if entry.endswith("/")]
        found, gone = await self._foreign.all(listing, [entry for entry in new if not entry.endswith("/")])
        if dirs:
            self._take_directories(directory, listing, dirs, await self._markers(listing.prefix, dirs))
        return {entry: self._row(directory, listing, entry, found.get(entry)) for entry in entries if entry not in gone}

    def _known_rows(self, listing: Listing) -> dict[str, DirRow]:
        """The rows that were made before, by entry, if nothing was learnt about attributes since."""
        state, rows = self._rows.get(listing.prefix, (None, {}))
        return rows if state == self._state(listing.prefix) else {}

    def _remember(self, listing: Listing, rows: dict[str, DirRow]) -> None:
        self._rows.pop(listing.prefix, None)
        if len(rows) <= _REMEMBERED:
            self._rows[listing.prefix] = self._state(listing.prefix), rows

    def _state(self, prefix: str) -> tuple[int, int]:
        """Another one once something was learnt that may make other rows of a directory's files."""
        return self._core.remote.known.changes(prefix), self._foreign.turns

    def _row(self, directory: Inode, listing: Listing, entry: str, full: ObjectInfo | None) -> DirRow:
        """What a name is now; full: the listed version with its metadata, or None if it is taken as plain."""
        name = self._name(directory, listing, entry)
        row = None if entry.endswith("/") else listing.row(entry)
        children = directory.children
        assert children is not None
        if (
            row is None
            or (directory is self._core.root and name == RESERVED)
            or not self._core.is_at(directory, listing.prefix)
        ):
            return DirRow(name, entry)
        child = children.get(name)
        if child is not None and (child.is_ours or self._same(child, listing, entry)):
            return DirRow(name, entry)
        core, key = self._core, listing.prefix + entry
        sleeps = child is None and entry and name == name_of(entry) and key not in core.renamed
        attr = self._attr(stable_number(key), row, full) if sleeps else None
        if attr is not None and core.dormant.fits(attr.ino, directory, entry, row):
            return DirRow(name, entry, row, attr, full is None)
        if not core.engine.is_gone(key):
            self._names.adopt(directory, name, False, full or unpack(key, row), listing.seen_at_of(entry))
        return DirRow(name, entry)

    def _attr(self, ino: InodeId, row: bytes, full: ObjectInfo | None) -> Attr | None:
        """The attributes of a listed object; None if it is no plain file of one name."""
        size, modified_ns = size_and_time(row)
        defaults = self._core.config.defaults
        if full is None:
            mode, uid, gid = stat.S_IFREG | defaults.file_mode, defaults.uid, defaults.gid
            times = (modified_ns, modified_ns, modified_ns)
        else:
            posix = attrs.decode(full.metadata or {}, is_dir=False, modified_ns=modified_ns, defaults=defaults)
            if not stat.S_ISREG(posix.mode) or posix.link_id is not None:
                return None
            mode, uid, gid = posix.mode, posix.uid, posix.gid
            times = (posix.atime_ns, posix.mtime_ns, posix.ctime_ns)
        return Attr(ino, mode, 1, uid, gid, 0, size, *times, (size + 511) >> 9)

    def _same(self, child: Inode, listing: Listing, entry: str) -> bool:
        """Whether a child is what the bucket shows."""
        seen_at = listing.seen_at_of(entry)
        if entry.endswith("/"):
            return self._names.same(child, Found(None, entry[:-1] in listing.dirs, seen_at))
        row = listing.row(entry)
        info = unpack(listing.prefix + entry, row) if row is not None else None
        return not child.is_dir and self._names.same(child, Found(info, False, seen_at))

    # ---- directories --------------------------------------------------------------------------------------------

    async def _markers(self, prefix: str, dirs: list[str]) -> dict[str, ObjectInfo]:
        """The objects that carry the attributes of directories, by the directories' keys; many have none."""
        markers: dict[str, ObjectInfo] = {}
        if dirs:
            await self._core.store.wait_known()
        unknown = self._known_markers([prefix + entry for entry in dirs], markers)
        if unknown and await self._core.remote.load_attributes(prefix):
            unknown = self._known_markers(unknown, markers)
        if unknown and self._core.store.capabilities.marker_metadata:
            await self._core.remote.survey(prefix, unknown)
            unknown = self._known_markers(unknown, markers)

        async def ask(key: str) -> None:
            info = await self._names.directory_info(key)
            if info is not None:
                markers[key] = info

        await for_each(unknown, ask)
        return markers

    def _known_markers(self, keys: list[str], markers: dict[str, ObjectInfo]) -> list[str]:
        """Add to markers what is known; the keys of which it is not."""
        unknown: list[str] = []
        for key in keys:
            known, info = self._names.directory_nowait(key)
            if not known:
                unknown.append(key)
            elif info is not None:
                markers[key] = info
        return unknown

    def _take_directories(
        self, directory: Inode, listing: Listing, dirs: list[str], infos: dict[str, ObjectInfo]
    ) -> None:
        """Make inodes of new directories, unless something changed here while their attributes were asked for."""
        for entry in dirs if self._core.is_at(directory, listing.prefix) else ():
            name, key = self._name(directory, listing, entry), listing.prefix + entry
            child = self._core.child(directory, name)
            if self._core.engine.is_gone(key) or (child is not None and (child.is_ours or child.is_dir)):
                continue
            if directory is not self._core.root or name != RESERVED:
                self._names.adopt(directory, name, True, infos.get(key), listing.seen_at_of(entry))
