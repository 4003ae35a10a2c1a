"""Doubts: keys under which a server may still carry out a request that nobody waits for any more.

The answer to a request was lost, or whoever had sent it was killed.  It may have been carried out, or will be, on top
of what came later.  What it would bring does no harm while the key is to hold just that; anything else that is stored
under the key, or its removal, is looked at once more a little later (docs/writeback.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import trio

from b2fs.cache.writeback.pending import Pending, Wish

#: What differs from a lost request is not stored within this time of it, and is looked at once more so long after it
#: was stored or removed, in seconds.
_GRACE_S = 3.0
LOOK_S = 3.0
#: By then no lost request is carried out any more.
_DOUBT_S = 60.0


@dataclass(slots=True)
class _Lost:
    """Lost requests for a key: the time of the last one, and what they would bring; wishes None: anything."""

    at: float
    wishes: set[Wish] | None


class Doubts:
    """See the module.  Times are trio's clock."""

    def __init__(self) -> None:
        self._lost: dict[str, _Lost] = {}

    def lost(self, p: Pending) -> None:
        """The answer to a request of the present try was lost."""
        if p.asked is not None:
            p.layered = True  # perhaps by a version of which we shall never hear
        known = self._lost.get(p.key)
        if known is None or self._is_over(known):
            known = self._lost[p.key] = _Lost(0.0, set())
        known.at = trio.current_time()
        if known.wishes is not None:
            known.wishes.add(p.asked)

    def restored(self, key: str, *, removes: bool) -> None:
        """An earlier mount was killed perhaps while it stored something under the key, or (removes) removed it."""
        self._lost[key] = _Lost(trio.current_time(), {None} if removes else None)

    def threaten(self, p: Pending) -> bool:
        """Whether a lost request may yet bring something else than what the key is to hold."""
        lost = self._lost.get(p.key)
        if lost is None or self._is_over(lost):
            return False
        return lost.wishes is None or not lost.wishes <= {p.wish}

    def quiet_at(self, key: str) -> float:
        """When something else may be stored under a key of which a request was lost."""
        return self._lost[key].at + _GRACE_S

    def end(self, key: str) -> None:
        """The key was looked at, and holds what it should."""
        self._lost.pop(key, None)

    def forget_old(self) -> None:
        """Drop what does not count any more."""
        if self._lost:
            self._lost = {key: lost for key, lost in self._lost.items() if not self._is_over(lost)}

    @staticmethod
    def _is_over(lost: _Lost) -> bool:
        return trio.current_time() - lost.at >= _DOUBT_S
