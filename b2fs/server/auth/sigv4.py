"""Signature V4, verified: header and query form.

Only HMAC over what the client sent; who a key ID belongs to is asked through `KeySource`.  All comparisons of
secrets are constant-time.  Signing keys are cached per key, day and region, since deriving one costs four HMACs.
"""

from __future__ import annotations

import calendar
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from b2fs.server.auth.keys import ApplicationKey, KeySource
from b2fs.server.wire.errors import S3Error
from b2fs.server.wire.request import Request, kept_bytes
from b2fs.server.wire.times import parse_time

ALGORITHM: Final = "AWS4-HMAC-SHA256"
UNSIGNED: Final = "UNSIGNED-PAYLOAD"
EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
MAX_SKEW_S: Final = 15 * 60
MAX_PRESIGN_S: Final = 7 * 86_400

_STAMP: Final = re.compile(r"\d{8}T\d{6}Z", re.ASCII)
_BLANKS: Final = re.compile(" {2,}")
_WHITE: Final = re.compile("[ \t]+")
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_STREAMING: Final = frozenset(
    {
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    }
)


@dataclass(frozen=True, slots=True)
class Scope:
    """The credential scope of a signature."""

    key_id: str
    date: str
    region: str
    service: str

    @property
    def text(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


@dataclass(frozen=True, slots=True)
class Signature:
    """What a request claims, before anything is checked."""

    scope: Scope
    signed_headers: tuple[str, ...]
    signature: str
    stamp: str
    payload: str
    #: Seconds that a presigned URL is good for; None for a signature in the header.
    expires_s: int | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """A request whose signature held: the key, and what checking its body needs."""

    key: ApplicationKey
    signature: Signature
    signing_key: bytes

    @property
    def payload(self) -> str:
        return self.signature.payload


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode("utf-8"), "sha256")


@lru_cache(maxsize=1024)
def derive_key(secret: str, date: str, region: str, service: str) -> bytes:
    """The signing key of a secret for one day, region and service."""
    dated = _hmac(b"AWS4" + secret.encode("utf-8"), date)
    return _hmac(_hmac(_hmac(dated, region), service), "aws4_request")


def _parse_scope(credential: str, code: str) -> Scope:
    # Key IDs may hold slashes, so the scope is taken from the end.
    parts = credential.rsplit("/", 4)
    if len(parts) != 5 or parts[4] != "aws4_request" or not parts[0]:
        raise S3Error(code, "The Credential is mal-formed; expecting <key>/YYYYMMDD/REGION/SERVICE/aws4_request")
    return Scope(*parts[:4])


def _check_payload(payload: str) -> str:
    if payload in _STREAMING or payload == UNSIGNED or _SHA256.fullmatch(payload):
        return payload
    raise S3Error("InvalidArgument", "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, or a valid sha256 value.")


def _from_header(text: str, request: Request) -> Signature:
    _, _, rest = text.partition(" ")
    fields: dict[str, str] = {}
    for item in rest.split(","):
        name, equals, value = item.strip().partition("=")
        if equals:
            fields[name] = value
    if not {"Credential", "SignedHeaders", "Signature"} <= fields.keys():
        raise S3Error("AuthorizationHeaderMalformed")
    payload = request.headers.get("x-amz-content-sha256")
    if payload is None:
        raise S3Error("InvalidRequest", "header 'x-amz-content-sha256' must be included in signature")
    return Signature(
        _parse_scope(fields["Credential"], "AuthorizationHeaderMalformed"),
        tuple(fields["SignedHeaders"].split(";")),
        fields["Signature"],
        _header_stamp(request.headers),
        _check_payload(payload),
    )


def _header_stamp(headers: Mapping[str, str]) -> str:
    """The time of signing: x-amz-date, or a Date header in either form."""
    stamp = headers.get("x-amz-date") or headers.get("date")
    if not stamp:
        raise S3Error("AccessDenied", "AWS authentication requires a valid Date or x-amz-date header")
    if _STAMP.fullmatch(stamp):
        return stamp
    try:
        return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(parse_time(stamp) // 1000))
    except (ValueError, OverflowError, OSError) as error:
        raise S3Error("AccessDenied", "AWS authentication requires a valid Date or x-amz-date header") from error


def _from_query(request: Request) -> Signature:
    params = request.params
    code = "AuthorizationQueryParametersError"
    if params.get("X-Amz-Algorithm") != ALGORITHM:
        raise S3Error(code, "X-Amz-Algorithm only supports AWS4-HMAC-SHA256")
    names = ("X-Amz-Credential", "X-Amz-SignedHeaders", "X-Amz-Signature", "X-Amz-Date", "X-Amz-Expires")
    if not all(params.get(name) for name in names):
        raise S3Error(code, "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, "
            "X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.")  # fmt: skip
    if not _STAMP.fullmatch(params["X-Amz-Date"]):
        raise S3Error(code, "X-Amz-Date must be in the ISO8601 Long Format yyyyMMdd'T'HHmmss'Z'")
    expires = params["X-Amz-Expires"]
    if not (expires.isascii() and expires.removeprefix("-").isdigit() and len(expires) < 10):
        raise S3Error(code, "X-Amz-Expires should be a number")
    if not 1 <= int(expires) <= MAX_PRESIGN_S:
        raise S3Error("AccessDenied", "X-Amz-Expires must be between 1 and 604800 seconds")
    payload = request.headers.get("x-amz-content-sha256") or params.get("X-Amz-Content-Sha256") or UNSIGNED
    return Signature(
        _parse_scope(params["X-Amz-Credential"], code),
        tuple(params["X-Amz-SignedHeaders"].split(";")),
        params["X-Amz-Signature"],
        params["X-Amz-Date"],
        _check_payload(payload),
        int(expires),
    )


def parse_signature(request: Request) -> Signature | None:
    """What a request claims about itself; None for an anonymous one.  Raises S3Error for V2 and malformed claims."""
    text = request.headers.get("authorization", "")
    if text:
        if text.startswith(ALGORITHM):
            if "X-Amz-Signature" in request.params:
                raise S3Error("InvalidArgument", "Only one auth mechanism allowed")
            return _from_header(text, request)
        if text.startswith("AWS ") and ":" in text:
            _refuse_v2()
        raise S3Error("InvalidArgument", "Unsupported Authorization Type")
    params = request.params
    if "X-Amz-Signature" in params or "X-Amz-Algorithm" in params or "X-Amz-Credential" in params:
        return _from_query(request)
    if "AWSAccessKeyId" in params and "Signature" in params:
        _refuse_v2()
    return None


def _refuse_v2() -> None:
    raise S3Error(
        "InvalidRequest",
        "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
    )


def canonical_query(request: Request) -> str:
    """The query in signing form, without the signature itself."""
    if not request.raw_query:
        return ""
    pairs = [
        (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
        for name, value in request.query
        if name != "X-Amz-Signature"
    ]
    pairs.sort()
    return "&".join(f"{name}={value}" for name, value in pairs)


def _sent(value: str) -> str:
    """A header in signing form, as most clients make it: the bytes that are sent, runs of blanks as one."""
    return _BLANKS.sub(" ", value) if "  " in value else value


def _spaced(value: str) -> str:
    """The same by clients to whom a tab is a blank, too."""
    return _WHITE.sub(" ", value)


def _typed(value: str) -> str:
    """A header as it is signed by clients that take the text as UTF-8, and that send it as Latin-1 then."""
    return " ".join(kept_bytes(value).decode("latin-1").split())


def canonical_request(request: Request, signature: Signature, form: Callable[[str], str] = _sent) -> bytes:
    """The text whose hash is signed, its headers in a form."""
    headers = request.headers
    lines = [f"{name}:{form(headers.get(name, ''))}\n" for name in signature.signed_headers]
    return kept_bytes(
        "\n".join(
            (
                request.method,
                quote(request.path, safe="/-_.~"),
                canonical_query(request),
                "".join(lines),
                ";".join(signature.signed_headers),
                signature.payload,
            )
        )
    )


def _forms(request: Request, signature: Signature) -> Iterator[bytes]:
    """The texts that a client may have signed: for plain ASCII there is but one."""
    yield canonical_request(request, signature)
    values = [request.headers.get(name, "") for name in signature.signed_headers]
    if any(not value.isascii() or "\t" in value for value in values):
        yield canonical_request(request, signature, _typed)
        yield canonical_request(request, signature, _spaced)


def _check_time(signature: Signature, now_s: float) -> None:
    try:
        signed_s = _stamp_seconds(signature.stamp)
    except ValueError as error:
        raise S3Error("AccessDenied", "Invalid date in the signature") from error
    if not signature.stamp.startswith(signature.scope.date):
        code = "AuthorizationHeaderMalformed" if signature.expires_s is None else "AuthorizationQueryParametersError"
        raise S3Error(code, "Invalid credential date: it differs from the date of the request")
    if signature.expires_s is None:
        if abs(now_s - signed_s) > MAX_SKEW_S:
            raise S3Error("RequestTimeTooSkewed")
    elif signed_s > now_s + MAX_SKEW_S:
        raise S3Error("AccessDenied", "Request is not valid yet")
    elif now_s > signed_s + signature.expires_s:
        raise S3Error("AccessDenied", "Request has expired")


@lru_cache(maxsize=256)
def _stamp_seconds(stamp: str) -> int:
    return calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))


def _check_signed_headers(request: Request, signature: Signature) -> None:
    """host and every x-amz- header must be covered, or an attacker could add them to a signed request."""
    signed = set(signature.signed_headers)
    if "host" not in signed:
        raise S3Error("SignatureDoesNotMatch")
    for name in request.headers:
        if name.startswith("x-amz-") and name not in signed:
            # A presigned URL is used by programs that add the payload hash on their own.
            if name == "x-amz-content-sha256" and signature.expires_s is not None:
                continue
            raise S3Error("AccessDenied", f"There were headers present in the request which were not signed: {name}")


def verify(request: Request, keys: KeySource, region: str, now_s: float) -> Verified | None:
    """Check a request's signature; None for an anonymous request.

    Raises S3Error: InvalidAccessKeyId, SignatureDoesNotMatch, RequestTimeTooSkewed, AccessDenied.
    """
    signature = parse_signature(request)
    if signature is None:
        return None
    scope = signature.scope
    key = keys.s3_key(scope.key_id)
    _check_time(signature, now_s)
    if scope.region != region or scope.service != "s3":
        # B2 answers a plain 403 to a scope of another region.
        raise S3Error("AccessDenied", f"The region {scope.region!r} of the signature is not {region!r}")
    _check_signed_headers(request, signature)
    signing_key = derive_key(key.secret, scope.date, scope.region, scope.service)
    for form in _forms(request, signature):
        text = f"{ALGORITHM}\n{signature.stamp}\n{scope.text}\n{hashlib.sha256(form).hexdigest()}"
        expected = _hmac(signing_key, text).hex()
        if hmac.compare_digest(expected.encode(), signature.signature.encode("utf-8")):
            return Verified(key, signature, signing_key)
    raise S3Error("SignatureDoesNotMatch")
