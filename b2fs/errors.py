"""One exception tree and one errno table.

Everything that b2fs raises on purpose is a B2fsError.  Stores raise StoreError and its children, the filesystem
core raises FsError with the errno that POSIX names.  Only the FUSE shell turns an exception into a number, with
`errno_of`; nobody else compares errnos or message texts.
"""

from __future__ import annotations

import errno
import os


class B2fsError(Exception):
    """Base of all deliberate errors; str() is one clear sentence for a user."""


class ConfigError(B2fsError):
    """What the user asked for cannot be done: bad URL, bad option, unusable mountpoint or cache directory."""


class FsError(B2fsError):
    """A filesystem operation failed in a way that POSIX has a number for.

    ttl_s, with ENOENT from lookup: for how long the kernel may remember that the name is not there, in seconds.
    """

    def __init__(self, code: int, detail: str = "", *, ttl_s: float = 0.0) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.ttl_s = ttl_s

    def __str__(self) -> str:
        # Put together only for who reads it: most are answers to questions for what is not there.
        return f"{os.strerror(self.code)}{': ' + self.detail if self.detail else ''}"


class StoreError(B2fsError):
    """The object store refused or failed a call."""


class NotFound(StoreError):
    """The key, version or upload does not exist.  Never raised for a fault of the network (I4)."""


class NoSuchBucket(StoreError):
    """The bucket does not exist."""


class NoSuchUpload(NotFound):
    """The multipart upload is unknown: completed, aborted or never made."""


class AccessDenied(StoreError):
    """The credentials may not do this."""


class BadCredentials(AccessDenied):
    """The key ID or the secret is wrong or expired."""


class CapExceeded(StoreError):
    """A storage, bandwidth or transaction cap of the account is used up; passes when the user raises it."""


class PreconditionFailed(StoreError):
    """If-Match or If-None-Match did not hold: the object is another version than the caller believed."""


class InvalidRange(StoreError):
    """The range starts at or behind the end of the object."""


class InvalidRequest(StoreError):
    """The store understood and refused the request as malformed or over a limit."""


class Unsupported(StoreError):
    """The store does not offer this call."""


class Locked(AccessDenied):
    """Object Lock forbids removing or changing this version."""


class RetryableError(StoreError):
    """A fault that may pass: the same call may be made again.

    retry_after_s is what the server asked for, in seconds, or None.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(RetryableError):
    """The store cannot be reached, broke the connection, or answered 500 or 503."""


class SlowDown(RetryableError):
    """The store asks for fewer requests (503 SlowDown, 429)."""


class TimedOut(RetryableError):
    """No answer within the time that the caller allowed."""


class CorruptBody(RetryableError):
    """A body arrived cut or with a wrong checksum; it was not used."""


_ERRNO_TABLE: tuple[tuple[type[B2fsError], int], ...] = (
    # First match wins, so children stand before their parents.
    (NotFound, errno.ENOENT),
    (NoSuchBucket, errno.EIO),
    (CapExceeded, errno.EDQUOT),
    (Locked, errno.EPERM),
    (AccessDenied, errno.EACCES),
    (TimedOut, errno.ETIMEDOUT),
    (Unsupported, errno.EOPNOTSUPP),
    (StoreError, errno.EIO),
)


#: Faults of the local disk that mean the same to the program.  Others, such as ENOENT for a lost cache file, would
#: tell it something wrong about the bucket (I4).
_LOCAL_FAULTS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.ENOMEM))


def errno_of(error: BaseException) -> int:
    """The errno that a program sees for this exception; EIO for what is not foreseen."""
    if isinstance(error, FsError):
        return error.code
    if isinstance(error, OSError) and error.errno in _LOCAL_FAULTS:
        return error.errno
    for kind, code in _ERRNO_TABLE:
        if isinstance(error, kind):
            return code
    return errno.EIO
