"""Hiding keys and removing versions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import trio

from b2fs.core.types import VersionId
from b2fs.errors import AccessDenied, InvalidRequest, Locked, NotFound, StoreError, Unsupported
from b2fs.store.s3 import xmlio
from b2fs.store.s3.base import S3Base, parse
from b2fs.store.s3.faults import error_of_item
from b2fs.store.s3.wire import Call, md5_base64

MAX_DELETE_TARGETS = 1000


class Removals(S3Base):
    """The calls that remove."""

    #: Whether the server has DeleteObjects, as far as is known.
    _bulk_delete = True

    async def hide(self, key: str) -> VersionId | None:
        try:
            response = await self.calls.call(Call("DeleteObject", "DELETE", self._paths.key(key)), self._changes(key))
        except NotFound:
            return None  # some servers say so, which is no error here
        if not self.capabilities.versioning:
            return None
        return xmlio.stable_version(response.headers.get("x-amz-version-id"))

    async def delete_version(self, key: str, version_id: VersionId) -> None:
        self._need(self.capabilities.versioning, "removing a version")
        path = self._paths.key(key, versionId=version_id)
        with contextlib.suppress(NotFound):
            try:
                await self.calls.call(Call("DeleteObject", "DELETE", path))
            except AccessDenied as error:
                await self._raise_locked(path, error)
                raise

    async def _raise_locked(self, path: str, error: AccessDenied) -> None:
        """Raise Locked if a refused removal has that reason: the code is the same as for missing rights."""
        try:
            response = await self.calls.call(Call("HeadObject", "HEAD", path, has_body=False))
        except StoreError:
            return  # nothing learnt; the caller raises the first error
        headers = response.headers
        held = headers.get("x-amz-object-lock-legal-hold") == "ON"
        until = headers.get("x-amz-object-lock-retain-until-date", "")
        if held or xmlio.parse_time_ns(until) > time.time_ns():
            raise Locked("Object Lock forbids removing this version" + (f" until {until}" if until else "")) from error

    async def delete_many(self, targets: Sequence[tuple[str, VersionId | None]]) -> list[VersionId | StoreError | None]:
        if len(targets) > MAX_DELETE_TARGETS:
            raise InvalidRequest(f"at most {MAX_DELETE_TARGETS} targets in one call")
        if any(version is not None for _, version in targets):
            self._need(self.capabilities.versioning, "removing a version")
        if not targets:
            return []
        if self._bulk_delete and all(xmlio.in_xml(key) for key, _ in targets) and len(set(targets)) == len(targets):
            try:
                return await self._delete_bulk(targets)
            except Unsupported:
                self._bulk_delete = False
        return await self._delete_singly(targets)

    async def _delete_bulk(
        self, targets: Sequence[tuple[str, VersionId | None]]
    ) -> list[VersionId | StoreError | None]:
        body = xmlio.delete_body(targets)
        headers = (("Content-MD5", md5_base64(body)), ("Content-Type", "application/xml"))
        path = self._paths.bucket(delete="")
        response = await self.calls.call(
            Call("DeleteObjects", "POST", path, headers, body, expected_bytes=512 * len(targets), errors_in_body=True),
            self._changes(*(key for key, version in targets if version is None)),
        )
        deleted, refused = await parse(xmlio.parse_deleted, response.body)
        results: dict[tuple[str, str | None], VersionId | StoreError | None] = {}
        for row in deleted:
            marker = xmlio.stable_version(row.get("DeleteMarkerVersionId"))
            results[row.get("Key", ""), row.get("VersionId") or None] = marker
        for row in refused:
            error = error_of_item(row.get("Code", ""), row.get("Message", ""))
            gone = isinstance(error, NotFound)
            results[row.get("Key", ""), row.get("VersionId") or None] = None if gone else error
        missing = StoreError("the server did not say what became of this key")
        answer: list[VersionId | StoreError | None] = []
        for key, version in targets:
            # Some servers leave out the version they were given, others name the one that a marker got.
            result = results.get((key, version), results.get((key, None), missing))
            answer.append(None if version is not None and isinstance(result, str) else result)
        return answer

    async def _delete_singly(
        self, targets: Sequence[tuple[str, VersionId | None]]
    ) -> list[VersionId | StoreError | None]:
        results: list[VersionId | StoreError | None] = [None] * len(targets)

        async def one(index: int, key: str, version: VersionId | None) -> None:
            try:
                if version is None:
                    results[index] = await self.hide(key)
                else:
                    await self.delete_version(key, version)
            except StoreError as error:
                results[index] = error

        async with trio.open_nursery() as nursery:
            for index, (key, version) in enumerate(targets):
                nursery.start_soon(one, index, key, version)
        return results
