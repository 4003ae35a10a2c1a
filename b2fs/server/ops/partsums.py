"""Checksums of multipart uploads: chosen at the start, kept with each part, put together at the end.

As S3 documents it: a composite checksum is made of the parts' checksums and carries their number; a checksum of the
full object is that of its bytes, which cyclic checksums allow to compute from the parts'.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from b2fs.server.auth.checksums import CYCLIC, NAMES, Checksum, decode, digest_of, joined
from b2fs.server.wire.errors import S3Error
from b2fs.server.wire.request import Request
from b2fs.store.embedded.rows import PartRow

#: Keys of an upload's `extra`.
ALGORITHM: Final = "part_sums"
KIND: Final = "part_sums_kind"
#: In the `extra` of a part and of a version, before a checksum's name.
SUM: Final = "checksum_"

_BAD_CLAIM: Final = "Invalid Base64 or multiple checksums present in request"
COMPOSITE: Final = "COMPOSITE"
FULL: Final = "FULL_OBJECT"


def member(name: str) -> str:
    """The member of S3's model that holds a checksum."""
    return f"Checksum{name.upper()}"


def kind_of(text: str) -> str:
    """Which kind of checksum a version's text is: base64 has no hyphen, composite ones end in `-<parts>`."""
    return COMPOSITE if "-" in text else FULL


@dataclass(frozen=True, slots=True)
class Plan:
    """The checksum that an upload wants to have."""

    name: str
    kind: str

    @staticmethod
    def of_params(params: Mapping[str, Any]) -> Plan | None:
        """What CreateMultipartUpload asks for.  Raises InvalidRequest."""
        algorithm, kind = params.get("ChecksumAlgorithm"), params.get("ChecksumType")
        if algorithm is None:
            if kind is not None:
                raise S3Error(
                    "InvalidRequest", "The x-amz-checksum-type header needs the x-amz-checksum-algorithm header"
                )
            return None
        name = str(algorithm).lower()
        if name not in NAMES:
            raise S3Error("InvalidRequest", "Checksum algorithm provided is unsupported.")
        chosen = str(kind).upper() if kind else FULL if name == "crc64nvme" else COMPOSITE
        if chosen not in (COMPOSITE, FULL):
            raise S3Error("InvalidRequest", "Value for x-amz-checksum-type header is invalid.")
        possible = {COMPOSITE} if name not in CYCLIC else {FULL} if name == "crc64nvme" else {COMPOSITE, FULL}
        if chosen not in possible:
            raise S3Error(
                "InvalidRequest", f"The {chosen} checksum type cannot be used with the {name} checksum algorithm."
            )
        return Plan(name, chosen)

    @staticmethod
    def of_extra(extra: Mapping[str, str]) -> Plan | None:
        """What an upload was started with."""
        name = extra.get(ALGORITHM)
        return Plan(name, extra[KIND]) if name is not None else None

    @property
    def extra(self) -> dict[str, str]:
        """What the upload keeps."""
        return {ALGORITHM: self.name, KIND: self.kind}

    @property
    def values(self) -> dict[str, str]:
        """The members that an answer shows."""
        return {"ChecksumAlgorithm": self.name.upper(), "ChecksumType": self.kind}

    def checksums(self, request: Request) -> list[Checksum]:
        """What to compute over a part beside what its request declares.  Raises InvalidRequest for another one."""
        declared = {checksum.name for checksum in Checksum.from_headers(request.headers)}
        if self.name in declared:
            return []
        if declared or self.kind == COMPOSITE:
            raise S3Error(
                "InvalidRequest",
                f"Checksum Type mismatch occurred, expected checksum Type: {self.name}, actual checksum Type: "
                f"{min(declared, default='null')}",
            )
        checksum = Checksum(self.name)
        checksum.declare_digest(None)
        return [checksum]

    def check_claims(self, claims: Sequence[Mapping[str, Any]]) -> None:
        """One checksum a part at most; a composite one wants each part's.  Raises InvalidArgument, InvalidRequest."""
        for claim in claims:
            _check_claim(claim)
            if self.kind != COMPOSITE:
                continue
            if member(self.name) not in claim:
                raise S3Error(
                    "InvalidRequest",
                    f"The upload was created using a {self.name} checksum. The complete request must include the "
                    f"checksum for each part. It was missing for part {claim['PartNumber']} in the request.",
                )

    def text(self, parts: Sequence[PartRow]) -> str | None:
        """The object's checksum; None where a part has none (copied parts are not read)."""
        texts = [part.extra.get(SUM + self.name) for part in parts]
        digests = [base64.b64decode(text) for text in texts if text is not None]
        if len(digests) < len(parts):
            return None
        if self.kind == COMPOSITE:
            return f"{_encode(digest_of(self.name, b''.join(digests)))}-{len(parts)}"
        sizes = [part.size for part in parts]
        return _encode(joined(self.name, list(zip(digests, sizes, strict=True))))


def _check_claim(claim: Mapping[str, Any]) -> None:
    given = [(name, claim[member(name)]) for name in NAMES if member(name) in claim]
    try:
        for name, text in given:
            decode(name, str(text))
    except S3Error as error:
        raise S3Error("InvalidArgument", _BAD_CLAIM) from error
    if len(given) > 1:
        raise S3Error("InvalidArgument", _BAD_CLAIM)


def _encode(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def part_values(part: PartRow) -> dict[str, str]:
    """The members that show a part's checksums."""
    extra = part.extra
    return {member(name): extra[SUM + name] for name in NAMES if SUM + name in extra}


def check_part(claim: Mapping[str, Any], part: PartRow) -> None:
    """Raise InvalidPart where a completion names another checksum than the part has."""
    values = part_values(part)
    for name in NAMES:
        claimed = claim.get(member(name))
        if claimed is not None and claimed != values.get(member(name), claimed):
            raise S3Error("InvalidPart")


def check_form(name: str, params: Mapping[str, Any]) -> None:
    """Raise BadDigest where a completion declares a checksum that is none."""
    declared = params.get(member(name))
    if declared is not None:
        decode(name, str(declared).partition("-")[0])


def check_whole(name: str, params: Mapping[str, Any], text: str | None) -> None:
    """Hold the checksum that a completion declares against the computed one.  Raises BadDigest."""
    declared = params.get(member(name))
    if declared is None:
        return
    if declared != text and str(declared) != (text or "").partition("-")[0]:
        raise S3Error("BadDigest", f"The {name} you specified did not match the calculated checksum.")


def version_values(extra: Mapping[str, str]) -> dict[str, str]:
    """The members that show a version's checksums and their kind."""
    texts = {name: extra[SUM + name] for name in NAMES if SUM + name in extra}
    values = {member(name): text for name, text in texts.items()}
    if texts:
        values["ChecksumType"] = kind_of(next(iter(texts.values())))
    return values


def listed_values(extra: Mapping[str, str]) -> dict[str, Any]:
    """The members by which a listing tells which checksum a version has."""
    names = [name for name in NAMES if SUM + name in extra]
    return (
        {"ChecksumAlgorithm": [name.upper() for name in names], "ChecksumType": kind_of(extra[SUM + names[0]])}
        if names
        else {}
    )
