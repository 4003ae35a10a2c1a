"""Pending: one key whose content in the bucket differs from what it should be."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from b2fs.cache.inode import Inode
from b2fs.cache.ledger_rows import Remote
from b2fs.core.types import ObjectRef, VersionId
from b2fs.errors import B2fsError

#: What a key is to hold: an inode, in the state that its seq numbers; None: nothing.  (Its number would not do: that
#: comes again, and seq begins anew, once the kernel has forgotten an inode.)
Wish = tuple[Inode, int] | None


@dataclass(eq=False, slots=True)
class Pending:
    """See the module.  Times are trio's clock.

    INVARIANT: at most one task works on a key at a time (`running`).
    """

    key: str
    #: What the key should hold; None: nothing.
    inode: Inode | None
    #: What the bucket holds, as far as we know; `before` is the same when this entry came to be.
    remote: Remote
    before: Remote
    since: float
    due: float
    urgent: bool = False
    running: bool = False
    attempts: int = 0
    error: B2fsError | None = None
    #: The key that the content is still to be copied from.
    source: str | None = None
    #: The highest inode.seq that the bucket is known to hold under this key.
    stored_seq: int = -1
    #: How many tries have brought what the key should hold, or an inode that it should hold when they began.
    stores: int = 0
    #: Versions that we made for this entry: the newest, and older ones that are to be removed by ID.
    newest: VersionId | None = None
    newest_at: float = 0.0
    superseded: list[VersionId] = field(default_factory=list)
    #: Other versions stay below the newest, of ours or of others: without it they would be seen again.
    layered: bool = False
    #: What the present try is to bring.
    asked: Wish = None
    #: When the key was removed, if it is to be looked at once more.
    gone_at: float | None = None
    #: See `try_scope`.
    scope: trio.CancelScope | None = None
    waiters: list[trio.Event] = field(default_factory=list)

    def try_scope(self) -> trio.CancelScope:
        """Around the present try; cancelled when what it uploads is not what the key should hold any more."""
        if self.scope is None:
            self.scope = trio.CancelScope()
        return self.scope

    def wake(self) -> None:
        for waiter in self.waiters:
            waiter.set()
        self.waiters.clear()

    @property
    def wish(self) -> Wish:
        """What the key is to hold now."""
        return (self.inode, self.inode.seq) if self.inode is not None else None

    @property
    def made_here(self) -> bool:
        """Nothing is under this key but versions that are to go: removing them leaves no trace and shows nothing."""
        return self.before.known and self.before.ref is None and not self.layered

    def found(self, ref: ObjectRef) -> None:
        """This version is under the key; it stays below what is put there."""
        self.remote = Remote(True, ref)
        self.layered = True

    def needs(self, version: VersionId) -> bool:
        """Whether what the key is to hold is in this older version of the key itself: a file that came back to it."""
        base = self.inode.base if self.inode is not None else None
        return base is not None and base.key == self.key and base.version_id == version

    def holds(self, inode: Inode) -> bool:
        """Whether the bucket has this inode, unchanged, under this key already.

        It was stored, and there is more to do; or a rename was undone.
        """
        if not self.remote.known or self.remote.ref is None:
            return False
        if self.inode is inode and self.stored_seq >= inode.seq:
            return True  # of several names only the one that was stored last is the base
        return self.remote.ref == inode.base and inode.base.key == self.key and inode.base_seq == inode.seq
