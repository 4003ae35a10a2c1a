"""The x-amz-checksum-* family: what a client declares about a body, computed and compared."""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from awscrt import checksums as crt

from b2fs.server.wire.errors import S3Error


class _Running(Protocol):
    def update(self, data: bytes | bytearray) -> None: ...

    def digest(self) -> bytes: ...


class _Crc:
    """A cyclic checksum behind hashlib's interface."""

    def __init__(self, function: Callable[[bytes, int], int], length: int) -> None:
        self._function = function
        self._length = length
        self._value = 0

    def update(self, data: bytes | bytearray) -> None:
        self._value = self._function(data if isinstance(data, bytes) else bytes(data), self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._length)


_MAKERS: Final[Mapping[str, tuple[int, Callable[[], _Running]]]] = {
    "crc32": (4, lambda: _Crc(zlib.crc32, 4)),
    "crc32c": (4, lambda: _Crc(crt.crc32c, 4)),
    "crc64nvme": (8, lambda: _Crc(crt.crc64nvme, 8)),
    "sha1": (20, lambda: hashlib.sha1(usedforsecurity=False)),
    "sha256": (32, hashlib.sha256),
}
_PREFIX: Final = "x-amz-checksum-"


class Checksum:
    """One declared checksum: fed with the content, then held against the declared value."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._length, make = _MAKERS[name]
        self._running = make()
        self._declared: bytes | None = None
        self._accepts_any = False

    @staticmethod
    def from_headers(headers: Mapping[str, str]) -> list[Checksum]:
        """The checksums that the head declares or announces as a trailer.  Raises InvalidRequest for a bad value."""
        found: list[Checksum] = []
        for name in _MAKERS:
            text = headers.get(_PREFIX + name)
            if text is not None:
                checksum = Checksum(name)
                checksum.declare(text)
                found.append(checksum)
        for trailer in headers.get("x-amz-trailer", "").lower().split(","):
            name = trailer.strip().removeprefix(_PREFIX)
            if trailer.strip().startswith(_PREFIX) and name in _MAKERS:
                found.append(Checksum(name))
        return found

    def declare(self, text: str) -> None:
        """Note the value that the client sent."""
        try:
            value = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            value = b""
        if len(value) != self._length:
            raise S3Error("InvalidRequest", f"Value for {_PREFIX}{self.name} header is invalid.")
        self._declared = value

    def update(self, data: bytes | bytearray) -> None:
        self._running.update(data)

    def declare_digest(self, digest: bytes | None) -> None:
        """Note the value as bytes; None takes whatever is computed."""
        self._declared = digest if digest is not None else b""
        self._accepts_any = digest is None

    @property
    def hex(self) -> str:
        return self._running.digest().hex()

    @property
    def text(self) -> str:
        return base64.b64encode(self._running.digest()).decode()

    def check(self) -> None:
        """Raises BadDigest where the content is another, InvalidRequest where an announced trailer did not come."""
        if self._accepts_any:
            return
        if self._declared is None:
            raise S3Error("InvalidRequest", f"The trailer {_PREFIX}{self.name} is missing")
        if self._declared != self._running.digest():
            raise S3Error("BadDigest", f"The {self.name.upper()} you specified did not match the calculated checksum.")
