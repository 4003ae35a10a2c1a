"""The words of a plain `b2fs mount`, understood without click, which takes longer to load than a bucket to ask.

Whatever is not plain (a word that is no option, a value that looks like one, too many words or too few, a question for
help) is click's, which says what is wrong or answers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from b2fs.config.settings import OPTIONS, Option

_FOREGROUND = ("-f", "--foreground")
#: By this click is asked for completions.
_COMPLETE = "_B2FS_COMPLETE"


class Asked(NamedTuple):
    """What a user asked for."""

    url: str
    mountpoint: str
    foreground: bool
    #: The texts of -o.
    lists: tuple[str, ...]
    #: Texts of options by their names (with underscores).
    given: dict[str, str]


def plain_mount(words: Sequence[str]) -> Asked | None:
    """What click would make of the same words behind the program's name; None if that is to be left to it."""
    if list(words[:1]) != ["mount"] or _COMPLETE in os.environ:
        return None
    places: list[str] = []
    lists: list[str] = []
    given: dict[str, str] = {}
    foreground = False
    rest = iter(words[1:])
    for word in rest:
        if word in _FOREGROUND:
            foreground = True
        elif word == "-o":
            text = _value(rest)
            if text is None:
                return None
            lists.append(text)
        elif not word.startswith("-"):
            places.append(word)
        elif not _take_option(word, rest, given):
            return None
    if len(places) != 2 or not all(places):
        return None
    return Asked(places[0], places[1], foreground, tuple(lists), given)


def _take_option(word: str, rest: Iterator[str], given: dict[str, str]) -> bool:
    """Whether the word is an option of a mount; it is noted, with its value."""
    flag, equals, text = word.partition("=")
    option = _BY_FLAG.get(flag)
    if option is None or (option.is_flag and equals):
        return False
    if option.is_flag:
        given[option.name] = "yes" if flag == option.flag else "no"
        return True
    value = text if equals else _value(rest)
    if value is None:
        return False
    given[option.name] = value
    return True


def _value(rest: Iterator[str]) -> str | None:
    """The next word, if it is a value for certain."""
    word = next(rest, "-")
    return None if word.startswith("-") else word


def _flags_of(option: Option) -> list[str]:
    return [option.flag] if option.opposite is None else [option.flag, option.opposite]


_BY_FLAG = {flag: option for option in OPTIONS for flag in _flags_of(option)}
