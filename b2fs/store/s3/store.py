"""S3Store: the ObjectStore protocol spoken to an S3-compatible server.

Each method builds a Call, sends it through the Caller and turns the answer into values.  What a server cannot do is in
`capabilities`, found out on entering; a method whose capability is missing raises Unsupported before sending.  The
methods are in `listings`, `reads`, `writes`, `multipart` and `removals`; here is what opens and closes them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from types import TracebackType

import trio

from b2fs.core.types import Capabilities, ListPage
from b2fs.errors import CorruptBody
from b2fs.store.s3 import xmlio
from b2fs.store.s3.answers import Response
from b2fs.store.s3.base import parse
from b2fs.store.s3.caller import Caller
from b2fs.store.s3.config import S3Config
from b2fs.store.s3.credentials import Signer
from b2fs.store.s3.entry import check_bucket, greeted, is_listing, knock
from b2fs.store.s3.finding import Task, find_out
from b2fs.store.s3.gate import Gate
from b2fs.store.s3.greeting import Greeting
from b2fs.store.s3.listings import Listings
from b2fs.store.s3.multipart import Multipart
from b2fs.store.s3.probe import EVERYTHING
from b2fs.store.s3.removals import Removals
from b2fs.store.s3.transport import Transport

#: How long after its opening a store believes what was listed before, in seconds.
_LISTED_S = 5.0


class S3Store(Listings, Multipart, Removals):
    """A bucket of an S3-compatible server.  See ObjectStore for what the methods promise."""

    def __init__(
        self, config: S3Config, capabilities: Capabilities | None = None, greeting: Greeting | None = None
    ) -> None:
        """capabilities, if given, are known for certain: the server is not tried out then.

        greeting has the first questions, asked with the same config; the store takes its connections over.
        """
        super().__init__(config.checked(), capabilities or Capabilities())
        self._greeting = greeting
        self.gate = Gate(config.max_connections, config.max_buffered_bytes)
        self._known = capabilities
        self._transport: Transport | None = None
        self._closing = contextlib.AsyncExitStack()
        #: What the greeting has listed, until somebody asks for it, and the trio time after which it is too old.
        self._listed: Response | None = None
        self._listed_until = 0.0

    async def __aenter__(self) -> S3Store:
        try:
            behind = await self._open()
        except BaseException:
            self._close()
            raise
        self._closing.callback(self._close)
        background = await self._closing.enter_async_context(trio.open_nursery())
        self._closing.callback(background.cancel_scope.cancel)
        for task in behind:
            background.start_soon(task)
        return self

    async def _open(self) -> Sequence[Task]:
        """Connect, check that the bucket can be used, and find out what the server can do; what is left to do."""
        signer = Signer(self._config)
        await signer.prepare()
        self._transport = Transport(self._config, signer, self._greeting.connections if self._greeting else None)
        self._calls = Caller(self._transport, self.gate, signer, self._config.retry)
        listed = await greeted(self._greeting.listed) if self._greeting else None
        if listed is None or not is_listing(listed):
            listed = None
            await knock(self._config)
        self._listed, self._listed_until = listed, trio.current_time() + _LISTED_S
        if self._known is None:
            early = self._greeting.versioned if self._greeting else None
            self._proof, behind = await find_out(self.calls, self.without_limits(), self._config, listed, early)
            return behind
        if listed is None:
            await check_bucket(self.calls, self._config)
        return ()

    async def list_objects(
        self,
        prefix: str,
        *,
        delimiter: str | None = None,
        start_after: str | None = None,
        token: str | None = None,
        max_keys: int = 1000,
    ) -> ListPage:
        """As the greeting was answered, if this is what it had asked a moment ago."""
        if self._listed is not None and self._greeting is not None and prefix == self._greeting.place:
            listed, self._listed = self._listed, None
            fresh = trio.current_time() < self._listed_until
            if fresh and delimiter == "/" and max_keys == 1000 and start_after is None and token is None:
                with contextlib.suppress(CorruptBody):
                    return await parse(xmlio.parse_objects, listed.body)
        return await super().list_objects(
            prefix, delimiter=delimiter, start_after=start_after, token=token, max_keys=max_keys
        )

    async def wait_known(self) -> None:
        await self._proof.wait_known()

    def without_limits(self) -> S3Store:
        """The same bucket on the same connections, with no call forbidden: for trying the server out."""
        twin = S3Store(self._config, EVERYTHING)
        twin._calls = self._calls
        return twin

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._closing.aclose()

    def _close(self) -> None:
        transport, self._transport, self._calls = self._transport, None, None
        if transport is not None:
            transport.close()
