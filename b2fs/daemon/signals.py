"""The signals that ask a mount to end.  Loads nothing: a mount needs it before anything else."""

from __future__ import annotations

import signal

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def heeded() -> list[signal.Signals]:
    """SIGTERM, and the others unless whoever started us has had them ignored (nohup, a shell's background job)."""
    return [number for number in STOPPING if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN]
