"""Faults on demand: refusals, broken connections and cut bodies, by call and probability; latency."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from typing import Final

from b2fs.errors import ConfigError
from b2fs.server.wire.errors import S3Error

_ERRORS: Final = {
    "500": "InternalError",
    "503": "ServiceUnavailable",
    "slowdown": "SlowDown",
    "403": "AccessDenied",
    "408": "RequestTimeout",
}


class Breakage(Enum):
    """Faults that are no answer."""

    #: The connection ends without an answer, before the call is made.
    RESET = "reset"
    #: The call is made, and the connection ends without its answer.
    LOST = "lost"
    #: The body of the answer ends halfway.
    CUT = "cut"


@dataclass(slots=True)
class FaultRule:
    """`operation:kind:share`: share is a percentage, or `xN` for the first N calls that match."""

    pattern: str
    kind: str
    probability: float = 1.0
    remaining: int | None = None

    @staticmethod
    def parse(text: str) -> FaultRule:
        """Raises ConfigError."""
        parts = text.split(":")
        if len(parts) != 3 or (parts[1] not in _ERRORS and parts[1] not in [b.value for b in Breakage]):
            kinds = ", ".join([*_ERRORS, *(b.value for b in Breakage)])
            raise ConfigError(f"--fault {text!r} is not OPERATION:KIND:SHARE with a KIND of {kinds}")
        pattern, kind, share = parts
        if match := re.fullmatch(r"x(\d+)", share):
            return FaultRule(pattern, kind, 1.0, int(match[1]))
        if match := re.fullmatch(r"(\d+(?:\.\d+)?)%", share):
            return FaultRule(pattern, kind, float(match[1]) / 100)
        raise ConfigError(f"--fault {text!r}: the share is neither a percentage (5%) nor a count (x3)")


@dataclass(slots=True)
class Faults:
    """Decides call by call; the same seed and the same calls give the same faults."""

    rules: Sequence[FaultRule] = ()
    latency_s: float = 0.0
    seed: int = 0
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def happens(self, share: float) -> bool:
        """Whether a fault of this probability strikes now."""
        return self._random.random() < share

    def choose(self, operation: str) -> Breakage | None:
        """Raise the fault of the first rule that strikes, or say how the connection is to break."""
        for rule in self.rules:
            if not fnmatchcase(operation, rule.pattern) or rule.remaining == 0:
                continue
            if self._random.random() >= rule.probability:
                continue
            if rule.remaining is not None:
                rule.remaining -= 1
            if rule.kind not in _ERRORS:
                return Breakage(rule.kind)
            raise S3Error(_ERRORS[rule.kind], headers={"retry-after": "1"} if rule.kind == "slowdown" else None)
        return None
