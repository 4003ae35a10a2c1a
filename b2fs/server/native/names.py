"""Starting a listing at a name itself, where the store's markers are exclusive."""

from __future__ import annotations

from typing import Final

#: More of the last code point than a key can hold: sorts behind every key with what stands before it.
_BEHIND_ALL: Final = "\U0010ffff" * 257


def just_before(name: str) -> str | None:
    """A text behind every key that is less than name, and less than name itself; None for the empty name.

    Keys have no characters below 32, so right before `xy` is what begins with `x` and the character before `y`.
    """
    if not name:
        return None
    head, last = name[:-1], ord(name[-1])
    if last <= 32:
        return head or None
    before = 0xD7FF if last == 0xE000 else last - 1
    return head + chr(before) + _BEHIND_ALL
