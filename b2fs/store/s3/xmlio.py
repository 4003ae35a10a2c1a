"""The XML of the S3 protocol: answers to values, and the few bodies that requests carry.

Pure: bytes in, values out.  Parsing is lxml's (C, releases the GIL), with entities, DTDs and the network off; it is
loaded with the first answer, since a mount comes up without one.
"""

from __future__ import annotations

import datetime as dt
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from b2fs.core.types import (
    ETag,
    ListPage,
    ObjectInfo,
    ObjectRef,
    PartInfo,
    UploadId,
    UploadInfo,
    VersionId,
    VersionInfo,
    VersionPage,
)
from b2fs.errors import CorruptBody

if TYPE_CHECKING:
    from lxml import etree

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_HEAD_FIELDS = (
    "IsTruncated",
    "EncodingType",
    "NextContinuationToken",
    "NextKeyMarker",
    "NextVersionIdMarker",
    "NextUploadIdMarker",
    "NextPartNumberMarker",
)
Fields = dict[str, str]
#: A parser for each thread, in `own`: making one costs as much as a small answer.
_parsers = threading.local()


def parse_error(body: bytes) -> tuple[str, str]:
    """Code and message of an <Error> body; two empty strings if it is none."""
    if not body:
        return "", ""
    try:
        root = _parsed(body)
    except CorruptBody:
        return "", ""
    fields = _fields(root) if _local(root) == "Error" else {}
    return fields.get("Code", ""), fields.get("Message", "")


def parse_objects(body: bytes) -> ListPage:
    """A ListObjectsV2 answer."""
    root = _root(body)
    top, decode = _head(root)
    objects = _objects_by_column(root, decode)
    if objects is None:
        objects = [_object(_fields(row), decode) for row in _rows(root, "Contents")]
    # SeaweedFS sorts a page by the encoded keys.  Code points sort as UTF-8 does; sorting what is sorted costs little.
    objects.sort(key=lambda item: item.ref.key)
    token = _next(top, "NextContinuationToken")
    return ListPage(tuple(objects), _prefixes(root, decode), token)


def parse_versions(body: bytes) -> VersionPage:
    """A ListObjectVersions answer, rows in the order of the answer."""
    root = _root(body)
    top, decode = _head(root)
    rows = tuple(
        _version(_fields(row), decode, _local(row) == "DeleteMarker") for row in _rows(root, "Version", "DeleteMarker")
    )
    key_marker = _next(top, "NextKeyMarker")
    if key_marker is None:
        return VersionPage(rows, _prefixes(root, decode), None, None)
    return VersionPage(rows, _prefixes(root, decode), decode(key_marker), top.get("NextVersionIdMarker") or None)


def parse_uploads(body: bytes) -> tuple[list[UploadInfo], str | None, str | None]:
    """A ListMultipartUploads answer: uploads, and the two markers of the next page, None at the end."""
    root = _root(body)
    top, decode = _head(root)
    uploads = [
        UploadInfo(decode(row["Key"]), UploadId(row["UploadId"]), parse_time_ns(row.get("Initiated", "")))
        for row in map(_fields, _rows(root, "Upload"))
    ]
    key_marker = _next(top, "NextKeyMarker")
    if key_marker is None:
        return uploads, None, None
    return uploads, decode(key_marker), top.get("NextUploadIdMarker") or None


def parse_parts(body: bytes) -> tuple[list[PartInfo], str | None]:
    """A ListParts answer: parts, and the marker of the next page, None at the end."""
    root = _root(body)
    top, _ = _head(root)
    # SeaweedFS lists a part that was uploaded again twice; the newest is the one that counts.
    newest: dict[int, tuple[int, PartInfo]] = {}
    for row in map(_fields, _rows(root, "Part")):
        part = PartInfo(int(row["PartNumber"]), unquote_etag(row["ETag"]), int(row["Size"]))
        moment = parse_time_ns(row.get("LastModified", ""))
        if part.number not in newest or moment >= newest[part.number][0]:
            newest[part.number] = (moment, part)
    parts = [part for _, part in newest.values()]
    return parts, _next(top, "NextPartNumberMarker")


def parse_result(body: bytes) -> Fields:
    """The simple children of an answer's root, by local name: CopyObject, Create/CompleteMultipartUpload and so on."""
    return _fields(_root(body))


def parse_made_etag(body: bytes) -> ETag:
    """The ETag in the answer to a copy or a completion, which proves that it was carried out.  Raises CorruptBody."""
    etag = unquote_etag(parse_result(body).get("ETag", ""))
    if not etag:
        raise CorruptBody("the answer does not tell the ETag of what was made")
    return etag


def parse_deleted(body: bytes) -> tuple[list[Fields], list[Fields]]:
    """A DeleteObjects answer: the rows of what was deleted, and those of what was refused."""
    root = _root(body)
    return [_fields(row) for row in _rows(root, "Deleted")], [_fields(row) for row in _rows(root, "Error")]


def complete_body(parts: Sequence[PartInfo]) -> bytes:
    """The body of CompleteMultipartUpload."""
    rows = "".join(
        f'<Part><PartNumber>{part.number}</PartNumber><ETag>"{_escaped(part.etag)}"</ETag></Part>' for part in parts
    )
    return (
        f'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{rows}</CompleteMultipartUpload>'
    ).encode()


def delete_body(targets: Sequence[tuple[str, VersionId | None]]) -> bytes:
    """The body of DeleteObjects."""
    rows = "".join(
        f"<Object><Key>{_escaped(key)}</Key>"
        + (f"<VersionId>{_escaped(version)}</VersionId>" if version is not None else "")
        + "</Object>"
        for key, version in targets
    )
    return f'<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{rows}</Delete>'.encode()


def in_xml(key: str) -> bool:
    """Whether XML 1.0 can carry this key at all (it has no control characters but tab and line ends)."""
    return all(char >= " " or char in "\t\n\r" for char in key) and "\ufffe" not in key and "\uffff" not in key


def parse_time_ns(text: str) -> int:
    """An ISO 8601 time as nanoseconds since the epoch; 0 if it is none."""
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        return 0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    since = moment - _EPOCH
    return (since.days * 86400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000


def unquote_etag(text: str) -> ETag:
    """An ETag without quotes and without the mark of a weak one."""
    return ETag(text.removeprefix("W/").strip('"'))


def stable_version(text: str | None) -> VersionId | None:
    """A version ID as a name of unchanging content, or None.

    The version "null", which keys have from before versioning was switched on, may change its content.
    """
    return VersionId(text) if text and text != "null" else None


#: A bare CR or LF would be normalised away by the receiving parser.
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;", "\n": "&#10;", "\t": "&#9;"})


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)


def _root(body: bytes) -> etree._Element:
    """The root of an answer to a call.

    Raises CorruptBody for whatever else comes with a 200: a cut body, an error, the page of some gateway.  Taken for an
    answer it would be an empty directory, or a copy that was never made.
    """
    root = _parsed(body)
    if not _local(root).endswith(("Result", "Configuration", "Upload")):
        raise CorruptBody(f"the answer is not one of S3: it begins with <{_local(root)}>")
    return root


def _next(top: Fields, name: str) -> str | None:
    """Where the next page begins; None at the end.  Raises CorruptBody for a listing that ends and says it does not."""
    if top.get("IsTruncated") != "true":
        return None
    if not top.get(name):
        raise CorruptBody(f"the listing is not complete, and {name} is missing")
    return top[name]


def _parsed(body: bytes) -> etree._Element:
    from lxml import etree

    parser: etree.XMLParser | None = getattr(_parsers, "own", None)
    if parser is None:
        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
        _parsers.own = parser
    try:
        root = etree.fromstring(body, parser)
    except etree.XMLSyntaxError as error:
        raise CorruptBody(f"the answer is not XML: {error}") from error
    return root


def _namespace(root: etree._Element) -> str:
    """The root's namespace as it stands before names: some servers leave it out."""
    namespace, brace, _ = str(root.tag).rpartition("}")
    return namespace + brace


def _local(element: etree._Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _fields(row: etree._Element) -> Fields:
    """The text of each child, by local name."""
    return {_local(child): child.text or "" for child in row.iterchildren("{*}*")}


def _rows(root: etree._Element, *names: str) -> Iterator[etree._Element]:
    return root.iterchildren(*(f"{{*}}{name}" for name in names))


def _head(root: etree._Element) -> tuple[Fields, Callable[[str], str]]:
    """The simple fields of a listing, and how its keys are decoded."""
    top: Fields = {}
    for child in root.iterchildren(*_head_tags(_namespace(root))):
        top.setdefault(_local(child), child.text or "")
    return top, unquote_plus if top.get("EncodingType") == "url" else str


@functools.lru_cache(maxsize=4)
def _head_tags(namespace: str) -> tuple[str, ...]:
    return tuple(namespace + name for name in _HEAD_FIELDS)


def _prefixes(root: etree._Element, decode: Callable[[str], str]) -> tuple[str, ...]:
    return tuple(sorted(decode(_fields(row).get("Prefix", "")) for row in _rows(root, "CommonPrefixes")))


def _object(row: Fields, decode: Callable[[str], str]) -> ObjectInfo:
    ref = ObjectRef(decode(row["Key"]), None, unquote_etag(row.get("ETag", "")), int(row["Size"]))
    return ObjectInfo(ref, parse_time_ns(row.get("LastModified", "")))


def _objects_by_column(root: etree._Element, decode: Callable[[str], str]) -> list[ObjectInfo] | None:
    """The rows of a listing of the usual form, fetched a field at a time, which takes a third of the time.

    None if some row lacks a field or has it empty, so that the columns do not fit together.
    """
    count, *columns = (path(root) for path in _columns(_namespace(root)))
    if any(len(column) != count for column in columns):
        return None
    keys, etags, sizes, times = columns
    return [
        ObjectInfo(ObjectRef(key, None, unquote_etag(etag), int(size)), parse_time_ns(time))
        for key, etag, size, time in zip(_decode_all(keys, decode), etags, sizes, times, strict=True)
    ]


@functools.lru_cache(maxsize=4)
def _columns(namespace: str) -> tuple[etree.XPath, ...]:
    """The number of rows in a listing, and a path to the texts of each field."""
    from lxml import etree

    row = f"{namespace}Contents"
    paths = (f"{row}/{namespace}{name}/text()" for name in ("Key", "ETag", "Size", "LastModified"))
    return tuple(etree.ETXPath(path, smart_strings=False) for path in (f"count({row})", *paths))


def _decode_all(keys: list[str], decode: Callable[[str], str]) -> list[str]:
    """Decode many keys in one go, unless one of them holds the separator."""
    decoded = decode("\n".join(keys)).split("\n") if keys else []
    return decoded if len(decoded) == len(keys) else [decode(key) for key in keys]


def _version(row: Fields, decode: Callable[[str], str], is_hide_marker: bool) -> VersionInfo:
    ref = ObjectRef(
        decode(row["Key"]),
        stable_version(row.get("VersionId")),
        unquote_etag(row.get("ETag", "")),
        int(row.get("Size") or 0),
    )
    modified_ns = parse_time_ns(row.get("LastModified", ""))
    return VersionInfo(ref, modified_ns, row.get("IsLatest") == "true", is_hide_marker)
