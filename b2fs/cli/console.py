"""What a user sees: sentences on stderr, progress of a drain, the status of a mount."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from b2fs.config.units import show_files, show_size
from b2fs.daemon.messages import Figures, MountReport


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
        self._console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"), TimeElapsedColumn(),
            console=self._console, transient=True,
        )  # fmt: skip
        self._task: TaskID | None = None
        self._uploaded_before = 0

    def __enter__(self) -> DrainDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None and self._console.is_terminal:
            self._progress.stop()

    def update(self, figures: Figures) -> None:
        """Show how far the drain is."""
        if self._task is None:
            if figures.pending_files:
                self._begin(figures)
            return
        done = max(0, figures.uploaded_bytes - self._uploaded_before)
        self._progress.update(self._task, completed=done, total=done + figures.pending_bytes, left=_left(figures))

    def _begin(self, figures: Figures) -> None:
        self._uploaded_before = figures.uploaded_bytes
        self._task = self._progress.add_task("Uploading", total=figures.pending_bytes, left=_left(figures))
        if self._console.is_terminal:
            self._progress.start()
        else:
            self._console.print(f"Uploading: {_left(figures)}", highlight=False, soft_wrap=True)


def _left(figures: Figures) -> str:
    text = f"{show_files(figures.pending_files)}, {show_size(figures.pending_bytes)} left"
    return text + (", offline" if figures.offline else "")


def show_status(report: MountReport, console: Console | None = None) -> None:
    """The status of a mount for people."""
    figures = report.writeback
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in (
        ("Bucket", report.url + (" (read-only)" if report.read_only else "")),
        ("Mountpoint", report.mountpoint),
        ("State", f"{report.phase}{', offline' if figures.offline else ''}, process {report.pid}"),
        ("To upload", _pending(figures)),
        ("Uploaded", f"{show_files(figures.uploaded_files)}, {show_size(figures.uploaded_bytes)}"),
        ("Conflicts", str(figures.conflicts)),
        ("Cache", report.cache_dir),
    ):
        table.add_row(name, value)
    for failure in figures.failed:
        table.add_row("Failed", f"{failure.path}: {failure.error}")
    (console or Console(highlight=False)).print(table)


def _pending(figures: Figures) -> str:
    if not figures.pending_files:
        return "nothing: everything is in the bucket"
    return (
        f"{show_files(figures.pending_files)}, {show_size(figures.pending_bytes)} "
        f"({figures.uploading} in progress, the oldest for {figures.oldest_pending_s:.0f} s)"
    )
