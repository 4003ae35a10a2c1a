"""SparseBytes: a content of any length of which only the written chunks take memory."""

from __future__ import annotations

CHUNK_BYTES = 1 << 17


class SparseBytes:
    """Bytes from 0 on without an end of its own: what was never written, or was truncated away, reads as zeros."""

    def __init__(self) -> None:
        self._chunks: dict[int, bytearray] = {}

    def read(self, offset: int, length: int) -> bytes:
        """Bytes [offset, offset + length)."""
        pieces = []
        end = offset + length
        while offset < end:
            index, start = divmod(offset, CHUNK_BYTES)
            stop = min(CHUNK_BYTES, start + end - offset)
            chunk = self._chunks.get(index)
            pieces.append(bytes(stop - start) if chunk is None else bytes(chunk[start:stop]))
            offset += stop - start
        return b"".join(pieces)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Put data at [offset, offset + len(data))."""
        view = memoryview(data)
        while view:
            index, start = divmod(offset, CHUNK_BYTES)
            stop = min(CHUNK_BYTES, start + len(view))
            chunk = self._chunks.setdefault(index, bytearray(CHUNK_BYTES))
            chunk[start:stop] = view[: stop - start]
            view = view[stop - start :]
            offset += stop - start

    def truncate(self, size: int) -> None:
        """Forget the bytes [size, infinity): they read as zeros again."""
        last, start = divmod(size, CHUNK_BYTES)
        for index in [index for index in self._chunks if index > last]:
            del self._chunks[index]
        if last in self._chunks:
            self._chunks[last][start:] = bytes(CHUNK_BYTES - start)
