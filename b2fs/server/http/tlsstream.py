"""TLS over a socket, for one task at a time: what trio's SSLStream does, but for many records in one step.

SSLStream hands out one record of 16 KiB a call, which costs more than decrypting it.  Here all that has come is
decrypted at once, straight into the buffer where the body is wanted.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from typing import Final, TypeVar, cast

import trio

T = TypeVar("T")

#: Read from the socket at once: sixteen full records.
_READ_BYTES: Final = 256 << 10
#: The peer will send nothing more.  Without its closing alert, too: HTTP tells by itself where a message ends.
_ENDS: Final = (ssl.SSLZeroReturnError, ssl.SSLEOFError)


class _Ended(trio.BrokenResourceError):
    """The peer has ended the connection: for a reader that is the end, for others it is broken."""


class TlsStream:
    """The server's side of a TLS connection.  All errors of the peer are BrokenResourceError."""

    def __init__(self, transport: trio.SocketStream, context: ssl.SSLContext) -> None:
        self._transport = transport
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    async def do_handshake(self) -> None:
        """Agree on keys.  Raises BrokenResourceError."""
        await self._step(self._tls.do_handshake)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What has come, up to max_bytes; b"" at the end."""
        room = _READ_BYTES if max_bytes is None else max_bytes
        try:
            pieces = [await self._step(lambda: self._tls.read(room))]
        except _Ended:
            return b""
        while (room := room - len(pieces[-1])) > 0 and self._has_more:
            try:
                piece = self._tls.read(room)
            except (ssl.SSLWantReadError, *_ENDS):
                break  # an end is told again
            if not piece:
                break
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def receive_into(self, buffer: memoryview) -> int:
        """Put what has come at the buffer's start: how many bytes, 0 at the end."""
        try:
            count = await self._step(lambda: self._read_into(buffer))
        except _Ended:
            return 0
        while count < len(buffer) and self._has_more:
            try:
                more = self._read_into(buffer[count:])
            except (ssl.SSLWantReadError, *_ENDS):
                break
            if not more:
                break
            count += more
        return count

    @property
    def _has_more(self) -> bool:
        """Whether something came that nobody has read yet; it may be part of a record."""
        return self._incoming.pending > 0 or self._tls.pending() > 0

    def _read_into(self, buffer: memoryview) -> int:
        # With a buffer, read answers a count; the stubs know neither that nor that any writable buffer will do.
        return cast(int, self._tls.read(len(buffer), cast(bytearray, buffer)))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send all of it."""
        if data:
            await self._step(lambda: self._tls.write(data))

    async def aclose(self) -> None:
        """Say that nothing more comes, without waiting for the peer to say so too, and close."""
        try:
            with contextlib.suppress(ssl.SSLError, trio.BrokenResourceError, trio.ClosedResourceError):
                with contextlib.suppress(ssl.SSLWantReadError):
                    self._tls.unwrap()
                await self._flush()
        finally:
            await self._transport.aclose()

    async def _step(self, action: Callable[[], T]) -> T:
        """Do it as soon as enough has come, and send what it has to say.  Raises BrokenResourceError."""
        while True:
            try:
                result = action()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except _ENDS as error:
                raise _Ended from error
            except ssl.SSLError as error:
                await self._flush()  # the alert that says why
                raise trio.BrokenResourceError from error
            else:
                await self._flush()
                return result

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._transport.send_all(self._outgoing.read())

    async def _fill(self) -> None:
        data = await self._transport.receive_some(_READ_BYTES)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
