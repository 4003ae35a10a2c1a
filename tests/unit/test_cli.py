"""The command line without a daemon: sentences and exit statuses."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from rich.console import Console

from b2fs import __version__
from b2fs.cli import mount_helper
from b2fs.cli import mounting as mount_module
from b2fs.cli.commands import cli
from b2fs.cli.console import DrainDisplay, show_status
from b2fs.cli.statuses import exit_status
from b2fs.config.settings import MountSettings
from b2fs.daemon import client
from b2fs.daemon.exits import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from b2fs.daemon.messages import Failure, Figures, MountReport, ReadFigures, Reply, Request
from b2fs.errors import BadCredentials, ConfigError


def run(*words: str) -> int:
    return exit_status(lambda: cli.main([*words], standalone_mode=False))


def raising(error: BaseException) -> Callable[[], object]:
    def run() -> object:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ConfigError("the mountpoint is gone"), EXIT_USAGE, "b2fs: the mountpoint is gone\n"),
        (BadCredentials("the key\nis wrong"), EXIT_FAILED, "b2fs: the key is wrong\n"),
        (click.UsageError("No such option"), EXIT_USAGE, "b2fs: No such option\n"),
        (KeyboardInterrupt(), 130, "b2fs: interrupted\n"),
        (BaseExceptionGroup("", [KeyboardInterrupt()]), 130, "b2fs: interrupted\n"),
    ],
)
def test_errors_become_one_line_and_a_status(
    error: BaseException, status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(raising(error)) == status
    assert capsys.readouterr().err == text


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == EXIT_OK
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [("mount",), ("mount", "s3://photos"), ("dance",), ("mount", "--colour=red", "s3://photos", "/mnt"), ("status",)],
)
def test_wrong_words_are_refused_in_one_line(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == EXIT_USAGE
    error = capsys.readouterr().err
    assert error.startswith("b2fs: ")
    assert error.count("\n") == 1


def test_wrong_words_are_told_where_the_right_ones_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("mount", "--colour=red") == EXIT_USAGE
    assert capsys.readouterr().err.endswith(" mount --help\n")


def test_no_words_at_all_show_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == EXIT_USAGE
    shown = capsys.readouterr()
    assert shown.err == ""
    assert {line.split()[0] for line in shown.out.splitlines() if line.startswith("  ")} >= {"mount", "warm", "fsck"}


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in cli.list_commands(click.Context(cli)):
        assert run(name, "--help") == EXIT_OK
        assert "Usage" in capsys.readouterr().out


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> list[MountSettings]:
    """What would have been mounted in the background."""
    settings: list[MountSettings] = []

    def spawn(wanted: MountSettings) -> int:
        settings.append(wanted)
        return EXIT_OK

    monkeypatch.setattr(mount_module, "mount_in_background", spawn)
    monkeypatch.setattr(mount_helper, "mount_in_background", spawn)
    monkeypatch.setattr(mount_module, "check_fuse", lambda **_: None)
    for name in [name for name in os.environ if name.startswith("B2FS_")]:
        monkeypatch.delenv(name)
    return settings


def test_later_sources_win(tmp_path: Path, spawned: list[MountSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("B2FS_CACHE_SIZE", "1G")
    monkeypatch.setenv("B2FS_UID", "1")
    monkeypatch.setenv("B2FS_GID", "1")
    assert run("mount", "-o", "ro,uid=2,gid=2", "--gid=3", "s3://photos", str(tmp_path)) == EXIT_OK
    (settings,) = spawned
    assert (settings.cache_size, settings.uid, settings.gid, settings.read_only) == (1 << 30, 2, 3, True)


def test_others_are_let_in_by_the_last_word(
    tmp_path: Path, spawned: list[MountSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B2FS_ALLOW_OTHER", "no")
    for words in ([], ["--allow-other"], ["-o", "allow_other"], ["-o", "allow_other", "--no-allow-other"]):
        assert run("mount", *words, "s3://photos", str(tmp_path)) == EXIT_OK
    assert [settings.allow_other for settings in spawned] == [False, True, True, False]


def test_the_helper_takes_what_mount_passes(tmp_path: Path, spawned: list[MountSettings]) -> None:
    words = ["s3://photos/2024", str(tmp_path), "-n", "-v", "-t", "b2fs", "-o", "rw,_netdev,allow_other,noexec"]
    assert mount_helper.mount_command.main(words, standalone_mode=False) == EXIT_OK
    (settings,) = spawned
    assert settings.location.prefix == "2024/"
    assert settings.mountpoint == str(tmp_path)
    assert settings.allow_other
    assert settings.noexec
    assert not settings.read_only


def test_the_helper_only_checks_when_it_shall_fake(tmp_path: Path, spawned: list[MountSettings]) -> None:
    assert mount_helper.mount_command.main(["s3://photos", str(tmp_path), "-f"], standalone_mode=False) == EXIT_OK
    assert spawned == []


def test_the_helper_speaks_mounts_statuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["mount.b2fs", "nonsense", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        mount_helper.main()
    assert caught.value.code == 1


def test_progress_is_one_line_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    with DrainDisplay(Console(file=out)) as display:
        display.update(Figures())
        assert out.getvalue() == ""
        display.update(Figures(pending_files=2, pending_bytes=2048))
        display.update(Figures(pending_files=1, pending_bytes=1024))
    assert out.getvalue() == "Uploading: 2 files, 2.0 KiB left\n"


def test_progress_is_a_bar_on_a_terminal() -> None:
    out = io.StringIO()
    with DrainDisplay(Console(file=out, force_terminal=True, width=100)) as display:
        display.update(Figures(pending_files=2, pending_bytes=2048))
        display.update(Figures(pending_files=1, pending_bytes=1024, uploaded_bytes=1024, offline=True))
    assert "2 files, 2.0 KiB left" in out.getvalue()
    assert "1 file, 1.0 KiB left, offline" in out.getvalue()


def test_the_status_shows_failures() -> None:
    out = io.StringIO()
    figures = Figures(pending_files=1, failed=(Failure("a/b", "the cap is used up"),), offline=True)
    report = MountReport(url="s3://photos", phase="mounted", read_only=True, writeback=figures)
    show_status(report, Console(file=out, width=200))
    text = out.getvalue()
    assert "a/b: the cap is used up" in text
    assert "s3://photos (read-only)" in text
    assert "mounted, offline" in text
    assert "everything is in the bucket" not in text
    out = io.StringIO()
    show_status(MountReport(url="s3://photos", read_only=True), Console(file=out, width=200))
    assert "this mount does not write" in out.getvalue()


def test_the_status_shows_what_was_read_and_what_power_cuts_left() -> None:
    out = io.StringIO()
    reading = ReadFigures(served_bytes=3 << 20, fetched_bytes=1 << 20, fetches=4, disk_bytes=2 << 20)
    show_status(MountReport(reading=reading), Console(file=out, width=200))
    assert "3.0 MiB by programs: 1.0 MiB from the bucket, 2.0 MiB from the cache" in out.getvalue()
    assert "Set aside" not in out.getvalue()
    assert "in vain" not in out.getvalue()
    out = io.StringIO()
    reading = reading._replace(wasted_bytes=1 << 10, failures=1)
    show_status(MountReport(cache_dir="/cache", reading=reading, set_aside=2), Console(file=out, width=200))
    assert "from the cache; 1.0 KiB fetched in vain; 1 request failed" in out.getvalue()
    assert "2 parts of files that a power cut left, in /cache/torn" in out.getvalue()


@pytest.mark.parametrize(
    "reply",
    [
        Reply("status"),
        Reply("error", MountReport(url="s3://x"), "no"),
        Reply("status", MountReport(reading=ReadFigures(1, 2, 3, 4, 5, 6), set_aside=7)),
    ],
)
def test_replies_survive_the_wire(reply: Reply) -> None:
    assert Reply.decode(reply.encode()) == reply


def test_a_reply_of_another_version_is_understood_as_far_as_it_goes() -> None:
    line = b'{"kind": "status", "report": {"url": "s3://x", "new": 1, "writeback": {"pending_files": 3, "newer": []}}}'
    reply = Reply.decode(line)
    assert (reply.report.url, reply.report.writeback.pending_files, reply.report.pid) == ("s3://x", 3, 0)


def test_what_is_no_message_is_refused() -> None:
    decoders: list[Callable[[bytes], Any]] = [Reply.decode, Request.decode]
    for decode in decoders:
        for line in (b"", b"[]", b"{"):
            with pytest.raises(ValueError, match=r"."):
                decode(line)


def test_asking_where_nobody_is(tmp_path: Path) -> None:
    with pytest.raises(client.NoDaemon, match="No b2fs daemon answers"):
        next(client.ask(str(tmp_path), os.geteuid(), Request("status")))
