"""Renames: a file is one name, a directory every key below it.

A rename is one step in memory and one commit of the journal.  For a directory everything below it is made explicit: a
pending entry per key that it should hold from now on and one per key that it should not.  The copies and removals
are carried out in parallel behind it, and go on after a crash, since the journal has them all.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

import trio

from b2fs.cache.inode import Inode
from b2fs.cache.ledger import Remote
from b2fs.cache.parallel import for_each
from b2fs.core.keys import name_of
from b2fs.core.types import Caller, ObjectInfo
from b2fs.errors import FsError
from b2fs.vfs.api import RENAME_EXCHANGE, RENAME_NOREPLACE
from b2fs.vfs.core import Core, now_ns
from b2fs.vfs.files import Files
from b2fs.vfs.mutations import Mutations
from b2fs.vfs.namespace import Namespace
from b2fs.vfs.scan import Scanner

Name = tuple[Inode, bytes]


class Renames:
    """See the module."""

    def __init__(self, core: Core, names: Namespace, scanner: Scanner, mutations: Mutations, files: Files) -> None:
        self._core = core
        self._names = names
        self._scanner = scanner
        self._mutations = mutations
        self._files = files
        self._one_directory = trio.Lock()

    async def rename(self, old: Name, new: Name, flags: int, caller: Caller) -> None:
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) or flags == RENAME_NOREPLACE | RENAME_EXCHANGE:
            raise FsError(errno.EINVAL)
        inode = await self._names.existing(*old)
        target = await self._names.child(*new)
        self._core.writable()
        if flags & RENAME_EXCHANGE:
            await self._exchange(old, new, inode, target, caller)
            return
        if target is not None and flags & RENAME_NOREPLACE:
            raise FsError(errno.EEXIST)
        self._check(old, new, inode, target, caller)
        if target is inode:
            return
        if target is not None:
            await self._check_target(inode, target)
        if inode.is_dir:
            async with self._one_directory:
                await self._rename_directory(old, new, inode, target)
        else:
            self._rename_file(old, new, inode, target)

    # ---- checks -------------------------------------------------------------------------------------------------

    def _check(self, old: Name, new: Name, inode: Inode, target: Inode | None, caller: Caller) -> None:
        if inode.is_dir and inode in new[0].ancestors():
            raise FsError(errno.EINVAL, "a directory cannot be moved into itself")
        self._mutations.check_may_remove(old[0], inode, caller)
        if target is None:
            self._mutations.check_may_change(new[0], caller)
            self._mutations.check_key(*new)
        else:
            self._mutations.check_may_remove(new[0], target, caller)

    async def _check_target(self, inode: Inode, target: Inode) -> None:
        if inode.is_dir and not target.is_dir:
            raise FsError(errno.ENOTDIR)
        if target.is_dir and not inode.is_dir:
            raise FsError(errno.EISDIR)
        if target.is_dir and not await self._scanner.is_empty(target):
            raise FsError(errno.ENOTEMPTY)
        if not self._core.store.capabilities.versioning and target.opens:
            await self._files.localize_whole(target)

    def _check_still(self, old: Name, new: Name, inode: Inode, target: Inode | None) -> None:
        """Nothing changed under the two names while we waited."""
        assert old[0].children is not None and new[0].children is not None
        if old[0].children.get(old[1]) is not inode or new[0].children.get(new[1]) is not target:
            raise FsError(errno.ENOENT)
        if target is not None and target.children:
            raise FsError(errno.ENOTEMPTY)

    # ---- files --------------------------------------------------------------------------------------------------

    def _rename_file(self, old: Name, new: Name, inode: Inode, target: Inode | None) -> None:
        self._check_still(old, new, inode, target)
        now = now_ns()
        new_key = new[0].key_of(new[1], inode)
        remote = self._free_target(new, new_key, target, now)
        self._move_name(old, new, inode)
        old_key = old[0].key_of(old[1], inode)
        remote_old = self._mutations.remote_of(old_key, inode)
        self._core.engine.want(new_key, inode, remote)
        self._core.engine.want_absent(old_key, remote_old)
        self._finish(old, new, inode, now)

    def _free_target(self, new: Name, new_key: str, target: Inode | None, now: int) -> Remote:
        """Take the new name from what has it; what the bucket holds under the new key."""
        if target is None:
            pending = self._core.engine.remote_of(new_key)
            return pending if pending is not None else Remote(True, None)
        remote = self._mutations.remote_of(new_key, target)
        self._names.unlink_inode(*new, target)
        target.ctime_ns = now
        if target.links:
            self._core.touch(target)
        return remote

    def _drop_target(self, target: Inode | None) -> None:
        if target is not None and not target.links:
            self._core.ledger.delete_inode(target.ino)
            self._core.drop_if_unused(target)

    def _move_name(self, old: Name, new: Name, inode: Inode) -> None:
        self._names.unlink_inode(*old, inode)
        self._names.link_inode(*new, inode)

    def _finish(self, old: Name, new: Name, inode: Inode, now: int) -> None:
        inode.ctime_ns = now
        inode.seq += 1
        inode.changed_at = trio.current_time()
        self._core.ledger.save_inode(inode)
        self._mutations.keep_directory(old[0])
        self._core.touch_directory(old[0], now)
        if new[0] is not old[0]:
            self._core.touch_directory(new[0], now)
        self._core.ledger.commit()

    async def _exchange(self, old: Name, new: Name, inode: Inode, target: Inode | None, caller: Caller) -> None:
        if target is None:
            raise FsError(errno.ENOENT)
        self._mutations.check_may_remove(old[0], inode, caller)
        self._mutations.check_may_remove(new[0], target, caller)
        if inode is target:
            return
        if inode.is_dir or target.is_dir:
            raise FsError(errno.EINVAL, "directories cannot be exchanged")
        if not self._core.store.capabilities.versioning:
            # Each name's old content is about to be overwritten: keep both here until they are stored.
            await self._files.localize_whole(inode)
            await self._files.localize_whole(target)
        self._check_still(old, new, inode, target)
        now = now_ns()
        old_key, new_key = old[0].key_of(old[1], inode), new[0].key_of(new[1], target)
        remotes = self._mutations.remote_of(old_key, inode), self._mutations.remote_of(new_key, target)
        self._names.unlink_inode(*old, inode)
        self._names.unlink_inode(*new, target)
        self._names.link_inode(*old, target)
        self._names.link_inode(*new, inode)
        self._core.engine.want(old_key, target, remotes[0])
        self._core.engine.want(new_key, inode, remotes[1])
        self._core.touch(target)
        target.ctime_ns = now
        self._finish(old, new, inode, now)

    # ---- directories --------------------------------------------------------------------------------------------

    async def _rename_directory(self, old: Name, new: Name, inode: Inode, target: Inode | None) -> None:
        started = trio.current_time()
        old_prefix = inode.prefix
        listed = await self._list_below(old_prefix)
        markers: dict[str, ObjectInfo | None] = {}

        async def learn(key: str) -> None:
            markers[key] = await self._names.directory_info(key)

        await for_each([info.key for info in listed if info.key.endswith("/") and info.key != old_prefix], learn)
        await self._names.known(inode)
        self._check_still(old, new, inode, target)
        if inode in new[0].ancestors():
            raise FsError(errno.EINVAL, "a directory cannot be moved into itself")
        now = now_ns()
        core = self._core
        new_key = new[0].key_of(new[1], inode)
        target_remote = self._free_target(new, new_key, target, now)
        self._take_listed(inode, listed, markers, started)
        below = [(key, child, self._mutations.remote_of(key, child)) for key, child in _walk(inode)]
        gone = [
            (key, core.engine.remote_of(key) or Remote(False, None))
            for key, wanted in core.engine.wanted_below(old_prefix)
            if wanted is None and key != old_prefix
        ]
        own_remote = self._mutations.remote_of(old_prefix, inode)
        has_own = inode.marked or inode.pending > 0
        self._move_name(old, new, inode)
        renamed = [(self._moved(key, old_prefix, new_key), child, Remote(True, None)) for key, child, _ in below]
        core.engine.want_many(renamed)
        if has_own:
            core.engine.want(new_key, inode, target_remote)
        core.engine.want_many((key, None, remote) for key, _, remote in below)
        core.engine.want_many((key, None, remote) for key, remote in gone)
        core.engine.want_absent(old_prefix, own_remote)
        core.remote.note_new_directory(new_key)
        for _, child, _ in below:
            core.ledger.save_inode(child)
        self._drop_target(target)
        if has_own:
            self._finish(old, new, inode, now)
        else:
            self._finish_implied(old, new, now)

    def _finish_implied(self, old: Name, new: Name, now: int) -> None:
        self._mutations.keep_directory(old[0])
        self._core.touch_directory(old[0], now)
        self._core.touch_directory(new[0], now)
        self._core.ledger.commit()

    @staticmethod
    def _moved(key: str, old_prefix: str, new_prefix: str) -> str:
        return new_prefix + key[len(old_prefix) :]

    async def _list_below(self, prefix: str) -> list[ObjectInfo]:
        """Every object below a directory, its own marker included, by flat pages of 1,000 keys."""
        found: list[ObjectInfo] = []
        token: str | None = None
        while True:
            page = await self._core.store.list_objects(prefix, token=token)
            found.extend(page.objects)
            token = page.next_token
            if token is None:
                return found

    def _take_listed(
        self, directory: Inode, listed: list[ObjectInfo], markers: dict[str, ObjectInfo | None], seen_at: float
    ) -> None:
        """Make an inode of every listed object that has none; the attributes of files stay with the objects."""
        prefix = directory.prefix
        for info in listed:
            if info.key == prefix:
                directory.marked = True
            elif not self._core.engine.is_gone(info.key):
                self._take_one(directory, info, info.key[len(prefix) :], markers.get(info.key), seen_at)

    def _take_one(
        self, directory: Inode, info: ObjectInfo, rest: str, marker: ObjectInfo | None, seen_at: float
    ) -> None:
        *middle, last = rest.removesuffix("/").split("/")
        parent = directory
        for component in middle:
            parent = self._directory_below(parent, component, seen_at)
        if rest.endswith("/"):
            below = self._directory_below(parent, last, seen_at)
            if marker is not None and not below.attrs_known:
                self._names.learn(below, marker)
            below.marked = below.attrs_known = True
            return
        assert parent.children is not None
        name = name_of(last)
        child = parent.children.get(name)
        if child is not None and (child.pending or child.validated_at >= seen_at or self._is_base(child, info)):
            return
        if child is not None:
            self._names.detach_gone(parent, name, child)
        made = self._names.instantiate(parent, name, False, info, seen_at)
        made.attrs_known = False

    @staticmethod
    def _is_base(child: Inode, info: ObjectInfo) -> bool:
        return child.base is not None and child.base.etag == info.ref.etag and child.base.size == info.size

    def _directory_below(self, parent: Inode, component: str, seen_at: float) -> Inode:
        assert parent.children is not None
        name = name_of(component)
        child = parent.children.get(name)
        if child is None or not child.is_dir:
            child = self._names.instantiate(parent, name, True, None, seen_at)
            child.attrs_known = False
        return child


def _walk(directory: Inode) -> Iterator[tuple[str, Inode]]:
    """(key, inode) of everything below a directory that has a key of its own."""
    assert directory.children is not None
    for name, child in directory.children.items():
        if child.children is None or child.marked or child.pending:
            yield directory.key_of(name, child), child
        if child.children is not None:
            yield from _walk(child)
