"""Signature Version 4 in a few lines, for requests on connections of our own.

The AWS runtime signs what it sends itself.  To sign what it does not send it would have to be loaded, which a mount has
no time for before it answers.  Source of the rules: AWS, "Create a signed AWS API request"; for S3 the path is taken as
it is sent, encoded once.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import time
from collections.abc import Iterable
from typing import NamedTuple

from b2fs.store.s3.nearby import Frozen

_ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED = "UNSIGNED-PAYLOAD"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()

Headers = list[tuple[str, str]]


class _Scope(NamedTuple):
    """What is the same for all requests of a second."""

    #: The time as signatures have it.
    stamp: str
    #: What is signed, up to the digest of the request.
    preamble: str
    #: The beginning of the Authorization header, up to the names of the signed headers.
    credential: str
    key: bytes


def signed(
    method: str, target: str, headers: Iterable[tuple[str, str]], payload: str, keys: Frozen, region: str, now_s: float
) -> Headers:
    """The headers of a request with those that sign it.

    target is the path with its query, both encoded; headers must have Host.  payload is the SHA-256 of the body in hex,
    or UNSIGNED.
    """
    scope = _scope(keys, region, int(now_s))
    whole = [*headers, ("X-Amz-Date", scope.stamp), ("X-Amz-Content-Sha256", payload)]
    if keys.token is not None:
        whole.append(("X-Amz-Security-Token", keys.token))
    by_name = sorted([(name.lower(), _trimmed(value)) for name, value in whole])
    names = ";".join([name for name, _ in by_name])
    lines = "\n".join([f"{name}:{value}" for name, value in by_name])
    path, _, query = target.partition("?")
    request = f"{method}\n{path}\n{_canonical(query) if query else ''}\n{lines}\n\n{names}\n{payload}"
    to_sign = scope.preamble + hashlib.sha256(request.encode("latin-1")).hexdigest()
    signature = hmac.digest(scope.key, to_sign.encode(), "sha256").hex()
    whole.append(("Authorization", f"{scope.credential}{names}, Signature={signature}"))
    return whole


def _trimmed(value: str) -> str:
    """With single blanks and none at the ends; each character is a byte, so only ASCII's blanks are any."""
    return " ".join(value.split()) if value.isascii() else b" ".join(value.encode("latin-1").split()).decode("latin-1")


def _canonical(query: str) -> str:
    """The parameters in the order of their names, each with its '='."""
    pairs = (part.partition("=") for part in query.split("&") if part)
    return "&".join(f"{name}={value}" for name, _, value in sorted(pairs))


@functools.lru_cache(maxsize=4)
def _scope(keys: Frozen, region: str, second: int) -> _Scope:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
    name = f"{stamp[:8]}/{region}/s3/aws4_request"
    credential = f"{_ALGORITHM} Credential={keys.access_key}/{name}, SignedHeaders="
    preamble = f"{_ALGORITHM}\n{stamp}\n{name}\n"
    return _Scope(stamp, preamble, credential, _key(keys.secret_key, stamp[:8], region))


@functools.lru_cache(maxsize=4)
def _key(secret: str, date: str, region: str) -> bytes:
    key = ("AWS4" + secret).encode()
    for part in (date, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
