"""A call from first attempt to last: the gate, retries with full jitter, deadlines, renewed credentials.

What comes out of `call` is either a success or the error of the last attempt.  A request may be sent more than once;
those for whom that makes a difference use `call_counted`.
"""

from __future__ import annotations

import random
from typing import Protocol

import trio

from b2fs.errors import BadCredentials, RetryableError, SlowDown
from b2fs.store.s3.config import RetryPolicy
from b2fs.store.s3.credentials import Signer
from b2fs.store.s3.faults import Response
from b2fs.store.s3.gate import Gate
from b2fs.store.s3.wire import Call


class Sender(Protocol):
    """What Transport does."""

    async def send(self, call: Call) -> Response: ...

    async def send_plainly(self, call: Call) -> Response: ...


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

    async def call(self, call: Call) -> Response:
        """Make the call; faults that pass are tried again within the policy.  Raises StoreError."""
        response, _ = await self.call_counted(call)
        return response

    async def call_counted(self, call: Call) -> tuple[Response, bool]:
        """Like `call`; also tells whether an earlier attempt may have reached the server and had its effect."""
        deadline = trio.current_time() + self._policy.deadline_s
        renewed = False
        attempt = 0
        while True:
            try:
                return await self._once(call, attempt), attempt > 0
            except BadCredentials:
                if renewed or not self._signer.renewable:
                    raise
                renewed = True
                await self._signer.refresh(force=True)
            except RetryableError as error:
                attempt += 1
                delay = self._delay(error, attempt)
                if attempt >= self._policy.attempts or trio.current_time() + delay >= deadline:
                    raise
                self.retries += 1
                await trio.sleep(delay)

    async def _once(self, call: Call, attempt: int) -> Response:
        async with self._gate.admitted(call.body_bytes + call.expected_bytes) as sent_at:
            self.sent += 1
            send = self._sender.send
            try:
                response = await send(call)
            except SlowDown as error:
                self._gate.slow_down(sent_at, error.retry_after_s)
                raise
        self._gate.succeeded()
        return response

    def _delay(self, error: RetryableError, attempt: int) -> float:
        """Full jitter, on top of what the server asked for, so that the waiting do not come back all at once."""
        bound = min(self._policy.max_delay_s, self._policy.base_delay_s * 2.0 ** (attempt - 1))
        return random.uniform(0, bound) + (error.retry_after_s or 0.0)
