"""Slabs: memory that is used again, and never while somebody looks at it."""

from __future__ import annotations

import threading

import pytest

from b2fs.core.slabs import Slabs

KIB, MIB = 1 << 10, 1 << 20


def test_memory_is_used_again_when_the_last_view_is_gone() -> None:
    slabs = Slabs({MIB: 2})
    view = slabs.take(MIB)
    view[:3] = b"abc"
    part = view[1:3]
    del view
    assert slabs.free_bytes == 0, "a slice keeps the memory"
    assert bytes(part) == b"bc"
    del part
    assert slabs.free_bytes == MIB
    again = slabs.take(MIB - 5)
    assert slabs.free_bytes == 0
    assert (len(again), bytes(again[:3])) == (MIB - 5, b"abc")


@pytest.mark.parametrize("size", [0, 1, 100, MIB // 2, MIB // 2 + 1, MIB, 3 * MIB])
def test_a_view_has_the_size_that_was_asked_for(size: int) -> None:
    view = Slabs({MIB: 1}).take(size)
    assert len(view) == size
    assert not view.readonly
    assert view.format == "B"


def test_the_shelf_is_bounded() -> None:
    slabs = Slabs({MIB: 2, 4 * MIB: 1})
    views = [slabs.take(size) for size in (MIB, MIB, MIB, 3 * MIB, 4 * MIB, 64 * MIB, KIB)]
    assert slabs.free_bytes == 0
    views.clear()
    assert slabs.free_bytes == 2 * MIB + 4 * MIB


def test_less_may_be_kept() -> None:
    slabs = Slabs({MIB: 2, 4 * MIB: 1})
    slabs.keep_at_most(3 * MIB)
    views = [slabs.take(size) for size in (4 * MIB, MIB, MIB)]
    views.clear()
    assert slabs.free_bytes == 2 * MIB


def test_threads_never_share_a_slab() -> None:
    slabs, wrong = Slabs({64 * KIB: 4}), []

    def work(number: int) -> None:
        mark = bytes([number]) * 4096
        for _ in range(300):
            view = slabs.take(64 * KIB)
            view[:4096] = mark
            view[-4096:] = mark
            if view[:4096] != mark or view[-4096:] != mark:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
