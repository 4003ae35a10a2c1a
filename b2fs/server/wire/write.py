"""Values into answers: headers and XML body by an operation's output shape, the mirror of parse."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

from b2fs.server.wire.model import Field, Operation, Shape
from b2fs.server.wire.times import http_date, iso8601

_DECLARATION: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'
_SPECIAL: Final = re.compile('[&<>"\r\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]')
_UNREPRESENTABLE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_NAMED: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}


def _replace(match: re.Match[str]) -> str:
    char = match[0]
    return _NAMED.get(char) or f"&#x{ord(char):X};"


def escape(text: str) -> str:
    """Text for an XML element; what XML 1.0 has no form for becomes a character reference, as S3 does."""
    return _SPECIAL.sub(_replace, text)


def is_plain_xml(text: str) -> bool:
    """Whether XML 1.0 has a form for every character."""
    return _UNREPRESENTABLE.search(text) is None


def url_encode(text: str) -> str:
    """The form of encoding-type=url: everything but unreserved characters and `/` in percent form."""
    return quote(text, safe="/-_.~*")


def _text(shape: Shape, value: Any) -> str:
    match shape.kind:
        case "boolean":
            return "true" if value else "false"
        case "timestamp":
            return iso8601(value)
        case "string":
            return escape(value)
        case _:
            return str(value)


def _write_list(field: Field, values: Any, out: Callable[[str], object]) -> None:
    shape = field.shape
    assert shape.item is not None
    name = field.wire_name if shape.flattened else shape.item_name
    if not shape.flattened:
        out(f"<{field.wire_name}>")
    for value in values:
        # Listings of versions mix two kinds of element in one sequence.
        element = value.get("@element", name) if shape.item.kind == "structure" else name
        _write_value(element, shape.item, value, out)
    if not shape.flattened:
        out(f"</{field.wire_name}>")


def _write_value(name: str, shape: Shape, value: Any, out: Callable[[str], object]) -> None:
    if shape.kind == "structure":
        attributes = "".join(
            f' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" {field.wire_name}="{escape(value[field.name])}"'
            for field in shape.fields.values()
            if field.attribute and field.name in value
        )
        out(f"<{name}{attributes}>")
        _write_members(shape, value, out)
        out(f"</{name}>")
    else:
        out(f"<{name}>{_text(shape, value)}</{name}>")


def _write_members(shape: Shape, values: Mapping[str, Any], out: Callable[[str], object]) -> None:
    for name, field in shape.fields.items():
        value = values.get(name)
        if value is None or field.location or field.attribute:
            continue
        if field.shape.kind == "list":
            _write_list(field, value, out)
        else:
            _write_value(field.wire_name, field.shape, value, out)


def write_body(operation: Operation, values: Mapping[str, Any]) -> bytes:
    """The XML body of an answer; b"" where the operation has none."""
    root = operation.output_root
    if root is None:
        return b""
    parts: list[str] = [_DECLARATION, f'<{root} xmlns="{operation.namespace}">']
    if operation.name == "GetBucketLocation":
        # The only answer whose root holds the text itself.
        parts.append(escape(values.get("LocationConstraint") or ""))
    elif operation.output_payload is not None:
        payload = operation.output.fields[operation.output_payload]
        _write_members(payload.shape, values[operation.output_payload], parts.append)
    else:
        _write_members(operation.output, values, parts.append)
    parts.append(f"</{root}>")
    return "".join(parts).encode("utf-8")


def _header_text(field: Field, value: Any) -> str:
    if field.shape.kind == "boolean":
        return "true" if value else "false"
    if field.shape.kind == "timestamp":
        if field.shape.timestamp_format == "iso8601":
            return iso8601(value)
        return http_date(value // 1000)
    return str(value)


def write_headers(operation: Operation, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The header members of an answer, names in lower case."""
    headers: list[tuple[str, str]] = []
    for name, value in values.items():
        field = operation.output.fields.get(name)
        if field is None or value is None:
            continue
        if field.location == "header":
            headers.append((field.wire_name.lower(), _header_text(field, value)))
        elif field.location == "headers":
            headers.extend((f"{field.wire_name}{key}".lower(), text) for key, text in value.items())
    return headers
