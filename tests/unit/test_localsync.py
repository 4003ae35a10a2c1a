"""Who waits until the journal is on the disk, and for which of several syncs."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from b2fs.cache.content import DirtyFiles
from b2fs.cache.ledger import Ledger
from b2fs.cache.ledger_rows import Remote
from b2fs.cache.localsync import LocalSync


async def test_nobody_is_told_so_before_a_sync_that_others_asked_for_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, files = Ledger(str(tmp_path / "ledger.db")), DirtyFiles(str(tmp_path / "dirty"))
    local = LocalSync(ledger, files)
    sync_log, began, go_on = ledger._sync_log, threading.Event(), threading.Event()
    told: list[str] = []

    def slow() -> None:
        began.set()
        assert go_on.wait(30)
        told.append("synced")
        sync_log()

    async def ask() -> None:
        await local.journal()
        told.append("told")

    monkeypatch.setattr(ledger, "_sync_log", slow)
    ledger.save_entry("a", None, Remote(False, None))
    ledger.commit()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, ledger.sync)  # as who makes room does
        assert await trio.to_thread.run_sync(began.wait, 30)
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert told == []
        go_on.set()
    assert told[0] == "synced"
    assert not ledger.unsynced
    files.close()
    ledger.close()


def test_what_is_committed_during_a_sync_is_not_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(str(tmp_path / "ledger.db"))

    def change() -> None:
        ledger.save_entry("b", None, Remote(False, None))
        ledger.commit()

    monkeypatch.setattr(ledger, "_sync_log", change)
    ledger.sync()
    after_first = ledger.unsynced
    monkeypatch.undo()
    ledger.sync()
    assert (after_first, ledger.unsynced) == (True, False)
    ledger.close()
