"""Chunked bodies of HTTP/1.1, undone.  No I/O.  What lies behind the body is kept for the next request."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

_MAX_LINE: Final = 4096
_MAX_TRAILER: Final = 16 << 10
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")


class BadChunk(Exception):
    """The bytes are no chunked body."""


class _State(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()
    DONE = auto()


class ChunkDecoder:
    """Feed it the bytes behind the head until `complete`; then `rest` belongs to the next request."""

    def __init__(self) -> None:
        self._state = _State.SIZE
        self._left = 0
        self._trailer_bytes = 0
        self.rest = b""

    @property
    def complete(self) -> bool:
        return self._state is _State.DONE

    def feed(self, data: bytes) -> bytes:
        """The content in the next bytes.  Raises BadChunk."""
        data = self.rest + data if self.rest else data
        out: list[bytes] = []
        position = 0
        while position < len(data) and self._state is not _State.DONE:
            if self._state is _State.DATA:
                piece = data[position : position + self._left]
                out.append(piece)
                position += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _State.DATA_END
                continue
            end = data.find(b"\r\n", position)
            if end < 0:
                break
            self._line(data[position:end])
            position = end + 2
        self.rest = data[position:]
        if self._state not in (_State.DONE, _State.DATA) and len(self.rest) > _MAX_LINE:
            raise BadChunk
        return out[0] if len(out) == 1 else b"".join(out)

    def _line(self, line: bytes) -> None:
        if self._state is _State.SIZE:
            size = line.partition(b";")[0].strip(b" \t")
            if not 1 <= len(size) <= 15 or not _HEX.issuperset(size):
                raise BadChunk
            self._left = int(size, 16)
            self._state = _State.DATA if self._left else _State.TRAILER
        elif self._state is _State.DATA_END:
            if line:
                raise BadChunk
            self._state = _State.SIZE
        elif line:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > _MAX_TRAILER:
                raise BadChunk
        else:
            self._state = _State.DONE
