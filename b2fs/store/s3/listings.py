"""Listings of objects and of versions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeVar

from b2fs.core.types import ListPage, VersionPage
from b2fs.errors import CorruptBody
from b2fs.store.s3 import xmlio
from b2fs.store.s3.base import S3Base, check_goes_on, parse
from b2fs.store.s3.wire import Call, listing_call

T = TypeVar("T")

#: How often a page that arrives damaged is asked for, in all.
_ATTEMPTS = 3


class Listings(S3Base):
    """The calls that list."""

    async def _asked(self, call: Call, read: Callable[[bytes], T]) -> T:
        """A page.  Raises CorruptBody if it is damaged each time."""
        for _ in range(_ATTEMPTS - 1):
            with contextlib.suppress(CorruptBody):
                return await self._page(call, read)
        return await self._page(call, read)

    async def _page(self, call: Call, read: Callable[[bytes], T]) -> T:
        return await parse(read, (await self.calls.call(call)).body)

    async def list_objects(
        self,
        prefix: str,
        *,
        delimiter: str | None = None,
        start_after: str | None = None,
        token: str | None = None,
        max_keys: int = 1000,
    ) -> ListPage:
        call = listing_call(
            self._paths, prefix, delimiter=delimiter, start_after=start_after, token=token, max_keys=max_keys
        )
        page = await self._asked(call, xmlio.parse_objects)
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
        call = Call("ListObjectVersions", "GET", path, expected_bytes=max_keys * 1024)
        page = await self._asked(call, xmlio.parse_versions)
        check_goes_on((page.next_key_marker, page.next_version_marker), (key_marker, version_marker))
        return page
