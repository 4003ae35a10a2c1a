"""What stands between a request that may be made and the making of it: latency, caps, faults."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from b2fs.server.classes import Caps
from b2fs.server.faults import Breakage, Faults


class Broken(Exception):
    """The connection is to end without an answer."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Asked once per call, by both doors."""

    faults: Faults = field(default_factory=Faults)
    caps: Caps = field(default_factory=lambda: Caps({}, int))

    async def admit(self, operation: str, upload_bytes: int) -> Breakage | None:
        """Let a call pass, or refuse it: S3Error for caps and faults, Broken for a reset.

        What is returned must be done to the answer.
        """
        if self.faults.latency_s:
            await trio.sleep(self.faults.latency_s)
        breakage = self.faults.choose(operation)
        if breakage is Breakage.RESET:
            raise Broken
        self.caps.charge(operation, upload_bytes)
        return breakage
