"""Renames: a file is one name, a directory every key below it.

A rename is one step in memory and one commit of the journal.  For a directory everything below it is made explicit: a
pending entry per key that it should hold from now on and one per key that it should not.  The copies and removals
are carried out in parallel behind it, and go on after a crash, since the journal has them all.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field

import trio

from b2fs.cache.inode import Inode
from b2fs.cache.ledger_rows import Remote
from b2fs.cache.parallel import for_each, open_flat_nursery
from b2fs.core.keys import odd_name
from b2fs.core.nodes import Caller
from b2fs.core.types import ObjectInfo
from b2fs.errors import FsError
from b2fs.vfs.api import RENAME_EXCHANGE, RENAME_NOREPLACE
from b2fs.vfs.clock import now_ns
from b2fs.vfs.core import Core
from b2fs.vfs.files import Files
from b2fs.vfs.mutations import Held, Mutations
from b2fs.vfs.namespace import Namespace
from b2fs.vfs.permissions import W_OK
from b2fs.vfs.scan import Scanner
from b2fs.vfs.watch import Watch, Watches

Name = tuple[Inode, bytes]


class Renames:
    """See the module."""

    def __init__(
        self,
        core: Core,
        names: Namespace,
        scanner: Scanner,
        mutations: Mutations,
        files: Files,
        watches: Watches,
    ) -> None:
        self._core = core
        self._names = names
        self._scanner = scanner
        self._mutations = mutations
        self._files = files
        self._watches = watches
        self._one_directory = trio.Lock()

    async def rename(self, old: Name, new: Name, flags: int, caller: Caller) -> None:
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) or flags == RENAME_NOREPLACE | RENAME_EXCHANGE:
            raise FsError(errno.EINVAL)
        inode = await self._names.existing(*old)
        with Held(self._core, inode):
            target = await self._names.child(*new)
            with Held(self._core, target):
                await self._rename(old, new, inode, target, flags, caller)

    async def _rename(
        self, old: Name, new: Name, inode: Inode, target: Inode | None, flags: int, caller: Caller
    ) -> None:
        self._core.writable()
        for one in (inode, target):
            self._core.check_not_sealed(one)
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
        self._check_cycles(old, new, inode, target, exchange=False)
        if target is inode:
            return
        self._check_may_move(old[0], inode, new[0], caller)
        if target is None:
            self._mutations.check_may_change(new[0], caller)
            self._mutations.check_key(*new, inode, is_dir=inode.is_dir)
        else:
            self._mutations.check_may_remove(new[0], target, caller)

    def _check_may_move(self, parent: Inode, inode: Inode, new_parent: Inode, caller: Caller) -> None:
        self._mutations.check_may_remove(parent, inode, caller)
        if inode.is_dir and parent is not new_parent:
            self._core.require(inode, caller, W_OK)  # its `..` changes

    @staticmethod
    def _check_cycles(old: Name, new: Name, inode: Inode, target: Inode | None, *, exchange: bool) -> None:
        """A directory never becomes its own descendant, nor takes the place of one that holds it."""
        if inode.is_dir and inode in new[0].ancestors():
            raise FsError(errno.EINVAL, "a directory cannot be moved into itself")
        if target is not None and target.is_dir and target in old[0].ancestors():
            raise FsError(errno.EINVAL if exchange else errno.ENOTEMPTY)

    async def _check_target(self, inode: Inode, target: Inode) -> None:
        if inode.is_dir and not target.is_dir:
            raise FsError(errno.ENOTDIR)
        if target.is_dir and not inode.is_dir:
            raise FsError(errno.EISDIR)
        if target.is_dir and not await self._scanner.is_empty(target):
            raise FsError(errno.ENOTEMPTY)
        if not self._core.store.capabilities.versioning and target.opens:
            await self._files.localize_whole(target)

    def _check_still(self, old: Name, new: Name, inode: Inode, target: Inode | None, *, exchange: bool = False) -> None:
        """Nothing changed under the two names while we waited."""
        assert old[0].children is not None and new[0].children is not None
        if not self._core.has_name(new[0]):
            raise FsError(errno.ENOENT)
        if old[0].children.get(old[1]) is not inode or new[0].children.get(new[1]) is not target:
            raise FsError(errno.ENOENT)
        if target is not None and target.children and not exchange:
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
        if target is not None and not target.links:
            self._core.ledger.delete_inode(target.ino)
        self._finish(old, new, inode, now)
        self._drop_target(target)

    def _free_target(self, new: Name, new_key: str, target: Inode | None, now: int) -> Remote:
        """Take the new name from what has it; what the bucket holds under the new key."""
        if target is None:
            pending = self._core.engine.remote_of(new_key)
            return pending if pending is not None else Remote(True, None)
        remote = self._mutations.remote_of(new_key, target)
        target.unlink(*new)
        self._core.dormant.detach_in(target)
        self._core.usage.named(target, -1)
        target.ctime_ns = now
        if target.links:
            self._core.touch(target)
        return remote

    def _drop_target(self, target: Inode | None) -> None:
        """After the commit: the replaced file's local bytes go only when the journal does not want them any more."""
        if target is not None and not target.links:
            self._core.drop_if_unused(target)

    def _move_name(self, old: Name, new: Name, inode: Inode) -> None:
        inode.unlink(*old)
        inode.link(*new)

    def _finish(self, old: Name, new: Name, inode: Inode, now: int) -> None:
        inode.ctime_ns = now
        if inode.pending:
            inode.seq += 1
            self._core.ledger.save_inode(inode)
        self._mutations.keep_directory(old[0])
        self._core.touch_directory(old[0], now)
        if new[0] is not old[0]:
            self._core.touch_directory(new[0], now)
        self._core.ledger.commit()

    # ---- whole trees, and exchanges -----------------------------------------------------------------------------

    async def _exchange(self, old: Name, new: Name, inode: Inode, target: Inode | None, caller: Caller) -> None:
        if target is None:
            raise FsError(errno.ENOENT)
        self._check_cycles(old, new, inode, target, exchange=True)
        if inode is target:
            return
        self._check_may_move(old[0], inode, new[0], caller)
        self._check_may_move(new[0], target, old[0], caller)
        if not self._core.store.capabilities.versioning:
            # Each name's old content is about to be overwritten: keep both here until they are stored.
            if inode.is_dir or target.is_dir:
                raise FsError(errno.EINVAL, "this server has no versions, so directories cannot be exchanged")
            await self._files.localize_whole(inode)
            await self._files.localize_whole(target)
        async with self._one_directory:
            self._check_still(old, new, inode, target, exchange=True)
            with self._watches.watch() as watch:
                trees = [await self._prepare_tree(tree) for tree in (inode, target)]
                self._check_still(old, new, inode, target, exchange=True)
                self._check_cycles(old, new, inode, target, exchange=True)
                for tree in trees:
                    self._take_listed(tree, watch)
                self._exchange_now(old, new, inode, target)

    def _exchange_now(self, old: Name, new: Name, inode: Inode, target: Inode) -> None:
        """Everything below both is known."""
        for (parent, name), moved in ((new, inode), (old, target)):
            if moved.is_dir:
                self._check_lengths(moved, parent.key_of(name, moved))
        now = now_ns()
        self._carry_out([(old, new, inode), (new, old, target)], {})
        target.ctime_ns = now
        self._finish(old, new, inode, now)

    async def _rename_directory(self, old: Name, new: Name, inode: Inode, target: Inode | None) -> None:
        self._check_still(old, new, inode, target)
        with self._watches.watch() as watch:
            tree = await self._prepare_tree(inode)
            self._check_still(old, new, inode, target)
            self._check_cycles(old, new, inode, target, exchange=False)
            self._take_listed(tree, watch)
            self._move_directory(old, new, inode, target)

    def _move_directory(self, old: Name, new: Name, inode: Inode, target: Inode | None) -> None:
        """Everything below it is known."""
        now = now_ns()
        new_key = new[0].key_of(new[1], inode)
        self._check_lengths(inode, new_key)
        target_remote = self._free_target(new, new_key, target, now)
        if not inode.marked and (target is not None or not inode.children):
            inode.marked = True  # nothing below it would keep its name, or the object there is the target's
            self._core.usage.named(inode, 1)
        self._carry_out([(old, new, inode)], {new_key: target_remote})
        self._core.remote.note_new_directory(new_key)
        if target is not None:
            self._core.ledger.delete_inode(target.ino)
        self._finish(old, new, inode, now)
        self._drop_target(target)

    def _check_lengths(self, inode: Inode, new_key: str) -> None:
        """Every path below a directory that is to move must be one that can be kept."""
        old_key = inode.prefix
        if len(new_key) > len(old_key):
            for key, child in _tree(old_key, inode):
                self._mutations.check_length(new_key + key[len(old_key) :], child)

    def _carry_out(self, moves: list[tuple[Name, Name, Inode]], known: dict[str, Remote]) -> None:
        """Give every key of the moved trees its new meaning; known: what the bucket holds under new keys."""
        engine = self._core.engine
        before: dict[str, Remote] = {}
        wanted: dict[str, Inode] = {}
        for old, new, inode in moves:
            old_key, new_key = old[0].key_of(old[1], inode), new[0].key_of(new[1], inode)
            for key, child in _tree(old_key, inode):
                before[key] = self._mutations.remote_of(key, child)
                wanted[new_key + key[len(old_key) :]] = child
            if inode.is_dir:
                for key, held in engine.wanted_below(old_key):
                    if held is None:
                        before.setdefault(key, engine.remote_of(key) or Remote(False, None))
                # The old names are gone from now on, also where nothing but keys below made the directory.
                for key in _directory_keys(old_key, inode):
                    before.setdefault(key, Remote(True, None))
        for old, _, inode in moves:
            inode.unlink(*old)
        for _, new, inode in moves:
            inode.link(*new)
        nothing = Remote(True, None)
        engine.want_many(
            (key, child, before.get(key) or known.get(key) or engine.remote_of(key) or nothing)
            for key, child in wanted.items()
        )
        # What is below comes first: a directory's name is gone for as long as anything is to be removed below it.
        absent = sorted((key for key in before if key not in wanted), reverse=True)
        engine.want_many((key, None, before[key]) for key in absent)
        for child in wanted.values():
            self._core.ledger.save_inode(child)

    async def _prepare_tree(self, inode: Inode) -> _Tree:
        """Learn what the bucket has below a directory: everything that needs a wait before a tree is moved."""
        tree = _Tree(inode, trio.current_time())
        if not inode.is_dir:
            return tree
        own = inode.prefix
        async with open_flat_nursery() as nursery:
            # The names of links below, which nobody may have looked at, change too.
            nursery.start_soon(self._core.remote.links.load)
            tree.listed = await self._list_below(own)

        async def learn(key: str) -> None:
            tree.markers[key] = await self._names.directory_info(key)

        await for_each([info.key for info in tree.listed if info.key.endswith("/") and info.key != own], learn)
        await self._names.known(inode)
        return tree

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

    def _take_listed(self, tree: _Tree, watch: Watch) -> None:
        """Make an inode of every listed object that has none; the attributes of files stay with the objects."""
        if not tree.inode.is_dir:
            return
        prefix = tree.inode.prefix
        # What was removed meanwhile makes no directory either: its name may stand for a file by now.
        there = [
            info for info in tree.listed if info.key not in watch.removed and not self._core.engine.is_gone(info.key)
        ]
        directories = _directories(there, prefix)
        for info in there:
            if info.key == prefix:
                tree.inode.marked = True
                self._names.keep_content(tree.inode, info)
            else:
                shadowed = f"{info.key}/" in directories
                self._take_one(tree, info, info.key[len(prefix) :], shadowed=shadowed)
        self._core.dormant.detach_below(tree.inode)  # what the bucket does not show any more does not move

    def _take_one(self, tree: _Tree, info: ObjectInfo, rest: str, *, shadowed: bool) -> None:
        *middle, last = rest.removesuffix("/").split("/")
        parent, seen_at, marker = tree.inode, tree.seen_at, tree.markers.get(info.key)
        for component in middle:
            parent = self._directory_below(parent, component, seen_at)
        if rest.endswith("/"):
            below = self._directory_below(parent, last, seen_at)
            if marker is not None and not below.attrs_known:
                self._names.learn(below, marker)
            below.marked = below.attrs_known = True
            if not below.pending:
                self._names.keep_content(below, info)
            return
        assert parent.children is not None
        plain = self._names.odd.give(parent, last)
        beside = self._core.child(parent, plain)
        for name in {plain, odd_name(last, shadowed=True)}:
            child = parent.children.get(name)
            if child is None or child.is_dir or parent.component(name) != last:
                continue
            if child.is_ours or child.validated_at >= seen_at or self._is_base(child, info):
                return  # it is here already, whichever its name is
            self._names.detach_gone(parent, name, child)
        shadowed = shadowed or (beside is not None and beside.is_dir)
        name = self._names.odd.give(parent, last, shadowed=shadowed)
        made = self._names.instantiate(parent, name, False, info, seen_at)
        made.attrs_known = False

    @staticmethod
    def _is_base(child: Inode, info: ObjectInfo) -> bool:
        return child.base is not None and child.base.etag == info.ref.etag and child.base.size == info.size

    def _directory_below(self, parent: Inode, component: str, seen_at: float) -> Inode:
        assert parent.children is not None
        name = self._names.odd.give(parent, component)
        child = parent.children.get(name)
        if child is not None and not child.is_dir:
            # A file of ours that is not in the bucket yet: it moves along under the name of what has one beside it.
            child.unlink(parent, name)
            child.link(parent, self._names.odd.give(parent, component, shadowed=True))
            child = None
        if child is None:
            child = self._names.instantiate(parent, name, True, None, seen_at)
            child.attrs_known = False
        return child


@dataclass(slots=True)
class _Tree:
    """A directory to be moved and what the bucket showed below it at seen_at."""

    inode: Inode
    seen_at: float
    listed: list[ObjectInfo] = field(default_factory=list)
    markers: dict[str, ObjectInfo | None] = field(default_factory=dict)


def _directories(listed: list[ObjectInfo], top: str) -> set[str]:
    """The prefixes of every directory below top that the listed objects make."""
    found: set[str] = set()
    for info in listed:
        cut = info.key.rfind("/") + 1
        while cut > len(top) and info.key[:cut] not in found:
            found.add(info.key[:cut])
            cut = info.key.rfind("/", 0, cut - 1) + 1
    return found


def _tree(key: str, inode: Inode) -> Iterator[tuple[str, Inode]]:
    """(key, inode) of an inode and of everything below it that has a key of its own."""
    if inode.children is None or inode.marked or inode.pending:
        yield key, inode
    if inode.children is not None:
        yield from _walk(inode)


def _directory_keys(key: str, inode: Inode) -> Iterator[str]:
    """The keys of a directory and of every directory below it, whether the bucket has something there or not."""
    yield key
    for name, child in (inode.children or {}).items():
        if child.is_dir:
            yield from _directory_keys(inode.key_of(name, child), child)


def _walk(directory: Inode) -> Iterator[tuple[str, Inode]]:
    """(key, inode) of everything below a directory that has a key of its own."""
    assert directory.children is not None
    for name, child in directory.children.items():
        if child.children is None or child.marked or child.pending:
            yield directory.key_of(name, child), child
        if child.children is not None:
            yield from _walk(child)
