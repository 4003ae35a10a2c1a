"""A call from first attempt to last: the gate, retries with full jitter, deadlines, renewed credentials.

What comes out of `call` is either a success or the error of the last attempt.  A request may be sent more than once;
those for whom that makes a difference pass a History.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from b2fs.errors import BadCredentials, RetryableError, SlowDown, Unavailable
from b2fs.store.s3.answers import Response
from b2fs.store.s3.config import RetryPolicy
from b2fs.store.s3.credentials import Signer
from b2fs.store.s3.faults import error_in_success
from b2fs.store.s3.gate import Gate
from b2fs.store.s3.wire import Call


class Sender(Protocol):
    """What Transport does."""

    async def send(self, call: Call) -> Response: ...

    async def send_plainly(self, call: Call) -> Response: ...


@dataclass(slots=True)
class History:
    """What became of a call on the way: repeated means that an earlier attempt failed with its effect unknown.

    lost is called for each attempt that the server may have carried out, or may do so later.
    """

    lost: Callable[[], None]
    repeated: bool = False


class Caller:
    """Makes calls through one gate.

    Counters are for the status: attempts sent, and retries among them.
    """

    def __init__(self, sender: Sender, gate: Gate, signer: Signer, policy: RetryPolicy) -> None:
        self._sender = sender
        self._gate = gate
        self._signer = signer
        self._policy = policy
        self.sent = 0
        self.retries = 0
        self._scouting = False

    async def call(self, call: Call, history: History | None = None, *, tries: RetryPolicy | None = None) -> Response:
        """Make the call; faults that pass are tried again within the policy (or `tries`).  Raises StoreError.

        history, if given, tells afterwards, also after an error, whether an earlier attempt may have had its effect.
        """
        policy = tries or self._policy
        deadline = trio.current_time() + policy.deadline_s
        renewed = False
        scout = False
        attempt = 0
        while True:
            used = await self._signer.prepare()
            try:
                return await (self._scout(call, deadline) if scout else self._once(call, self._sender.send, deadline))
            except BadCredentials:
                if renewed or not await self._signer.renew(used):
                    raise
                renewed = True
            except RetryableError as error:
                if history is not None and not isinstance(error, SlowDown):
                    history.lost()
                attempt += 1
                delay = _delay(policy, error, attempt)
                if attempt >= policy.attempts or trio.current_time() + delay >= deadline:
                    raise
                self.retries += 1
                if history is not None:
                    history.repeated = True
                await trio.sleep(delay)
                # No await between this question and _scout's setting of the flag.
                scout = error.retry_after_s is None and isinstance(error, SlowDown | Unavailable) and not self._scouting

    async def _scout(self, call: Call, deadline: float) -> Response:
        """Try again on the slow way that shows Retry-After; one at a time, since the gate tells everybody."""
        self._scouting = True
        try:
            return await self._once(call, self._sender.send_plainly, deadline)
        finally:
            self._scouting = False

    async def _once(self, call: Call, send: Callable[[Call], Awaitable[Response]], deadline: float) -> Response:
        async with self._gate.admitted(call.body_bytes + call.expected_bytes, deadline) as sent_at:
            self.sent += 1
            try:
                response = await send(call)
            except SlowDown as error:
                self._gate.slow_down(sent_at, error.retry_after_s)
                raise
        self._gate.succeeded()
        if call.errors_in_body and (failure := error_in_success(response)):
            raise failure
        return response


def _delay(policy: RetryPolicy, error: RetryableError, attempt: int) -> float:
    """Full jitter, on top of what the server asked for, so that the waiting do not come back all at once."""
    bound = min(policy.max_delay_s, policy.base_delay_s * 2.0 ** (attempt - 1))
    return random.uniform(0, bound) + (error.retry_after_s or 0.0)
