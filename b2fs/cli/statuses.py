"""The one place where errors become sentences and exit statuses."""

from __future__ import annotations

from collections.abc import Callable

import click

from b2fs.cli.console import complain
from b2fs.daemon.exits import EXIT_FAILED, EXIT_USAGE
from b2fs.errors import B2fsError, ConfigError


def exit_status(run: Callable[[], object]) -> int:
    """What `run` returns, or the status of the error that it raised, which is told on stderr."""
    try:
        result = run()
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        context = getattr(error, "ctx", None)  # that of the command which was used wrongly
        complain(error.format_message() + (f" See: {context.command_path} --help" if context is not None else ""))
        return EXIT_USAGE
    except (click.Abort, KeyboardInterrupt):
        complain("interrupted")
        return 130
    except ConfigError as error:
        complain(str(error))
        return EXIT_USAGE
    except B2fsError as error:
        complain(str(error))
        return EXIT_FAILED
    return result if isinstance(result, int) else 0
