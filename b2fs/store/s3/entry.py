"""Entering a store: everything that can be wrong with endpoint, bucket and keys is said here, soon and in a sentence.

A user waits for this, so it does not try for as long as a call of a running mount may: what a few quick tries do not
mend is final.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from contextlib import suppress

import trio

from b2fs.errors import (
    AccessDenied,
    BadCredentials,
    NoSuchBucket,
    NotFound,
    RetryableError,
    StoreError,
    TimedOut,
    Unavailable,
    Unsupported,
)
from b2fs.store.s3.answers import Response
from b2fs.store.s3.caller import Caller
from b2fs.store.s3.config import RetryPolicy, S3Config
from b2fs.store.s3.greeting import Answer, list_one

#: Pauses between tries to connect, in seconds: a server that is just being started gets a moment.
_KNOCK_PAUSES_S = (0.3, 0.7)
#: How long connecting, and then the first answer, may take, in seconds.
PATIENCE_S = 10.0
#: How long a question that was asked before is waited for: who does not answer in that time is asked anew.
_GREETING_S = 3.0
_TRIES = RetryPolicy(attempts=4, base_delay_s=0.2, max_delay_s=1.0, deadline_s=PATIENCE_S)


async def greeted(answer: Answer) -> Response | None:
    """What came of a question that was asked before; None if that is nothing, or does not come soon."""
    arrived, token = trio.Event(), trio.lowlevel.current_trio_token()

    def tell() -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(arrived.set)

    answer.when_there(tell)
    with trio.move_on_after(_GREETING_S):
        await arrived.wait()
        return answer.result()
    return None


async def knock(config: S3Config) -> None:
    """Connect once and hang up.  Raises Unavailable with the reason if that is not possible.

    The CRT would find out too, but tells little; and its TLS library answers a failed handshake only after 10 to 30 s,
    so that an attacker cannot time it.
    """
    host, port = config.connect_address
    context = await trio.to_thread.run_sync(_tls_context, config) if config.tls else None
    with trio.move_on_after(PATIENCE_S):
        for pause in (*_KNOCK_PAUSES_S, None):
            try:
                await _connect_once(config, context)
                return
            except OSError as error:
                if pause is None:
                    raise Unavailable(f"{config.url} cannot be reached: {_reason(error, config)}") from error
                await trio.sleep(pause)
    raise Unavailable(f"{config.url} cannot be reached: no answer from {host}, port {port}, within {PATIENCE_S:g} s")


def is_listing(response: Response) -> bool:
    """Whether an answer looks like a listing: some web servers say 200 to everything."""
    return b"ListBucketResult" in response.body


def _tls_context(config: S3Config) -> ssl.SSLContext | None:
    paths = ssl.get_default_verify_paths()
    if config.ca_bundle is None and not paths.cafile and not paths.capath:
        return None  # nothing to check with: this Python does not know the system's certificates
    return ssl.create_default_context(cafile=config.ca_bundle)


async def _connect_once(config: S3Config, context: ssl.SSLContext | None) -> None:
    """Raises OSError for what may be otherwise a moment later, Unavailable for what will not."""
    stream = await trio.open_tcp_stream(*config.connect_address)
    async with stream:
        if context is None:
            return
        secured = trio.SSLStream(stream, context, server_hostname=config.connect_address[0])
        try:
            await secured.do_handshake()
        except trio.BrokenResourceError as error:
            cause = error.__cause__
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise Unavailable(
                    f"the certificate of {config.url} is not trusted: {cause.verify_message}; "
                    "--ca-bundle names others to trust"
                ) from error
            if isinstance(cause, ssl.SSLError) and cause.reason:
                reason = cause.reason.lower().replace("_", " ")
                raise Unavailable(f"{config.url} does not speak TLS as it should: {reason}") from error
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from error


def _reason(error: OSError, config: S3Config) -> str:
    if isinstance(error, socket.gaierror):
        host = config.connect_address[0]
        if error.errno == socket.EAI_AGAIN:
            return f"the host name {host} cannot be looked up now; is there a network?"
        made = "" if config.endpoint is not None or config.region is None else f"; is the region {config.region} right?"
        return f"the host name {host} is not known{made}"
    cause: BaseException = error
    while isinstance(cause.__cause__, OSError | ExceptionGroup):
        cause = cause.__cause__
    if isinstance(cause, ExceptionGroup):  # one for each address of the host
        cause = cause.exceptions[-1]
    if isinstance(cause, OSError) and cause.errno:
        return os.strerror(cause.errno).lower()
    return str(cause)


async def check_bucket(calls: Caller, config: S3Config) -> Response:
    """List one key.

    Raises a StoreError with a sentence for the user.  The answer tells which server it is.
    """
    name = f"bucket {config.bucket!r} at {config.url}"
    try:
        with trio.move_on_after(PATIENCE_S):
            response = await calls.call(list_one(config), tries=_TRIES)
            if is_listing(response):
                return response
            raise StoreError(f"{config.url} does not look like an S3 endpoint: its listings are something else")
    except NoSuchBucket as error:
        raise NoSuchBucket(f"{name} does not exist") from error
    except BadCredentials as error:
        raise BadCredentials(f"{name} refuses the credentials: {error}") from error
    except AccessDenied as error:
        raise AccessDenied(f"the credentials may not list {name}: {error}") from error
    except RetryableError as error:
        raise Unavailable(f"{name} cannot be reached: {error}") from error
    except (NotFound, Unsupported) as error:
        raise StoreError(f"{config.url} does not look like an S3 endpoint: {error}") from error
    raise TimedOut(f"{name} cannot be reached: no answer within {PATIENCE_S:g} s")
