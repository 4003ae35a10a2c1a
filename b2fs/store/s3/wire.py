"""Requests as values, and the headers and paths they are made of.

A Call says everything about one request but credentials and connection.  Pure.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import string
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlencode

from b2fs.core.types import ETag, ObjectInfo, ObjectRef
from b2fs.errors import CorruptBody, InvalidRange, InvalidRequest
from b2fs.store.s3.faults import Response
from b2fs.store.s3.xmlio import stable_version, unquote_etag

if TYPE_CHECKING:
    from b2fs.store.protocol import Body

META = "x-amz-meta-"
_NAME_CHARS = frozenset(string.ascii_lowercase + string.digits + "!#$%&'*+-.^_`|~")
_HEX = frozenset(string.hexdigits)


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
    """The headers for user metadata and type.

    Names are sent in lower case, as they come back.  Names and values must be able to stand in a header as they are:
    names tokens, values printable ASCII without spaces at either end.  Raises InvalidRequest for others: encoding is
    the caller's business.
    """
    headers = [("Content-Type", content_type)] if content_type is not None else []
    for given, value in (metadata or {}).items():
        name = given.lower()
        if not name or not _NAME_CHARS.issuperset(name):
            raise InvalidRequest(f"metadata name {name!r} cannot stand in a header")
        if not (value.isascii() and value.isprintable()) or value != value.strip(" "):
            raise InvalidRequest(f"the metadata value of {name!r} is not plain printable ASCII")
        headers.append((META + name, value))
    return headers


def copy_source(bucket: str, source: ObjectRef) -> list[tuple[str, str]]:
    """The headers that name a copy's source: by version ID, else the current object if its ETag is the same."""
    value = f"/{quote(bucket)}/{quote_key(source.key)}"
    if source.version_id is not None:
        return [("x-amz-copy-source", f"{value}?versionId={quote(source.version_id, safe='')}")]
    return [("x-amz-copy-source", value), ("x-amz-copy-source-if-match", f'"{source.etag}"')]


def md5_base64(body: Body) -> str:
    """The value of Content-MD5.  Releases the GIL for bodies over 2 KiB."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode("ascii")


def multipart_etag(part_etags: list[ETag]) -> ETag:
    """The ETag that S3 gives an object of these parts: the MD5 of their MD5s, and their number; "" if one is no MD5."""
    if not all(is_md5(etag) for etag in part_etags):
        return ETag("")
    digest = hashlib.md5(b"".join(bytes.fromhex(etag) for etag in part_etags), usedforsecurity=False)
    return ETag(f"{digest.hexdigest()}-{len(part_etags)}")


def is_md5(etag: str) -> bool:
    """Whether an ETag has the form of an MD5, as that of an object made by one PUT; the form proves nothing."""
    return len(etag) == 32 and _HEX.issuperset(etag)


def metadata_of(headers: Mapping[str, str]) -> dict[str, str]:
    """User metadata of an answer, names without their prefix."""
    return {name[len(META) :]: value for name, value in headers.items() if name.startswith(META)}


def date_ns(headers: Mapping[str, str], name: str) -> int:
    """A date header as nanoseconds; the time of this machine where the server sends none."""
    value = headers.get(name)
    second = None if value is None else _second_of(value)
    return (int(time.time()) if second is None else second) * 1_000_000_000


@functools.lru_cache(maxsize=256)
def _second_of(date: str) -> int | None:
    """A date of HTTP in seconds; None if it is none.  Answers that come together mostly say the same."""
    from email.utils import parsedate_to_datetime  # loads a dozen modules: not before a mount answers

    try:
        return int(parsedate_to_datetime(date).timestamp())
    except ValueError:
        return None


def whole_size(headers: Mapping[str, str]) -> int:
    """The size of the whole object from a HEAD's or GET's answer."""
    content_range = headers.get("content-range")
    if content_range is not None:
        _, _, size = content_range.rpartition("/")
        if size.isdigit():
            return int(size)
    return int(headers.get("content-length", 0))


def cut_range(response: Response, start: int, end: int | None, size: int) -> bytes | memoryview:
    """The bytes [start, min(end, size)) out of the answer to a GET for them; size is the object's.

    A server may ignore Range and send everything, or send the range with the status 200: what it says in Content-Range
    decides.  Raises CorruptBody for a body that is short or another range, InvalidRange for a start behind the end.
    """
    body = response.content
    content_range = response.headers.get("content-range")
    wanted = (size if end is None else min(end, size)) - start
    if content_range is not None:
        first, _, _ = content_range.removeprefix("bytes ").partition("-")
        if first != str(start) or len(body) != wanted:
            raise CorruptBody(f"{len(body)} bytes arrived of {wanted} from {start}, as {content_range}")
        return body
    if response.status == 206 or len(body) != size:
        raise CorruptBody(f"{len(body)} bytes arrived of {size}")
    if start and start >= size:
        raise InvalidRange(f"the object has {size} bytes")
    return body if len(body) == wanted else body[start:end]


def info_of(key: str, response: Response) -> ObjectInfo:
    """What a HEAD or GET tells."""
    headers = response.headers
    ref = ObjectRef(
        key,
        stable_version(headers.get("x-amz-version-id")),
        unquote_etag(headers.get("etag", "")),
        whole_size(headers),
    )
    return ObjectInfo(ref, date_ns(headers, "last-modified"), metadata_of(headers), headers.get("content-type"))
