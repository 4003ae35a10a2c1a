"""Requests as values, and the headers and paths they are made of.

A Call says everything about one request but credentials and connection.  Pure.
"""

from __future__ import annotations

import base64
import hashlib
import string
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlencode

from b2fs.core.content import CONTENT_HEADERS
from b2fs.errors import InvalidRequest

if TYPE_CHECKING:
    from b2fs.core.types import ObjectRef
    from b2fs.store.protocol import Body

META = "x-amz-meta-"
#: A tab is the one control character that a header may have.
_CONTROL = frozenset(map(chr, (*range(9), *range(10, 32), 127)))
_NAME_CHARS = frozenset(string.ascii_lowercase + string.digits + "!#$%&'*+-.^_`|~")


class Call(NamedTuple):
    """One request.

    operation is the S3 name of the call, path is percent-encoded and starts with '/', expected_bytes is a bound on the
    answer's body as far as it is known, for the budget of buffered bytes and the time limit.  copied_bytes is what the
    server has to copy before it answers.
    """

    operation: str
    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: Body = b""
    expected_bytes: int = 0
    copied_bytes: int = 0
    #: Whether the answer can have a body (HEAD's cannot, not even to explain an error).
    has_body: bool = True
    #: Whether a 200 may carry an error in its body.
    errors_in_body: bool = False
    #: A GET whose answer has expected_bytes, many of them: it may go where large bodies are cheap.
    bulk: bool = False

    @property
    def body_bytes(self) -> int:
        return memoryview(self.body).nbytes

    def sent_headers(self, host: str) -> tuple[tuple[str, str], ...]:
        """The headers of a request that is not signed yet."""
        if self.body_bytes or self.method in ("PUT", "POST"):
            return (("Host", host), *self.headers, ("Content-Length", str(self.body_bytes)))
        return (("Host", host), *self.headers)


class Paths:
    """The paths of one bucket: `/bucket/key` in path addressing, `/key` in virtual."""

    def __init__(self, bucket: str, *, virtual: bool) -> None:
        self._root = "" if virtual else f"/{quote(bucket)}"

    def bucket(self, **query: str | int | None) -> str:
        return (self._root or "/") + _query(query)

    def key(self, key: str, **query: str | int | None) -> str:
        return f"{self._root}/{quote_key(key)}{_query(query)}"


def listing_call(
    paths: Paths,
    prefix: str,
    *,
    delimiter: str | None = None,
    start_after: str | None = None,
    token: str | None = None,
    max_keys: int = 1000,
) -> Call:
    """ObjectStore.list_objects as a call."""
    path = paths.bucket(
        list_type=2,
        prefix=prefix or None,
        delimiter=delimiter,
        start_after=start_after,
        continuation_token=token,
        max_keys=max_keys,
        encoding_type="url",
    )
    return Call("ListObjectsV2", "GET", path, expected_bytes=max_keys * 512)


def quote_key(key: str) -> str:
    """A key as it stands in a path or a copy source: everything but unreserved characters and '/' encoded."""
    try:
        return quote(key, safe="/-_.~")
    except UnicodeEncodeError as error:
        raise InvalidRequest("a key must be valid Unicode") from error


def _query(query: Mapping[str, str | int | None]) -> str:
    pairs = [(name.replace("_", "-"), value) for name, value in query.items() if value is not None]
    if not pairs:
        return ""
    return "?" + urlencode(pairs, quote_via=quote, safe="-_.~")


def metadata_headers(metadata: Mapping[str, str] | None, content_type: str | None) -> list[tuple[str, str]]:
    """The headers for metadata (see ObjectInfo) and type.

    Names are sent in lower case, as they come back.  Names and values must be able to stand in a header as they are:
    names tokens, values without control characters, and without blanks at either end.  A character is a byte (Latin-1),
    as in what `headers.metadata_of` reads: so what others have put there goes back as it came, whatever its encoding.
    Raises InvalidRequest for others: encoding is the caller's business.
    """
    headers = [("Content-Type", content_type)] if content_type is not None else []
    for given, value in (metadata or {}).items():
        if given in CONTENT_HEADERS:
            headers.append((given, value))
            continue
        name = given.lower()
        if not name or not _NAME_CHARS.issuperset(name):
            raise InvalidRequest(f"metadata name {name!r} cannot stand in a header")
        headers.append((META + name, value))
    for name, value in headers:
        if not _fits(value) or value != value.strip(" \t"):
            raise InvalidRequest(f"the value {value[:40]!r} cannot stand in the header {name}")
    return headers


def _fits(value: str) -> bool:
    """Whether each character is a byte that a header may have."""
    if value.isascii() and value.isprintable():
        return True
    return _CONTROL.isdisjoint(value) and max(value) <= "\xff"


def copy_source(bucket: str, source: ObjectRef) -> list[tuple[str, str]]:
    """The headers that name a copy's source: by version ID, else the current object if its ETag is the same."""
    value = f"/{quote(bucket)}/{quote_key(source.key)}"
    if source.version_id is not None:
        return [("x-amz-copy-source", f"{value}?versionId={quote(source.version_id, safe='')}")]
    return [("x-amz-copy-source", value), ("x-amz-copy-source-if-match", f'"{source.etag}"')]


def md5_base64(body: Body) -> str:
    """The value of Content-MD5.  Releases the GIL for bodies over 2 KiB."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode("ascii")
