"""Requests into values: the members of an operation's input shape, from path, query, headers and XML body.

The result is a tree of plain values by member name, as the model names them: text, int, bool, milliseconds for
times, dict for structures and maps, list for lists.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

from lxml import etree

from b2fs.server.wire.errors import S3Error
from b2fs.server.wire.model import Field, Operation, Shape
from b2fs.server.wire.request import Request
from b2fs.server.wire.times import parse_time

Params = dict[str, Any]

#: Times that are read from the headers where they are needed: an unreadable condition is to be ignored (RFC 9110), and
#: an Expires header is kept as any text.
_FREE_TIMES: Final = frozenset(
    [
        "CopySourceIfModifiedSince",
        "CopySourceIfUnmodifiedSince",
        "Expires",
        "IfModifiedSince",
        "IfUnmodifiedSince",
        "ResponseExpires",
    ]
)

_BAD_PERCENT: Final = re.compile("%(?![0-9A-Fa-f]{2})")
#: Enumerations of AWS that do not bind here: regions are the server's own matter.
_OPEN_ENUMS: Final = frozenset({"BucketLocationConstraint"})


def _integer(text: str, bits: int) -> int:
    """A number that a signed integer of so many bits holds.  Raises ValueError."""
    stripped = text.strip()
    if not stripped.isascii() or not stripped.lstrip("+-").isdigit():
        raise ValueError("not a number")
    number = int(stripped)
    if number.bit_length() >= bits:
        raise ValueError("out of range")
    return number


def _scalar(shape: Shape, text: str) -> Any:
    """A value of its shape's kind.  Raises ValueError."""
    match shape.kind:
        case "integer":
            return _integer(text, 32)
        case "long":
            return _integer(text, 64)
        case "boolean":
            lowered = text.strip().lower()
            if lowered not in ("true", "false"):
                raise ValueError(f"neither true nor false: {text!r}")
            return lowered == "true"
        case "timestamp":
            return parse_time(text)
        case "blob":
            return base64.b64decode(text, validate=True)
        case _:
            return text


def _from_header(field: Field, text: str) -> Any:
    if field.shape.kind == "list":
        item = field.shape.item
        assert item is not None
        return [_scalar(item, part.strip()) for part in text.split(",")]
    return _scalar(field.shape, text)


def _prefixed(prefix: str, headers: Mapping[str, str]) -> dict[str, str]:
    start = len(prefix)
    return {name[start:]: value for name, value in headers.items() if name.startswith(prefix)}


def parse_head(operation: Operation, request: Request, bucket: str, key: str) -> Params:
    """The members that stand in path, query and headers.  Raises InvalidArgument for values of the wrong kind."""
    params: Params = {}
    query, headers = request.params, request.headers
    for name, field in operation.input.fields.items():
        if name in _FREE_TIMES:
            continue
        try:
            match field.location:
                case "uri":
                    params[name] = key if name == "Key" else bucket
                case "querystring" if field.wire_name in query:
                    params[name] = _scalar(field.shape, query[field.wire_name])
                case "header" if field.wire_name.lower() in headers:
                    params[name] = _from_header(field, headers[field.wire_name.lower()])
                case "headers":
                    params[name] = _prefixed(field.wire_name.lower(), headers)
        except ValueError as error:
            raise S3Error("InvalidArgument", f"Invalid value for {field.wire_name}") from error
    return params


def parse_xml(data: bytes) -> etree._Element:
    """The root of a document without a document type (no entities, no external files).  Raises MalformedXML."""
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise S3Error("MalformedXML") from error
    if root.getroottree().docinfo.doctype:
        raise S3Error("MalformedXML")
    return root


def _local(name: Any) -> str:
    """An element's name without its namespace; "" for what is no element (an unresolved entity)."""
    return name.rpartition("}")[2] if isinstance(name, str) else ""


def _element(shape: Shape, node: etree._Element) -> Any:
    if shape.kind == "structure":
        return _structure(shape, node)
    if shape.kind == "list":
        item = shape.item
        assert item is not None
        return [_element(item, child) for child in node if _local(child.tag) == shape.item_name]
    if len(node):
        raise ValueError("an element where text should be")
    text = node.text or ""
    if shape.enum and shape.name not in _OPEN_ENUMS and text not in shape.enum:
        raise ValueError(f"{text!r} is not a {shape.name}")
    return _scalar(shape, text)


def _structure(shape: Shape, node: etree._Element) -> Params:
    by_wire = {field.wire_name: field for field in shape.fields.values() if not field.attribute}
    values: Params = {}
    for child in node:
        field = by_wire.get(_local(child.tag))
        if field is None:
            continue
        if field.shape.kind == "list" and field.shape.flattened:
            assert field.shape.item is not None
            values.setdefault(field.name, []).append(_element(field.shape.item, child))
        else:
            values[field.name] = _element(field.shape, child)
    for field in shape.fields.values():
        if field.attribute:
            local = field.wire_name.rpartition(":")[2]
            found = [value for name, value in node.attrib.items() if _local(name) == local]
            if found:
                values[field.name] = str(found[0])
    missing = [name for name in shape.required if name not in values]
    if missing:
        raise ValueError(f"missing: {', '.join(missing)}")
    return values


def parse_body(operation: Operation, data: bytes) -> Params:
    """The member that an XML body carries, by its name; {} for an empty body where none is needed."""
    name = operation.input_payload
    if name is None:
        return {}
    field = operation.input.fields[name]
    if not data:
        if name in operation.input.required:
            raise S3Error("MalformedXML")
        return {}
    root = parse_xml(data)
    if _local(root.tag) != field.wire_name:
        raise S3Error("MalformedXML")
    try:
        return {name: _element(field.shape, root)}
    except (ValueError, binascii.Error) as error:
        raise S3Error("MalformedXML") from error


def split_copy_source(text: str) -> tuple[str, str, str | None]:
    """Bucket, key and version ID of an x-amz-copy-source header.  Raises InvalidArgument."""
    path, _, query = text.partition("?versionId=")
    try:
        if _BAD_PERCENT.search(path):
            raise ValueError("not percent-encoded")
        decoded = unquote(path, errors="strict").removeprefix("/")
    except ValueError as error:
        raise S3Error("InvalidArgument", "Invalid copy source encoding.") from error
    bucket, _, key = decoded.partition("/")
    if not bucket or not key:
        raise S3Error("InvalidArgument", "Copy Source must mention the source bucket and key: sourcebucket/sourcekey")
    return bucket, key, unquote(query) or None
