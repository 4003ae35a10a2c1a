"""Sizes, durations, numbers and flags as users write them.

Every parser raises ConfigError with a clause that reads on behind the option's name ("... is not a size: ...").
Units of size are binary, with or without "B" or "iB": 1K, 1KB and 1KiB are 1,024 bytes.
"""

from __future__ import annotations

import re

from b2fs.errors import ConfigError

# Patterns are compiled where they are used: a mount that is given none of these pays for none.
_SIZE = r"(\d+(?:\.\d+)?)\s*([KMGTP]?)(?:i?B)?"
_SHIFT = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50}
_DURATION = r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?"
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
#: With less, a page of a listing takes as long as a program waits for an answer.
MIN_RATE_BYTES_S = 16 << 10
_TRUE = frozenset({"", "1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


def parse_size(text: str) -> int:
    """Bytes of "10G", "512M", "1.5T" or a plain number."""
    match = re.fullmatch(_SIZE, text.strip(), re.IGNORECASE)
    if match is None:
        raise ConfigError(f"{text!r} is not a size: write a number with K, M, G or T, for example 10G")
    return int(float(match[1]) * (1 << _SHIFT[match[2].upper()])) if "." in match[1] else _whole(match)


def _whole(match: re.Match[str]) -> int:
    # Without a fraction no float is involved, so sizes above 2**53 stay exact.
    return int(match[1]) << _SHIFT[match[2].upper()]


def render_size(size_bytes: int) -> str:
    """The shortest text that parse_size reads back as exactly size_bytes."""
    for unit in ("P", "T", "G", "M", "K"):
        if size_bytes and size_bytes % (1 << _SHIFT[unit]) == 0:
            return f"{size_bytes >> _SHIFT[unit]}{unit}"
    return str(size_bytes)


def parse_quota(text: str) -> tuple[int, int | None]:
    """Bytes and number of files of "10G" or "10G:100000"; the latter None where it is not given."""
    size, colon, files = text.strip().partition(":")
    if colon and not re.fullmatch(r"\d{1,18}", files):
        raise ConfigError(f"{text!r} is not a quota: write SIZE or SIZE:FILES, for example 10G:100000")
    return parse_size(size), int(files) if colon else None


def render_quota(quota: tuple[int, int | None]) -> str:
    """A text that parse_quota reads back."""
    size, files = quota
    return render_size(size) if files is None else f"{render_size(size)}:{files}"


def parse_rates(text: str) -> tuple[int, int]:
    """Bytes a second up and down of "1M:10M", or of "1M" for both; 0 (or "off") is no bound."""
    up, colon, down = text.strip().partition(":")
    return _parse_rate(up), _parse_rate(down if colon else up)


def _parse_rate(text: str) -> int:
    rate = 0 if text == "off" else parse_size(text)
    if 0 < rate < MIN_RATE_BYTES_S:
        raise ConfigError(f"{text!r} is too little to work with: at least {render_size(MIN_RATE_BYTES_S)} a second")
    return rate


def render_rates(rates: tuple[int, int]) -> str:
    """A text that parse_rates reads back."""
    return ":".join(map(render_size, rates))


def show_size(size_bytes: int) -> str:
    """A size for people, rounded: "1.4 GiB"."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("the loop ends with its last unit")


def show_files(count: int) -> str:
    """A number of files in words: "1 file", "2 files"."""
    return f"{count} file{'' if count == 1 else 's'}"


def parse_duration(text: str) -> float:
    """Seconds of "60", "60s", "5m", "1h", "2d" or "500ms"."""
    match = re.fullmatch(_DURATION, text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is not a duration: write a number with ms, s, m, h or d, for example 60s")
    return float(match[1]) * _SECONDS[match[2] or "s"]


def render_duration(seconds: float) -> str:
    """A text that parse_duration reads back as exactly `seconds`."""
    return f"{seconds:f}".rstrip("0").rstrip(".") if float(f"{seconds:f}") == seconds else repr(seconds)


def parse_octal(text: str) -> int:
    """A umask: octal permission bits, 0..0777."""
    if not re.fullmatch(r"0?[0-7]{1,3}", text):
        raise ConfigError(f"{text!r} is not a umask: write octal digits, for example 022")
    return int(text, 8)


def parse_id(text: str) -> int:
    """A numeric user or group id."""
    if not re.fullmatch(r"\d{1,10}", text) or int(text) >= (1 << 32) - 1:
        raise ConfigError(f"{text!r} is not a numeric id")
    return int(text)


def parse_flag(text: str) -> bool:
    """True for a bare flag, else yes/no, true/false, on/off, 1/0."""
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ConfigError(f"{text!r} is neither yes nor no")
