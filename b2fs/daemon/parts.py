"""What a mount is built of.  A mount begins with this, so nothing is loaded for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from b2fs.config.settings import MountSettings
    from b2fs.daemon.interfaces import Core, Frontend
    from b2fs.store.protocol import ObjectStore
    from b2fs.vfs.api import KernelNotifier


class Begun(Protocol):
    """What was begun before the run (daemon.early); what the run does not take is undone by `abandon`."""

    @property
    def noted(self) -> Sequence[int]:
        """Signals that came before the run heard them."""
        ...

    def wait_decided(self) -> None:
        """Return when it is clear what has begun; blocks.  The others come after it."""
        ...

    def take_control(self) -> socket.socket | None:
        """The listening control socket."""
        ...

    def take_lock(self, path: Path) -> int | None:
        """A descriptor that holds the lock of the identity directory."""
        ...

    def abandon(self) -> None: ...


class Parts(NamedTuple):
    """How to build a mount's parts from its settings.

    A store that was made has its identity, and does nothing until it is entered.  `load` may be called from a thread:
    it loads what the others will need.  `begun` is what has begun already.
    """

    make_store: Callable[[MountSettings], ObjectStore]
    open_core: Callable[[ObjectStore, MountSettings, Path, KernelNotifier], AbstractAsyncContextManager[Core]]
    make_frontend: Callable[[MountSettings], Frontend]
    load: Callable[[], None] = lambda: None
    begun: Begun | None = None
