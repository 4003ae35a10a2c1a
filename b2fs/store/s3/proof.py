"""Proof: what is believed of a server is seen to hold before anything relies on it to change the bucket.

A belief of an earlier run (`memory`) lets a mount answer at once.  The server is tried out again behind its back, and
calls whose effect depends on the belief wait for that (`confirm`).  If the belief was wrong, it is corrected, and
those who waited fail with an error that passes: they planned on what is not so, and have to plan anew.

Of a server that was never met nothing is believed.  A mount answers all the same, and whoever needs to know waits until
the server has been tried out (`wait_known`).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import trio

from b2fs.core.types import Capabilities
from b2fs.errors import StoreError, Unavailable
from b2fs.store.s3.config import S3Config
from b2fs.store.s3.entry import check_bucket
from b2fs.store.s3.faults import Response
from b2fs.store.s3.memory import CapabilityFile
from b2fs.store.s3.probe import EVERYTHING, Trial, is_versioned, known_capabilities

if TYPE_CHECKING:
    from b2fs.store.s3.store import S3Store

log = logging.getLogger(__name__)

#: A mount that comes up, and the first programs on it, go before what can wait.
_SETTLING_S = 2.0
#: The same for what the first programs may wait for: about what a mount takes from here until it answers.
_COMING_UP_S = 0.1

Task = Callable[[], Awaitable[None]]


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
        await trio.sleep(_SETTLING_S)
        try:
            await self.confirm()
        except StoreError as error:
            log.info("what the server can do is not proved: %s", error)


async def find_out(store: S3Store, config: S3Config, listed: Response | None) -> tuple[Proof, Sequence[Task]]:
    """Check the bucket and learn what its server can do; the tasks are what may be done while the store is used.

    listed is the answer of a check that was made before.  Raises a StoreError with a sentence for the user.
    """
    if config.is_backblaze or config.is_amazon or config.read_only:
        if listed is None:
            await check_bucket(store, config)
        return Proof(await known_capabilities(store, config), None), ()
    server, versioning = await _asked(store, config, listed)
    memory = CapabilityFile(config.memory_file) if config.memory_file else None
    believed = memory.load(server) if memory else None
    if believed is not None and believed.versioning == versioning:
        again = _Finding(store, config, versioning, server, memory)
        proof = Proof(believed, again.run_to_end)
        return proof, (proof.confirm_soon,)
    finding = _Finding(store, config, versioning, server, memory)
    if config.prove_behind:
        proof = Proof(dataclasses.replace(EVERYTHING, versioning=versioning), finding.find, known=False)
        return proof, (partial(finding.find_soon, proof),)
    return Proof(await finding.run(), None), (finding.remove_soon,)


async def _asked(store: S3Store, config: S3Config, listed: Response | None) -> tuple[str, bool]:
    """What the server calls itself and whether the bucket keeps versions, asked at the same time."""
    if listed is not None:
        return listed.headers.get("server", ""), await is_versioned(store, config)
    answers: dict[str, bool] = {}
    fault: StoreError | None = None

    async def ask() -> None:
        nonlocal fault
        try:
            answers["versioned"] = await is_versioned(store, config)
        except StoreError as error:
            fault = error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        checked = await _outcome(check_bucket(store, config))
        if isinstance(checked, StoreError):
            nursery.cancel_scope.cancel()
    if isinstance(checked, StoreError):
        raise checked
    if fault is not None:
        raise fault
    return checked.headers.get("server", ""), answers["versioned"]


async def _outcome(asking: Awaitable[Response]) -> Response | StoreError:
    """The error as a value: a nursery would wrap it."""
    try:
        return await asking
    except StoreError as error:
        return error


class _Finding:
    """One trial of a server, kept in memory when it is done."""

    def __init__(
        self, store: S3Store, config: S3Config, versioning: bool, server: str, memory: CapabilityFile | None
    ) -> None:
        self._trial = Trial(store.without_limits(), config, versioning)
        self._server = server
        self._memory = memory
        self._soon_is_over = False
        self.remove = self._trial.remove

    async def run(self) -> Capabilities:
        """What the server can do; if it succeeds, `remove` has to follow."""
        try:
            found = await self._trial.run()
        except BaseException:
            await self.remove()
            raise
        if self._memory is not None:
            self._memory.save(self._server, found)
        return found

    async def find(self) -> Capabilities:
        """Like `run`; what was made is removed by `find_soon`, or here when that is over."""
        found = await self.run()
        if self._soon_is_over:
            await self.remove()
        return found

    async def find_soon(self, proof: Proof) -> None:
        """The background's part: find out unless somebody did, and remove what was made for it."""
        try:
            await trio.sleep(_COMING_UP_S)
            try:
                await proof.wait_known()
            except StoreError as error:
                log.info("what the server can do is not known: %s", error)
            await trio.sleep(_SETTLING_S)
        finally:
            self._soon_is_over = True
            await self.remove()

    async def remove_soon(self) -> None:
        try:
            await trio.sleep(_SETTLING_S)
        finally:
            await self.remove()

    async def run_to_end(self) -> Capabilities:
        found = await self.run()
        await self.remove()
        return found
