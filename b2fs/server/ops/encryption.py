"""Server-side encryption: SSE-B2 recorded, SSE-C really encrypting.

SSE-C uses AES-256 in counter mode, so that any range can be decrypted alone.  Every body (each part of a multipart
upload too) has a random nonce of its own, kept in `extra`; a finished multipart upload keeps the plan of its parts,
the nonces by comma.  The customer's key is never stored, only its MD5 (which the protocol shows) and a salted
HMAC that proves a key right before anything is decrypted.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from b2fs.server.ops.parts import SIZES, decode_sizes
from b2fs.server.wire.errors import S3Error
from b2fs.store.embedded.rows import Encryption, VersionRow

NONCE: Final = "sse_nonce"
PROOF: Final = "sse_proof"
PLAN: Final = "sse_plan"


@dataclass(frozen=True, slots=True)
class CustomerKey:
    """An SSE-C key as a request carries it."""

    key: bytes
    md5: str

    @property
    def encryption(self) -> Encryption:
        return Encryption("AES256", self.md5)


@dataclass(frozen=True, slots=True)
class Span:
    """Stored bytes with one nonce: [start, start + length) of the content."""

    start: int
    length: int
    nonce: bytes


def _decode(text: str, length: int, message: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise S3Error("InvalidArgument", message) from error
    if len(data) != length:
        raise S3Error("InvalidArgument", message)
    return data


def customer_key(params: Mapping[str, Any], prefix: str = "") -> CustomerKey | None:
    """The SSE-C key of a request; prefix `CopySource` reads that of a copy's source.  Raises InvalidArgument."""
    algorithm = params.get(f"{prefix}SSECustomerAlgorithm")
    key_text = params.get(f"{prefix}SSECustomerKey")
    md5 = params.get(f"{prefix}SSECustomerKeyMD5")
    if algorithm is None and key_text is None and md5 is None:
        return None
    if algorithm is None:
        raise S3Error("InvalidArgument", "Requests specifying Server Side Encryption with Customer provided keys must "
            "provide a valid encryption algorithm.")  # fmt: skip
    if algorithm != "AES256":
        raise S3Error("InvalidEncryptionAlgorithmError")
    if key_text is None:
        raise S3Error("InvalidArgument", "Requests specifying Server Side Encryption with Customer provided keys must "
            "provide an appropriate secret key.")  # fmt: skip
    if md5 is None:
        raise S3Error("InvalidArgument", "Requests specifying Server Side Encryption with Customer provided keys must "
            "provide the client calculated MD5 of the secret key.")  # fmt: skip
    key = _decode(key_text, 32, "The secret key was invalid for the specified algorithm.")
    mismatch = "The calculated MD5 hash of the key did not match the hash that was provided."
    digest = hashlib.md5(key, usedforsecurity=False).digest()
    if not hmac.compare_digest(digest, _decode(md5, 16, mismatch)):
        raise S3Error("InvalidArgument", mismatch)
    return CustomerKey(key, md5)


def managed(params: Mapping[str, Any]) -> Encryption | None:
    """SSE-B2 as a request asks for it.  Raises InvalidArgument for what B2 does not have (KMS)."""
    algorithm = params.get("ServerSideEncryption")
    if algorithm is None:
        if params.get("SSEKMSKeyId") is not None:
            raise S3Error("InvalidArgument", "Server Side Encryption with KMS is not supported")
        return None
    if algorithm != "AES256":
        raise S3Error("InvalidArgument", f"Unsupported value for x-amz-server-side-encryption '{algorithm}'")
    if params.get("SSEKMSKeyId") is not None:
        raise S3Error("InvalidArgument", "A key of KMS does not go with the encryption method AES256")
    if params.get("SSECustomerAlgorithm") is not None:
        raise S3Error(
            "InvalidArgument", "Server Side Encryption with Customer provided key is incompatible with the encryption "
            "method specified"
        )  # fmt: skip
    return Encryption()


def _proof(key: bytes, salt: bytes) -> str:
    return hmac.digest(key, b"b2fs sse-c" + salt, "sha256").hex()


def new_secrets(key: CustomerKey) -> dict[str, str]:
    """What a new body or upload encrypted with this key keeps in `extra`."""
    nonce = secrets.token_bytes(16)
    return {NONCE: nonce.hex(), PROOF: _proof(key.key, nonce)}


def part_etag(key: CustomerKey, extra: Mapping[str, str], md5: str) -> str:
    """The ETag of a part: the same for the same bytes within one upload, and telling nothing without the key."""
    return hmac.digest(key.key, f"b2fs part {extra[NONCE]} {md5}".encode(), "sha256")[:16].hex()


def check_key(encryption: Encryption | None, extra: Mapping[str, str], key: CustomerKey | None) -> None:
    """Raise InvalidRequest where a version needs another key than the one given, or none."""
    if encryption is None or encryption.customer_key_md5 is None:
        if key is not None:
            raise S3Error("InvalidRequest", "The encryption parameters are not applicable to this object.")
        return
    if key is None:
        raise S3Error("InvalidRequest", "The object was stored using a form of Server Side Encryption. The correct "
            "parameters must be provided to retrieve the object.")  # fmt: skip
    salt = bytes.fromhex(extra[NONCE])
    if not hmac.compare_digest(_proof(key.key, salt), extra[PROOF]):
        raise S3Error("InvalidRequest", "The provided encryption parameters did not match the ones used originally.")


def stream_cipher(key: bytes, nonce: bytes, offset: int = 0) -> CipherContext:
    """The key stream of a body from byte `offset` on; the same for both directions."""
    counter = (int.from_bytes(nonce) + offset // 16) % (1 << 128)
    context = Cipher(AES(key), CTR(counter.to_bytes(16))).encryptor()
    if offset % 16:
        context.update(bytes(offset % 16))
    return context


def spans(row: VersionRow, extra: Mapping[str, str]) -> list[Span]:
    """The runs of one nonce that make up a version's stored bytes."""
    plan = extra.get(PLAN)
    if plan is None:
        return [Span(0, row.size, bytes.fromhex(extra[NONCE]))]
    found, start = [], 0
    for size, nonce in zip(decode_sizes(extra[SIZES]), plan.split(","), strict=True):
        found.append(Span(start, size, bytes.fromhex(nonce)))
        start += size
    return found


class Decryptor:
    """Decrypts consecutive stored bytes from `start` on."""

    def __init__(self, key: bytes, spans: Sequence[Span], start: int) -> None:
        self._key = key
        self._spans = spans
        self._position = start
        self._index = next((i for i, span in enumerate(spans) if start < span.start + span.length), len(spans))
        self._cipher: CipherContext | None = None

    def update(self, data: bytes) -> bytes:
        """The plain bytes of the next stored ones."""
        view, out = memoryview(data), []
        while len(view):
            span = self._spans[self._index]
            inside = self._position - span.start
            take = min(len(view), span.length - inside)
            if self._cipher is None:
                self._cipher = stream_cipher(self._key, span.nonce, inside)
            out.append(self._cipher.update(view[:take]))
            view = view[take:]
            self._position += take
            if inside + take == span.length:
                self._index += 1
                self._cipher = None
        return b"".join(out)
