"""Where log lines go, and that no secret is in them (I11)."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from logging.handlers import RotatingFileHandler

from b2fs.errors import ConfigError

#: Variables whose values never reach a log.
SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "B2_APPLICATION_KEY")
_MAX_LOG_BYTES = 10 << 20
_PLAIN = "%(levelname)s %(name)s: %(message)s"
_TIMED = "%(asctime)s " + _PLAIN
#: Libraries that write request headers at their debug level.
_CHATTY = ("boto3", "botocore", "urllib3", "s3transfer")
#: syslog priorities, which journald reads from "<N>" at the start of a line.
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _Redacting(logging.Formatter):
    """Formats a record and its traceback, then blanks every known secret."""

    def __init__(self, template: str, secrets: tuple[str, ...], *, priority: bool = False) -> None:
        super().__init__(template)
        self._secrets = secrets
        self._priority = priority

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        for secret in self._secrets:
            text = text.replace(secret, "[secret]")
        if not self._priority:
            return text
        prefix = f"<{_PRIORITY.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in text.split("\n"))


def configure_logging(level: str, file: str | None, environ: Mapping[str, str]) -> logging.Handler:
    """Send the log to `file` (made 0600, rotated once at 10 MiB) or to stderr; replaces an earlier configuration.

    Under systemd ($JOURNAL_STREAM) lines carry a priority and no time, since the journal adds its own.
    Raises ConfigError when the file cannot be written.
    """
    secrets = tuple(environ[name] for name in SECRET_VARIABLES if len(environ.get(name, "")) >= 8)
    journal = file is None and "JOURNAL_STREAM" in environ
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        try:
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise ConfigError(f"The log file {file} cannot be written: {error.strerror}") from error
        handler = RotatingFileHandler(file, maxBytes=_MAX_LOG_BYTES, backupCount=1)
    handler.setFormatter(_Redacting(_PLAIN if journal else _TIMED, secrets, priority=journal))
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler.formatter, _Redacting)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    return handler
