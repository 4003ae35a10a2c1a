"""chmod(2), chown(2), access(2), mknod(2), mkdir(2), statvfs(3): modes, owners and who may do what."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from tests.vfs.driver import ALICE, BOB, CREAT, KINDS, RW, TRUNC, Driver, R, W, fails, make_node

R_OK, W_OK, X_OK = os.R_OK, os.W_OK, os.X_OK

# -- chmod


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o644, 0o755, 0o777, 0o1777, 0o2755, 0o4755, 0o6711, 0o7777])
@pytest.mark.parametrize("kind", ["file", "directory", "fifo"])
def test_chmod_sets_all_twelve_bits(fs: Driver, kind: str, mode: int) -> None:
    make_node(fs, "x", kind)
    before = fs.stat("x")
    fs.chmod("x", mode)
    after = fs.stat("x")
    assert stat.S_IMODE(after.mode) == mode
    assert stat.S_IFMT(after.mode) == stat.S_IFMT(before.mode)
    assert (after.uid, after.gid, after.size, after.mtime_ns) == (before.uid, before.gid, 0, before.mtime_ns)


def test_chmod_through_a_handle(fs: Driver) -> None:
    with fs.opened("f", RW | CREAT, 0o600) as fd:
        fs.fchmod(fd, 0o751)
        assert stat.S_IMODE(fs.fstat(fd).mode) == 0o751
    assert fs.bits("f") == 0o751


@pytest.mark.parametrize("kind", ["file", "directory", "fifo"])
def test_only_the_owner_may_chmod(fs: Driver, kind: str) -> None:
    make_node(fs, "x", kind)
    fs.chown("x", BOB, BOB)
    with fs.user(ALICE), fails(errno.EPERM):
        fs.chmod("x", 0o777)
    with fs.user(BOB):
        fs.chmod("x", 0o700)
    assert fs.bits("x") == 0o700


def test_chmod_takes_setgid_from_a_stranger_to_the_group(fs: Driver) -> None:
    fs.make_file("f", 0o644, ALICE)
    fs.chown("f", ALICE, 500)
    with fs.user(ALICE):
        fs.chmod("f", 0o2755)
    assert fs.bits("f") == 0o755
    with fs.user(ALICE, groups=[500]):
        fs.chmod("f", 0o2755)
    assert fs.bits("f") == 0o2755


# -- chown


@pytest.mark.parametrize("kind", KINDS)
def test_root_gives_to_anybody(fs: Driver, kind: str) -> None:
    make_node(fs, "x", kind)
    fs.lchown("x", 123, 456)
    assert (fs.lstat("x").uid, fs.lstat("x").gid) == (123, 456)
    fs.lchown("x", 789, -1)
    assert (fs.lstat("x").uid, fs.lstat("x").gid) == (789, 456)
    fs.lchown("x", -1, 321)
    assert (fs.lstat("x").uid, fs.lstat("x").gid) == (789, 321)
    fs.lchown("x", -1, -1)
    assert (fs.lstat("x").uid, fs.lstat("x").gid) == (789, 321)


def test_large_ids(fs: Driver) -> None:
    fs.write("f")
    fs.chown("f", 2**32 - 3, 2**31)
    assert (fs.stat("f").uid, fs.stat("f").gid) == (2**32 - 3, 2**31)


@pytest.mark.parametrize(
    ("uid", "gid", "allowed"),
    [
        (BOB, -1, False),
        (0, -1, False),
        (ALICE, -1, True),
        (-1, ALICE, True),
        (-1, 500, True),
        (ALICE, 500, True),
        (-1, 501, False),
        (BOB, 500, False),
        (-1, 0, False),
    ],
)
def test_an_owner_gives_to_groups_of_their_own(fs: Driver, uid: int, gid: int, allowed: bool) -> None:
    fs.make_file("f", 0o644, ALICE)
    with fs.user(ALICE, groups=[500]):
        if allowed:
            fs.chown("f", uid, gid)
        else:
            with fails(errno.EPERM):
                fs.chown("f", uid, gid)
    expected = (ALICE, gid if allowed and gid != -1 else ALICE)
    assert (fs.stat("f").uid, fs.stat("f").gid) == expected


@pytest.mark.parametrize(("uid", "gid"), [(ALICE, -1), (-1, ALICE), (BOB, BOB)])
def test_nobody_else_gives_at_all(fs: Driver, uid: int, gid: int) -> None:
    fs.make_file("f", 0o666, BOB)
    with fs.user(ALICE), fails(errno.EPERM):
        fs.chown("f", uid, gid)


def test_chown_through_a_handle(fs: Driver) -> None:
    with fs.opened("f", RW | CREAT) as fd:
        fs.fchown(fd, ALICE, BOB)
        assert (fs.fstat(fd).uid, fs.fstat(fd).gid) == (ALICE, BOB)


@pytest.mark.parametrize(
    ("before", "after"), [(0o6755, 0o755), (0o4755, 0o755), (0o6711, 0o711), (0o2644, 0o2644), (0o6644, 0o2644)]
)
@pytest.mark.parametrize("by", [0, ALICE])
def test_chown_takes_the_set_id_bits_away(fs: Driver, by: int, before: int, after: int) -> None:
    fs.make_file("f", before, ALICE)
    with fs.user(by, ALICE, groups=[500]):
        fs.chown("f", -1, 500)
    assert fs.bits("f") == after


@pytest.mark.parametrize("by", [0, ALICE])
def test_a_chown_to_nobody_new_takes_the_set_id_bits_away(fs: Driver, by: int) -> None:
    fs.make_file("f", 0o6755, ALICE)
    with fs.user(by):
        fs.chown("f", -1, -1)
    assert fs.bits("f") == 0o755


@pytest.mark.parametrize("kind", ["file", "fifo"])
def test_a_chown_takes_setgid_from_a_stranger_to_the_old_group(fs: Driver, kind: str) -> None:
    make_node(fs, "x", kind)
    fs.chown("x", ALICE, 600)
    fs.chmod("x", 0o6644)
    with fs.user(ALICE, groups=[500]):
        fs.chown("x", -1, 500)
    assert fs.bits("x") == 0o644
    fs.chmod("x", 0o6644)
    with fs.user(ALICE, groups=[500, 600]):
        fs.chown("x", -1, 600)
    assert fs.bits("x") == 0o2644


def test_chown_leaves_the_bits_of_directories(fs: Driver) -> None:
    fs.make_dir("d", 0o6755, ALICE)
    fs.chown("d", BOB, BOB)
    assert fs.bits("d") == 0o6755


@pytest.mark.parametrize(
    ("before", "groups", "after"),
    [(0o6777, [], 0o777), (0o4777, [], 0o777), (0o2666, [], 0o666), (0o6666, [0], 0o2666)],
)
@pytest.mark.parametrize("change", ["write", "truncate", "ftruncate", "open"])
def test_changing_the_content_takes_the_set_id_bits_away(
    fs: Driver, change: str, before: int, groups: list[int], after: int
) -> None:
    fs.make_file("f", before, 0, b"content")
    with fs.user(ALICE, groups=groups):
        if change == "truncate":
            fs.truncate("f", 3)
        else:
            with fs.opened("f", RW | (TRUNC if change == "open" else 0)) as fd:
                if change == "write":
                    fs.pwrite(fd, b"x", 0)
                elif change == "ftruncate":
                    fs.ftruncate(fd, 1)
    assert fs.bits("f") == after


def test_roots_writing_leaves_the_set_id_bits(fs: Driver) -> None:
    fs.make_file("f", 0o6755, 0, b"content")
    with fs.opened("f", W) as fd:
        fs.pwrite(fd, b"x", 0)
    assert fs.bits("f") == 0o6755


# -- the permission bits

_CLASSES = {
    "owner": (ALICE, ALICE, (), 6),
    "group": (BOB, 700, (), 3),
    "supplementary group": (BOB, BOB, (600, 700), 3),
    "other": (BOB, BOB, (600,), 0),
}


@pytest.mark.parametrize("who", _CLASSES)
@pytest.mark.parametrize("granted", range(8))
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_exactly_one_class_counts(fs: Driver, kind: str, granted: int, who: str) -> None:
    uid, gid, groups, shift = _CLASSES[who]
    make_node(fs, "x", kind)
    fs.chown("x", ALICE, 700)
    fs.chmod("x", 0o777 & ~(7 << shift) | granted << shift)
    with fs.user(uid, gid, groups):
        for mask in (R_OK, W_OK, X_OK, R_OK | W_OK, R_OK | X_OK, W_OK | X_OK, R_OK | W_OK | X_OK):
            assert fs.access("x", mask) == (granted & mask == mask), mask
        assert _opens(fs, "x", R) == bool(granted & R_OK)
        if kind == "file":
            assert _opens(fs, "x", W) == bool(granted & W_OK)
            assert _opens(fs, "x", RW) == (granted & (R_OK | W_OK) == R_OK | W_OK)


def test_root_may_all_but_run_what_nobody_may(fs: Driver) -> None:
    fs.make_file("f", 0o000, ALICE)
    fs.make_dir("d", 0o000, ALICE)
    assert fs.access("f", R_OK | W_OK)
    assert not fs.access("f", X_OK)
    assert fs.access("d", R_OK | W_OK | X_OK)
    fs.write("d/x", b"inside")
    assert fs.read("d/x") == b"inside"
    fs.chmod("f", 0o001)
    assert fs.access("f", X_OK)


def test_a_handle_outlives_the_permission(fs: Driver) -> None:
    fs.make_file("f", 0o666, 0, b"content")
    with fs.user(ALICE), fs.opened("f", RW) as fd:
        with fs.user(0):
            fs.chmod("f", 0o000)
        assert fs.pread(fd, 7, 0) == b"content"
        fs.pwrite(fd, b"C", 0)
    assert fs.read("f") == b"Content"


def test_a_directory_that_may_be_searched_but_not_listed(fs: Driver) -> None:
    fs.make_dir("d", 0o711)
    fs.make_file("d/f", 0o644, 0, b"known")
    with fs.user(ALICE):
        assert fs.read("d/f") == b"known"
        with fails(errno.EACCES):
            fs.opendir("d")


def test_a_directory_that_may_be_listed_but_not_searched(fs: Driver) -> None:
    fs.make_dir("d", 0o744)
    fs.write("d/f")
    with fs.user(ALICE):
        assert fs.names("d") == {"f"}
        with fails(errno.EACCES):
            fs.stat("d/f")


# -- making nodes


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
@pytest.mark.parametrize("mode", [0o777, 0o700, 0o1777, 0o000])
def test_a_new_directory(fs: Driver, mode: int, umask: int) -> None:
    with fs.umask(umask), fs.user(ALICE, 77):
        fs.mkdir("d", mode)
    found = fs.stat("d")
    assert stat.S_ISDIR(found.mode)
    assert (stat.S_IMODE(found.mode), found.uid, found.gid, found.nlink) == (mode & ~umask, ALICE, 77, 2)


def test_directories_count_their_subdirectories(fs: Driver) -> None:
    fs.write("f")
    for number in range(5):
        fs.mkdir(f"d{number}")
        assert fs.stat(".").nlink == number + 3
    for number in range(5):
        fs.rmdir(f"d{number}")
    assert fs.stat(".").nlink == 2


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG, stat.S_IFCHR, stat.S_IFBLK])
@pytest.mark.parametrize("mode", [0o644, 0o4711, 0o000])
def test_mknod(fs: Driver, kind: int, mode: int) -> None:
    rdev = os.makedev(12, 345_678) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
    with fs.umask(0o022):
        fs.mknod("node", kind | mode, rdev)
    found = fs.lstat("node")
    assert found.mode == kind | (mode & ~0o022)
    assert (found.rdev, found.nlink, found.size) == (rdev, 1, 0)
    fs.rename("node", "moved")
    assert fs.lstat("moved").rdev == rdev


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
def test_devices_need_privilege(fs: Driver, kind: int) -> None:
    with fs.user(ALICE), fails(errno.EPERM):
        fs.mknod("node", kind | 0o644, os.makedev(1, 3))


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG])
def test_other_nodes_do_not(fs: Driver, kind: int) -> None:
    with fs.user(ALICE):
        fs.mknod("node", kind | 0o644)
    assert fs.lstat("node").uid == ALICE


def test_a_setgid_directory_hands_its_group_on(fs: Driver) -> None:
    fs.make_dir("d", 0o2777)
    fs.chown("d", 0, 500)
    with fs.user(ALICE):
        fs.write("d/f")
        fs.mkdir("d/sub", 0o755)
        fs.symlink("t", "d/link")
        fs.mknod("d/fifo", stat.S_IFIFO | 0o644)
    assert {fs.lstat(f"d/{name}").gid for name in ("f", "sub", "link", "fifo")} == {500}
    assert fs.bits("d/sub") == 0o2755
    assert fs.bits("d/f") == 0o644


def test_a_setgid_file_is_not_for_strangers_to_the_group(fs: Driver) -> None:
    fs.make_dir("d", 0o2777)
    fs.chown("d", 0, 500)
    with fs.umask(0):
        with fs.user(ALICE):
            fs.close(fs.open("d/strange", W | CREAT, 0o2775))
        with fs.user(ALICE, groups=[500]):
            fs.close(fs.open("d/member", W | CREAT, 0o2775))
    assert fs.bits("d/strange") == 0o775
    assert fs.bits("d/member") == 0o2775


def test_statvfs_makes_sense(fs: Driver) -> None:
    found = fs.statvfs()
    assert found.f_namemax == 255
    assert found.f_bsize >= 512
    assert found.f_frsize >= 512
    assert 0 < found.f_bavail <= found.f_bfree <= found.f_blocks
    assert 0 < found.f_ffree <= found.f_files


def test_inode_numbers_tell_files_apart(fs: Driver) -> None:
    for number in range(50):
        fs.write(f"f{number}")
    inos = {fs.stat(f"f{number}").ino for number in range(50)}
    assert len(inos) == 50
    assert inos == {fs.stat(f"f{number}").ino for number in range(50)}


def _opens(fs: Driver, path: str, flags: int) -> bool:
    try:
        fs.close(fs.open(path, flags))
    except PermissionError:
        return False
    return True
