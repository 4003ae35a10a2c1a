"""Finding out what a server can do: from what an earlier mount remembered, behind the mount, or before it answers."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio

from b2fs.core.types import Capabilities
from b2fs.errors import StoreError
from b2fs.store.protocol import ObjectStore
from b2fs.store.s3.answers import Response
from b2fs.store.s3.caller import Caller
from b2fs.store.s3.config import S3Config
from b2fs.store.s3.entry import check_bucket
from b2fs.store.s3.memory import CapabilityFile
from b2fs.store.s3.probe import EVERYTHING, Early, Trial, is_versioned, known_capabilities
from b2fs.store.s3.proof import SETTLING_S, Proof

log = logging.getLogger(__name__)

Task = Callable[[], Awaitable[None]]


async def find_out(
    calls: Caller, limitless: ObjectStore, config: S3Config, listed: Response | None, early: Early
) -> tuple[Proof, Sequence[Task]]:
    """Check the bucket and learn what its server can do; the tasks are what may be done while the store is used.

    limitless is the same bucket with no call forbidden (`EVERYTHING`), for trying the server out.  listed is the answer
    of a check that was made before, early that of `is_versioned`.  Raises a StoreError with a sentence for the user.
    """
    if config.is_backblaze or config.is_amazon or config.read_only:
        if listed is None:
            await check_bucket(calls, config)
        return Proof(await known_capabilities(calls, config, early), None), ()
    server, versioning = await _asked(calls, config, listed, early)
    memory = CapabilityFile(config.memory_file) if config.memory_file else None
    believed = memory.load(server) if memory else None
    if believed is not None and believed.versioning == versioning:
        again = _Finding(Trial(limitless, calls, config, versioning), server, memory)
        proof = Proof(believed, again.run_to_end)
        return proof, (proof.confirm_soon,)
    finding = _Finding(Trial(limitless, calls, config, versioning), server, memory)
    if config.prove_behind:
        proof = Proof(EVERYTHING._replace(versioning=versioning), finding.find, known=False)
        return proof, (partial(finding.find_soon, proof),)
    return Proof(await finding.run(), None), (finding.remove_soon,)


async def _asked(calls: Caller, config: S3Config, listed: Response | None, early: Early) -> tuple[str, bool]:
    """What the server calls itself and whether the bucket keeps versions, asked at the same time."""
    if listed is not None:
        return listed.headers.get("server", ""), await is_versioned(calls, config, early)
    answers: dict[str, bool] = {}
    fault: StoreError | None = None

    async def ask() -> None:
        nonlocal fault
        try:
            answers["versioned"] = await is_versioned(calls, config, early)
        except StoreError as error:
            fault = error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        checked = await _outcome(check_bucket(calls, config))
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

    def __init__(self, trial: Trial, server: str, memory: CapabilityFile | None) -> None:
        self._trial = trial
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
        """The background's part: find out unless somebody did, and remove what was made for it.

        That begins at once: the first listing waits for it, and while the program is loaded the line has nothing to do.
        """
        try:
            try:
                await proof.wait_known()
            except StoreError as error:
                log.info("what the server can do is not known: %s", error)
            await trio.sleep(SETTLING_S)
        finally:
            self._soon_is_over = True
            await self.remove()

    async def remove_soon(self) -> None:
        try:
            await trio.sleep(SETTLING_S)
        finally:
            await self.remove()

    async def run_to_end(self) -> Capabilities:
        found = await self.run()
        await self.remove()
        return found
