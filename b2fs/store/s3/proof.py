"""Proof: what is believed of a server is seen to hold before anything relies on it to change the bucket.

A belief of an earlier run (`memory`) lets a mount answer at once.  The server is tried out again behind its back, and
calls whose effect depends on the belief wait for that (`confirm`).  If the belief was wrong, it is corrected, and
those who waited fail with an error that passes: they planned on what is not so, and have to plan anew.

Of a server that was never met nothing is believed.  A mount answers all the same, and whoever needs to know waits until
the server has been tried out (`wait_known`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from b2fs.core.types import Capabilities
from b2fs.errors import StoreError, Unavailable

log = logging.getLogger(__name__)

#: A mount that comes up, and the first programs on it, go before what can wait.
SETTLING_S = 2.0


class Proof:
    """Holds the capabilities of a store while they are a belief, and after."""

    def __init__(
        self, believed: Capabilities, find: Callable[[], Awaitable[Capabilities]] | None, *, known: bool = True
    ) -> None:
        """find tries the server out; None if there is nothing to be proved.  known: believed is worth going by."""
        self.capabilities = believed
        self._known = known
        self._find = find
        self._finding = trio.Lock()

    async def confirm(self) -> None:
        """Return when `capabilities` are known to hold; at once, without a checkpoint, if they are already.

        Raises Unavailable if they turn out to be others than they were at the call, or cannot be found out now.
        """
        if self._find is None:
            return
        relied_on = self.capabilities
        async with self._finding:
            if self._find is not None:
                await self._prove(self._find)
        if self.capabilities != relied_on:
            raise Unavailable("the server can do other things than it could before; this has to be planned anew")

    async def wait_known(self) -> None:
        """Return when `capabilities` are worth going by; at once, without a checkpoint, if they are already.

        Raises Unavailable if they cannot be found out now.
        """
        if self._known:
            return
        async with self._finding:
            if self._find is not None:
                await self._prove(self._find)

    async def _prove(self, find: Callable[[], Awaitable[Capabilities]]) -> None:
        found = await find()
        if self._known and found != self.capabilities:
            log.warning("the server can do other things than at the last mount: %s, then %s", found, self.capabilities)
        self.capabilities = found
        self._known = True
        self._find = None

    async def confirm_soon(self) -> None:
        """The background's part: try once, a little later; whoever needs the answer sooner tries himself."""
        await trio.sleep(SETTLING_S)
        try:
            await self.confirm()
        except StoreError as error:
            log.info("what the server can do is not proved: %s", error)
