"""When a failed call is made again, and what the log says of an unreachable bucket."""

from __future__ import annotations

import logging
import random

from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.errors import B2fsError, RetryableError, TimedOut, Unavailable

log = logging.getLogger(__name__)


def passes(error: B2fsError) -> bool:
    """Whether trying again is likely to help without anybody doing something."""
    return isinstance(error, RetryableError)


class Retries:
    """Delays with jitter that double with every failure; one log line when the bucket goes, one when it is back."""

    def __init__(self, config: WriteBackConfig) -> None:
        self._config = config
        self._jitter = random.Random(0)
        self.offline = False

    def succeeded(self) -> None:
        if self.offline:
            log.warning("the bucket answers again; uploads go on")
            self.offline = False

    def delay(self, error: B2fsError, attempts: int) -> float:
        """Seconds until the next try after this many failures."""
        if isinstance(error, Unavailable | TimedOut) and not self.offline:
            self.offline = True
            log.warning("the bucket cannot be reached; changes are kept here until it can: %s", error)
        if not passes(error):
            return self._config.refused_retry_s
        most = min(self._config.retry_max_s, self._config.retry_min_s * 2 ** min(attempts - 1, 10))
        asked = error.retry_after_s if isinstance(error, RetryableError) else None
        return max(asked or 0.0, self._jitter.uniform(most / 2, most))
