"""The S3 operations as botocore's service model describes them, compiled for parsing, writing and routing.

This is the only module of the server that knows botocore.  Everything behind it works on Operation and Shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Any, Final

import botocore.loaders
import botocore.model

#: The calls that B2 documents (all of them are served); every other call of the model is answered 501.
B2_CALLS: Final = frozenset(
    [
        "AbortMultipartUpload",
        "CompleteMultipartUpload",
        "CopyObject",
        "CreateBucket",
        "CreateMultipartUpload",
        "DeleteBucket",
        "DeleteBucketCors",
        "DeleteBucketEncryption",
        "DeleteObject",
        "DeleteObjects",
        "GetBucketAcl",
        "GetBucketCors",
        "GetBucketEncryption",
        "GetBucketLocation",
        "GetBucketVersioning",
        "GetObject",
        "GetObjectAcl",
        "GetObjectLegalHold",
        "GetObjectLockConfiguration",
        "GetObjectRetention",
        "HeadBucket",
        "HeadObject",
        "ListBuckets",
        "ListMultipartUploads",
        "ListObjectVersions",
        "ListObjects",
        "ListObjectsV2",
        "ListParts",
        "PutBucketAcl",
        "PutBucketCors",
        "PutBucketEncryption",
        "PutObject",
        "PutObjectAcl",
        "PutObjectLegalHold",
        "PutObjectLockConfiguration",
        "PutObjectRetention",
        "UploadPart",
        "UploadPartCopy",
    ]
)

#: Calls of the model that would swallow others' requests: they belong to other products behind the same model.
_FOREIGN: Final = frozenset({"ListDirectoryBuckets", "WriteGetObjectResponse"})

#: Root elements of answers whose members stand directly in the body: the model does not name them.
_ROOTS: Final[Mapping[str, str]] = {
    "CompleteMultipartUpload": "CompleteMultipartUploadResult",
    "CreateMultipartUpload": "InitiateMultipartUploadResult",
    "DeleteObjects": "DeleteResult",
    "GetBucketAcl": "AccessControlPolicy",
    "GetBucketCors": "CORSConfiguration",
    "GetBucketLocation": "LocationConstraint",
    "GetBucketVersioning": "VersioningConfiguration",
    "GetObjectAcl": "AccessControlPolicy",
    "ListBuckets": "ListAllMyBucketsResult",
    "ListMultipartUploads": "ListMultipartUploadsResult",
    "ListObjectVersions": "ListVersionsResult",
    "ListObjects": "ListBucketResult",
    "ListObjectsV2": "ListBucketResult",
    "ListParts": "ListPartsResult",
}
#: Root elements of answers whose body is one member, where the member's shape has another name.
_PAYLOAD_ROOTS: Final[Mapping[str, str]] = {"ObjectLockRetention": "Retention", "ObjectLockLegalHold": "LegalHold"}


class Level(Enum):
    """What the path of a request names."""

    SERVICE = 0
    BUCKET = 1
    OBJECT = 2


@dataclass(slots=True)
class Shape:
    """A type of the wire: scalar, structure, list or map."""

    kind: str
    name: str
    enum: frozenset[str] = frozenset()
    timestamp_format: str | None = None
    #: Structures: fields by member name.
    fields: dict[str, Field] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    #: Lists: the items, their element name, and whether they stand without an enclosing element.
    item: Shape | None = None
    item_name: str = "member"
    flattened: bool = False


@dataclass(slots=True)
class Field:
    """A member of a structure: where it stands on the wire and under which name."""

    name: str
    wire_name: str
    location: str | None
    shape: Shape
    attribute: bool = False
    namespace: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One call: how it is recognised, and the shapes of its request and answer."""

    name: str
    method: str
    level: Level
    #: Query parameters that must be there with this value ("" takes any), e.g. `list-type=2`, `uploads`.
    literal_query: Mapping[str, str]
    required_query: frozenset[str]
    required_headers: frozenset[str]
    status: int
    input: Shape
    output: Shape
    input_payload: str | None
    output_payload: str | None
    output_root: str | None
    namespace: str

    @property
    def supported(self) -> bool:
        return self.name in B2_CALLS

    @property
    def streams_in(self) -> bool:
        """The request's body is the object's content."""
        return self.input_payload is not None and self.input.fields[self.input_payload].shape.kind == "blob"


class _Compiler:
    """Turns botocore's shapes into ours, each once (they refer to each other)."""

    def __init__(self) -> None:
        self._seen: dict[str, Shape] = {}

    def shape(self, model: Any) -> Shape:
        known = self._seen.get(model.name)
        if known is not None:
            return known
        made = Shape(model.type_name, model.name, frozenset(getattr(model, "enum", None) or ()))
        made.timestamp_format = model.serialization.get("timestampFormat")
        self._seen[model.name] = made
        if model.type_name == "structure":
            made.fields = {name: self._field(name, member) for name, member in model.members.items()}
            made.required = tuple(model.required_members)
        elif model.type_name == "list":
            made.item = self.shape(model.member)
            made.item_name = model.member.serialization.get("name", "member")
            made.flattened = bool(model.serialization.get("flattened"))
        return made

    def _field(self, name: str, member: Any) -> Field:
        form = member.serialization
        wire_name = form.get("name", name)
        if member.type_name == "list" and form.get("flattened"):
            wire_name = member.member.serialization.get("name", wire_name)
        shape = self.shape(member)
        return Field(
            name, wire_name, form.get("location"), shape, bool(form.get("xmlAttribute")), form.get("xmlNamespace")
        )


def _level(uri: str) -> Level:
    if "{Key+}" in uri:
        return Level.OBJECT
    return Level.BUCKET if "{Bucket}" in uri else Level.SERVICE


def _literal_query(uri: str) -> dict[str, str]:
    _, _, query = uri.partition("?")
    pairs = (item.partition("=") for item in query.split("&") if item)
    return {name: value for name, _, value in pairs if name != "x-id"}


def _required(shape: Shape, location: str) -> frozenset[str]:
    return frozenset(
        f.wire_name for name, f in shape.fields.items() if name in shape.required and f.location == location
    )


def _output_root(name: str, output: Shape, payload: str | None) -> str | None:
    if payload is None:
        return _ROOTS.get(name)
    field_ = output.fields[payload]
    if field_.shape.kind != "structure":
        return None
    return _PAYLOAD_ROOTS.get(field_.shape.name, field_.shape.name)


def _compile(name: str, model: botocore.model.OperationModel, compiler: _Compiler) -> Operation:
    uri = model.http["requestUri"]
    empty = Shape("structure", f"{name}Empty")
    given = compiler.shape(model.input_shape) if model.input_shape is not None else empty
    output = compiler.shape(model.output_shape) if model.output_shape is not None else empty
    in_payload = model.input_shape.serialization.get("payload") if model.input_shape is not None else None
    out_payload = model.output_shape.serialization.get("payload") if model.output_shape is not None else None
    return Operation(
        name=name,
        method=model.http["method"],
        level=_level(uri),
        literal_query=_literal_query(uri),
        required_query=_required(given, "querystring"),
        required_headers=_required(given, "header"),
        status=model.http.get("responseCode") or 200,
        input=given,
        output=output,
        input_payload=in_payload,
        output_payload=out_payload,
        output_root=_output_root(name, output, out_payload),
        namespace="http://s3.amazonaws.com/doc/2006-03-01/",
    )


@lru_cache(maxsize=1)
def operations() -> Mapping[str, Operation]:
    """All calls by name.  The first use loads the model (about 0.2 s)."""
    description = botocore.loaders.Loader().load_service_model("s3", "service-2")
    service = botocore.model.ServiceModel(description, "s3")
    compiler = _Compiler()
    return {
        name: _compile(name, service.operation_model(name), compiler)
        for name in service.operation_names
        if name not in _FOREIGN
    }
