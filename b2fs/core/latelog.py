"""Log messages of what runs before a mount answers: logging is loaded with the first of them, as nothing else needs it.

It loads a dozen modules, a tenth of all that is loaded by then.
"""

from __future__ import annotations


def debug(logger: str, text: str, *values: object) -> None:
    """logging.getLogger(logger).debug(text, *values)."""
    import logging

    logging.getLogger(logger).debug(text, *values)
