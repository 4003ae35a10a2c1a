"""Listings of objects and of versions."""

from __future__ import annotations

from b2fs.core.types import ListPage, VersionPage
from b2fs.store.s3 import xmlio
from b2fs.store.s3.base import S3Base, check_goes_on, parse
from b2fs.store.s3.wire import Call


class Listings(S3Base):
    """The calls that list."""

    async def list_objects(
        self,
        prefix: str,
        *,
        delimiter: str | None = None,
        start_after: str | None = None,
        token: str | None = None,
        max_keys: int = 1000,
    ) -> ListPage:
        path = self._paths.bucket(
            list_type=2,
            prefix=prefix or None,
            delimiter=delimiter,
            start_after=start_after,
            continuation_token=token,
            max_keys=max_keys,
            encoding_type="url",
        )
        response = await self.calls.call(Call("ListObjectsV2", "GET", path, expected_bytes=max_keys * 512))
        page = await parse(xmlio.parse_objects, response.body)
        check_goes_on(page.next_token, token)
        return page

    async def list_versions(
        self,
        prefix: str,
        *,
        delimiter: str | None = None,
        key_marker: str | None = None,
        version_marker: str | None = None,
        max_keys: int = 1000,
    ) -> VersionPage:
        self._need(self.capabilities.versioning, "version listings")
        path = self._paths.bucket(
            versions="",
            prefix=prefix or None,
            delimiter=delimiter,
            key_marker=key_marker,
            version_id_marker=version_marker,
            max_keys=max_keys,
            encoding_type="url",
        )
        response = await self.calls.call(Call("ListObjectVersions", "GET", path, expected_bytes=max_keys * 1024))
        page = await parse(xmlio.parse_versions, response.body)
        check_goes_on((page.next_key_marker, page.next_version_marker), (key_marker, version_marker))
        return page
