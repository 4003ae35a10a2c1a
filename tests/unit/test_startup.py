"""What a mount loads, and when: most of the time until it answers is loading."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from b2fs.daemon.build import LOADED_MEANWHILE


def loaded_by(statements: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after the statements."""
    program = f"{statements}\nimport sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_command_is_refused_and_forks_with_nothing_loaded() -> None:
    modules = loaded_by("import b2fs.cli.main, b2fs.cli.mount, b2fs.cli.mount_helper")
    assert modules.isdisjoint(
        {"trio", "awscrt", "_awscrt", "botocore", "rich", "pyfuse3", "lxml", "sqlite3", "asyncio"}
    )


def test_a_plain_mount_loads_no_parser_of_commands() -> None:
    modules = loaded_by("import b2fs.cli.main, b2fs.cli.mounting, b2fs.daemon.build, b2fs.daemon.early")
    assert modules.isdisjoint({"click", "trio", "pyfuse3", "_awscrt", "sqlite3", "asyncio"})


def test_a_server_is_asked_before_the_event_loop_is_loaded() -> None:
    modules = loaded_by("import b2fs.cli.mount, b2fs.daemon.build, b2fs.store.s3.greeting")
    assert modules.isdisjoint({"trio", "awscrt", "_awscrt", "pyfuse3", "sqlite3", "lxml"})


def test_a_remote_mount_loads_no_more_than_it_needs() -> None:
    needed = "import b2fs.cli.mount, b2fs.daemon.process, b2fs.daemon.build, b2fs.store.s3.store"
    before = loaded_by(needed)
    assert before.isdisjoint({"botocore", "boto3", "rich", "hypercorn", "lxml", "asyncio", *LOADED_MEANWHILE})
    after = loaded_by(f"{needed}\nb2fs.daemon.build.load()")
    assert set(LOADED_MEANWHILE) <= after
    assert after.isdisjoint({"botocore", "boto3", "rich", "hypercorn", "b2fs.server", "b2fs.store.embedded.store"})
    assert after.isdisjoint({"awscrt", "_awscrt"}), "the AWS runtime comes with the first request that needs it"


def test_a_block_is_kept_and_read_without_the_aws_runtime(tmp_path: Path) -> None:
    """Its start takes 60 ms with the interpreter's lock held, and came with the first large file that was read."""
    modules = loaded_by(
        f"""
from b2fs.cache.blocks import BlockCache, BlockCacheConfig
from b2fs.core.types import ETag, ObjectRef
cache, ref = BlockCache(BlockCacheConfig({str(tmp_path)!r})), ObjectRef("k", None, ETag("e"), 1 << 20)
assert cache.put_whole(ref, bytes(1 << 20)) == 1 << 20
assert cache.get_range(ref, 0, 1 << 20)
"""
    )
    assert modules.isdisjoint({"awscrt", "_awscrt"})


@pytest.mark.parametrize("command", ["status", "sync", "umount"])
def test_commands_for_a_running_mount_load_no_event_loop(command: str) -> None:
    program = f"from b2fs.cli.commands import cli\nimport click\ncli.get_command(click.Context(cli), {command!r})"
    assert loaded_by(program).isdisjoint({"awscrt", "botocore", "pyfuse3", "rich", "lxml"})
