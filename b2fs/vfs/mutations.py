"""Changes of names: create, mkdir, symlink, link, unlink, rmdir.

Every method finds out what it needs from the bucket first, and then checks and changes everything in one step without
an await, so that two calls never see each other half done.  The last act is the commit of the journal (I1).
"""

from __future__ import annotations

import errno
import stat
import uuid

from b2fs.cache.inode import Inode
from b2fs.cache.ledger_rows import Remote
from b2fs.core.keys import NAME_MAX, component_of
from b2fs.core.longkeys import fits, is_long
from b2fs.core.nodes import Caller
from b2fs.errors import FsError
from b2fs.vfs import acls
from b2fs.vfs.clock import now_ns
from b2fs.vfs.core import RESERVED, Core
from b2fs.vfs.files import Files
from b2fs.vfs.namespace import Namespace
from b2fs.vfs.permissions import W_OK, X_OK, may_mknod, may_remove_entry, new_node
from b2fs.vfs.scan import Scanner

#: Room for one more component than a key of its own may have: below this a directory can still hold names.
_SYMLINK_MAX = 4095

#: What the bucket is known to hold under a free name.
_NOTHING = Remote(True, None)


class Held:
    """Keeps an inode under its name while a call waits, even if it is stored and given back meanwhile."""

    __slots__ = ("_core", "_inode")

    def __init__(self, core: Core, inode: Inode | None) -> None:
        self._core = core
        self._inode = inode

    def __enter__(self) -> None:
        if self._inode is not None:
            self._inode.holds += 1

    def __exit__(self, *_: object) -> None:
        if self._inode is not None:
            self._inode.holds -= 1
            self._core.drop_if_unused(self._inode)


class Mutations:
    """See the module."""

    def __init__(self, core: Core, namespace: Namespace, scanner: Scanner, files: Files) -> None:
        self._core = core
        self._files = files
        self._names = namespace
        self._scanner = scanner

    # ---- making -------------------------------------------------------------------------------------------------

    async def make(
        self, parent: Inode, name: bytes, mode: int, caller: Caller, *, rdev: int = 0, target: bytes | None = None
    ) -> Inode:
        """Make a file, directory, symlink or special file under a free name."""
        if await self._prepare(parent, name, caller, is_dir=stat.S_ISDIR(mode)) is not None:
            raise FsError(errno.EEXIST)
        if self._core.config.check_permissions and not may_mknod(mode, caller):
            raise FsError(errno.EPERM)
        return self.make_now(parent, name, mode, caller, rdev=rdev, target=target)

    async def _prepare(self, parent: Inode, name: bytes, caller: Caller, *, is_dir: bool = False) -> Inode | None:
        """The checks before a name is made; the inode that has the name already."""
        child = await self._names.child(parent, name)
        if child is None:
            self._core.writable()
            self.check_may_change(parent, caller)
            self.check_key(parent, name, is_dir=is_dir)
        return child

    def make_now(
        self,
        parent: Inode,
        name: bytes,
        mode: int,
        caller: Caller,
        *,
        rdev: int = 0,
        target: bytes | None = None,
    ) -> Inode:
        """Make the inode; the caller knows that the name is free and has not waited since."""
        assert parent.children is not None
        if name in parent.children:
            raise FsError(errno.EEXIST)
        core, now = self._core, now_ns()
        core.usage.check(len(target or b""), 1)
        mode, gid = new_node(parent, mode, caller)
        component = component_of(name)
        inode = core.new_inode(mode, parent.prefix + component + ("/" if stat.S_ISDIR(mode) else ""), made=True)
        inode.uid, inode.gid, inode.rdev = caller.uid, gid, rdev
        inode.atime_ns = inode.mtime_ns = inode.ctime_ns = now
        inode.seq = inode.content_seq = 1
        if target is not None:
            inode.target, inode.size = target, len(target)
        if core.config.acl:
            acls.inherit(parent, inode, caller)
        inode.marked = inode.is_dir
        inode.link(parent, name)
        core.usage.named(inode, 1)
        if inode.is_dir:
            core.remote.note_new_directory(inode.prefix)
        core.touch_directory(parent, now)
        core.engine.want(parent.key_of(name, inode), inode, _NOTHING)
        core.ledger.save_inode(inode)
        core.ledger.commit()
        return inode

    async def link(self, inode: Inode, parent: Inode, name: bytes, caller: Caller) -> None:
        """Give a file another name: another whole object with the same identity."""
        if inode.is_dir:
            raise FsError(errno.EPERM)
        self._core.check_not_sealed(inode)
        if await self._prepare(parent, name, caller) is not None:
            raise FsError(errno.EEXIST)
        if not inode.links:
            raise FsError(errno.ENOENT)
        assert parent.children is not None
        if name in parent.children:
            raise FsError(errno.EEXIST)
        self.check_length(parent.key_of(name, inode), inode)
        core, now = self._core, now_ns()
        core.usage.check(inode.size, 1)
        inode.link_id = inode.link_id or uuid.uuid4().hex
        core.link_ids[inode.link_id] = inode
        inode.ctime_ns = now
        inode.link(parent, name)
        core.usage.named(inode, 1)
        core.engine.want(parent.key_of(name, inode), inode, Remote(True, None))
        self._names_changed(inode)
        core.touch_directory(parent, now)
        core.ledger.commit()

    def _names_changed(self, inode: Inode) -> None:
        """A hard-linked file got a name or lost one: journal its ctime and have it stored under one of its names.

        The others hold everything else; a mount that looks at all of them finds the newest.  Storing it under each
        would make as many versions as there are names, for every name that comes or goes.
        """
        core, keys = self._core, inode.all_keys()
        waiting = {key for key in keys if core.engine.remote_of(key) is not None}
        if not all(key in waiting or key in inode.linked for key in keys):
            core.touch(inode)  # one does not carry the identity yet
            return
        inode.seq += 1
        if not waiting:
            base = inode.base
            key = base.key if base is not None and base.key in keys else keys[0]
            known = base is not None and base.key == key
            core.engine.want(key, inode, Remote(known, base if known else None))
        core.ledger.save_inode(inode)

    def check_may_change(self, parent: Inode, caller: Caller) -> None:
        """Whether names in this directory may be made or removed."""
        if not self._core.has_name(parent):
            raise FsError(errno.ENOENT)
        self._core.require(parent, caller, W_OK | X_OK)

    def check_key(self, parent: Inode, name: bytes, inode: Inode | None = None, *, is_dir: bool = False) -> None:
        if len(name) > NAME_MAX:
            raise FsError(errno.ENAMETOOLONG)
        if parent is self._core.root and name == RESERVED:
            raise FsError(errno.EPERM, "this name is reserved")
        component = component_of(name)
        if not component and not is_dir:
            raise FsError(errno.EPERM, "this name is that of the content of a directory's own object")
        self.check_length(f"{parent.prefix}{component}/", inode)

    def check_length(self, key: str, inode: Inode | None = None) -> None:
        """A key may be longer than a bucket takes as long as an object's metadata can carry the path.

        inode: what is to be under the key, whose attributes need room in the metadata too.
        """
        if not is_long(key):
            return
        if not fits(key[len(self._core.root.prefix) :]):
            raise FsError(errno.ENAMETOOLONG)
        if inode is not None and inode.attrs_known and not self._core.transfer.fits(inode, [key]):
            raise FsError(errno.ENOSPC, "the path and the extended attributes are larger than metadata may be")

    # ---- removing -----------------------------------------------------------------------------------------------

    async def unlink(self, parent: Inode, name: bytes, caller: Caller) -> None:
        inode = await self._names.existing(parent, name)
        self._core.writable()
        self.check_may_remove(parent, inode, caller)
        if inode.is_dir:
            raise FsError(errno.EISDIR)
        if not self._core.store.capabilities.versioning and inode.opens:
            await self._files.localize_whole(inode)
        self._check_still(parent, name, inode)
        self._remove_now(parent, name, inode, now_ns())

    async def rmdir(self, parent: Inode, name: bytes, caller: Caller) -> None:
        inode = await self._names.existing(parent, name)
        self._core.writable()
        self.check_may_remove(parent, inode, caller)
        if not inode.is_dir:
            raise FsError(errno.ENOTDIR)
        with Held(self._core, inode):
            if not await self._scanner.is_empty(inode):
                raise FsError(errno.ENOTEMPTY)
            self._check_still(parent, name, inode)
            if inode.children:
                raise FsError(errno.ENOTEMPTY)
            self._remove_now(parent, name, inode, now_ns())

    def check_may_remove(self, parent: Inode, inode: Inode, caller: Caller) -> None:
        self.check_may_change(parent, caller)
        if self._core.config.check_permissions and not may_remove_entry(parent, inode, caller):
            raise FsError(errno.EPERM)

    @staticmethod
    def _check_still(parent: Inode, name: bytes, inode: Inode) -> None:
        """The name still stands for the inode that was looked up before a wait."""
        assert parent.children is not None
        if parent.children.get(name) is not inode:
            raise FsError(errno.ENOENT)

    def _remove_now(self, parent: Inode, name: bytes, inode: Inode, now: int) -> None:
        """Take a name from an inode; the last one ends it, once nobody has it open."""
        core = self._core
        if inode.sealed:
            self._empty_marker(parent, name, inode, now)
            return
        key = parent.key_of(name, inode)
        core.engine.want_absent(key, self.remote_of(key, inode))
        inode.unlink(parent, name)
        core.dormant.detach_in(inode)
        core.usage.named(inode, -1)
        inode.ctime_ns = now
        if inode.links:
            self._names_changed(inode)
        else:
            core.ledger.delete_inode(inode.ino)
        self.keep_directory(parent)
        core.touch_directory(parent, now)
        core.ledger.commit()
        if not inode.links:
            # After the commit: its local bytes go only when the journal does not want them any more.
            core.drop_if_unused(inode)

    def _empty_marker(self, parent: Inode, name: bytes, inode: Inode, now: int) -> None:
        """The content of a directory's own object goes; the object and the directory stay."""
        inode.unlink(parent, name)
        self._core.usage.changed(-inode.size, 0)
        parent.base, parent.marked = None, True
        self._core.touch_directory(parent, now)
        self._core.ledger.commit()
        self._core.drop_if_unused(inode)

    def remote_of(self, key: str, inode: Inode) -> Remote:
        """What the bucket holds under a key of this inode, as far as we know."""
        pending = self._core.engine.remote_of(key)
        if pending is not None:
            return pending
        if inode.is_dir:
            return Remote(not inode.marked, None)
        base = inode.base
        return Remote(True, base) if base is not None and base.key == key else Remote(False, None)

    def keep_directory(self, parent: Inode) -> None:
        """A directory that only its keys imply must not vanish with the last of them: it gets an object of its own."""
        if not parent.marked and parent is not self._core.root and parent.links:
            parent.marked = True
            self._core.usage.named(parent, 1)
            key = parent.prefix
            if self._core.engine.remote_of(key) is None:
                self._core.engine.want(key, parent, Remote(False, None))
                self._core.ledger.save_inode(parent)


def symlink_mode() -> int:
    return stat.S_IFLNK | 0o777


def check_target(target: bytes) -> None:
    if not target:
        raise FsError(errno.ENOENT)
    if len(target) > _SYMLINK_MAX:
        raise FsError(errno.ENAMETOOLONG)
