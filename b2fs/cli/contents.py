"""`b2fs refresh` and `b2fs warm`: what a running mount knows of the bucket, and what it has of it on the local disk."""

from __future__ import annotations

import os
import time
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING

import click

from b2fs.cli.console import complain
from b2fs.config.units import show_files, show_size
from b2fs.daemon.client import ask
from b2fs.daemon.exits import EXIT_FAILED, EXIT_OK
from b2fs.daemon.messages import Reply, Request, WarmFigures
from b2fs.daemon.mounts import find_b2fs_mount

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


@click.command("refresh")
@click.argument("mountpoint")
@click.argument("path", required=False)
def refresh(mountpoint: str, path: str | None) -> int:
    """See now what others have changed below MOUNTPOINT (or below PATH in it), instead of after --metadata-ttl.

    Changes made here stay, and open files keep the content that they were opened with.
    """
    entry, within = find_b2fs_mount(os.path.join(mountpoint, path) if path else mountpoint)
    with closing(ask(entry.mountpoint, entry.owner_uid, Request("refresh", within))) as replies:
        return _finish(next(replies))


@click.command("warm")
@click.argument("path")
def warm(path: str) -> int:
    """Fetch the file or directory at PATH, on a mount, into the cache, so that reading it asks nothing of the bucket.

    Ends when everything is on the local disk, or does not fit into --cache-size; Ctrl-C keeps what is there.
    """
    entry, within = find_b2fs_mount(path)
    with WarmDisplay() as display, closing(ask(entry.mountpoint, entry.owner_uid, Request("warm", within))) as replies:
        for reply in replies:
            if reply.is_last:
                break
            display.update(reply.warm)
    status = _finish(reply, f"{path}: ", _so_far(reply.warm))
    if status == EXIT_OK:
        click.echo(f"{_summary(reply.warm)} in the cache, {show_size(reply.warm.bytes_fetched)} of it fetched now.")
    if reply.warm.changed:
        complain(f"{show_files(reply.warm.changed)} changed in the bucket meanwhile and left out")
        return EXIT_FAILED
    return status


def _finish(reply: Reply, what: str = "", so_far: str = "") -> int:
    if reply.kind == "done":
        return EXIT_OK
    complain(f"{what}{reply.message or 'the daemon ended'}{so_far}")
    return EXIT_FAILED


def _so_far(figures: WarmFigures) -> str:
    return f"; {_summary(figures)} in the cache" if figures.files else ""


def _summary(figures: WarmFigures) -> str:
    return f"{show_files(figures.files_done)} ({show_size(figures.bytes_done)})"


class WarmDisplay:
    """A progress bar of bytes, with files beside it, on a terminal; nothing elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._bar: tuple[Progress, TaskID] | None = None
        self._begun: float | None = None

    def __enter__(self) -> WarmDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar[0].stop()

    def update(self, figures: WarmFigures) -> None:
        """Show how far it is."""
        if self._begun is None:
            self._begin()
        if self._bar is not None:
            progress, task = self._bar
            # A total that still grows would let the bar go backwards.
            total = figures.bytes if figures.listed else None
            progress.update(task, completed=figures.bytes_done, total=total, text=_line(figures, self._elapsed_s()))

    def _elapsed_s(self) -> float:
        return time.monotonic() - (self._begun or 0.0)

    def _begin(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._begun = time.monotonic()
        console = self._console or Console(stderr=True)
        if console.is_terminal:
            columns = (TextColumn("Fetching"), BarColumn(), TextColumn("{task.fields[text]}"), TimeElapsedColumn())
            progress = Progress(*columns, console=console, transient=True)
            self._bar = progress, progress.add_task("", total=None, text="")
            progress.start()


def _line(figures: WarmFigures, elapsed_s: float) -> str:
    of = f"{figures.files_done} of {figures.files}{'' if figures.listed else '+'} files"
    rate = show_size(int(figures.bytes_fetched / elapsed_s)) if elapsed_s > 0 else "0 B"
    return f"{show_size(figures.bytes_done)} of {show_size(figures.bytes)}, {of}, {rate}/s"
