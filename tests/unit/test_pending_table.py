"""PendingTable: what it remembers of keys that were copied from."""

from __future__ import annotations

import stat

import pytest
from trio.testing import MockClock

from b2fs.cache.inode import Inode
from b2fs.cache.ledger_rows import Remote
from b2fs.cache.writeback import table as table_module
from b2fs.cache.writeback.pending import Pending
from b2fs.cache.writeback.table import PendingTable
from b2fs.core.nodes import InodeId
from b2fs.core.types import ETag, ObjectRef


def copied(table: PendingTable, source: str, target: str) -> None:
    """One name was made out of another, and is stored."""
    inode = Inode(InodeId(7), stat.S_IFREG | 0o644)
    inode.base = ObjectRef(source, None, ETag("e"), 1)
    p = table.add(target, inode, Remote(known=True))
    table.use_source(p)
    table.free_source(p)
    table.remove(p)


async def test_a_key_that_was_copied_from_is_remembered_until_the_journal_is_written(autojump_clock: MockClock) -> None:
    freed: list[Pending] = []
    table = PendingTable(freed.append)
    copied(table, "a", "b")
    before = table.copies
    copied(table, "c", "d")
    assert [table.was_copied(key) for key in "abcd"] == [True, False, True, False]
    table.journaled(before)
    assert [table.was_copied(key) for key in "abcd"] == [False, False, True, False]
    assert freed == []


async def test_of_very_many_the_next_change_has_the_journal_written(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "MOST_COPIED", 3)
    table = PendingTable(lambda _: None)
    for number in range(2):
        copied(table, f"file{number}", f"link{number}")
    assert not table.was_copied("another")
    copied(table, "file2", "link2")
    assert table.was_copied("another")
    table.journaled(table.copies)
    assert not table.was_copied("another")
    assert not table.was_copied("file0")
