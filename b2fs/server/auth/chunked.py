"""aws-chunked bodies, undone and verified: signed chunks, signed and unsigned trailers.  No I/O.

Form: `<hex size>[;chunk-signature=<hex>]\\r\\n<data>\\r\\n` ..., a chunk of size 0, trailer lines, an empty line.
Content is handed out before its chunk's signature is known; nothing is committed unless `finish` has passed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from enum import Enum, auto
from typing import Final

from b2fs.server.auth.checksums import Checksum
from b2fs.server.auth.sigv4 import EMPTY_SHA256, Verified
from b2fs.server.wire.errors import S3Error
from b2fs.server.wire.request import Request

_MAX_LINE: Final = 4096
_MAX_TRAILERS: Final = 32


class _State(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()
    DONE = auto()


class ChunkSigner:
    """The chain of chunk signatures, each made from the one before."""

    def __init__(self, verified: Verified) -> None:
        self._key = verified.signing_key
        self._previous = verified.signature.signature
        self._head = f"{verified.signature.stamp}\n{verified.signature.scope.text}"

    def check_chunk(self, digest: str, claimed: str) -> None:
        """Raises SignatureDoesNotMatch."""
        self._check(f"AWS4-HMAC-SHA256-PAYLOAD\n{self._head}\n{self._previous}\n{EMPTY_SHA256}\n{digest}", claimed)

    def check_trailer(self, digest: str, claimed: str) -> None:
        """Raises SignatureDoesNotMatch."""
        self._check(f"AWS4-HMAC-SHA256-TRAILER\n{self._head}\n{self._previous}\n{digest}", claimed)

    def _check(self, text: str, claimed: str) -> None:
        expected = hmac.digest(self._key, text.encode(), "sha256").hex()
        if not hmac.compare_digest(expected.encode(), claimed.encode("utf-8")):
            raise S3Error("SignatureDoesNotMatch")
        self._previous = expected


class ChunkedDecoder:
    """Feed it the body as it comes; it gives the content back."""

    def __init__(self, signer: ChunkSigner | None, *, trailers: bool, checksums: Sequence[Checksum] = ()) -> None:
        self._signer = signer
        self._trailers = trailers
        self._checksums = {f"x-amz-checksum-{checksum.name}": checksum for checksum in checksums}
        self._state = _State.SIZE
        self._line = bytearray()
        self._left = 0
        self._claimed = ""
        self._hash = hashlib.sha256()
        self._trailer_text = ""
        self._trailer_count = 0
        self._trailer_signed = False

    @staticmethod
    def for_request(request: Request, verified: Verified | None, checksums: Sequence[Checksum]) -> ChunkedDecoder:
        """The decoder that a request's payload form asks for."""
        payload = verified.payload if verified is not None else "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
        signed = payload.startswith("STREAMING-AWS4") and verified is not None
        trailers = payload.endswith("-TRAILER")
        return ChunkedDecoder(
            ChunkSigner(verified) if signed and verified is not None else None,
            trailers=trailers,
            checksums=[c for c in checksums if f"x-amz-checksum-{c.name}" not in request.headers],
        )

    def feed(self, data: bytes) -> bytes:
        """The content in the next bytes of the body.  Raises IncompleteBody, SignatureDoesNotMatch, InvalidRequest."""
        out: list[bytes] = []
        position = 0
        while position < len(data):
            if self._state is _State.DATA:
                position = self._take_data(data, position, out)
                continue
            if self._state is _State.DONE:
                raise S3Error("InvalidRequest", "Bytes behind the end of the aws-chunked body")
            end = data.find(b"\n", position)
            self._line += data[position : end + 1 if end >= 0 else len(data)]
            if len(self._line) > _MAX_LINE:
                raise S3Error("InvalidRequest", "A line of the aws-chunked body is too long")
            if end < 0:
                break
            position = end + 1
            line = bytes(self._line).rstrip(b"\r\n")
            self._line.clear()
            self._take_line(line)
        return out[0] if len(out) == 1 else b"".join(out)

    def finish(self) -> None:
        """The body has ended.  Raises IncompleteBody where it was not complete."""
        # Some clients leave out the last empty line; without trailers nothing is lost by that.
        if self._state is not _State.DONE and not (self._state is _State.TRAILER and not self._line):
            raise S3Error("IncompleteBody")
        if self._signer is not None and self._trailers and not self._trailer_signed:
            raise S3Error("SignatureDoesNotMatch")

    def _take_data(self, data: bytes, position: int, out: list[bytes]) -> int:
        piece = data[position : position + self._left]
        if self._signer is not None:
            self._hash.update(piece)
        out.append(piece)
        self._left -= len(piece)
        if not self._left:
            self._end_chunk()
            self._state = _State.DATA_END
        return position + len(piece)

    def _end_chunk(self) -> None:
        if self._signer is not None:
            self._signer.check_chunk(self._hash.hexdigest(), self._claimed)
            self._hash = hashlib.sha256()

    def _take_line(self, line: bytes) -> None:
        if self._state is _State.SIZE:
            self._take_size(line)
        elif self._state is _State.DATA_END:
            if line:
                raise S3Error("IncompleteBody", "A chunk is longer than its declared size")
            self._state = _State.SIZE
        else:
            self._take_trailer(line)

    def _take_size(self, line: bytes) -> None:
        size_text, _, extension = line.partition(b";")
        try:
            if not 1 <= len(size_text.strip()) <= 15 or b"_" in size_text or size_text[:1] in b"+-":
                raise ValueError
            self._left = int(size_text, 16)
        except ValueError as error:
            raise S3Error("InvalidRequest", "The size of a chunk is not a hexadecimal number") from error
        name, _, value = extension.strip().partition(b"=")
        self._claimed = value.decode("latin-1") if name == b"chunk-signature" else ""
        if self._left:
            self._state = _State.DATA
        else:
            self._end_chunk()
            self._state = _State.TRAILER

    def _take_trailer(self, line: bytes) -> None:
        if not line:
            self._state = _State.DONE
            return
        self._trailer_count += 1
        if not self._trailers or self._trailer_count > _MAX_TRAILERS:
            raise S3Error("InvalidRequest", "Unexpected trailer")
        raw_name, _, raw_value = line.decode("latin-1").partition(":")
        name, value = raw_name.strip().lower(), raw_value.strip()
        if name == "x-amz-trailer-signature":
            if self._signer is not None:
                digest = hashlib.sha256(self._trailer_text.encode()).hexdigest()
                self._signer.check_trailer(digest, value)
                self._trailer_signed = True
            return
        self._trailer_text += f"{name}:{value}\n"
        if name in self._checksums:
            self._checksums[name].declare(value)
        elif name.startswith("x-amz-checksum-"):
            # Not announced, so nothing was computed: it must not seem to have been checked.
            raise S3Error("MalformedTrailerError")
