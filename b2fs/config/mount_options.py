"""`-o` lists as mount(8), fstab and FUSE programs write them.

    ro,allow_other,cache_size=20G,endpoint=https://...,_netdev,x-systemd.automount

A comma or backslash inside a value is written with a backslash before it.  Options that other programs act on
(mount(8), systemd) are accepted and dropped; those that nobody would carry out are refused rather than ignored.
"""

from __future__ import annotations

from b2fs.config.settings import known_option
from b2fs.errors import ConfigError

#: Acted on before the helper runs, or without meaning here.
_IGNORED = frozenset(
    (
        *("defaults", "rw", "auto", "noauto", "nofail", "_netdev", "silent", "loud"),
        *("user", "nouser", "users", "owner", "group"),
        *("async", "default_permissions"),
        *("atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime"),
    )
)
_IGNORED_PREFIXES = ("x-", "X-", "comment=", "fsname=", "subtype=", "uhelper=", "helper=")
_ALIASES = {"ro": "read_only"}
#: Words that take an option back.
_OPPOSITES = {
    "exec": "noexec",
    "nodev": "dev",
    "nosuid": "suid",
    **dict.fromkeys(("noallow_other", "no_allow_other", "no-allow-other"), "allow_other"),
}


def split_options(text: str) -> list[str]:
    """Split at commas that no backslash protects; a backslash makes the next character ordinary."""
    items, current, characters = [], "", iter(text)
    for character in characters:
        if character == "\\":
            current += next(characters, "")
        elif character == ",":
            items.append(current)
            current = ""
        else:
            current += character
    return [item for item in [*items, current] if item]


def raw_from_options(texts: list[str], *, sloppy: bool = False) -> dict[str, str]:
    """Option names (with underscores) and texts of several -o lists; a later one wins.

    Raises ConfigError for an unknown option, unless sloppy (mount -s) says to tolerate it.
    """
    raw: dict[str, str] = {}
    for item in (item for text in texts for item in split_options(text)):
        if item in _IGNORED or item.startswith(_IGNORED_PREFIXES):
            continue
        if item in _OPPOSITES:
            raw[_OPPOSITES[item]] = "no"
            continue
        name, _, value = item.partition("=")
        name = _ALIASES.get(name, name.replace("-", "_"))
        if known_option(name):
            raw[name] = value
        elif not sloppy:
            raise ConfigError(f"-o {name}: unknown mount option")
    return raw
