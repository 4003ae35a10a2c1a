"""Log lines: where they go, who may read them, and that no secret is among them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from b2fs.daemon.logs import configure_logging
from b2fs.errors import ConfigError

SECRETS = {"AWS_SECRET_ACCESS_KEY": "geheim/geheim+geheim", "AWS_SESSION_TOKEN": "token-token-token"}


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


def test_the_file_is_private_and_holds_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "log"
    configure_logging("debug", str(file), SECRETS)
    try:
        raise ValueError("signed with geheim/geheim+geheim")
    except ValueError:
        logging.getLogger("b2fs.test").exception("sent %s", "token-token-token")
    text = file.read_text()
    assert "sent [secret]" in text
    assert "ValueError: signed with [secret]" in text
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    for file in (tmp_path / "missing" / "log", tmp_path):
        with pytest.raises(ConfigError, match=f"^The log file {file} cannot be written: [NI]"):
            configure_logging("info", str(file), {})


def test_under_systemd_every_line_has_a_priority_and_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", None, {"JOURNAL_STREAM": "8:1"})
    logging.getLogger("b2fs.test").warning("one\ntwo")
    assert capsys.readouterr().err == "<4>WARNING b2fs.test: one\n<4>two\n"


def test_the_level_is_obeyed_and_chatty_libraries_stay_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("debug", None, {})
    logging.getLogger("botocore.auth").debug("a canonical request")
    logging.getLogger("b2fs.test").debug("detail")
    error = capsys.readouterr().err
    assert "detail" in error
    assert "canonical" not in error
    configure_logging("warning", None, {})
    logging.getLogger("b2fs.test").info("quiet")
    assert capsys.readouterr().err == ""


def test_configuring_again_replaces_and_leaves_other_handlers(tmp_path: Path) -> None:
    foreign = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(foreign)
    first = configure_logging("info", str(tmp_path / "first"), {})
    second = configure_logging("info", str(tmp_path / "second"), {})
    handlers = logging.getLogger().handlers
    assert first not in handlers
    assert second in handlers
    assert foreign in handlers
