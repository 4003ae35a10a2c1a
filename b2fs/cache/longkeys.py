"""LongKeys: a store whose keys may be longer than a bucket takes.

A key of more than 1,024 bytes is kept under `.b2fs/long/<hash of the path>`, in an object that carries the path in its
metadata; everybody above sees it under its own key, in listings too.  Which long keys there are is learnt from one
listing of that place, which is trusted for a time to live, and from the metadata of each object in it, once.  A bucket
without `.b2fs/` is not asked.
What stands there without a path, or with one that is not its own, is nobody's and is left alone.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Mapping, Sequence

import trio

from b2fs.cache.parallel import for_each
from b2fs.core.keys import KEY_MAX
from b2fs.core.longkeys import PATH_NAME, decode_path, encode_path, is_long, short_name
from b2fs.core.types import (
    ETag,
    ListPage,
    ObjectInfo,
    ObjectRef,
    PartInfo,
    UploadId,
    VersionId,
    VersionPage,
)
from b2fs.errors import AccessDenied, NotFound, StoreError
from b2fs.store.forward import ForwardingStore
from b2fs.store.protocol import Body, ObjectStore

log = logging.getLogger(__name__)

#: Between where a page ended and the server's own token, in ours; no key has it.
_SEPARATOR = "\0"
#: (ETag, modification) of an object, and the path that it carries.
_Seen = tuple[str, int, str | None]


class LongKeys(ForwardingStore):
    """See the module.  root is the mount's key prefix; times in seconds.  Belongs to the trio thread."""

    def __init__(self, inner: ObjectStore, root: str, ttl_s: float) -> None:
        super().__init__(inner)
        self._root = root
        self._reserved = f"{root}.b2fs/"
        #: Where paths are part of the keys.
        self._of_paths = (f"{self._reserved}dirs/", f"{self._reserved}links/")
        self._place = f"{self._reserved}long/"
        self._ttl_s = ttl_s
        #: The long keys that there are, and their order.
        self._objects: dict[str, ObjectInfo] = {}
        self._order: list[str] | None = []
        self._listed_at = float("-inf")
        #: What the objects in the place were found to carry.
        self._seen: dict[str, _Seen] = {}
        #: Changed here since the listing under way was asked for.
        self._touched: set[str] = set()
        self._lock = trio.Lock()

    # ---- one key ------------------------------------------------------------------------------------------------

    def _is_long(self, key: str) -> bool:
        return is_long(key) and key.startswith(self._root)

    def _short(self, key: str) -> str:
        """The key under which the bucket has it."""
        return self._place + short_name(key[len(self._root) :]) if self._is_long(key) else key

    def _source(self, ref: ObjectRef) -> ObjectRef:
        return ref._replace(key=self._short(ref.key)) if self._is_long(ref.key) else ref

    def _with_path(self, key: str, metadata: Mapping[str, str] | None) -> dict[str, str]:
        return {**(metadata or {}), PATH_NAME: encode_path(key[len(self._root) :])}

    def _told(self, key: str, info: ObjectInfo) -> ObjectInfo:
        """What the bucket said of the short key, as said of the long one."""
        metadata = info.metadata
        if metadata is not None:
            metadata = {name: value for name, value in metadata.items() if name != PATH_NAME}
        return info._replace(ref=info.ref._replace(key=key), metadata=metadata)

    def _note(self, key: str, info: ObjectInfo | None) -> None:
        """We changed what is under a long key."""
        self._touched.add(key)
        if info is not None:
            if key not in self._objects:
                self._order = None
            self._objects[key] = info._replace(metadata=None, content_type=None)
        elif self._objects.pop(key, None) is not None:
            self._order = None

    async def head(self, key: str, *, version_id: VersionId | None = None) -> ObjectInfo:
        info = await self.inner.head(self._short(key), version_id=version_id)
        return self._told(key, info) if self._is_long(key) else info

    async def get(
        self,
        key: str,
        *,
        version_id: VersionId | None = None,
        start: int = 0,
        end: int | None = None,
        if_match: ETag | None = None,
    ) -> tuple[ObjectInfo, bytes | memoryview]:
        short = self._short(key)
        info, body = await self.inner.get(short, version_id=version_id, start=start, end=end, if_match=if_match)
        return (self._told(key, info) if short is not key else info), body

    async def put(
        self,
        key: str,
        body: Body,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
        if_match: ETag | None = None,
        if_none_match: bool = False,
    ) -> ObjectInfo:
        if self._is_long(key):
            metadata = self._with_path(key, metadata)
        info = await self.inner.put(
            self._short(key),
            body,
            metadata=metadata,
            content_type=content_type,
            if_match=if_match,
            if_none_match=if_none_match,
        )
        return self._made(key, info)

    def _made(self, key: str, info: ObjectInfo) -> ObjectInfo:
        if not self._is_long(key):
            return info
        info = self._told(key, info)
        self._note(key, info)
        return info

    async def copy(
        self,
        source: ObjectRef,
        key: str,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> ObjectInfo:
        if metadata is None and (self._is_long(key) or self._is_long(source.key)):
            # The path that the source carries is not the copy's.
            info = await self.head(source.key, version_id=source.version_id)
            metadata, content_type = info.metadata or {}, info.content_type
        if self._is_long(key):
            metadata = self._with_path(key, metadata)
        made = await self.inner.copy(
            self._source(source), self._short(key), metadata=metadata, content_type=content_type
        )
        return self._made(key, made)

    async def hide(self, key: str) -> VersionId | None:
        marker = await self.inner.hide(self._short(key))
        if self._is_long(key):
            self._note(key, None)
        return marker

    async def delete_version(self, key: str, version_id: VersionId) -> None:
        await self.inner.delete_version(self._short(key), version_id)
        self._removed(key, version_id)

    async def delete_many(self, targets: Sequence[tuple[str, VersionId | None]]) -> list[VersionId | StoreError | None]:
        answers = await self.inner.delete_many([(self._short(key), version) for key, version in targets])
        for (key, version), answer in zip(targets, answers, strict=True):
            if not isinstance(answer, StoreError):
                self._removed(key, version)
        return answers

    def _removed(self, key: str, version_id: VersionId | None) -> None:
        known = self._objects.get(key) if self._is_long(key) else None
        if known is None:
            return
        if version_id is None or known.ref.version_id == version_id:
            self._note(key, None)
        elif known.ref.version_id is None:
            self._listed_at = float("-inf")  # whether that was the newest one is not known

    # ---- parts --------------------------------------------------------------------------------------------------

    async def create_upload(
        self, key: str, *, metadata: Mapping[str, str] | None = None, content_type: str | None = None
    ) -> UploadId:
        if self._is_long(key):
            metadata = self._with_path(key, metadata)
        return await self.inner.create_upload(self._short(key), metadata=metadata, content_type=content_type)

    async def upload_part(self, key: str, upload_id: UploadId, number: int, body: Body) -> PartInfo:
        return await self.inner.upload_part(self._short(key), upload_id, number, body)

    async def copy_part(
        self, key: str, upload_id: UploadId, number: int, source: ObjectRef, start: int, end: int
    ) -> PartInfo:
        return await self.inner.copy_part(self._short(key), upload_id, number, self._source(source), start, end)

    async def complete_upload(self, key: str, upload_id: UploadId, parts: Sequence[PartInfo]) -> ObjectInfo:
        return self._made(key, await self.inner.complete_upload(self._short(key), upload_id, parts))

    async def abort_upload(self, key: str, upload_id: UploadId) -> None:
        await self.inner.abort_upload(self._short(key), upload_id)

    async def list_parts(self, key: str, upload_id: UploadId) -> list[PartInfo]:
        return await self.inner.list_parts(self._short(key), upload_id)

    # ---- listings -----------------------------------------------------------------------------------------------

    async def list_versions(
        self,
        prefix: str,
        *,
        delimiter: str | None = None,
        key_marker: str | None = None,
        version_marker: str | None = None,
        max_keys: int = 1000,
    ) -> VersionPage:
        """The versions of a long key; those below a prefix are told without the long ones."""
        short = self._short(prefix)
        page = await self.inner.list_versions(
            short, delimiter=delimiter, key_marker=key_marker, version_marker=version_marker, max_keys=max_keys
        )
        if short is prefix:
            return page
        versions = (
            version._replace(ref=version.ref._replace(key=prefix))
            for version in page.versions
            if version.ref.key == short
        )
        return page._replace(versions=tuple(versions), prefixes=())

    async def list_objects(
        self,
        prefix: str,
        *,
        delimiter: str | None = None,
        start_after: str | None = None,
        token: str | None = None,
        max_keys: int = 1000,
    ) -> ListPage:
        if prefix.startswith(self._reserved) and not prefix.startswith(self._of_paths):
            # What is kept there has no long keys, and is asked for by ourselves, too.
            page = await self.inner.list_objects(
                prefix, delimiter=delimiter, start_after=start_after, token=token, max_keys=max_keys
            )
            if prefix == self._reserved and delimiter == "/" and start_after is None and token is None:
                self._notice(page, self._place)
            return page
        after, _, inner_token = token.partition(_SEPARATOR) if token is not None else (start_after or "", "", "")
        page = ListPage((), (), None)
        if not is_long(prefix):
            page = await self.inner.list_objects(
                prefix,
                delimiter=delimiter,
                start_after=_cut(after) or None if token is None else None,
                token=inner_token or None,
                max_keys=max_keys,
            )
        await self._learn(prefix, delimiter, page)
        return self._merged(page, prefix, delimiter, after)

    def _merged(self, page: ListPage, prefix: str, delimiter: str | None, after: str) -> ListPage:
        """The page with the long keys that belong on it, and a token that says where it ended."""
        end = None
        if page.next_token is not None:
            end = max([after, *(o.key for o in page.objects[-1:]), *page.prefixes[-1:]])
        token = f"{end}{_SEPARATOR}{page.next_token}" if page.next_token is not None else None
        if not self._objects and not is_long(after):
            return ListPage(page.objects, page.prefixes, token)
        objects, prefixes = list(page.objects), set(page.prefixes)
        if is_long(after):
            objects = [info for info in objects if info.key > after]
        for key in self._keys_below(prefix):
            cut = key.find(delimiter, len(prefix)) + 1 if delimiter else 0
            entry = key[:cut] if cut else key
            if entry <= after or (end is not None and entry > end):
                continue
            if cut:
                prefixes.add(entry)
            else:
                info = self._objects[key]
                objects.append(info._replace(ref=info.ref._replace(version_id=None)))
        if len(objects) > len(page.objects):
            objects.sort(key=lambda info: info.key)
        in_order = page.prefixes if len(prefixes) == len(page.prefixes) else tuple(sorted(prefixes))
        return ListPage(tuple(objects), in_order, token)

    def _keys_below(self, prefix: str) -> list[str]:
        if not self._objects:
            return []
        if self._order is None:
            self._order = sorted(self._objects)
        first = bisect_left(self._order, prefix)
        last = first
        while last < len(self._order) and self._order[last].startswith(prefix):
            last += 1
        return self._order[first:last]

    def refresh(self) -> None:
        """Look anew with the next question."""
        self._listed_at = float("-inf")

    # ---- which there are ----------------------------------------------------------------------------------------

    async def _learn(self, prefix: str, delimiter: str | None, page: ListPage) -> None:
        """See that it is known which long keys there are.  Raises StoreError: unknown is never absent (I4)."""
        if not self._is_old():
            return
        if prefix == self._root and delimiter == "/" and self._notice(page, self._reserved):
            return
        async with self._lock:  # held over the request: who waits wants this very answer
            if self._is_old():
                try:
                    await self._list()
                except AccessDenied as error:
                    # A key that may not see them may not use them either; all else goes on.
                    log.info("paths of more than %d bytes are not shown: %s", KEY_MAX, error)
                    self._listed_at = trio.current_time()

    def _notice(self, page: ListPage, directory: str) -> bool:
        """Whether a page from the beginning shows that a directory is not there, and so no long key either."""
        lacking = _lacks(page, directory)
        if lacking:
            self._objects = {key: info for key, info in self._objects.items() if key in self._touched}
            self._touched.clear()
            self._order, self._listed_at = None, trio.current_time()
        return lacking

    def _is_old(self) -> bool:
        return trio.current_time() - self._listed_at > self._ttl_s

    async def _list(self) -> None:
        asked_at = trio.current_time()
        self._touched.clear()
        listed: list[ObjectInfo] = []
        token: str | None = None
        while True:
            page = await self.inner.list_objects(self._place, token=token)
            listed.extend(page.objects)
            token = page.next_token
            if token is None:
                break
        await for_each([info for info in listed if self._path(info) is None], self._ask)
        found: dict[str, ObjectInfo] = {}
        for info in listed:
            seen = self._path(info)
            if seen is not None and seen[2] is not None:
                key = self._root + seen[2]
                found[key] = info._replace(ref=info.ref._replace(key=key))
        # What we changed meanwhile is newer than the answer.
        kept = {key: info for key, info in self._objects.items() if key in self._touched}
        self._objects = {key: info for key, info in found.items() if key not in self._touched} | kept
        self._order, self._listed_at = None, asked_at

    def _path(self, info: ObjectInfo) -> _Seen | None:
        """What is known of the path that an object of the place carries; a path that is right stays so for ever."""
        seen = self._seen.get(info.key)
        if seen is None or (seen[2] is None and seen[:2] != (info.ref.etag, info.modified_ns)):
            return None
        return seen

    async def _ask(self, info: ObjectInfo) -> None:
        try:
            told = await self.inner.head(info.key)
        except NotFound:
            return
        path = decode_path((told.metadata or {}).get(PATH_NAME, ""))
        if path is None or not is_long(self._root + path) or self._place + short_name(path) != info.key:
            log.warning("%s carries no path of its own and is left alone", info.key)
            path = None
        self._seen[info.key] = (info.ref.etag, info.modified_ns, path)


def _lacks(page: ListPage, directory: str) -> bool:
    """Whether a page from the beginning shows that a directory is not there."""
    if directory in page.prefixes:
        return False
    last = max([*(o.key for o in page.objects[-1:]), *page.prefixes[-1:]], default="")  # a page may be empty
    return page.next_token is None or last > directory


def _cut(key: str) -> str:
    """The beginning of a key that a server accepts."""
    return key.encode()[:KEY_MAX].decode(errors="ignore") if is_long(key) else key
