"""Extended attributes: getxattr(2), setxattr(2), listxattr(2), removexattr(2), xattr(7)."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from tests.vfs.driver import ALICE, BOB, Driver, fails, make_node

XATTR_CREATE, XATTR_REPLACE = os.XATTR_CREATE, os.XATTR_REPLACE


@pytest.mark.parametrize("value", [b"", b"x", b"\0\xff\n binary", b"v" * 4096])
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_value_comes_back(fs: Driver, kind: str, value: bytes) -> None:
    make_node(fs, "x", kind)
    fs.setxattr("x", "user.key", value)
    assert fs.getxattr("x", "user.key") == value
    assert fs.listxattr("x") == ["user.key"]


def test_a_new_value_replaces_the_old(fs: Driver) -> None:
    fs.write("f")
    fs.setxattr("f", "user.k", b"a long first value")
    fs.setxattr("f", "user.k", b"short")
    assert fs.getxattr("f", "user.k") == b"short"


def test_many_names(fs: Driver) -> None:
    fs.write("f")
    names = {f"user.name{number}" for number in range(40)}
    for name in names:
        fs.setxattr("f", name, name.encode())
    assert set(fs.listxattr("f")) == names
    for name in names:
        assert fs.getxattr("f", name) == name.encode()
    for name in sorted(names)[::2]:
        fs.removexattr("f", name)
    assert set(fs.listxattr("f")) == set(sorted(names)[1::2])


@pytest.mark.parametrize("name", ["user.with space", "user.ünïcode", "user.UPPER", "user.a=b;c", "user." + "n" * 250])
def test_names_come_back_as_they_were_given(fs: Driver, name: str) -> None:
    fs.write("f")
    fs.setxattr("f", name, b"v")
    assert fs.listxattr("f") == [name]
    assert fs.getxattr("f", name) == b"v"


def test_a_name_that_is_not_there(fs: Driver) -> None:
    fs.write("f")
    assert fs.listxattr("f") == []
    for call in (fs.getxattr, fs.removexattr):
        with fails(errno.ENODATA):
            call("f", "user.missing")


def test_removing(fs: Driver) -> None:
    fs.write("f")
    fs.setxattr("f", "user.k", b"v")
    fs.removexattr("f", "user.k")
    with fails(errno.ENODATA):
        fs.getxattr("f", "user.k")
    assert fs.listxattr("f") == []


def test_create_refuses_a_name_that_is_there(fs: Driver) -> None:
    fs.write("f")
    fs.setxattr("f", "user.k", b"first", XATTR_CREATE)
    with fails(errno.EEXIST):
        fs.setxattr("f", "user.k", b"second", XATTR_CREATE)
    assert fs.getxattr("f", "user.k") == b"first"


def test_replace_refuses_a_name_that_is_not(fs: Driver) -> None:
    fs.write("f")
    with fails(errno.ENODATA):
        fs.setxattr("f", "user.k", b"v", XATTR_REPLACE)
    fs.setxattr("f", "user.k", b"v")
    fs.setxattr("f", "user.k", b"w", XATTR_REPLACE)
    assert fs.getxattr("f", "user.k") == b"w"


def test_limits(fs: Driver) -> None:
    fs.write("f")
    with fails(errno.ERANGE):
        fs.setxattr("f", "user." + "n" * 251, b"")
    with fails(errno.E2BIG):
        fs.setxattr("f", "user.k", bytes(65537))
    assert fs.listxattr("f") == []


def test_a_namespace_that_does_not_exist(fs: Driver) -> None:
    fs.write("f")
    with fails(errno.EOPNOTSUPP):
        fs.setxattr("f", "nonsense.k", b"v")


def test_a_namespace_alone_is_no_name(fs: Driver) -> None:
    fs.write("f")
    for name in ("user.", "trusted.", "security."):
        for call in (fs.getxattr, fs.removexattr):
            with fails(errno.EINVAL):
                call("f", name)
        with fails(errno.EINVAL):
            fs.setxattr("f", name, b"")
    assert fs.listxattr("f") == []


@pytest.mark.parametrize("name", ["system.posix_acl_access", "system.posix_acl_default"])
def test_access_control_lists_are_refused(fs: Driver, name: str) -> None:
    """Kept without being obeyed, they would be worse than none: cp -a would leave the mode to them."""
    fs.make_dir("d", 0o755)
    entries = [(1, 7, -1), (4, 5, -1), (32, 5, -1)]  # the owner, the group, all others: what mode 0755 says
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    with fails(errno.EOPNOTSUPP):
        fs.setxattr("d", name, acl)
    with fails(errno.EOPNOTSUPP):
        fs.getxattr("d", name)
    assert fs.listxattr("d") == []


@pytest.mark.parametrize("kind", ["symlink", "fifo"])
def test_user_attributes_are_for_files_and_directories(fs: Driver, kind: str) -> None:
    make_node(fs, "x", kind)
    with fails(errno.EPERM):
        fs.setxattr("x", "user.k", b"v")
    with fails(errno.ENODATA):
        fs.getxattr("x", "user.k")


@pytest.mark.parametrize("kind", ["file", "directory", "symlink", "fifo"])
def test_trusted_attributes_are_roots(fs: Driver, kind: str) -> None:
    make_node(fs, "x", kind)
    fs.setxattr("x", "trusted.k", b"v")
    assert fs.getxattr("x", "trusted.k") == b"v"
    assert fs.listxattr("x") == ["trusted.k"]
    fs.lchown("x", ALICE, ALICE)
    with fs.user(ALICE):
        with fails(errno.ENODATA):
            fs.getxattr("x", "trusted.k")
        with fails(errno.EPERM):
            fs.setxattr("x", "trusted.k", b"w")
        with fails(errno.EPERM):
            fs.removexattr("x", "trusted.k")
        assert fs.listxattr("x") == []
    assert fs.getxattr("x", "trusted.k") == b"v"


def test_user_attributes_follow_the_permission_bits(fs: Driver) -> None:
    fs.make_file("f", 0o640, BOB)
    fs.setxattr("f", "user.k", b"v")
    with fs.user(ALICE):
        with fails(errno.EACCES):
            fs.getxattr("f", "user.k")
        with fails(errno.EACCES):
            fs.setxattr("f", "user.k", b"w")
    with fs.user(ALICE, BOB):  # the group may read
        assert fs.getxattr("f", "user.k") == b"v"
        with fails(errno.EACCES):
            fs.setxattr("f", "user.k", b"w")
    with fs.user(BOB):
        fs.setxattr("f", "user.k", b"w")
        fs.removexattr("f", "user.k")


def test_a_sticky_directory_keeps_its_attributes_from_strangers(fs: Driver) -> None:
    fs.make_dir("d", 0o1777, BOB)
    with fs.user(ALICE), fails(errno.EPERM):
        fs.setxattr("d", "user.k", b"v")
    with fs.user(BOB):
        fs.setxattr("d", "user.k", b"v")


def test_attributes_go_with_the_file(fs: Driver) -> None:
    fs.write("f", b"content")
    fs.setxattr("f", "user.k", b"v")
    fs.rename("f", "g")
    fs.truncate("g", 0)
    fs.chmod("g", 0o600)
    assert fs.getxattr("g", "user.k") == b"v"
    fs.write("other")
    fs.rename("other", "g")
    assert fs.listxattr("g") == []


@pytest.mark.parametrize("change", ["write", "truncate", "open", "chown"])
def test_a_change_of_the_content_or_the_owner_takes_capabilities_away(fs: Driver, change: str) -> None:
    fs.write("f", b"content")
    net_raw = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
    fs.setxattr("f", "security.capability", net_raw)
    fs.setxattr("f", "user.k", b"v")
    assert fs.getxattr("f", "security.capability") == net_raw
    if change == "truncate":
        fs.truncate("f", 3)
    elif change == "chown":
        fs.chown("f", ALICE, ALICE)
    else:
        with fs.opened("f", os.O_WRONLY | (os.O_TRUNC if change == "open" else 0)) as fd:
            if change == "write":
                fs.pwrite(fd, b"x", 0)
    with fails(errno.ENODATA):
        fs.getxattr("f", "security.capability")
    assert fs.getxattr("f", "user.k") == b"v"
