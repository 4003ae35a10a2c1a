"""What the headers of an answer tell of an object, and its ETag.

Pure.  What a mount's first questions need stands in wire and answers: they are asked before this is loaded.
"""

from __future__ import annotations

import functools
import hashlib
import string
import time
from collections.abc import Mapping

from b2fs.core.content import CONTENT_HEADERS
from b2fs.core.types import ETag, ObjectInfo, ObjectRef
from b2fs.errors import CorruptBody, InvalidRange
from b2fs.store.s3.answers import Response
from b2fs.store.s3.wire import META
from b2fs.store.s3.xmlio import stable_version, unquote_etag

_HEX = frozenset(string.hexdigits)
_LOWERED = {name: name.lower() for name in CONTENT_HEADERS}


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
    """The metadata of an answer (see ObjectInfo); a character is a byte.  Names of the headers are lower-case."""
    metadata = {name[len(META) :]: value for name, value in headers.items() if name.startswith(META)}
    for name, lowered in _LOWERED.items():
        value = headers.get(lowered)
        if value:
            metadata[name] = value
    encoding = metadata.get("Content-Encoding")
    if encoding is not None and "aws-chunked" in encoding:  # how it once arrived, which some servers keep
        kept = [part for part in map(str.strip, encoding.split(",")) if part != "aws-chunked"]
        metadata["Content-Encoding"] = ", ".join(kept)
        if not kept:
            del metadata["Content-Encoding"]
    return metadata


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
