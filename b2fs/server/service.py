"""The S3 service: one request in, one answer out.  Knows no sockets; the ASGI front feeds it.

Order of checks, as clients see it: the request can be read, the signature holds, the call exists, the key may make it,
and only then the call's own rules.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from b2fs.errors import B2fsError
from b2fs.server.auth.chunked import ChunkedDecoder
from b2fs.server.auth.sigv4 import UNSIGNED, Verified, verify
from b2fs.server.faults import Breakage
from b2fs.server.gate import Broken, Gate
from b2fs.server.ops import calls, cors, headers
from b2fs.server.ops.access import authorise
from b2fs.server.ops.call import Call, Home, Reply, Stream
from b2fs.server.ops.translate import as_s3_error
from b2fs.server.wire.errors import S3Error
from b2fs.server.wire.parse import parse_body, parse_head
from b2fs.server.wire.request import Request
from b2fs.server.wire.route import Target, route, split_path
from b2fs.server.wire.write import write_body, write_headers

LOG: Final = logging.getLogger("b2fs.server")
#: The largest XML body that a call may have: 1,000 keys of 1,024 bytes with their markup, or 10,000 parts.
MAX_XML_BYTES: Final = 4 << 20
#: B2 sends this with all answers but those that carry an object's own headers.
_UNCACHED: Final = ("cache-control", "max-age=0, no-cache, no-store")
_CACHEABLE: Final = frozenset({"GetObject", "HeadObject"})


@dataclass(slots=True)
class Answer:
    """A whole answer but for the body's bytes.  body is bytes or a Stream that must be closed."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | Stream = b""
    #: For the access log.
    operation: str = "-"
    key_id: str = "-"
    error_code: str | None = None
    #: How the connection is to fail instead, for faults on demand.
    breakage: Breakage | None = None


class S3Service:
    """All calls of the S3 side of one store."""

    def __init__(self, home: Home, gate: Gate, *, clock_s: Callable[[], float] = time.time) -> None:
        self._home = home
        self._gate = gate
        self._clock_s = clock_s
        self._limiter = trio.CapacityLimiter(16)

    async def handle(self, request: Request) -> Answer:
        """Answer one request.  Raises nothing: what is not foreseen is logged and answered 500."""
        seen = _Seen()
        try:
            return await self._handle(request, seen)
        except B2fsError as error:
            return self._refusal(request, as_s3_error(error), seen)
        except Broken:
            return Answer(0, operation=seen.operation, key_id=seen.key_id, breakage=Breakage.RESET)
        except Exception:
            LOG.exception("%s %s failed", request.method, request.raw_path)
            return self._refusal(request, S3Error("InternalError"), seen)

    async def _handle(self, request: Request, seen: _Seen) -> Answer:
        if request.method == "OPTIONS":
            seen.operation = "OPTIONS"
            return self._preflight(request)
        verified = verify(request, self._home.keys, self._home.region, self._clock_s())
        seen.key_id = verified.key.key_id if verified is not None else "-"
        target = route(request, self._home.domains)
        seen.operation = target.operation.name
        if self._home.refuses_checksums:
            headers.refuse_checksums(request.headers)
        call = await self._prepare(request, target, verified)
        authorise(call)
        upload_bytes = _declared_bytes(request) if target.operation.streams_in else 0
        seen.breakage = await self._gate.admit(target.operation.name, upload_bytes)
        await self._read_xml(call)
        reply = await self._run(call)
        return self._answer(call, reply, seen)

    async def _prepare(self, request: Request, target: Target, verified: Verified | None) -> Call:
        params = parse_head(target.operation, request, target.bucket, target.key)
        return Call(self._home, request, target, params, verified)

    async def _read_xml(self, call: Call) -> None:
        operation = call.target.operation
        if operation.streams_in or call.request.method in ("GET", "HEAD"):
            return
        data = await _read_small_body(call)
        call.params.update(parse_body(operation, data))

    async def _run(self, call: Call) -> Reply:
        name = call.target.operation.name
        quick = calls.QUICK.get(name)
        if quick is not None:
            return quick(call)
        streaming = calls.STREAMING.get(name)
        if streaming is not None:
            return await streaming(call)
        return await trio.to_thread.run_sync(calls.THREADED[name], call, limiter=self._limiter)

    def _answer(self, call: Call, reply: Reply, seen: _Seen) -> Answer:
        operation = call.target.operation
        found = write_headers(operation, reply.values)
        found.extend(reply.headers)
        if operation.name not in _CACHEABLE:
            found.append(_UNCACHED)
        body: bytes | Stream
        if reply.stream is not None:
            body = reply.stream
        else:
            body = write_body(operation, reply.values)
            if body:
                found.append(("content-type", "application/xml"))
        if call.request.method != "HEAD":
            found = [pair for pair in found if pair[0] != "content-length"]
            size = len(body) if isinstance(body, bytes) else body.size
            status = reply.status or operation.status
            if status != 204:
                found.append(("content-length", str(size)))
        found.extend(self._cors(call))
        if reply.stream is not None and not isinstance(reply.stream, bytes):
            self._gate.caps.downloaded(reply.stream.size)
        return Answer(
            reply.status or operation.status, found, body, operation.name, seen.key_id, breakage=seen.breakage
        )

    def _cors(self, call: Call) -> list[tuple[str, str]]:
        if (
            "origin" not in call.request.headers
            or not call.target.bucket
            or call.target.operation.name == "CreateBucket"
        ):
            return []
        return cors.answer_headers(call.bucket, call.request.method, call.request.headers)

    def _cors_of_refusal(self, request: Request) -> list[tuple[str, str]]:
        """A browser may read a refusal where it might read an answer; the bucket may be missing or be another's."""
        if "origin" not in request.headers or request.method == "OPTIONS":
            return []
        try:
            bucket = self._home.engine.bucket(split_path(request, self._home.domains)[0])
        except B2fsError:
            return []
        return cors.answer_headers(bucket, request.method, request.headers)

    def _preflight(self, request: Request) -> Answer:
        bucket_name, _ = split_path(request, self._home.domains)
        if not request.headers.get("origin"):
            raise S3Error("InvalidRequest", "Insufficient information. Origin request header needed.")
        if not bucket_name:
            raise S3Error("AccessDenied", "CORSResponse: This CORS request is not allowed.")
        found = cors.preflight(self._home.engine.bucket(bucket_name), request.headers)
        return Answer(200, [*found, ("content-length", "0")], operation="OPTIONS")

    def _refusal(self, request: Request, error: S3Error, seen: _Seen) -> Answer:
        found = list(error.headers.items())
        body = b"" if request.method == "HEAD" or error.status in (204, 304) else error.to_xml(request.request_id)
        if body:
            found.append(("content-type", "application/xml"))
        if error.status not in (204, 304):
            found.append(("content-length", str(len(body))))
        found.append(_UNCACHED)
        found.extend(self._cors_of_refusal(request))
        return Answer(error.status, found, body, seen.operation, seen.key_id, error.code)


@dataclass(slots=True)
class _Seen:
    """How far a request got, for the log and the error's headers."""

    operation: str = "-"
    key_id: str = "-"
    breakage: Breakage | None = None


def _declared_bytes(request: Request) -> int:
    """The size of an upload as far as its head tells; 0 where it does not."""
    text = request.headers.get("x-amz-decoded-content-length", "")
    return int(text) if text.isdigit() and len(text) < 19 else request.content_length or 0


async def _read_small_body(call: Call) -> bytes:
    """A request's whole body, checked against its digests.  Raises MaxMessageLengthExceeded, IncompleteBody."""
    md5 = headers.content_md5(call)
    payload = call.verified.payload if call.verified is not None else UNSIGNED
    decoder = ChunkedDecoder.for_request(call.request, call.verified, ()) if payload.startswith("STREAMING-") else None
    length = call.request.content_length
    if length is not None and length > MAX_XML_BYTES:
        raise S3Error("MaxMessageLengthExceeded")
    data = bytearray()
    while piece := await call.request.body.receive():
        data += decoder.feed(piece) if decoder is not None else piece
        if len(data) > MAX_XML_BYTES:
            raise S3Error("MaxMessageLengthExceeded")
    if decoder is not None:
        decoder.finish()
    elif payload != UNSIGNED and not hmac.compare_digest(hashlib.sha256(data).hexdigest(), payload):
        raise S3Error("XAmzContentSHA256Mismatch")
    if md5 is not None and hashlib.md5(data, usedforsecurity=False).digest() != md5:
        raise S3Error("BadDigest")
    return bytes(data)
