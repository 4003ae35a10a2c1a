"""Many calls at once, and calls that are given up."""

from __future__ import annotations

import trio

from b2fs.errors import NotFound, Unavailable
from b2fs.store.protocol import ObjectStore
from tests.contract.cases import StoreMaker
from tests.contract.helpers import all_objects, noise


async def test_many_keys_at_once(store: ObjectStore, root: str) -> None:
    async def one(number: int) -> None:
        data = noise(number * 1500, number)
        await store.put(f"{root}{number:02d}", data, metadata={"n": str(number)})
        info, body = await store.get(f"{root}{number:02d}")
        assert body == data
        assert info.metadata is not None
        assert info.metadata["n"] == str(number)

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(one, number)
    assert len(await all_objects(store, root)) == 40


async def test_one_key_is_never_torn(store: ObjectStore, root: str) -> None:
    """Whoever reads while others write sees one whole content.

    A server without versions may show nothing in between: `rclone serve s3` answers 404 now and then while it replaces
    the file behind the key, or a 200 with an empty ETag, which is not taken for an answer.
    """
    bodies = [bytes([letter]) * 100_000 for letter in b"abcd"]
    await store.put(root + "a", bodies[0])

    async def write(body: bytes) -> None:
        for _ in range(5):
            await store.put(root + "a", body)

    async with trio.open_nursery() as nursery:
        for body in bodies:
            nursery.start_soon(write, body)
        for _ in range(20):
            try:
                info, seen = await store.get(root + "a")
            except (NotFound, Unavailable):
                assert not store.capabilities.versioning
                continue
            assert seen in bodies
            assert info.size == len(seen)
    assert (await store.get(root + "a"))[1] in bodies


async def test_parts_at_once(store: ObjectStore, root: str) -> None:
    upload = await store.create_upload(root + "a")
    size = store.capabilities.min_part_bytes
    parts = {}

    async def send(number: int) -> None:
        parts[number] = await store.upload_part(root + "a", upload, number, noise(size, number))

    async with trio.open_nursery() as nursery:
        for number in range(1, 5):
            nursery.start_soon(send, number)
    await store.complete_upload(root + "a", upload, [parts[number] for number in sorted(parts)])
    assert (await store.get(root + "a"))[1] == b"".join(noise(size, number) for number in range(1, 5))


async def test_a_put_that_is_given_up_is_whole_or_absent(store: ObjectStore, root: str) -> None:
    data = noise(3_000_000)
    for number in range(6):
        with trio.move_on_after(0.002 * number):
            await store.put(f"{root}{number}", data)
    for number in range(6):
        try:
            assert (await store.get(f"{root}{number}"))[1] == data
        except NotFound:
            continue


async def test_a_store_works_on_after_calls_were_given_up(store: ObjectStore, root: str) -> None:
    await store.put(root + "a", noise(100_000))
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.put(root + "b", b"x")
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.get(root + "a")
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.list_objects(root)
    assert scope.cancelled_caught
    assert (await store.get(root + "a"))[1] == noise(100_000)


async def test_two_stores_on_one_bucket(store: ObjectStore, make_store: StoreMaker, root: str) -> None:
    async with make_store() as other:
        for number in range(10):
            await store.put(f"{root}ours{number}", b"ours")
            await other.put(f"{root}theirs{number}", b"theirs")
        assert (await store.get(root + "theirs9"))[1] == b"theirs"
        assert (await other.get(root + "ours9"))[1] == b"ours"
        assert await all_objects(store, root) == await all_objects(other, root)
