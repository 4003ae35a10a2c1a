"""Attributes that change on a real mount, of a file that another client has replaced since it was looked at."""

from __future__ import annotations

import os
import stat
import subprocess

import pytest

from tests.e2e.programs import run_b2fs
from tests.e2e.sites import new_site
from tests.e2e.wire import Wire


@pytest.mark.parametrize("command", [["chmod", "600"], ["touch"], ["setfattr", "-n", "user.x", "-v", "1"]])
def test_chmod_of_a_file_that_another_client_has_replaced(wire: Wire, command: list[str]) -> None:
    wire.s3.put_object(Bucket=wire.bucket, Key="file", Body=b"old")
    with new_site(lambda _: wire.as_bucket("--metadata-ttl=1h")) as site:
        root = site.mount()
        assert (root / "file").read_bytes() == b"old"  # the kernel keeps that
        wire.s3.put_object(Bucket=wire.bucket, Key="file", Body=b"newer", ContentType="text/css")
        subprocess.run([*command, str(root / "file")], check=True)
        assert run_b2fs("sync", root).returncode == 0
        assert (root / "file").read_bytes() == b"newer"
        assert os.stat(root / "file").st_size == 5
        assert command[0] != "chmod" or stat.S_IMODE(os.stat(root / "file").st_mode) == 0o600
        assert command[0] != "setfattr" or os.getxattr(root / "file", "user.x") == b"1"
        site.umount()
    found = wire.s3.get_object(Bucket=wire.bucket, Key="file")
    with found["Body"] as body:
        assert (body.read(), found["ContentType"]) == (b"newer", "text/css")
