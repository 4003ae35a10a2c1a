"""The native service: one request in, one answer out, as service.S3Service does for the S3 side."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import trio

from b2fs.errors import B2fsError
from b2fs.server.auth.keys import ApplicationKey
from b2fs.server.faults import Breakage
from b2fs.server.gate import Broken, Gate
from b2fs.server.native import account, bucketrules, buckets, files, large, transfer
from b2fs.server.native.context import Handler, Json, NativeCall
from b2fs.server.native.errors import NativeError, as_native_error, bad_request
from b2fs.server.native.settings import query_json
from b2fs.server.native.testmode import strike
from b2fs.server.native.tokens import Purpose, Tokens
from b2fs.server.ops.call import Home
from b2fs.server.service import Answer
from b2fs.server.wire.request import Request, decode_text
from b2fs.store.embedded.rows import Acl, BucketRow

LOG: Final = logging.getLogger("b2fs.server")
_PATH: Final = re.compile(r"/b2api/v([1-4])/(b2_[a-z_]+)(?:/.*)?")
_MAX_JSON_BYTES: Final = 1 << 20

_HANDLERS: Final[Mapping[str, Handler]] = {
    "b2_cancel_large_file": large.cancel_large_file,
    "b2_copy_file": files.copy_file,
    "b2_copy_part": large.copy_part,
    "b2_create_bucket": buckets.create_bucket,
    "b2_create_key": account.create_key,
    "b2_delete_bucket": buckets.delete_bucket,
    "b2_delete_file_version": files.delete_file_version,
    "b2_delete_key": account.delete_key,
    "b2_finish_large_file": large.finish_large_file,
    "b2_get_bucket_notification_rules": bucketrules.get_notification_rules,
    "b2_get_download_authorization": files.get_download_authorization,
    "b2_get_file_info": files.get_file_info,
    "b2_get_upload_part_url": large.get_upload_part_url,
    "b2_get_upload_url": large.get_upload_url,
    "b2_hide_file": files.hide_file,
    "b2_list_buckets": buckets.list_buckets,
    "b2_list_file_names": files.list_file_names,
    "b2_list_file_versions": files.list_file_versions,
    "b2_list_keys": account.list_keys,
    "b2_list_parts": large.list_parts,
    "b2_list_unfinished_large_files": large.list_unfinished,
    "b2_set_bucket_notification_rules": bucketrules.set_notification_rules,
    "b2_start_large_file": large.start_large_file,
    "b2_update_bucket": buckets.update_bucket,
    "b2_update_file_legal_hold": files.update_legal_hold,
    "b2_update_file_retention": files.update_retention,
}


def is_native(request: Request) -> bool:
    """Whether a request is for the native API: no bucket can have these names."""
    return request.raw_path.startswith(("/b2api/", "/file/"))


@dataclass(slots=True)
class _Seen:
    operation: str = "-"
    key_id: str = "-"
    breakage: Breakage | None = None


class NativeService:
    """All native calls of one store."""

    def __init__(self, home: Home, gate: Gate) -> None:
        self._home = home
        self._gate = gate
        self._tokens = Tokens(home.engine, home.keys)
        self._limiter = trio.CapacityLimiter(16)

    async def handle(self, request: Request) -> Answer:
        """Answer one request.  Raises nothing: what is not foreseen is logged and answered 500."""
        seen = _Seen()
        try:
            answer = await self._handle(request, seen)
        except B2fsError as error:
            answer = _refusal(request, as_native_error(error))
        except Broken:
            answer = Answer(0, breakage=Breakage.RESET)
        except Exception:
            LOG.exception("%s %s failed", request.method, request.raw_path)
            answer = _refusal(request, NativeError(500, "internal_error", "internal error"))
        answer.operation, answer.key_id = seen.operation, seen.key_id
        answer.breakage = answer.breakage or seen.breakage
        return answer

    async def _handle(self, request: Request, seen: _Seen) -> Answer:
        if request.raw_path.startswith("/file/"):
            seen.operation = "b2_download_file_by_name"
            return await self._download_by_name(request, seen)
        match = _PATH.fullmatch(request.path)
        if match is None:
            raise NativeError(404, "not_found", "unknown path")
        version, name = int(match[1]), match[2]
        seen.operation = name
        if name == "b2_download_file_by_id":
            return await self._download_by_id(request, seen)
        if name in ("b2_upload_file", "b2_upload_part"):
            return await self._upload(request, name, version, seen)
        if name == "b2_authorize_account":
            key = self._basic(request)
            await self._admit(request, seen, key)
            return _json_answer(account.authorize_account(self._call(request, key, {}, version)))
        handler = _HANDLERS.get(name)
        if handler is None:
            raise bad_request(f"unknown call: {name}")
        _, key = self._tokens.check(request.headers.get("authorization", ""), Purpose.ACCOUNT)
        await self._admit(request, seen, key)
        call = self._call(request, key, await _read_json(request), version)
        return _json_answer(await trio.to_thread.run_sync(handler, call, limiter=self._limiter))

    async def _admit(self, request: Request, seen: _Seen, key: ApplicationKey | None, upload_bytes: int = 0) -> None:
        seen.key_id = key.key_id if key is not None else "-"
        strike(request.headers, seen.operation, self._gate.faults)
        seen.breakage = await self._gate.admit(seen.operation, upload_bytes)

    def _call(self, request: Request, key: ApplicationKey, body: Mapping[str, Any], version: int) -> NativeCall:
        base_url = f"{request.scheme}://{request.headers.get('host', '')}"
        return NativeCall(self._home, self._tokens, key, body, base_url, version)

    def _basic(self, request: Request) -> ApplicationKey:
        """The key of HTTP's basic authentication; master keys too.  Raises unauthorized."""
        kind, _, encoded = request.headers.get("authorization", "").partition(" ")
        try:
            key_id, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            kind, key_id, secret = "", "", ""
        key = self._home.keys.find(key_id) if kind.lower() == "basic" else None
        expired = key is not None and key.expires_ms is not None and key.expires_ms <= time.time() * 1000
        if key is None or expired or not hmac.compare_digest(key.secret.encode(), secret.encode()):
            raise NativeError(401, "unauthorized", "invalid application key ID or application key")
        return key

    async def _upload(self, request: Request, name: str, version: int, seen: _Seen) -> Answer:
        purpose = Purpose.UPLOAD if name == "b2_upload_file" else Purpose.PART
        token, key = self._tokens.check(request.headers.get("authorization", ""), purpose)
        await self._admit(request, seen, key, request.content_length or 0)
        call = self._call(request, key, {}, version)
        upload = transfer.upload_file if purpose is Purpose.UPLOAD else transfer.upload_part
        return _json_answer(await upload(call, token, request))

    # --- downloads

    async def _download_by_id(self, request: Request, seen: _Seen) -> Answer:
        file_id = request.params.get("fileId")
        if file_id is None and request.method == "POST":
            file_id = (await _read_json(request)).get("fileId")
        if not isinstance(file_id, str):
            raise bad_request("required field fileId is missing")
        row = self._home.engine.find_version(file_id)
        bucket = self._home.engine.bucket_by_id(row.bucket_id)
        return await self._download(request, bucket, row.key, file_id, seen)

    async def _download_by_name(self, request: Request, seen: _Seen) -> Answer:
        # A bare plus is a blank in these paths; one that is meant stands in percent form.
        path = decode_text(request.raw_path.removeprefix("/file/").replace("+", "%20"))
        bucket_name, _, name = path.partition("/")
        bucket = self._home.engine.bucket(bucket_name)
        return await self._download(request, bucket, name, None, seen)

    async def _download(
        self, request: Request, bucket: BucketRow, name: str, file_id: str | None, seen: _Seen
    ) -> Answer:
        key = self._may_download(request, bucket, name)
        await self._admit(request, seen, key)
        answer = transfer.download(self._home.engine, bucket, name, file_id, request)
        if request.method == "HEAD" and not isinstance(answer.body, bytes):
            answer.body.close()
            answer.body = b""
        elif not isinstance(answer.body, bytes):
            self._gate.caps.downloaded(answer.body.size)
        return answer

    def _may_download(self, request: Request, bucket: BucketRow, name: str) -> ApplicationKey | None:
        """The key that pays for a download; None for public buckets.  Raises unauthorized."""
        text = request.headers.get("authorization") or request.params.get("Authorization")
        if text is None:
            if bucket.acl is Acl.PUBLIC_READ:
                return None
            raise NativeError(401, "unauthorized", "the bucket is private and no authorization was given")
        token, key = self._tokens.check(text, Purpose.ACCOUNT, Purpose.DOWNLOAD)
        if token.purpose is Purpose.DOWNLOAD:
            allowed = token.bucket_id == bucket.bucket_id and name.startswith(token.name)
        else:
            own = bucket.owner == key.account.id and key.allows("readFiles", bucket.bucket_id, name)
            allowed = own or bucket.acl is Acl.PUBLIC_READ
        if not allowed:
            raise NativeError(401, "unauthorized", "the authorization does not cover this file")
        return key


async def _read_json(request: Request) -> Json:
    if request.method == "GET":
        return query_json(request.params)
    data = bytearray()
    while piece := await request.body.receive():
        data += piece
        if len(data) > _MAX_JSON_BYTES:
            raise bad_request("the request is too large")
    try:
        parsed = json.loads(data or b"{}")
    except (ValueError, RecursionError) as error:
        raise NativeError(400, "bad_json", "the request is no JSON") from error
    if not isinstance(parsed, dict):
        raise NativeError(400, "bad_json", "the request is no JSON object")
    return parsed


def _json_answer(value: Json, status: int = 200) -> Answer:
    body = json.dumps(value, indent=2).encode()
    return Answer(status, [("content-type", "application/json"), ("content-length", str(len(body)))], body)


def _refusal(request: Request, error: NativeError) -> Answer:
    body = b"" if request.method == "HEAD" else error.to_json()
    found = [("content-type", "application/json"), ("content-length", str(len(body)))]
    if error.status in (429, 503):
        found.append(("retry-after", "1"))
    return Answer(error.status, found, body, error_code=error.code)
