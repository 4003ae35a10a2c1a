"""Bodies of answers: a version's bytes in pieces, decrypted on the way where needed."""

from __future__ import annotations

from typing import Final

from b2fs.server.ops.encryption import CustomerKey, Decryptor, spans
from b2fs.store.embedded.content import ContentReader
from b2fs.store.embedded.rows import VersionRow

PIECE_BYTES: Final = 1 << 20


class VersionStream:
    """The bytes [start, end) of a version.  Owns the reader; used by one thread at a time."""

    def __init__(
        self, row: VersionRow, reader: ContentReader, start: int, end: int, customer: CustomerKey | None = None
    ) -> None:
        self._reader = reader
        self._position = start
        self._end = end
        self.size = end - start
        self._decryptor = Decryptor(customer.key, spans(row, row.attributes.extra), start) if customer else None

    def read(self) -> bytes:
        """The next piece; b"" at the end."""
        length = min(PIECE_BYTES, self._end - self._position)
        if length <= 0:
            return b""
        data = self._reader.read_at(self._position, length)
        self._position += len(data)
        return self._decryptor.update(data) if self._decryptor is not None else data

    def close(self) -> None:
        self._reader.close()
