"""copy: server-side copies of whole objects."""

from __future__ import annotations

import pytest

from b2fs.core.types import ETag
from b2fs.errors import NotFound, PreconditionFailed
from b2fs.store.protocol import ObjectStore
from tests.contract.helpers import noise


@pytest.mark.needs("copy")
async def test_a_copy_keeps_content_type_and_metadata(store: ObjectStore, root: str) -> None:
    source = await store.put(root + "a", b"content", metadata={"mode": "1"}, content_type="text/plain")
    copied = await store.copy(source.ref, root + "b")
    info, body = await store.get(root + "b")
    assert body == b"content"
    assert info.ref == copied.ref
    assert info.content_type == "text/plain"
    assert info.metadata is not None
    assert info.metadata["mode"] == "1"
    assert (await store.get(root + "a"))[1] == b"content"


@pytest.mark.needs("copy", "content_headers")
async def test_a_copy_keeps_or_replaces_what_whoever_fetches_it_is_told(store: ObjectStore, root: str) -> None:
    old, new = {"Cache-Control": "max-age=60", "colour": "red"}, {"Content-Language": "de", "colour": "blue"}
    source = await store.put(root + "a", b"content", metadata=old)
    await store.copy(source.ref, root + "same")
    await store.copy(source.ref, root + "other", metadata=new)
    same, other = [(await store.head(root + name)).metadata for name in ("same", "other")]
    assert same is not None
    assert other is not None
    assert (same["Cache-Control"], same["colour"]) == ("max-age=60", "red")
    assert (other["Content-Language"], other["colour"], "Cache-Control" in other) == ("de", "blue", False)


@pytest.mark.needs("copy")
async def test_a_copy_with_new_metadata(store: ObjectStore, root: str) -> None:
    source = await store.put(root + "a", b"content", metadata={"old": "1"}, content_type="text/plain")
    await store.copy(source.ref, root + "b", metadata={"new": "2"}, content_type="image/png")
    info = await store.head(root + "b")
    assert info.content_type == "image/png"
    assert info.metadata is not None
    assert "old" not in info.metadata
    assert info.metadata["new"] == "2"


@pytest.mark.needs("copy")
async def test_metadata_of_an_object_changes_by_copying_it_onto_itself(store: ObjectStore, root: str) -> None:
    source = await store.put(root + "a", b"content", metadata={"mode": "1"})
    copied = await store.copy(source.ref, root + "a", metadata={"mode": "2"})
    info, body = await store.get(root + "a")
    assert body == b"content"
    assert info.ref == copied.ref
    assert info.metadata is not None
    assert info.metadata["mode"] == "2"
    if store.capabilities.versioning:
        assert copied.ref.version_id != source.ref.version_id


@pytest.mark.needs("copy")
async def test_a_copy_replaces_what_was_there(store: ObjectStore, root: str) -> None:
    source = await store.put(root + "a", b"new")
    await store.put(root + "b", b"older and longer")
    await store.copy(source.ref, root + "b")
    assert (await store.get(root + "b"))[1] == b"new"


@pytest.mark.needs("copy")
@pytest.mark.parametrize("size", [0, 1, 200_000])
async def test_a_copy_outlives_its_source(store: ObjectStore, root: str, size: int) -> None:
    data = noise(size)
    source = await store.put(root + "a", data)
    await store.copy(source.ref, root + "b")
    await store.hide(root + "a")
    if source.ref.version_id is not None:
        await store.delete_version(root + "a", source.ref.version_id)
    assert (await store.get(root + "b"))[1] == data


@pytest.mark.needs("copy")
async def test_keys_of_copies_may_be_odd(store: ObjectStore, root: str) -> None:
    key = root + "ü + %2F&?#'日本/x y"
    source = await store.put(key, b"odd")
    await store.copy(source.ref, root + "plain")
    assert (await store.get(root + "plain"))[1] == b"odd"
    await store.copy((await store.head(root + "plain")).ref, key + "2")
    assert (await store.get(key + "2"))[1] == b"odd"


@pytest.mark.needs("copy", "versioning", "copy_from_version")
async def test_a_copy_of_an_old_or_hidden_version(store: ObjectStore, root: str) -> None:
    old = await store.put(root + "a", b"old", metadata={"n": "1"})
    await store.put(root + "a", b"new")
    await store.copy(old.ref, root + "b")
    await store.hide(root + "a")
    await store.copy(old.ref, root + "c")
    for name in ("b", "c"):
        info, body = await store.get(root + name)
        assert body == b"old"
        assert info.metadata is not None
        assert info.metadata["n"] == "1"


@pytest.mark.needs("copy")
async def test_a_source_that_is_gone(store: ObjectStore, root: str) -> None:
    source = await store.put(root + "a", b"x")
    await store.hide(root + "a")
    if source.ref.version_id is not None:
        await store.delete_version(root + "a", source.ref.version_id)
    with pytest.raises((NotFound, PreconditionFailed)):
        await store.copy(source.ref, root + "b")
    with pytest.raises(NotFound):
        await store.head(root + "b")


@pytest.mark.needs("copy", "conditional_get")
async def test_a_source_by_etag_that_has_changed(store: ObjectStore, root: str) -> None:
    source = await store.put(root + "a", b"x")
    by_etag = source.ref._replace(version_id=None)
    await store.copy(by_etag, root + "b")
    assert (await store.get(root + "b"))[1] == b"x"
    with pytest.raises((NotFound, PreconditionFailed)):
        await store.copy(by_etag._replace(etag=ETag("0" * 32)), root + "c")
    with pytest.raises(NotFound):
        await store.head(root + "c")
