"""From what a server or the CRT says to the exceptions of b2fs.errors.

Decided by the error code of the S3 protocol, and by the HTTP status where there is none (HEAD has no body); message
texts decide nothing, with the one exception that stands in `_is_cap`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

from b2fs.errors import (
    AccessDenied,
    BadCredentials,
    CapExceeded,
    CorruptBody,
    InvalidRange,
    InvalidRequest,
    NoSuchBucket,
    NoSuchUpload,
    NotFound,
    PreconditionFailed,
    RetryableError,
    SlowDown,
    StoreError,
    TimedOut,
    Unavailable,
    Unsupported,
)
from b2fs.store.s3 import xmlio
from b2fs.store.s3.answers import Response

#: A Retry-After is believed up to here, in seconds: everybody waits for it, readers too, and B2 asks for seconds.
MOST_RETRY_AFTER_S = 300.0

_BY_CODE: Mapping[str, type[StoreError]] = {
    "NoSuchKey": NotFound,
    "NoSuchVersion": NotFound,
    "NoSuchUpload": NoSuchUpload,
    "NoSuchBucket": NoSuchBucket,
    "AccessDenied": AccessDenied,
    "AllAccessDisabled": AccessDenied,
    "AccountProblem": AccessDenied,
    "InvalidObjectState": AccessDenied,
    "InvalidAccessKeyId": BadCredentials,
    "SignatureDoesNotMatch": BadCredentials,
    "AuthorizationHeaderMalformed": BadCredentials,
    "ExpiredToken": BadCredentials,
    "InvalidToken": BadCredentials,
    "TokenRefreshRequired": BadCredentials,
    "RequestTimeTooSkewed": BadCredentials,
    "PreconditionFailed": PreconditionFailed,
    "InvalidRange": InvalidRange,
    "InvalidRequest": InvalidRequest,
    "InvalidArgument": InvalidRequest,
    "KeyTooLongError": InvalidRequest,
    "NotImplemented": Unsupported,
    "MethodNotAllowed": Unsupported,
    "UnsupportedOperation": Unsupported,
    "SlowDown": SlowDown,
    "TooManyRequests": SlowDown,
    "RequestLimitExceeded": SlowDown,
    "Throttling": SlowDown,
    "ThrottlingException": SlowDown,
    "InternalError": Unavailable,
    "ServiceUnavailable": Unavailable,
    "OperationAborted": Unavailable,
    "ConditionalRequestConflict": Unavailable,
    "IncompleteBody": Unavailable,
    "RequestTimeout": TimedOut,
    # The body changed on its way to the server.
    "BadDigest": CorruptBody,
    "XAmzContentSHA256Mismatch": CorruptBody,
}

_BY_STATUS: Mapping[int, type[StoreError]] = {
    400: InvalidRequest,
    401: BadCredentials,
    403: AccessDenied,
    404: NotFound,
    405: Unsupported,
    408: TimedOut,
    409: InvalidRequest,
    412: PreconditionFailed,
    416: InvalidRange,
    429: SlowDown,
    501: Unsupported,
}

_BY_CRT_NAME: Mapping[str, type[RetryableError]] = {
    "AWS_ERROR_S3_SLOW_DOWN": SlowDown,
    "AWS_ERROR_S3_REQUEST_TIMEOUT": TimedOut,
    "AWS_ERROR_HTTP_CHANNEL_THROUGHPUT_FAILURE": TimedOut,
    "AWS_ERROR_HTTP_RESPONSE_FIRST_BYTE_TIMEOUT": TimedOut,
    "AWS_IO_SOCKET_TIMEOUT": TimedOut,
    "AWS_IO_TLS_NEGOTIATION_TIMEOUT": TimedOut,
}

_SENTENCES: Mapping[str, str] = {
    "RequestTimeTooSkewed": "the clock of this machine differs too much from the server's",
    "AuthorizationHeaderMalformed": "the region does not fit the bucket's endpoint",
    "NoSuchBucket": "the bucket does not exist",
}


#: An XML declaration and blanks, in any number, before the root.
_ERROR_ROOT = re.compile(rb"\s*(?:<\?xml[^>]*\?>)?\s*<(?:\w+:)?Error[\s/>]")


def error_of(response: Response, *, has_body: bool = True) -> StoreError:
    """The exception for an answer that is no success; has_body is False for HEAD."""
    code, message = xmlio.parse_error(response.body) if has_body else ("", "")
    if response.headers.get("x-amz-delete-marker") == "true":
        return NotFound("the version is a hide marker")
    kind = _BY_CODE.get(code) or _kind_of_status(response.status, code, has_body)
    if kind is AccessDenied and _is_cap(message):
        return CapExceeded(message)
    text = _SENTENCES.get(code) or message or f"HTTP status {response.status}"
    if code and code not in _SENTENCES:
        text = f"{text} ({code})"
    if issubclass(kind, RetryableError):
        return kind(text, retry_after_s(response.headers))
    return kind(text)


def error_in_success(response: Response) -> StoreError | None:
    """The error that some calls report in the body of a 200 (copy, complete), or None.

    A server that takes its time keeps the connection alive with blanks in front of it.
    """
    if not _ERROR_ROOT.match(response.body):
        return None
    code, message = xmlio.parse_error(response.body)
    if not code:
        return None
    kind = _BY_CODE.get(code, Unavailable)
    return kind(f"{message or 'failed'} ({code})")


def error_of_item(code: str, message: str) -> StoreError:
    """The exception for one target of DeleteObjects."""
    kind = _BY_CODE.get(code, StoreError)
    if kind is AccessDenied and _is_cap(message):
        return CapExceeded(message)
    return kind(f"{message or 'failed'} ({code})")


def error_of_crt(name: str, message: str) -> StoreError:
    """The exception for a fault below HTTP, or one whose answer the CRT kept to itself."""
    if name == "AWS_ERROR_S3_REQUEST_TIME_TOO_SKEWED":
        return BadCredentials(_SENTENCES["RequestTimeTooSkewed"])
    if kind := _BY_CRT_NAME.get(name):
        return kind(f"{message} ({name})")
    if name.startswith(("AWS_IO_TLS_ERROR_NEGOTIATION", "AWS_IO_TLS_HOST_NAME", "AWS_IO_TLS_CERT")):
        return Unavailable(f"the server's certificate or TLS settings were not accepted ({name})")
    if name.startswith("AWS_IO_DNS"):
        return Unavailable(f"the endpoint's host name is unknown ({name})")
    return Unavailable(f"{message.rstrip('.')} ({name})")


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The Retry-After header in seconds from now (it is a number or a date), at most MOST_RETRY_AFTER_S, or None."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return min(max(0.0, float(value)), MOST_RETRY_AFTER_S)
    except ValueError:
        pass
    from email.utils import parsedate_to_datetime  # loads a dozen modules, for what hardly any server sends

    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return min(max(0.0, when.timestamp() - time.time()), MOST_RETRY_AFTER_S)


def _kind_of_status(status: int, code: str, has_body: bool) -> type[StoreError]:
    if status == 404 and has_body and not code:
        # Not an S3 answer: some gateway between, whose 404 says nothing about the object.
        return Unavailable
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status >= 500:
        return Unavailable
    return StoreError


def _is_cap(message: str) -> bool:
    """Whether an AccessDenied of B2 means that a cap of the account is used up.

    B2 gives caps the same code as missing rights; only the text differs, so this one place reads it.
    """
    return "cap exceeded" in message.lower()
