"""An upload that ends while a name is being looked up: the name is there all the same."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from b2fs.store.forward import Method
from tests.writeback.harness import Place


async def test_a_file_that_is_stored_while_its_directory_is_being_listed_is_listed(
    place: Place, autojump_clock: MockClock
) -> None:
    """As after a crash: the kernel knows nothing yet, so what is stored is forgotten at once."""
    place.bucket.add("d/sub/x", b"x")
    async with place.mount() as mount:
        await mount.save("d/a", b"new")
        place.crash()
    async with place.mount() as mount:
        mount.store.pause([Method.PUT, Method.HEAD])
        names: set[str] = set()

        async def look() -> None:
            names.update(await mount.names("d"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await mount.store.wait_held(1)
            mount.store.pause([Method.HEAD])
            await trio.sleep(5)
            await mount.store.resume()
        assert names == {"a", "sub"}
