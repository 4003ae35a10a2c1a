"""The mount table, and which directories may become a mount."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from b2fs.daemon import mounts
from b2fs.daemon.mounts import MountEntry, check_fuse, check_mountpoint, find_b2fs_mount, mount_at, read_mounts
from b2fs.errors import ConfigError

TABLE = r"""22 28 0:20 / /proc rw,nosuid shared:12 - proc proc rw
28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 28 0:50 / /srv/auto rw,relatime shared:20 - autofs systemd-1 rw,fd=50
41 40 0:51 / /srv/auto rw,nosuid,nodev shared:21 - fuse.b2fs s3://photos rw,user_id=1000,group_id=1000
42 28 0:52 / /srv/with\040blank rw,nosuid,nodev - fuse.b2fs file:///a\040b rw,user_id=0,group_id=0,allow_other
43 42 0:53 / /srv/with\040blank/inner rw - tmpfs tmpfs rw
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mountinfo"
    file.write_text(TABLE)
    entries = read_mounts(str(file))
    monkeypatch.setattr(mounts, "read_mounts", lambda: entries)


def test_the_table_is_understood(table: None) -> None:
    assert mount_at("/srv/auto") == MountEntry("/srv/auto", "fuse.b2fs", "s3://photos", 1000)
    assert mount_at("/srv/with blank") == MountEntry("/srv/with blank", "fuse.b2fs", "file:///a b", 0)
    assert mount_at("/srv") is None


def test_a_path_finds_the_mount_that_it_is_on(table: None) -> None:
    entry, within = find_b2fs_mount("/srv/with blank/a/../b/c")
    assert (entry.mountpoint, within) == ("/srv/with blank", "b/c")
    assert find_b2fs_mount("/srv/auto/")[1] == ""


@pytest.mark.parametrize("path", ["/srv/with blank/inner/x", "/srv/other", "/"])
def test_a_path_elsewhere_is_on_no_mount(table: None, path: str) -> None:
    with pytest.raises(ConfigError, match="is not on a b2fs mount"):
        find_b2fs_mount(path)


def test_a_good_mountpoint_becomes_canonical(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert check_mountpoint(str(tmp_path / "link"), nonempty=False) == str(tmp_path / "real")


def test_unusable_mountpoints_are_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    for name, why in (("missing", "does not exist"), ("file", "is not a directory"), ("full", "is not empty")):
        with pytest.raises(ConfigError, match=why):
            check_mountpoint(str(tmp_path / name), nonempty=False)
    assert check_mountpoint(str(tmp_path / "full"), nonempty=True) == str(tmp_path / "full")


def test_a_mountpoint_in_use_is_refused() -> None:
    with pytest.raises(ConfigError, match="/proc is already a mountpoint"):
        check_mountpoint("/proc", nonempty=False)


def test_without_a_fuse_device_the_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "FUSE_DEVICE", str(tmp_path / "fuse"))
    with pytest.raises(ConfigError, match="modprobe fuse"):
        check_fuse(allow_other=False)


def test_allow_other_needs_leave_for_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fuse").write_text("")
    conf = tmp_path / "fuse.conf"
    conf.write_text("# user_allow_other\n")
    monkeypatch.setattr(mounts, "FUSE_DEVICE", str(tmp_path / "fuse"))
    monkeypatch.setattr(mounts, "FUSE_CONF", str(conf))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/" + name)
    with pytest.raises(ConfigError, match="user_allow_other"):
        check_fuse(allow_other=True)
    conf.write_text("user_allow_other\n")
    check_fuse(allow_other=True)
