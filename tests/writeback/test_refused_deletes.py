"""Keys that may write and hide, but not remove versions."""

from __future__ import annotations

from trio.testing import MockClock

from b2fs.errors import AccessDenied
from b2fs.store.forward import Method
from tests.writeback.harness import Place


async def test_where_nothing_may_be_deleted_what_was_made_here_is_hidden_a_second_later(
    place: Place, autojump_clock: MockClock
) -> None:

    async with place.mount() as mount:
        inner = mount.store.inner.delete_many

        async def refuse(targets: list[tuple[str, str | None]]) -> list[object]:
            answers: list[object] = list(await inner([(key, v) for key, v in targets if v is None]))
            return [AccessDenied("no deleteFiles") if v is not None else answers.pop(0) for _, v in targets]

        mount.store.inner.delete_many = refuse  # type: ignore[method-assign, assignment]  # a key without deleteFiles
        mount.store.pause([Method.PUT])
        await mount.save("a", b"content")
        await mount.store.wait_held()
        await mount.unlink("a")
        await mount.store.resume()
        await mount.drain()
    assert place.bucket.contents() == {}
    versions = place.bucket.versions["a"]
    assert [v.body for v in versions] == [b"content", None]
    assert versions[1].order[0] >= versions[0].order[0] + 1
