"""`make mount`, once all is installed: what it says is true, and Ctrl-C leaves nothing but the bucket."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.programs import B2FS, force_unmount, is_mounted, wait_until
from tests.mounting import require_fuse

SCRIPT = Path(__file__).parents[2] / "scripts" / "mount-demo"


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """A checkout with nothing in it but the script and a b2fs that is installed."""
    require_fuse()
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    program = tmp_path / ".venv" / "bin" / "b2fs"
    program.parent.mkdir(parents=True)
    # The script goes elsewhere before it begins: where python finds b2fs must not depend on that.
    program.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(os.getcwd())} exec {shlex.join(B2FS)} "$@"\n')
    program.chmod(0o755)
    yield tmp_path
    force_unmount(tmp_path / "mnt")


@contextmanager
def demo(checkout: Path) -> Iterator[str]:
    """The mount is there within the block, and ended by Ctrl-C behind it; what was said before."""
    environ = {**os.environ, "STORE": str(checkout / "store"), "B2FS_CACHE_DIR": str(checkout / "cache")}
    words = [str(checkout / "scripts" / "mount-demo")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ) as process:
        try:
            assert process.stdout is not None
            said = ""
            while "Ctrl-C" not in said:
                line = process.stdout.readline()
                assert line, said + process.communicate()[1]
                said += line
            wait_until(lambda: is_mounted(checkout / "mnt"), "the bucket is mounted")
            yield said
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert not is_mounted(checkout / "mnt")


def test_a_bucket_is_there_until_ctrl_c_and_again_the_next_time(checkout: Path) -> None:
    with demo(checkout) as said:
        assert f"{checkout}/mnt" in said
        assert f"{checkout}/store" in said
        (checkout / "mnt" / "hello").write_text("hello\n")
    assert os.listdir(checkout / "mnt") == []
    with demo(checkout):
        assert (checkout / "mnt" / "hello").read_text() == "hello\n"
