"""OddNames: names for keys that other programs made and that no name here would lead to.

A component that is no possible name, an object beside a directory of the same name, and the content of a directory's
own object each get a name of their own, so that nothing hides anything.  The directory remembers which component such
a name stands for (`Inode.odd`).
"""

from __future__ import annotations

from collections.abc import Iterator

from b2fs.cache.inode import Inode
from b2fs.cache.remote import Found, Listing
from b2fs.core.keys import QUOTE, SHADOWED, component_of, is_hashed, is_plain, name_of, odd_name
from b2fs.core.types import ObjectInfo
from b2fs.vfs.core import Core

#: Every name that does not tell its component by itself has this in it.
MARK = QUOTE.encode()


class OddNames:
    """See the module."""

    def __init__(self, core: Core) -> None:
        self._core = core

    # ---- from a name to what it stands for ----------------------------------------------------------------------

    async def resolve(self, parent: Inode, name: bytes) -> tuple[str, Found]:
        """The component that a name stands for in a directory, and what the bucket has there."""
        if MARK in name:
            odd = await self._resolve_odd(parent, name)
            if odd is not None:
                self._remember(parent, name, odd[0])
                return odd
            if parent.odd is not None and name not in (parent.children or ()):
                parent.odd.pop(name, None)
        component = component_of(name)
        return component, await self._find(parent, component)

    async def _resolve_odd(self, parent: Inode, name: bytes) -> tuple[str, Found] | None:
        if name.endswith(SHADOWED) and name != SHADOWED:
            component = component_of(name.removesuffix(SHADOWED))
            found = await self._find(parent, component)
            if found.file is not None and self._is_shadowed(parent, component, found.is_dir):
                return component, found._replace(is_dir=False)
        if is_hashed(name):
            listing = await self._core.remote.listing(parent.prefix)
            for component, is_dir in _components(listing):
                if self.name(parent, component, is_dir, listing) == name:
                    found = await self._find(parent, component)
                    return component, found if is_dir else found._replace(is_dir=False)
        return None

    async def _find(self, parent: Inode, component: str) -> Found:
        prefix, remote = parent.prefix, self._core.remote
        found = remote.find_nowait(prefix, component) or await remote.find(prefix, component)
        if component:
            return found
        await remote.enter(prefix)
        return found._replace(file=marker_content(remote.marker(prefix)[1]))

    # ---- from a component to its name ---------------------------------------------------------------------------

    def name(self, parent: Inode, component: str, is_dir: bool, listing: Listing) -> bytes:
        """The name of what a listing shows; remembered if it does not tell the component by itself."""
        shadowed = not is_dir and self._is_shadowed(parent, component, component in listing.dirs)
        if not shadowed and is_plain(component):
            name = name_of(component)
            if not name.endswith(SHADOWED) or not self._is_taken(parent, name, listing):
                return name
        return self._odd(parent, component, shadowed)

    def give(self, parent: Inode, component: str, *, shadowed: bool = False) -> bytes:
        """The name of a component; shadowed: it is a file with a directory of the same name beside it."""
        if not shadowed and is_plain(component):
            return name_of(component)
        return self._odd(parent, component, shadowed)

    def _odd(self, parent: Inode, component: str, shadowed: bool) -> bytes:
        name = odd_name(component, shadowed=shadowed)
        self._remember(parent, name, component)
        return name

    @staticmethod
    def _remember(parent: Inode, name: bytes, component: str) -> None:
        if parent.odd is None:
            parent.odd = {}
        parent.odd[name] = component

    def _is_shadowed(self, parent: Inode, component: str, listed: bool) -> bool:
        """Whether there is a directory beside an object."""
        if listed and not self._core.engine.is_gone(f"{parent.prefix}{component}/"):
            return True
        beside = (parent.children or {}).get(name_of(component))
        return beside is not None and beside.is_dir and beside.pending > 0

    def _is_taken(self, parent: Inode, name: bytes, listing: Listing) -> bool:
        """Whether a plain name is also that of an object beside a directory."""
        component = component_of(name.removesuffix(SHADOWED))
        return component in listing.files and self._is_shadowed(parent, component, component in listing.dirs)


def marker_content(marker: ObjectInfo | None) -> ObjectInfo | None:
    """A directory's own object if it has content, which other programs may have put there."""
    return marker if marker is not None and marker.size else None


def _components(listing: Listing) -> Iterator[tuple[str, bool]]:
    """(component, whether it is a directory) of all that a listing shows."""
    yield from ((component, True) for component in listing.dirs)
    yield from ((component, False) for component in listing.files)
    if marker_content(listing.marker) is not None:
        yield "", False
