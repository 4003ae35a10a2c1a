"""Scanning a whole directory: the listing of the bucket and the local changes as one list of inodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

from b2fs.cache.inode import Inode
from b2fs.cache.parallel import for_each
from b2fs.cache.remote import Found, Listing
from b2fs.core.keys import is_simple
from b2fs.core.types import ObjectInfo
from b2fs.vfs.core import RESERVED, Core
from b2fs.vfs.foreign import ForeignAttributes
from b2fs.vfs.namespace import Namespace
from b2fs.vfs.oddnames import marker_content


@contextmanager
def _held(children: dict[bytes, Inode]) -> Iterator[None]:
    """Keep the inodes that are there now, even if they are stored or given back while we wait: they are listed."""
    held = list(children.values())
    for inode in held:
        inode.holds += 1
    try:
        yield
    finally:
        for inode in held:
            inode.holds -= 1


class Scanner:
    """See the module."""

    def __init__(self, core: Core, namespace: Namespace, foreign: ForeignAttributes) -> None:
        self._core = core
        self._foreign = foreign
        self._names = namespace

    async def entries(self, directory: Inode) -> list[tuple[bytes, Inode]]:
        """Every name of a directory with its inode, attributes known, in byte order of the names."""
        children = directory.children
        assert children is not None
        with _held(children):
            if directory.links or directory is self._core.root:
                listing = await self._core.remote.listing(directory.prefix)
                new = self._new_rows(directory, listing)
                infos = await self._foreign.all(directory.prefix, (found.file for _, _, found in new if found.file))
                infos.update(await self._markers(directory.prefix, [key for _, key, found in new if found.is_dir]))
                self._take(directory, listing, new, infos)
                self._drop_vanished(directory, listing)
        with _held(children):
            await for_each([c for c in children.values() if not c.attrs_known and not c.presumed], self._names.known)
            return sorted(children.items())

    async def is_empty(self, directory: Inode) -> bool:
        assert directory.children is not None
        if any(self._names.is_local(child) for child in directory.children.values()):
            return False
        entries = await self.entries(directory)
        for _, inode in entries:
            self._core.drop_if_unused(inode)
        return not entries

    def _new_rows(self, directory: Inode, listing: Listing) -> list[tuple[bytes, str, Found]]:
        """(name, key, row) of what the bucket shows and we do not have; the others are marked as seen."""
        children = directory.children
        assert children is not None
        new: list[tuple[bytes, str, Found]] = []
        is_root, dirs, odd = directory is self._core.root, listing.dirs, self._names.odd
        rows = listing.rows()
        content = marker_content(listing.marker)
        if content is not None:
            rows = chain(rows, [("", Found(content, False, listing.seen_at))])
        for component, found in rows:
            if is_simple(component) and (found.is_dir or component not in dirs):
                name = component.encode()  # as nearly all are
            else:
                name = odd.name(directory, component, found.is_dir, listing)
            if is_root and name == RESERVED:
                continue
            key = f"{listing.prefix}{component}/" if found.is_dir else listing.prefix + component
            child = children.get(name)
            if child is not None and (child.pending or self._names.same(child, found)):
                child.validated_at = max(child.validated_at, listing.seen_at)
            elif not self._core.engine.is_gone(key):
                new.append((name, key, found))
        return new

    async def _markers(self, prefix: str, keys: list[str]) -> dict[str, ObjectInfo]:
        """The objects that carry the attributes of directories, by the directories' keys; many have none."""
        markers: dict[str, ObjectInfo] = {}
        unknown = self._known_markers(keys, markers)
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

    def _take(
        self,
        directory: Inode,
        listing: Listing,
        new: list[tuple[bytes, str, Found]],
        infos: dict[str, ObjectInfo],
    ) -> None:
        """Make inodes of the new rows, unless something changed here while their attributes were asked for."""
        children = directory.children
        assert children is not None
        for name, key, found in new:
            child = children.get(name)
            if self._core.engine.is_gone(key) or (
                child is not None and (child.pending or self._names.same(child, found))
            ):
                continue
            info = infos.get(key)
            if found.is_dir or info is not None:
                self._names.adopt(directory, name, found.is_dir, info, listing.seen_at)

    def _drop_vanished(self, directory: Inode, listing: Listing) -> None:
        """Clean children that the bucket no longer shows were removed by somebody else."""
        assert directory.children is not None
        for name, child in list(directory.children.items()):
            if child.validated_at < listing.seen_at and not self._names.is_local(child):
                self._names.detach_gone(directory, name, child)
