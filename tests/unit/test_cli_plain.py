"""A mount's words are understood as click understands them, or are left to it."""

from __future__ import annotations

import click
import pytest

from b2fs.cli.mount import mount
from b2fs.cli.plain import Asked, plain_mount
from b2fs.config.settings import OPTIONS

PLACES = ("s3://bucket", "/mnt")


def as_click_sees_it(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Asked:
    seen: list[Asked] = []

    def note(url: str, mountpoint: str, lists: tuple[str, ...], given: dict[str, str], *, foreground: bool) -> int:
        seen.append(Asked(url, mountpoint, foreground, lists, given))
        return 0

    monkeypatch.setattr("b2fs.cli.mount.mount_as_asked", note)
    mount.main(words, standalone_mode=False)
    return seen[0]


def every_option() -> list[str]:
    return [word for option in OPTIONS for word in ([option.flag] if option.is_flag else [option.flag, "value=1"])]


@pytest.mark.parametrize(
    "words",
    [
        [*PLACES],
        ["-f", *PLACES],
        [PLACES[0], "--foreground", PLACES[1]],
        ["-o", "ro,uid=1", "-o", "nonempty", *PLACES],
        ["--cache-size=1G", *PLACES, "--cache-size", "2G"],
        ["--profile=", "--endpoint=http://a/?b=c", *PLACES],
        ["--allow-other", "--no-allow-other", *PLACES],
        ["--no-allow-other", "--allow-other", *PLACES],
        [*every_option(), *PLACES],
    ],
)
def test_plain_words_mean_what_click_takes_them_for(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = plain_mount(["mount", *words])
    assert asked is not None
    assert asked == as_click_sees_it(words, monkeypatch)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["umount", "/mnt"],
        ["mount"],
        ["mount", "--help"],
        ["mount", "--help", *PLACES],
        ["mount", PLACES[0]],
        ["mount", *PLACES, "third"],
        ["mount", "", "/mnt"],
        ["mount", "--", *PLACES],
        ["mount", "-fo", "ro", *PLACES],
        ["mount", "-oro", *PLACES],
        ["mount", *PLACES, "-o"],
        ["mount", "-o", "-f", *PLACES],
        ["mount", "--read-only=yes", *PLACES],
        ["mount", "--cache-size", "--read-only", *PLACES],
        ["mount", *PLACES, "--cache-size"],
        ["mount", "--cache-siz=1G", *PLACES],
        ["mount", "-", *PLACES],
    ],
)
def test_all_else_is_left_to_click(words: list[str]) -> None:
    assert plain_mount(words) is None


def test_completions_are_clicks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_B2FS_COMPLETE", "bash_complete")
    assert plain_mount(["mount", *PLACES]) is None


def test_every_option_of_a_mount_is_clicks_too() -> None:
    names = {parameter.name for parameter in mount.params if isinstance(parameter, click.Option)}
    assert {option.name for option in OPTIONS} <= names
