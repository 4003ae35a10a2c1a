"""Paths whose keys would be too long: a short name for each, and the path as text that metadata can carry.

The short name is a hash of the path, so that it can be found without asking; the text is what a listing needs, and
what proves that an object under a short name is what it claims to be.
"""

from __future__ import annotations

import binascii
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from urllib.parse import quote, unquote

from b2fs.core.keys import KEY_MAX

#: The metadata name of the text.
PATH_NAME = "b2fs-path"
#: Longer texts would leave too little of an object's metadata (7,000 bytes on B2) for everything else.
TEXT_MAX = 4_600
#: A path with more bytes is no path on Linux, however often it is escaped.
_PATH_MAX = 5 * 4096
#: Texts up to this length are readable.
_READABLE = 2_000
_PACKED = "z:"
#: So many characters always fit into a key.
_SHORT = KEY_MAX // 4


def is_long(key: str) -> bool:
    """Whether a bucket cannot hold the key: more than 1,024 bytes of UTF-8."""
    return len(key) > _SHORT and len(key.encode("utf-8", "surrogatepass")) > KEY_MAX


def short_name(path: str) -> str:
    """32 hex digits that stand for a path."""
    return blake2b(path.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def encode_path(path: str) -> str:
    """A path as ASCII: percent-encoded, or packed where that is too long."""
    text = quote(path, safe="/ !#$&'()*+,;=@[]{}|~")
    if len(text) <= _READABLE:
        return text
    return _PACKED + urlsafe_b64encode(zlib.compress(path.encode(), 9)).decode()


def decode_path(text: str) -> str | None:
    """The path of such a text, or None if it is none."""
    try:
        if not text.startswith(_PACKED):
            return unquote(text, errors="strict")
        packed = zlib.decompressobj()
        body = packed.decompress(urlsafe_b64decode(text[len(_PACKED) :]), _PATH_MAX)
        return body.decode() if packed.eof else None
    except (ValueError, binascii.Error, zlib.error):
        return None


def fits(path: str) -> bool:
    """Whether an object's metadata can carry the path."""
    return len(encode_path(path)) <= TEXT_MAX
