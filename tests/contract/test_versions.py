"""Versions, hide markers and removal."""

from __future__ import annotations

import pytest

from b2fs.core.types import ObjectInfo, VersionId
from b2fs.errors import NotFound, StoreError, Unsupported
from b2fs.store.protocol import ObjectStore
from tests.contract.helpers import all_objects, all_versions, md5


def version_of(info: ObjectInfo) -> VersionId:
    assert info.ref.version_id is not None
    return info.ref.version_id


# --- With and without versioning


async def test_hide_makes_a_key_absent(store: ObjectStore, root: str) -> None:
    await store.put(root + "a", b"x")
    await store.hide(root + "a")
    with pytest.raises(NotFound):
        await store.head(root + "a")
    with pytest.raises(NotFound):
        await store.get(root + "a")
    assert await all_objects(store, root) == []
    await store.put(root + "a", b"again")
    assert (await store.get(root + "a"))[1] == b"again"


async def test_hiding_what_is_not_there_is_no_error(store: ObjectStore, root: str) -> None:
    await store.hide(root + "never")
    await store.put(root + "a", b"x")
    await store.hide(root + "a")
    await store.hide(root + "a")
    with pytest.raises(NotFound):
        await store.head(root + "a")


async def test_delete_many_hides(store: ObjectStore, root: str) -> None:
    names = [f"{root}{i}&<{i}>" for i in range(5)]
    for name in names:
        await store.put(name, b"x")
    results = await store.delete_many([(name, None) for name in names[:4]] + [(root + "never", None)])
    assert len(results) == 5
    assert not [result for result in results if isinstance(result, StoreError)]
    if store.capabilities.versioning:
        assert all(results)
    else:
        assert not any(results)
    assert [item.key for item in await all_objects(store, root)] == names[4:]


async def test_delete_many_of_nothing(store: ObjectStore) -> None:
    assert await store.delete_many([]) == []


async def test_delete_many_takes_a_thousand(store: ObjectStore, root: str) -> None:
    await store.put(root + "0500", b"x")
    results = await store.delete_many([(f"{root}{i:04d}", None) for i in range(1000)])
    assert len(results) == 1000
    assert not [result for result in results if isinstance(result, StoreError)]
    assert await all_objects(store, root) == []


@pytest.mark.lacks("versioning")
async def test_without_versioning(store: ObjectStore, root: str) -> None:
    await store.put(root + "a", b"x")
    with pytest.raises(Unsupported):
        await store.list_versions(root)
    assert await store.hide(root + "a") is None


# --- Versions


@pytest.mark.needs("versioning")
async def test_versions_newest_first(store: ObjectStore, root: str) -> None:
    made = [version_of(await store.put(root + "a", b"x" * i)) for i in range(5)]
    versions = await all_versions(store, root)
    assert [item.ref.version_id for item in versions] == made[::-1]
    assert [item.ref.size for item in versions] == [4, 3, 2, 1, 0]
    assert [item.is_latest for item in versions] == [True, False, False, False, False]
    assert not any(item.is_hide_marker for item in versions)
    assert versions[0].ref.etag == md5(b"xxxx")
    assert len(set(made)) == 5


@pytest.mark.needs("versioning")
async def test_old_versions_stay_readable(store: ObjectStore, root: str) -> None:
    old = await store.put(root + "a", b"old", metadata={"n": "1"})
    await store.put(root + "a", b"newer", metadata={"n": "2"})
    await store.hide(root + "a")
    info, body = await store.get(root + "a", version_id=version_of(old))
    assert body == b"old"
    assert info.ref == old.ref
    assert info.metadata is not None
    assert info.metadata["n"] == "1"
    head = await store.head(root + "a", version_id=version_of(old))
    assert head.ref == old.ref
    assert (await store.get(root + "a", version_id=version_of(old), start=1, end=3))[1] == b"ld"


@pytest.mark.needs("versioning")
async def test_a_hide_marker_is_a_version(store: ObjectStore, root: str) -> None:
    put = await store.put(root + "a", b"x")
    marker = await store.hide(root + "a")
    assert marker is not None
    versions = await all_versions(store, root)
    assert [(v.ref.version_id, v.is_hide_marker, v.is_latest) for v in versions] == [
        (marker, True, True),
        (put.ref.version_id, False, False),
    ]
    with pytest.raises(NotFound):
        await store.head(root + "a", version_id=marker)
    with pytest.raises(NotFound):
        await store.get(root + "a", version_id=marker)


@pytest.mark.needs("versioning")
async def test_removing_the_hide_marker_brings_the_key_back(store: ObjectStore, root: str) -> None:
    await store.put(root + "a", b"x")
    marker = await store.hide(root + "a")
    assert marker is not None
    await store.delete_version(root + "a", marker)
    assert (await store.get(root + "a"))[1] == b"x"
    assert [item.key for item in await all_objects(store, root)] == [root + "a"]


@pytest.mark.needs("versioning")
async def test_removing_the_latest_version_shows_the_one_before(store: ObjectStore, root: str) -> None:
    await store.put(root + "a", b"one")
    two = await store.put(root + "a", b"two")
    await store.delete_version(root + "a", version_of(two))
    assert (await store.get(root + "a"))[1] == b"one"
    [left] = await all_versions(store, root)
    assert left.is_latest


@pytest.mark.needs("versioning")
async def test_removing_an_old_version_leaves_the_latest(store: ObjectStore, root: str) -> None:
    one = await store.put(root + "a", b"one")
    two = await store.put(root + "a", b"two")
    await store.delete_version(root + "a", version_of(one))
    assert (await store.head(root + "a")).ref == two.ref
    assert [item.ref.version_id for item in await all_versions(store, root)] == [two.ref.version_id]


@pytest.mark.needs("versioning")
async def test_removing_the_only_version_removes_the_key(store: ObjectStore, root: str) -> None:
    put = await store.put(root + "a", b"x")
    await store.delete_version(root + "a", version_of(put))
    with pytest.raises(NotFound):
        await store.head(root + "a")
    assert await all_versions(store, root) == []
    await store.delete_version(root + "a", version_of(put))  # a second time is no error


@pytest.mark.needs("versioning")
async def test_delete_many_by_version(store: ObjectStore, root: str) -> None:
    one = version_of(await store.put(root + "a", b"one"))
    two = version_of(await store.put(root + "a", b"two"))
    other = version_of(await store.put(root + "b", b"other"))
    results = await store.delete_many([(root + "a", two), (root + "b", None), (root + "a", one)])
    assert results[0] is None
    assert isinstance(results[1], str)
    assert results[2] is None
    versions = await all_versions(store, root)
    assert [(v.ref.key, v.ref.version_id) for v in versions] == [(root + "b", results[1]), (root + "b", other)]


@pytest.mark.needs("versioning")
@pytest.mark.parametrize("max_keys", [1, 2, 3, 100])
async def test_pages_of_versions(store: ObjectStore, root: str, max_keys: int) -> None:
    expected = []
    for name in ("a", "b", "c"):
        made = [version_of(await store.put(root + name, b"x")) for _ in range(3)]
        marker = await store.hide(root + name)
        expected += [(root + name, marker), *((root + name, version) for version in reversed(made))]
    versions = await all_versions(store, root, max_keys=max_keys)
    assert [(v.ref.key, v.ref.version_id) for v in versions] == expected


@pytest.mark.needs("versioning")
async def test_versions_with_delimiter(store: ObjectStore, root: str) -> None:
    for name in ("a", "d/1", "d/1", "d/2", "z"):
        await store.put(root + name, b"x")
    page = await store.list_versions(root, delimiter="/")
    assert [v.ref.key.removeprefix(root) for v in page.versions] == ["a", "z"]
    assert [prefix.removeprefix(root) for prefix in page.prefixes] == ["d/"]


@pytest.mark.needs("versioning")
async def test_versions_from_a_key_on(store: ObjectStore, root: str) -> None:
    for name in ("a", "a", "b", "c"):
        await store.put(root + name, b"x")
    page = await store.list_versions(root, key_marker=root + "a")
    assert [v.ref.key.removeprefix(root) for v in page.versions] == ["b", "c"]
