"""Namespace: which inode a name stands for, merged from local changes and the view of the bucket.

Local changes win: a pending name is what this mount made it, a removed name is gone while its removal is pending.
Everything else is what the bucket shows.  A name whose version changed in the bucket becomes a new inode, so that old
handles keep the old content (I6).
Reserved: `.b2fs` in the root.
"""

from __future__ import annotations

import errno
import logging
import stat
from contextlib import suppress

import trio

from b2fs.cache.inode import Inode
from b2fs.cache.parallel import for_each, open_flat_nursery
from b2fs.cache.remote import Found
from b2fs.core import attrs
from b2fs.core.keys import NAME_MAX, component_of, split_key
from b2fs.core.types import ObjectInfo
from b2fs.errors import FsError, NotFound, StoreError
from b2fs.vfs.core import RESERVED, Core
from b2fs.vfs.entering import Entering
from b2fs.vfs.foreign import ForeignAttributes
from b2fs.vfs.oddnames import MARK, OddNames, marker_content
from b2fs.vfs.rechecks import Rechecks

log = logging.getLogger(__name__)

#: Questions about the attributes of directories that are asked ahead, at a time.
_CARRIERS_IN_FLIGHT = 16


class Namespace:
    """See the module."""

    def __init__(self, core: Core, foreign: ForeignAttributes) -> None:
        self._core = core
        self._foreign = foreign
        self.odd = OddNames(core)
        self._entering = Entering(core.remote)
        self._rechecks = Rechecks(core, self._entering, self.directory_info, self.learn)

    # ---- one name -----------------------------------------------------------------------------------------------

    async def child(self, parent: Inode, name: bytes) -> Inode | None:
        """The inode under a name, with its attributes known; None if there is none.  Checkpoints unless known."""
        assert parent.children is not None
        child = parent.children.get(name)
        if child is not None and (child.attrs_known or child.presumed) and self.trusted(child):
            return child  # as mostly
        for _ in range(10):
            child = await self._look(parent, name)
            if child is None or parent.children.get(name) is child:
                return child
            # It was stored and let go, or replaced, while its attributes were asked for: look again.
        raise FsError(errno.ESTALE, "the name keeps changing")

    async def _look(self, parent: Inode, name: bytes) -> Inode | None:
        assert parent.children is not None
        if len(name) > NAME_MAX:
            raise FsError(errno.ENAMETOOLONG)
        child = self._core.child(parent, name)
        if child is not None and self.trusted(child):
            return await self.shown(child)
        if parent is self._core.root and name == RESERVED:
            return None
        if not self._core.has_name(parent):
            return child  # an unlinked directory has no names but what it still holds
        prefix = parent.prefix
        if child is None and self._is_absent(prefix, name):
            return None
        component, found = await self.odd.resolve(parent, name)
        if not self._core.is_at(parent, prefix):
            return await self._look(parent, name)
        return await self._merge(parent, name, component, found)

    def _is_absent(self, prefix: str, name: bytes) -> bool:
        """Whether it is known without asking that the bucket has nothing under a name that no inode here has."""
        if MARK in name:
            return False
        found = self._core.remote.find_nowait(prefix, component_of(name))
        return found is not None and found.file is None and not found.is_dir

    async def existing(self, parent: Inode, name: bytes) -> Inode:
        child = await self.child(parent, name)
        if child is None:
            raise FsError(errno.ENOENT)
        return child

    def trusted(self, child: Inode) -> bool:
        """Whether a child stands for its name without asking the bucket again."""
        return self.is_local(child) or child.validated_at + self._core.config.ttl_s >= trio.current_time()

    def is_local(self, child: Inode) -> bool:
        """Whether a child is there because of local changes, made or to be expected, whatever the bucket shows."""
        return child.is_ours or (child.is_dir and self._core.engine.count_below(child.prefix) > 0)

    async def _merge(self, parent: Inode, name: bytes, component: str, found: Found) -> Inode | None:
        """What the name stands for now that the bucket was asked; local changes made meanwhile win."""
        assert parent.children is not None
        prefix, key = parent.prefix, parent.prefix + component
        while self._core.is_at(parent, prefix):
            child = self._core.child(parent, name)
            # What we removed is shown for a while yet, also beside what has its name now.
            is_dir = found.is_dir and not self._is_gone(key + "/", found.seen_at)
            info = found.file if found.file is not None and not self._is_gone(key, found.seen_at) else None
            shown = Found(info, is_dir, found.seen_at)
            if child is not None and (self._is_newer(child, found.seen_at) or self.same(child, shown)):
                seen_at = found.seen_at
                if child.is_dir:
                    seen_at = min(seen_at, await self._rechecks.check(parent, child))
                child.validated_at = max(child.validated_at, seen_at)
                return await self.shown(child)
            if is_dir:
                fresh: ObjectInfo | None = await self._enter(key + "/")
            elif info is not None:
                fresh = await self._foreign.one(parent.prefix, info)
                if fresh is None:
                    return None
            else:
                self.detach_gone(parent, name, child)
                return None
            # The state may have changed while we asked: look again, and make the inode without another wait.
            gone = self._is_gone(key + "/" if is_dir else key, found.seen_at)
            same = self._core.child(parent, name) is child and not (child and self.is_local(child))
            if same and not gone and self._core.is_at(parent, prefix):
                return self.adopt(parent, name, is_dir, fresh, found.seen_at)
        return await self._look(parent, name)

    def _is_newer(self, child: Inode, seen_at: float) -> bool:
        """Whether a child is ours, or was seen or stored since the bucket was asked at seen_at."""
        return self.is_local(child) or child.validated_at > seen_at

    def _is_gone(self, key: str, seen_at: float) -> bool:
        """Whether we removed what the bucket showed when it was asked at seen_at."""
        return self._core.engine.is_gone(key) or self._core.removed.get(key, float("-inf")) >= seen_at

    def same(self, child: Inode, found: Found) -> bool:
        """Whether the bucket still shows the version that this clean inode stands for."""
        if child.is_dir:
            return found.is_dir
        info = found.file
        if found.is_dir or info is None:
            return False
        base, modified_ns = child.linked.get(info.key) or (child.base, child.base_modified_ns)
        if base is None:
            return False
        if info.ref.version_id is not None and base.version_id is not None:
            return info.ref.version_id == base.version_id
        if info.ref.etag != base.etag or info.size != base.size:
            return False
        if modified_ns == 0:
            # Ours: the answer to an upload does not tell when the bucket says that it was made.
            modified_ns = info.modified_ns
            if info.key in child.linked:
                child.linked[info.key] = base, modified_ns
            else:
                child.base_modified_ns = modified_ns
        return modified_ns // 1_000_000_000 == info.modified_ns // 1_000_000_000

    def detach_gone(self, parent: Inode, name: bytes, child: Inode | None) -> None:
        """Somebody else removed what this clean inode stood for; open handles keep it.

        With a directory goes all that is below it: what has a name is always reached from the root.
        """
        if child is None:
            return
        for below in list((child.children or {}).items()):
            self.detach_gone(child, *below)
        if child.is_dir:
            self._core.dormant.detach_in(child)
        child.unlink(parent, name)
        child.detached = True
        self._core.drop_if_unused(child)

    def adopt(self, parent: Inode, name: bytes, is_dir: bool, info: ObjectInfo | None, seen_at: float) -> Inode:
        """Put a new inode for what the bucket shows under the name; an object without metadata is taken as plain.

        What is there because of local changes stays.
        """
        child = self._core.child(parent, name)
        if child is not None and self.is_local(child):
            return child
        self.detach_gone(parent, name, child)
        inode = self.instantiate(parent, name, is_dir, info, seen_at)
        if info is not None and info.metadata is None:
            inode.attrs_known, inode.presumed = False, True
        return inode

    def instantiate(self, parent: Inode, name: bytes, is_dir: bool, info: ObjectInfo | None, seen_at: float) -> Inode:
        """A clean inode for an object (metadata known) or a directory (info: its marker, if it has one)."""
        core = self._core
        metadata = (info.metadata if info is not None else None) or {}
        modified = info.modified_ns if info is not None else core.started_ns
        posix = attrs.decode(metadata, is_dir=is_dir, modified_ns=modified, defaults=core.config.defaults)
        twin = self._other_name(posix, info)
        if twin is not None and info is not None:
            twin.linked[info.key] = info.ref, info.modified_ns
            twin.validated_at = max(twin.validated_at, seen_at)
            twin.link(parent, name)
            return twin
        component = parent.component(name)
        key = f"{parent.prefix}{component}/" if is_dir else parent.prefix + component
        # All names of a hard-linked file get one number, also when they are looked at one after the other.
        inode = core.new_inode(posix.mode, posix.link_id or key)
        inode.adopt(posix)
        if info is not None:
            inode.adopt_metadata(metadata, info.content_type)
        if is_dir:
            inode.marked = info is not None
            inode.base_modified_ns = info.modified_ns if info is not None else 0
            for marker in (info, core.remote.marker(key)[1]):
                self.keep_content(inode, marker)
        else:
            assert info is not None
            inode.base, inode.size, inode.base_modified_ns = info.ref, info.size, info.modified_ns
            if posix.link_id is not None:
                inode.linked[info.key] = info.ref, info.modified_ns
                core.link_ids[posix.link_id] = inode
        inode.validated_at = seen_at
        inode.link(parent, name)
        return inode

    @staticmethod
    def keep_content(directory: Inode, marker: ObjectInfo | None) -> None:
        """What somebody put into a directory's own object goes with the directory, whatever is done to that."""
        content = marker_content(marker)
        if content is not None:
            directory.base = content.ref

    def _other_name(self, posix: attrs.Posix, info: ObjectInfo | None) -> Inode | None:
        """The inode of which this object is another name: a hard link with the same identity and the same content."""
        twin = self._core.link_ids.get(posix.link_id) if posix.link_id is not None else None
        if twin is None or info is None or twin.detached or stat.S_IFMT(twin.mode) != stat.S_IFMT(posix.mode):
            return None
        base, ref = twin.base, info.ref
        if base is None or base.size != ref.size:
            return None
        # A server may give the copy of a large object another ETag, one that is no MD5.
        copied = "-" in base.etag + ref.etag and twin.mtime_ns == posix.mtime_ns
        return twin if base.etag == ref.etag or copied else None

    # ---- attributes ---------------------------------------------------------------------------------------------

    def directory_nowait(self, key: str) -> tuple[bool, ObjectInfo | None]:
        """Whether it is known what carries a directory's attributes, and the object that does.

        The store's `wait_known` comes first.
        """
        seen, marker = self._core.remote.marker(key)
        if not seen or marker is None:
            if self._core.store.capabilities.marker_metadata:
                return seen, None
            # A server that drops the metadata of markers may leave markers out of listings as well (SeaweedFS does,
            # now and then): there only the side object says whether a directory has attributes.
            known, side = self._core.remote.sides.find_nowait(self._core.transfer.side_key(key))
            return bool(key) and known and side is None, None
        info = self._core.remote.head_nowait(marker)
        return info is not None, info

    async def directory_info(self, key: str) -> ObjectInfo | None:
        """The object that carries a directory's attributes, if there is one."""
        core = self._core
        if key:
            await core.store.wait_known()
        known, info = self.directory_nowait(key)
        if known:
            return info
        try:
            if core.store.capabilities.marker_metadata and key:
                info = await core.store.head(key)
                core.remote.learned(info)
                return info
            return self._with_marker(key, await self._side_info(key))
        except NotFound:
            return None

    async def _enter(self, key: str) -> ObjectInfo | None:
        """As directory_info, of a directory that a program enters: its names come along with its attributes."""
        core = self._core
        await core.store.wait_known()
        siblings = [] if core.remote.marker(key)[0] else self._entering.begin(key)
        if core.store.capabilities.marker_metadata:
            await core.remote.enter(key, siblings)
            marked = [directory for directory in siblings if core.remote.marker(directory)[1] is not None]
            await for_each((key, *marked), self._ask_carrier, _CARRIERS_IN_FLIGHT)
            return await self.directory_info(key)
        # Of whose marker something is known, the listing may tell all.
        unknown = [directory for directory in (key, *siblings) if core.remote.known.row(directory) is None]
        async with open_flat_nursery() as nursery:
            nursery.start_soon(for_each, unknown, self._ask_beside, _CARRIERS_IN_FLIGHT)
            await core.remote.enter(key, siblings)
        return await self.directory_info(key)

    async def _ask_carrier(self, key: str) -> None:
        """Learn what carries a directory's attributes, for a question to come, which tells what fails."""
        with suppress(StoreError):
            await self.directory_info(key)

    async def _ask_beside(self, key: str) -> None:
        """The same, of what is beside the directory, while its marker is not known."""
        with suppress(StoreError):
            await self._side_info(key)

    def _with_marker(self, key: str, info: ObjectInfo | None) -> ObjectInfo | None:
        """What was found beside a directory, under the version of its marker."""
        core = self._core
        if info is None:
            return None
        _, marker = core.remote.marker(key)
        if marker is not None:
            # Both are written together, so the marker's version stands for the side object's too.
            core.remote.learned(info._replace(ref=marker.ref, modified_ns=marker.modified_ns))
        return info

    async def _side_info(self, key: str) -> ObjectInfo | None:
        """The side object of a directory; None if it is known that there is none, NotFound if asking showed it."""
        core = self._core
        side_key = core.transfer.side_key(key)
        if key:
            known, side = await core.remote.sides.find(side_key)
            info = core.remote.head_nowait(side) if side is not None else None
            if info is not None or (known and side is None):
                return info
        elif not await self._is_listed(side_key):
            return None
        info = await core.store.head(side_key)
        core.remote.learned(info)
        return info

    async def _is_listed(self, key: str) -> bool:
        """Whether one of our own objects may be there.  One page tells that, and what else there is of our own."""
        try:
            return (await self._core.remote.find(*split_key(key))).file is not None
        except StoreError as error:
            log.info("what stands beside %s is not known, so it is asked for by itself: %s", key, error)
            return True

    async def shown(self, inode: Inode) -> Inode:
        """The same inode with attributes that may be shown; those of a plain object need not be asked for."""
        return inode if inode.attrs_known or inode.presumed else await self.known(inode)

    async def known(self, inode: Inode) -> Inode:
        """The same inode with its attributes known; asks for them where only a listing had shown it."""
        for _ in range(10):
            base = inode.base
            if inode.attrs_known or (base is None and not inode.is_dir):
                return inode
            try:
                info = await self._carrier(inode)
            except NotFound as error:
                if inode.base is not base or inode.is_dir:
                    continue  # it was just moved: its base is another one now
                self.distrust(inode)
                raise FsError(errno.ESTALE, "the version that was seen is gone") from error
            if inode.attrs_known or inode.base is not base:
                continue
            if info is not None:
                self.learn(inode, info)
                if base is not None:
                    inode.base = info.ref
            inode.attrs_known, inode.presumed = True, False
        return inode

    def distrust(self, inode: Inode) -> None:
        """The version that the inode stands for is gone from the bucket: who opens its names again has them asked for.

        The kernel does so by itself when an open fails with ESTALE.
        """
        if inode.pending:
            return
        inode.validated_at = float("-inf")
        for parent, name in inode.links:
            self._core.remote.forget_name(parent.prefix, parent.component(name))
            self._core.notifier.invalidate_entry(parent.ino, name)

    async def _carrier(self, inode: Inode) -> ObjectInfo | None:
        """The object that carries the inode's attributes; None for a directory without one.

        Raises NotFound if the version that the inode stands for is nowhere any more.
        """
        if inode.is_dir:
            return await self.directory_info(inode.prefix) if inode.links else None
        base, remote = inode.base, self._core.remote
        assert base is not None
        known = remote.head_nowait(ObjectInfo(base, inode.base_modified_ns))
        if known is not None:
            return known
        if base.version_id is None:
            info = await self._current(base.key)
            if info is not None and (info.ref.etag, info.size) == (base.etag, base.size):
                return info
            base = await remote.find_version(base, inode.base_modified_ns)
        return await self._core.store.head(base.key, version_id=base.version_id)

    async def _current(self, key: str) -> ObjectInfo | None:
        try:
            return await self._core.store.head(key)
        except NotFound:
            return None

    def told(self, inode: Inode, info: ObjectInfo) -> None:
        """The answer to a read told what an inode's object carries; until then it was taken as plain."""
        base, metadata = inode.base, info.metadata
        if inode.attrs_known or metadata is None or base is None or info.ref.etag != base.etag:
            return
        self._core.remote.learned(info)
        self._foreign.noted(info)
        before = (inode.mode, inode.uid, inode.gid, inode.mtime_ns)
        posix = attrs.decode(metadata, is_dir=False, modified_ns=info.modified_ns, defaults=self._core.config.defaults)
        if stat.S_IFMT(posix.mode) != stat.S_IFMT(inode.mode):
            # Not a file at all: the name gets another inode with the next lookup.
            if inode.pending:
                return  # once it is stored where it was moved to
            for parent, name in list(inode.links):
                self.detach_gone(parent, name, inode)
                self._core.notifier.invalidate_entry(parent.ino, name)
            return
        self.learn(inode, info)
        if before != (inode.mode, inode.uid, inode.gid, inode.mtime_ns):
            self._core.notifier.invalidate_inode(inode.ino, attributes_only=True)

    def learn(self, inode: Inode, info: ObjectInfo) -> None:
        """Take the attributes that an object carries."""
        metadata = info.metadata or {}
        posix = attrs.decode(
            metadata, is_dir=inode.is_dir, modified_ns=info.modified_ns, defaults=self._core.config.defaults
        )
        if inode.is_dir:
            inode.marked = True
            self.keep_content(inode, info)
        else:
            inode.mode = posix.mode
        inode.adopt(posix)
        inode.adopt_metadata(metadata, info.content_type)
        inode.presumed = False
        if inode.pending:
            self._core.ledger.save_inode(inode)
