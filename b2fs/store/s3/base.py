"""What all calls of the S3 store stand on: the bucket, the caller, what the server can do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from b2fs.core.types import Capabilities
from b2fs.errors import CorruptBody, StoreError, Unavailable, Unsupported
from b2fs.store.s3.answers import Response
from b2fs.store.s3.caller import Caller, History
from b2fs.store.s3.config import S3Config
from b2fs.store.s3.proof import Proof
from b2fs.store.s3.wire import Paths

T = TypeVar("T")

#: Answers above this are parsed in a worker thread (1,000 rows are about 300 KB and some milliseconds).
PARSE_INLINE_BYTES = 32 << 10


class S3Base:
    """A bucket and what is known of its server; the mixins add the calls."""

    def __init__(self, config: S3Config, capabilities: Capabilities) -> None:
        self._config = config
        self._paths = Paths(config.bucket, virtual=config.addressing == "virtual")
        self._proof = Proof(capabilities, None)
        self._calls: Caller | None = None
        self._lost: Callable[[str], None] | None = None

    @property
    def capabilities(self) -> Capabilities:
        return self._proof.capabilities

    @property
    def identity(self) -> str:
        return self._config.identity

    @property
    def calls(self) -> Caller:
        """The caller, for the probe and the status."""
        if self._calls is None:
            raise StoreError("the store is not open")
        return self._calls

    def watch_lost(self, lost: Callable[[str], None]) -> None:
        self._lost = lost

    def _changes(self, *keys: str) -> History:
        """For a call that changes what is under these keys."""

        def tell() -> None:
            if self._lost is not None:
                for key in keys:
                    self._lost(key)

        return History(tell)

    def _need(self, available: bool, what: str) -> None:
        if not available:
            raise Unsupported(f"{self._config.hostname} does not offer {what}")


def check_is_answer(operation: str, response: Response) -> None:
    """Raise Unavailable for a success that tells no ETag: a gateway's, that of a login page, but not the server's.

    The call may have been carried out or not.
    """
    if not response.headers.get("etag", "").strip('"'):
        raise Unavailable(f"{operation} was answered by something that is no S3 server")


def check_goes_on(following: object, now: object) -> None:
    """Raise CorruptBody for a page that names itself as the next one; both are None, or all None, without one."""
    if following == now and following not in (None, (None, None), [None, None]):
        raise CorruptBody("the listing goes in a circle")


async def parse(read: Callable[[bytes], T], body: bytes) -> T:
    """Parse an answer, away from the trio thread when it is large."""
    if len(body) <= PARSE_INLINE_BYTES:
        return read(body)
    return await trio.to_thread.run_sync(read, body)
