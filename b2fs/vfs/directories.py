"""Directories: what open directories hand out, piece by piece, while later pages of their listings are on their way.

The first piece is the first page and what is there because of local changes.  Names are handed out once: a later page
may bring one that was local.
What was removed meanwhile is left out; what was added may appear.  A directory that is moved while it is read goes on
with the listing of its new place.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator

from b2fs.cache.inode import Inode
from b2fs.cache.remote.listing import Listing
from b2fs.cache.remote.loading import Page
from b2fs.core.keys import name_of
from b2fs.core.nodes import Attr, DirEntry, HandleId, InodeId
from b2fs.errors import FsError
from b2fs.vfs.clock import now_ns
from b2fs.vfs.core import Core
from b2fs.vfs.handles import DirHandle, DirRow
from b2fs.vfs.linkgroups import LinkGroups
from b2fs.vfs.namespace import Namespace
from b2fs.vfs.scan import Scanner

#: So many names are made ready at once.
_PIECE = 1000


class Directories:
    """See the module."""

    def __init__(self, core: Core, names: Namespace, scanner: Scanner, groups: LinkGroups) -> None:
        self._core = core
        self._names = names
        self._scanner = scanner
        self._groups = groups
        self._handles: dict[HandleId, DirHandle] = {}
        #: What was handed out last, if it is a file without an inode.
        self._offered: tuple[Inode, DirRow] | None = None

    def open(self, number: HandleId, directory: Inode) -> None:
        self._handles[number] = DirHandle(number, directory)
        directory.opens += 1

    def handle(self, number: HandleId) -> DirHandle:
        try:
            return self._handles[number]
        except KeyError:
            raise FsError(errno.EBADF) from None

    def close(self, number: HandleId) -> None:
        opened = self._handles.pop(number, None)
        if opened is None:
            return
        self._end(opened)
        opened.inode.opens -= 1
        self._core.drop_if_unused(opened.inode)

    async def read(self, number: HandleId, start: int) -> AsyncIterator[DirEntry]:
        """As FileSystem.readdir."""
        opened = self.handle(number)
        if start == 0 or not opened.begun:
            await self._begin(opened)
        position = start
        while await self._turn_to(opened, position):
            listing = opened.load.listing if opened.load is not None else Listing("", 0.0)
            at = position - opened.start
            ttl_s = self._core.remote.ttl_left(listing.seen_at_of(opened.rows[at].entry))
            for row in opened.rows[at:]:
                if self._has_moved(opened):
                    break
                position += 1
                attr = self._attr(opened, listing, row, ttl_s)
                if attr is not None:
                    yield DirEntry(row.name, attr, position)

    def hold(self, ino: InodeId) -> None:
        """The kernel took a reference on what was handed out last."""
        inode = self._core.inodes.get(ino)
        if inode is not None:
            inode.holds += 1
            return
        assert self._offered is not None
        directory, row = self._offered
        assert row.row is not None
        self._core.dormant.hold(ino, directory, row.entry, row.row, plain=row.plain)

    # ---- one name -----------------------------------------------------------------------------------------------

    def _attr(self, opened: DirHandle, listing: Listing, row: DirRow, ttl_s: float) -> Attr | None:
        """What a name is at the moment in which it is handed out; None if it is gone, or has another place."""
        core, directory = self._core, opened.inode
        assert directory.children is not None
        child = directory.children.get(row.name)
        if child is not None:
            return core.attr(child) if self._has_place(opened, listing, row, child) else None
        entry, attr = row.entry, row.attr
        if not self._scanner.is_shown(directory, listing, entry):
            return None
        if (
            attr is None
            or row.row is None
            or listing.files[entry] != row.row
            or (listing.dirs and entry in listing.dirs)
            or not core.dormant.fits(attr.ino, directory, entry, row.row)
        ):
            row = self._scanner.row_now(directory, listing, entry)
            child, attr = directory.children.get(row.name), row.attr
            if child is not None or attr is None:
                return core.attr(child) if child is not None else None
        attr.ttl_s = ttl_s
        self._offered = directory, row
        return attr

    def _has_place(self, opened: DirHandle, listing: Listing, row: DirRow, child: Inode) -> bool:
        """Whether a name is handed out at the place of this row: it may have been a file and be a directory now, and
        then both are among the entries for a while, or were not yet when they were put in order."""
        if child.is_dir == row.entry.endswith("/"):
            return row.entry not in opened.given
        own = self._scanner.entry(opened.inode, row.name, child)
        if own in opened.local or (own[:-1] in listing.dirs if child.is_dir else own in listing.files):
            return False
        opened.given.add(own)
        return True

    # ---- pieces -------------------------------------------------------------------------------------------------

    async def _begin(self, opened: DirHandle) -> None:
        """Start anew: the directory as it is now."""
        core, directory = self._core, opened.inode
        children = directory.children
        assert children is not None
        self._end(opened)
        if core.has_name(directory):
            opened.load = await core.remote.open(directory.prefix)
            local = [(name, child) for name, child in children.items() if self._names.is_local(child)]
        else:
            local = list(children.items())  # it was removed: there is nothing but what is here
        opened.begun = True
        opened.local = frozenset(self._scanner.entry(directory, name, child) for name, child in local)
        if not await self._extend(opened):
            opened.entries = sorted(opened.local)
        directory.accessed(now_ns)

    def _has_moved(self, opened: DirHandle) -> bool:
        """Whether the directory has another place by now than when its listing was opened, or none."""
        return opened.load is not None and not self._core.is_at(opened.inode, opened.load.listing.prefix)

    async def _follow(self, opened: DirHandle) -> None:
        """Go on with the listing of the directory's new place; what was handed out keeps its position."""
        core, directory, entries, given = self._core, opened.inode, opened.entries, opened.given
        children = directory.children
        assert children is not None
        self._end(opened)
        if directory.links:
            opened.load = await core.remote.open(directory.prefix)
        known = set(entries)
        local = {self._scanner.entry(directory, *item) for item in children.items() if self._names.is_local(item[1])}
        opened.entries, opened.given = entries + sorted(local - known), given
        opened.local, opened.begun = frozenset(local | known), True

    async def _turn_to(self, opened: DirHandle, position: int) -> bool:
        """Have the piece ready that begins with, or has, the name at a position; False at the end."""
        while self._has_moved(opened):
            await self._follow(opened)
        if opened.start <= position < opened.start + len(opened.rows):
            return True
        while position >= len(opened.entries):
            if not await self._extend(opened):
                return False
        self._drop_rows(opened)
        part = opened.entries[position : position + _PIECE]
        if opened.load is not None:
            listing = opened.load.listing
            opened.rows = await self._scanner.rows(opened.inode, listing, part, opened.held)
            for inode in [inode for inode in opened.held if inode.link_id is not None]:
                await self._groups.complete(inode)
        else:
            names = {
                self._scanner.entry(opened.inode, *item): item[0] for item in (opened.inode.children or {}).items()
            }
            # What is gone by now keeps its position, or the ones behind it would come twice.
            opened.rows = [DirRow(names.get(entry) or name_of(entry.removesuffix("/")), entry) for entry in part]
        opened.start = position
        return True

    async def _extend(self, opened: DirHandle) -> bool:
        """Take the next page; False if there is none."""
        load = opened.load
        if load is None:
            return False
        if opened.taken >= len(load.pages):
            if load.complete:
                return self._take_rest(opened)
            await self._core.remote.more(load, opened.taken)
        page = load.pages[opened.taken]
        names = self._usable(opened, load.listing, page)
        if not opened.entries:
            names = sorted(opened.local.union(names)) if opened.local else names
        opened.taken += 1
        opened.entries.extend(names)
        return True

    def _usable(self, opened: DirHandle, listing: Listing, page: Page) -> list[str]:
        """The names of a page that can be handed out now, and those of earlier ones that had to wait for it."""
        names, until = page.entries, page.until
        if opened.late:
            names = sorted(opened.late.union(names))
        late: set[str] = set()
        if until is not None:
            # Of what `until` begins with, the object may be on this page and the directory of that name on the next:
            # then the object has another name.
            beginnings = (until[:length] for length in range(1, len(until) + 1))
            late = {name for name in beginnings if name in listing.files and name + "/" > until}
        opened.late = late
        if not late and not opened.local:
            return names
        return [name for name in names if name not in late and name not in opened.local]

    def _take_rest(self, opened: DirHandle) -> bool:
        """At the end of a listing: take what came into it by our own changes; whether that is anything.

        Once only: a program that renames each name that it reads would never come to an end.
        """
        load = opened.load
        assert load is not None
        if opened.ended:
            return False
        opened.ended = True
        self._scanner.drop_vanished(opened.inode, load.listing)
        if not load.patched:
            return False
        had = set(opened.entries)
        rest = [name for name in load.listing.entries() if name not in had]
        opened.entries.extend(rest)
        return bool(rest)

    def _end(self, opened: DirHandle) -> None:
        self._drop_rows(opened)
        load, opened.load = opened.load, None
        if load is not None:
            self._core.remote.close(load)
        opened.begun, opened.ended, opened.taken = False, False, 0
        opened.entries, opened.late, opened.given = [], set(), set()

    def _drop_rows(self, opened: DirHandle) -> None:
        opened.rows = []
        held, opened.held = opened.held, []
        for inode in held:
            inode.holds -= 1
            self._core.drop_if_unused(inode)
