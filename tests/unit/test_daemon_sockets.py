"""Where control sockets are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from b2fs.daemon.sockets import RUNTIME_VARIABLE, runtime_dir, socket_path


@pytest.fixture(autouse=True)
def usual_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUNTIME_VARIABLE)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


def test_sockets_are_where_the_system_keeps_such_things() -> None:
    assert runtime_dir(0) == "/run/b2fs"
    assert runtime_dir(4242) == "/tmp/b2fs-4242"  # who has no session has no directory of a session


def test_the_directory_of_the_own_session_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert runtime_dir(4242) == str(tmp_path / "b2fs")
    assert runtime_dir(4243) == "/tmp/b2fs-4243"


def test_another_place_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUNTIME_VARIABLE, str(tmp_path))
    assert runtime_dir(0) == str(tmp_path / "0")
    assert runtime_dir(4242) == str(tmp_path / "4242")


def test_a_relative_place_would_not_be_the_same_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUNTIME_VARIABLE, "run")
    assert runtime_dir(0) == "/run/b2fs"


def test_mountpoints_and_users_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUNTIME_VARIABLE, str(tmp_path))
    assert len({socket_path(place, uid) for place in ("/srv/a", "/srv/b") for uid in (0, 4242)}) == 4
