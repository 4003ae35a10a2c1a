"""The x-amz-checksum-* family: what a client declares about a body, computed and compared."""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from awscrt import checksums as crt

from b2fs.server.auth.crc import combine
from b2fs.server.wire.errors import S3Error


class _Running(Protocol):
    def update(self, data: bytes | memoryview) -> None: ...

    def digest(self) -> bytes: ...


class _Crc:
    """A cyclic checksum behind hashlib's interface."""

    def __init__(self, function: Callable[[Any, int], int], length: int) -> None:
        self._function = function
        self._length = length
        self._value = 0

    def update(self, data: bytes | memoryview) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._length)


_MAKERS: Final[Mapping[str, tuple[int, Callable[[], _Running]]]] = {
    "crc32": (4, lambda: _Crc(zlib.crc32, 4)),
    "crc32c": (4, lambda: _Crc(crt.crc32c, 4)),
    "crc64nvme": (8, lambda: _Crc(crt.crc64nvme, 8)),
    "sha1": (20, lambda: hashlib.sha1(usedforsecurity=False)),
    "sha256": (32, hashlib.sha256),
}
#: The cyclic ones can be put together from those of parts: reflected polynomials.
_POLYNOMIALS: Final[Mapping[str, int]] = {
    "crc32": 0xEDB88320,
    "crc32c": 0x82F63B78,
    "crc64nvme": 0x9A6C9329AC4BC9B5,
}
_PREFIX: Final = "x-amz-checksum-"
_ALGORITHM: Final = "x-amz-sdk-checksum-algorithm"
NAMES: Final = tuple(_MAKERS)
CYCLIC: Final = frozenset(_POLYNOMIALS)


def digest_of(name: str, data: bytes) -> bytes:
    """One content's checksum."""
    running = _MAKERS[name][1]()
    running.update(data)
    return running.digest()


def text_of(name: str, pieces: Iterable[bytes]) -> str:
    """The checksum, in base64, of a content that comes in pieces."""
    running = _MAKERS[name][1]()
    for piece in pieces:
        running.update(piece)
    return base64.b64encode(running.digest()).decode()


def joined(name: str, parts: Sequence[tuple[bytes, int]]) -> bytes:
    """The checksum of contents one behind the other, from the checksum and length in bytes of each; CYCLIC only."""
    polynomial, bits = _POLYNOMIALS[name], _MAKERS[name][0] * 8
    value = 0
    for digest, length in parts:
        value = combine(value, int.from_bytes(digest), length, polynomial, bits)
    return value.to_bytes(bits // 8)


def decode(name: str, text: str) -> bytes:
    """The digest that a client wrote in base64.  A text that is none raises BadDigest: it cannot match anything."""
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        value = b""
    if len(value) != _MAKERS[name][0]:
        raise S3Error("BadDigest", f"Value for {_PREFIX}{name} header is invalid.")
    return value


def _check_single(headers: Mapping[str, str], found: Sequence[Checksum]) -> None:
    if len(found) > 1:
        raise S3Error(
            "InvalidRequest", "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
        )
    named = headers.get(_ALGORITHM)
    if named is not None and found and named.lower() != found[0].name:
        raise S3Error("InvalidRequest", f"Value for {_ALGORITHM} header is invalid.")


class Checksum:
    """One declared checksum: fed with the content, then held against the declared value."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._running = _MAKERS[name][1]()
        self._declared: bytes | None = None
        self._accepts_any = False

    @staticmethod
    def from_headers(headers: Mapping[str, str]) -> list[Checksum]:
        """The checksum that the head declares or announces as a trailer, if any.

        Raises BadDigest for a bad value, InvalidRequest for more than one, and for one that
        x-amz-sdk-checksum-algorithm contradicts.
        """
        found: list[Checksum] = []
        for name in _MAKERS:
            text = headers.get(_PREFIX + name)
            if text is not None:
                checksum = Checksum(name)
                checksum.declare(text)
                found.append(checksum)
        for trailer in headers.get("x-amz-trailer", "").lower().split(","):
            name = trailer.strip().removeprefix(_PREFIX)
            announced = trailer.strip().startswith(_PREFIX) and name in _MAKERS
            if announced and name not in [checksum.name for checksum in found]:
                found.append(Checksum(name))
        _check_single(headers, found)
        return found

    def declare(self, text: str) -> None:
        """Note the value that the client sent.  Raises BadDigest."""
        self._declared = decode(self.name, text)

    def update(self, data: bytes | memoryview) -> None:
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
