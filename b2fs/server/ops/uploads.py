"""Bodies of requests on their way into the store: decoded, counted, checked, encrypted.

Small bodies stay in memory and are committed without a thread; large ones go through a ContentWriter in a worker
thread, one bounded piece at a time, so that a 5 GB PUT needs the memory of a few pieces.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, TypeVar

import trio
from cryptography.hazmat.primitives.ciphers import CipherContext

from b2fs.errors import B2fsError
from b2fs.server.auth.checksums import Checksum
from b2fs.server.auth.chunked import ChunkedDecoder
from b2fs.server.auth.sigv4 import UNSIGNED, Verified
from b2fs.server.wire.errors import S3Error
from b2fs.server.wire.request import Body, PiecewiseBody, Request
from b2fs.store.embedded.content import ContentWriter
from b2fs.store.embedded.engine import Engine

T = TypeVar("T")
#: A buffer and how much of it is filled.
_Piece = tuple[bytearray, int]

MAX_PUT_BYTES: Final = 5_000_000_000
MAX_PART_BYTES: Final = 5 << 30
#: Bodies up to this size are handled in memory on the event loop; hashing it takes well under a millisecond.
IN_MEMORY_BYTES: Final = 256 << 10
PIECE_BYTES: Final = 1 << 20
BUFFERS: Final = 2


@dataclass(frozen=True, slots=True)
class Received:
    """A whole body that passed its checks: plain size and MD5, and the bytes or the writer that holds them."""

    size: int
    md5: str
    body: bytes | ContentWriter
    checksums: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class _Expected:
    """What the request's head says about the body."""

    size: int | None
    md5: bytes | None
    sha256: str | None
    limit: int


async def wait_future(future: Future[T]) -> T:
    """The result of a concurrent future.  Cancellation waits for the commit that is under way: it is short."""
    if not future.done():
        done = trio.Event()
        token = trio.lowlevel.current_trio_token()
        future.add_done_callback(lambda _: token.run_sync_soon(done.set))
        with trio.CancelScope(shield=True):
            await done.wait()
    return future.result()


def _declared_size(request: Request, chunked: bool, limit: int) -> int | None:
    """The size of the content; None where only its end tells.  Raises MissingContentLength, EntityTooLarge."""
    headers = request.headers
    size = request.content_length
    if chunked:
        text = headers.get("x-amz-decoded-content-length")
        if text is None:
            raise S3Error("MissingContentLength", "You must provide the x-amz-decoded-content-length HTTP header.")
        if not (text.isascii() and text.isdigit()) or len(text) > 18:
            raise S3Error("InvalidArgument", "The x-amz-decoded-content-length header is not a number")
        size = int(text)
    elif size is None and "transfer-encoding" not in headers:
        raise S3Error("MissingContentLength")
    if size is not None and size > limit:
        raise S3Error("EntityTooLarge")
    return size


class _Source(PiecewiseBody):
    """The content's bytes as they come: undone aws-chunked, and checked at the end."""

    def __init__(self, body: Body, decoder: ChunkedDecoder | None) -> None:
        super().__init__()
        self._body = body
        self._decoder = decoder

    async def receive(self) -> bytes:
        """The next bytes of content; b"" at the end."""
        while True:
            data = await self._body.receive()
            if self._decoder is None:
                return data
            if not data:
                self._decoder.finish()
                return b""
            decoded = self._decoder.feed(data)
            if decoded:
                return decoded

    async def receive_into(self, buffer: memoryview) -> int:
        if self._decoder is None:
            return await self._body.receive_into(buffer)
        return await super().receive_into(buffer)


class _Digests:
    """Everything that is computed over the plain content."""

    def __init__(self, expected: _Expected, checksums: list[Checksum], *, own_md5: bool) -> None:
        self.size = 0
        self.expected = expected
        self._checksums = checksums
        self._md5 = hashlib.md5(usedforsecurity=False) if own_md5 else None
        self._sha256 = hashlib.sha256() if expected.sha256 is not None else None

    @property
    def heavy(self) -> bool:
        """Whether this takes about as long as storing the content, whose MD5 the store computes itself."""
        return self._md5 is not None or self._sha256 is not None

    def update(self, data: bytes | memoryview) -> None:
        self.size += len(data)
        if self.size > (self.expected.limit if self.expected.size is None else self.expected.size):
            raise S3Error("EntityTooLarge" if self.expected.size is None else "InvalidRequest", None)
        if self._md5 is not None:
            self._md5.update(data)
        if self._sha256 is not None:
            self._sha256.update(data)
        for checksum in self._checksums:
            checksum.update(data)

    def check(self, counted_md5: str | None) -> str:
        """The content's MD5.  Raises IncompleteBody, BadDigest, XAmzContentSHA256Mismatch."""
        expected = self.expected
        if expected.size is not None and self.size != expected.size:
            raise S3Error("IncompleteBody")
        md5 = counted_md5 if self._md5 is None else self._md5.hexdigest()
        assert md5 is not None
        if self._sha256 is not None and not hmac.compare_digest(self._sha256.hexdigest(), expected.sha256 or ""):
            raise S3Error("XAmzContentSHA256Mismatch")
        if expected.md5 is not None and expected.md5.hex() != md5:
            raise S3Error("BadDigest")
        for checksum in self._checksums:
            checksum.check()
        return md5


async def receive_body(
    request: Request,
    verified: Verified | None,
    engine: Engine,
    *,
    limit: int,
    md5: bytes | None = None,
    cipher: CipherContext | None = None,
    checksums: Sequence[Checksum] = (),
) -> Received:
    """Take the request's body into memory or into a writer, which the caller must use or discard.

    checksums are checked beside those that the request's own headers declare.

    Raises S3Error where a length, digest, checksum or chunk signature does not hold; nothing is left behind then.
    """
    payload = verified.payload if verified is not None else UNSIGNED
    streaming = payload.startswith("STREAMING-")
    size = _declared_size(request, streaming, limit)
    declared = [*checksums, *Checksum.from_headers(request.headers)]
    decoder = ChunkedDecoder.for_request(request, verified, declared) if streaming else None
    sha256 = None if streaming or payload == UNSIGNED else payload
    expected = _Expected(size, md5, sha256, limit)
    source = _Source(request.body, decoder)
    if size is not None and size <= IN_MEMORY_BYTES:
        digests = _Digests(expected, declared, own_md5=True)
        return await _into_memory(source, digests, cipher, declared)
    digests = _Digests(expected, declared, own_md5=cipher is not None)
    return await _into_writer(source, digests, engine.writer(), cipher, declared)


def _shown(checksums: list[Checksum]) -> tuple[tuple[str, str], ...]:
    return tuple((checksum.name, checksum.text) for checksum in checksums)


async def _into_memory(
    source: _Source, digests: _Digests, cipher: CipherContext | None, checksums: list[Checksum]
) -> Received:
    pieces = []
    while data := await source.receive():
        digests.update(data)
        pieces.append(data)
    body = b"".join(pieces) if len(pieces) != 1 else bytes(pieces[0])
    md5 = digests.check(None)
    return Received(len(body), md5, cipher.update(body) if cipher is not None else body, _shown(checksums))


async def _into_writer(
    source: _Source, digests: _Digests, writer: ContentWriter, cipher: CipherContext | None, checksums: list[Checksum]
) -> Received:
    def store(piece: memoryview) -> None:
        writer.write(cipher.update(piece) if cipher is not None else piece)

    def digest_and_store(piece: memoryview) -> None:
        digests.update(piece)
        store(piece)

    try:
        # Hashes let go of the GIL: two at a time take the time of the longer one.
        await _pump(source, (digests.update, store) if digests.heavy else (digest_and_store,))
        md5 = digests.check(None if cipher is not None else writer.md5_hex)
    except BaseException:
        writer.discard()
        raise
    return Received(digests.size, md5, writer, _shown(checksums))


async def _pump(source: _Source, consumers: Sequence[Callable[[memoryview], None]]) -> None:
    """Gather pieces, and give each to all consumers at once, a thread for each; meanwhile the next one is received.

    Two buffers go round between the two sides: nothing is allocated or copied on the way of a plain body.
    """
    empty_in, empty_out = trio.open_memory_channel[bytearray](BUFFERS)
    full_in, full_out = trio.open_memory_channel[_Piece](0)
    failures: list[B2fsError] = []
    for _ in range(BUFFERS):
        empty_in.send_nowait(bytearray(PIECE_BYTES))  # costs memory only as far as it gets filled

    async def give(consume: Callable[[memoryview], None], piece: memoryview) -> None:
        try:
            await trio.to_thread.run_sync(consume, piece)
        except B2fsError as error:
            failures.append(error)

    async def distribute() -> None:
        async with full_out, empty_in:
            async for buffer, filled in full_out:
                async with trio.open_nursery() as givers:
                    for consume in consumers[1:]:
                        givers.start_soon(give, consume, memoryview(buffer)[:filled])
                    await give(consumers[0], memoryview(buffer)[:filled])
                if failures:
                    return  # closing the channels stops the producer
                empty_in.send_nowait(buffer)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(distribute)
        try:
            await _produce(source, empty_out, full_in)
        except B2fsError as error:
            failures.append(error)  # raised below: out of the nursery it would come in a group
        except (trio.BrokenResourceError, trio.EndOfChannel):
            if not failures:
                raise
    if failures:
        raise failures[0]


async def _produce(
    source: _Source, empty: trio.MemoryReceiveChannel[bytearray], full: trio.MemorySendChannel[_Piece]
) -> None:
    async with full:
        while True:
            buffer = await empty.receive()
            room, filled = memoryview(buffer), 0
            while filled < len(room) and (count := await source.receive_into(room[filled:])):
                filled += count
            if filled:
                await full.send((buffer, filled))
            if filled < len(room):
                return
