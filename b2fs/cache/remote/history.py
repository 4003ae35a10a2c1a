"""Looking for a version among the older ones of a key."""

from __future__ import annotations

from b2fs.cache.remote.listing import NS
from b2fs.core.types import ObjectRef
from b2fs.errors import NotFound
from b2fs.store.protocol import ObjectStore

#: How many versions of a key are looked through for one that was replaced.
_VERSIONS = 1000


async def find_version(store: ObjectStore, ref: ObjectRef, modified_ns: int) -> ObjectRef:
    """The version that a listing once showed as ref, which is not the current one any more.

    modified_ns chooses among versions of one content, if it is known.  Raises NotFound if it is gone for good, or the
    server keeps no versions.
    """
    gone = f"{ref.key}: the version that was seen is gone"
    if not store.capabilities.versioning:
        raise NotFound(gone)
    page = await store.list_versions(ref.key, max_keys=_VERSIONS)
    fitting = [
        version
        for version in page.versions
        if not version.is_hide_marker
        and (version.ref.key, version.ref.etag, version.ref.size) == (ref.key, ref.etag, ref.size)
    ]
    exact = [version for version in fitting if version.modified_ns // NS == modified_ns // NS]
    for version in (*exact, *fitting):
        return version.ref
    raise NotFound(gone)
