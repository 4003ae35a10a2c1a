"""Times on the wire: milliseconds since the epoch to and from ISO 8601 and HTTP dates."""

from __future__ import annotations

import calendar
import time
from datetime import UTC, datetime
from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache


@lru_cache(maxsize=1024)
def _iso_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))


def iso8601(ms: int) -> str:
    """`2026-01-31T12:00:00.000Z`."""
    return f"{_iso_second(ms // 1000)}{ms % 1000:03d}Z"


@lru_cache(maxsize=1024)
def http_date(second: int) -> str:
    """`Sat, 31 Jan 2026 12:00:00 GMT`, of seconds since the epoch."""
    return formatdate(second, usegmt=True)


def _to_ms(moment: datetime) -> int:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    # Whole numbers all the way: a float would lose the last millisecond now and then.
    return calendar.timegm(moment.utctimetuple()) * 1000 + moment.microsecond // 1000


def parse_time(text: str) -> int:
    """Milliseconds of an ISO 8601 or HTTP date; a date without a zone is UTC.  Raises ValueError."""
    try:
        return _to_ms(datetime.fromisoformat(text.strip()))
    except (ValueError, OverflowError):
        pass  # the other form is tried next
    try:
        return _to_ms(parsedate_to_datetime(text))
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise ValueError(f"not a date: {text!r}") from error
