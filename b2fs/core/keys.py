"""File names and key components, one to one.

A file name is bytes without '/' and NUL; a key is UTF-8 text in which B2 allows no code point below 32 and no DEL, and
servers take a backslash for '/' or refuse it.  What a key cannot hold is written in the way rclone writes it, so that
both programs show the same names: a control character becomes its picture (U+2400 + code, DEL U+2421), a backslash the
wide one (U+FF3C), a byte that is not UTF-8 QUOTE + two hex digits, and a name that really contains one of these
pictures or QUOTE has QUOTE put before it.  A component that cannot be a file name ("", ".", "..") is shown as QUOTE +
one of the digits below, which no other name maps to.

Other programs make keys that nothing here would: with control characters or backslashes, longer than a name may be, or
an object `a` beside a directory `a/`.  These have names of their own (`odd_name`), which only a look at the directory
leads back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

QUOTE = "\u201b"
_BACKSLASH = "\uff3c"
_PICTURES = f"\u2400-\u241f\u2421{_BACKSLASH}"
#: Key limit of B2 and S3, in bytes of UTF-8.
KEY_MAX = 1024
NAME_MAX = 255

_NEEDS_ESCAPE = re.compile(f"[\x00-\x1f\x7f\\\\{_PICTURES}{QUOTE}\udc80-\udcff]")
_ESCAPED = re.compile(f"{QUOTE}([0-9A-F]{{2}}|[{_PICTURES}{QUOTE}])|([{_PICTURES}])")
_PICTURED = {"\u2421": "\x7f", _BACKSLASH: "\\"}
_ODD_COMPONENTS = {"": f"{QUOTE}0", ".": f"{QUOTE}1", "..": f"{QUOTE}2"}
_ODD_NAMES = {name: component for component, name in _ODD_COMPONENTS.items()}
#: What a name ends in whose object has a directory of the same name beside it.
SHADOWED = f"{QUOTE}3".encode()
_CONTROL = re.compile("[\x00-\x1f\x7f/]")
_HASHED = re.compile(f"{QUOTE}~[0-9a-f]{{16}}".encode() + rb"\Z")


@lru_cache(maxsize=256)  # a request asks for the same name several times
def component_of(name: bytes) -> str:
    """The key component of a file name; reversible by name_of."""
    text = name.decode("utf-8", "surrogateescape")
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    if text in _ODD_NAMES:
        return _ODD_NAMES[text]
    return _NEEDS_ESCAPE.sub(_escape, text)


def name_of(component: str) -> bytes:
    """The file name of a key component; may be longer than NAME_MAX for keys that others made."""
    if component in _ODD_COMPONENTS:
        return _ODD_COMPONENTS[component].encode()
    if component.isascii():
        return component.encode()
    return _ESCAPED.sub(_unescape, component).encode("utf-8", "surrogateescape")


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    if char == "\\":
        return _BACKSLASH
    if code == 0x7F:
        return "\u2421"
    if 0xDC80 <= code <= 0xDCFF:
        return f"{QUOTE}{code - 0xDC00:02X}"
    return QUOTE + char


def _unescape(match: re.Match[str]) -> str:
    quoted, picture = match[1], match[2]
    if picture:
        return _PICTURED.get(picture) or chr(ord(picture) - 0x2400)
    if len(quoted) == 1:
        return quoted
    return chr(0xDC00 + int(quoted, 16)) if int(quoted, 16) >= 0x80 else match[0]


def is_simple(component: str) -> bool:
    """Whether the component is its own name, in ASCII."""
    return (
        component.isascii()
        and component.isprintable()
        and "\\" not in component
        and len(component) <= NAME_MAX
        and component not in _ODD_COMPONENTS
    )


def is_plain(component: str) -> bool:
    """Whether the component's name is one that a file can have and leads back to it."""
    if component.isascii():
        return component.isprintable() and "\\" not in component and len(component) <= NAME_MAX
    name = name_of(component)
    return len(name) <= NAME_MAX and component_of(name) == component


def odd_name(component: str, *, shadowed: bool) -> bytes:
    """The name of a component that is not plain, or whose plain name stands for a directory beside it (shadowed).

    The plain name and SHADOWED, or as much of the component as there is room for and a hash of all of it.
    """
    if shadowed and is_plain(component):
        name = name_of(component) + SHADOWED
        if len(name) <= NAME_MAX:
            return name
    whole = component + "/" if shadowed else component
    digest = blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    tail = f"{QUOTE}~{digest}".encode()
    shown = _CONTROL.sub("?", component).encode("utf-8", "replace")
    return shown[: NAME_MAX - len(tail)].decode(errors="ignore").encode() + tail


def is_hashed(name: bytes) -> bool:
    """Whether a name has the form of an odd_name with a hash."""
    return _HASHED.search(name) is not None


def split_key(key: str) -> tuple[str, str]:
    """(prefix that ends in '/' or is empty, last component); a directory's key keeps its trailing '/'."""
    cut = key.rfind("/", 0, -1) + 1
    return key[:cut], key[cut:]


def common_prefix(keys: Sequence[str]) -> str:
    """What all of some sorted keys begin with: the first and the last of them do."""
    pairs = zip(keys[0], keys[-1], strict=False)
    return keys[0][: next((index for index, (a, b) in enumerate(pairs) if a != b), len(keys[0]))]


def just_before(key: str, prefix: str) -> str | None:
    """A marker behind which a listing of what begins with prefix begins with key, or with few others."""
    last = key[-1]
    marker = key[:-1] + (f"{chr(ord(last) - 1)}~" if "!" < last <= "~" else "")
    return marker if len(marker) > len(prefix) else None
