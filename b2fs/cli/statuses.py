"""The one place where errors become sentences and exit statuses."""

from __future__ import annotations

from collections.abc import Callable

from b2fs.cli.console import complain
from b2fs.daemon.exits import EXIT_FAILED, EXIT_USAGE
from b2fs.errors import B2fsError, ConfigError


def exit_status(run: Callable[[], object]) -> int:
    """What `run` returns, or the status of the error that it raised, which is told on stderr."""
    try:
        result = run()
    except KeyboardInterrupt:
        return _interrupted()
    except BaseExceptionGroup as group:  # as tasks of the event loop pass it on
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        return _interrupted()
    except ConfigError as error:
        complain(str(error))
        return EXIT_USAGE
    except B2fsError as error:
        complain(str(error))
        return EXIT_FAILED
    except Exception as error:
        status = _status_of_click(error)
        if status is None:
            raise
        return status
    return result if isinstance(result, int) else 0


def _status_of_click(error: Exception) -> int | None:
    """The same for the exceptions of click, which a plain mount does not load; None if it is none of them."""
    import click

    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.Abort):
        return _interrupted()
    if not isinstance(error, click.ClickException):
        return None
    context = getattr(error, "ctx", None)  # that of the command which was used wrongly
    complain(error.format_message() + (f" See: {context.command_path} --help" if context is not None else ""))
    return EXIT_USAGE


def _interrupted() -> int:
    complain("interrupted")
    return 130
