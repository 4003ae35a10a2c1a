"""What a user sees: sentences on stderr, progress of a drain, the status of a mount.

rich is imported where something is drawn: a mount that comes up draws nothing.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

from b2fs.config.units import show_files, show_size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from b2fs.daemon.messages import Figures, MountReport, ReadFigures


def complain(sentence: str) -> None:
    """One line on stderr, with the program's name in front."""
    sys.stderr.write(f"b2fs: {' '.join(sentence.split())}\n")


def say(sentence: str) -> None:
    """One line on stdout."""
    sys.stdout.write(sentence + "\n")
    sys.stdout.flush()


class DrainDisplay:
    """A progress bar of uploads on a terminal, one line otherwise; nothing until something is pending."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        #: On a terminal, once something is pending.
        self._bar: tuple[Progress, TaskID] | None = None
        self._begun = False
        self._uploaded_before = 0

    def __enter__(self) -> DrainDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar[0].stop()

    def update(self, figures: Figures) -> None:
        """Show how far the drain is."""
        if not self._begun:
            if figures.pending_files:
                self._begin(figures)
        elif self._bar is not None:
            progress, task = self._bar
            done = max(0, figures.uploaded_bytes - self._uploaded_before)
            progress.update(task, completed=done, total=done + figures.pending_bytes, left=_left(figures))

    def _begin(self, figures: Figures) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._begun = True
        self._uploaded_before = figures.uploaded_bytes
        console = self._console or Console(stderr=True)
        if not console.is_terminal:
            console.print(f"Uploading: {_left(figures)}", highlight=False, soft_wrap=True)
            return
        left = TextColumn("{task.fields[left]}")
        columns = (TextColumn("{task.description}"), BarColumn(), left, TimeElapsedColumn())
        progress = Progress(*columns, console=console, transient=True)
        self._bar = progress, progress.add_task("Uploading", total=figures.pending_bytes, left=_left(figures))
        progress.start()


def _left(figures: Figures) -> str:
    text = f"{show_files(figures.pending_files)}, {show_size(figures.pending_bytes)} left"
    return text + (", offline" if figures.offline else "")


def show_status(report: MountReport, console: Console | None = None) -> None:
    """The status of a mount for people."""
    from rich.console import Console
    from rich.table import Table

    figures = report.writeback
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in (
        ("Bucket", report.url + (" (read-only)" if report.read_only else "")),
        ("Mountpoint", report.mountpoint),
        ("State", f"{report.phase}{', offline' if figures.offline else ''}, process {report.pid}"),
        ("To upload", _pending(report)),
        ("Uploaded", f"{show_files(figures.uploaded_files)}, {show_size(figures.uploaded_bytes)}"),
        ("Read", _read(report.reading)),
        ("Conflicts", str(figures.conflicts)),
        ("Cache", report.cache_dir),
    ):
        table.add_row(name, value)
    if report.set_aside:
        parts = "1 part of a file" if report.set_aside == 1 else f"{report.set_aside} parts of files"
        table.add_row("Set aside", f"{parts} that a power cut left, in {report.cache_dir}/torn")
    for failure in figures.failed:
        table.add_row("Failed", f"{failure.path}: {failure.error}")
    (console or Console(highlight=False)).print(table)


def _read(reading: ReadFigures) -> str:
    text = (
        f"{show_size(reading.served_bytes)} by programs: {show_size(reading.fetched_bytes)} from the bucket, "
        f"{show_size(reading.disk_bytes)} from the cache"
    )
    if reading.wasted_bytes:
        text += f"; {show_size(reading.wasted_bytes)} fetched in vain"
    if reading.failures:
        text += f"; {reading.failures} {'request' if reading.failures == 1 else 'requests'} failed"
    return text


def _pending(report: MountReport) -> str:
    figures = report.writeback
    if report.read_only:
        return "nothing: this mount does not write"
    if not figures.pending_files:
        return "nothing: everything is in the bucket"
    return (
        f"{show_files(figures.pending_files)}, {show_size(figures.pending_bytes)} "
        f"({figures.uploading} in progress, the oldest for {figures.oldest_pending_s:.0f} s)"
    )
