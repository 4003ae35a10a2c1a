"""Faults that a real mount meets: a full disk, a used-up cap, and kills at bad moments.  Nothing accepted is lost."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.programs import B2FS, force_unmount, run_b2fs, wait_until
from tests.e2e.sites import Site, new_site
from tests.e2e.test_crash_campaign import mounting
from tests.e2e.wire import MIB, Wire
from tests.faultproxy import WRITES, Refuse

CAP = Refuse(403, "AccessDenied", "Cannot upload files, storage cap exceeded. See the Caps &amp; Alerts page.")
#: What a daemon may take at most, in KiB.
MOST_MEMORY_KB = 300 << 10


@pytest.fixture
def site(wire: Wire) -> Iterator[Site]:
    """A bucket behind the proxy, to be mounted for real."""
    with new_site(lambda _: wire.as_bucket()) as site:
        site.troubled = True
        yield site


@contextmanager
def small_disk(site: Site, size: int) -> Iterator[None]:
    """The caches are on a filesystem of `size` bytes; needs root."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a small disk")
    site.cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", site.cache], check=True)
    try:
        yield
    finally:
        site.close()
        subprocess.run(["umount", "-l", site.cache], check=True)


@contextmanager
def ballast(file: Path) -> Iterator[None]:
    """No byte of the file's disk is free within the block."""
    try:
        with file.open("wb", buffering=0) as out, pytest.raises(OSError, match="No space left"):
            while True:
                out.write(bytes(4096))
        yield
    finally:
        file.unlink()


def peak_memory_kb(site: Site) -> int:
    status = Path(f"/proc/{site.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])


def accepted(root: Path, name: str, body: bytes) -> bool:
    """Store a file whole, and say whether that went well; what did not is removed."""
    try:
        (root / name).write_bytes(body)
    except OSError as error:
        assert error.errno in (errno.ENOSPC, errno.EDQUOT), error
        return False
    return True


def test_a_used_up_cap_and_then_a_full_disk_lose_nothing(site: Site, wire: Wire) -> None:
    with small_disk(site, 90 * MIB):
        root = site.mount()
        wire.proxy.harm(CAP, WRITES, times=None)
        with open(root / "first", "wb", buffering=0) as file:
            file.write(b"first")
            with pytest.raises(OSError, match="Disk quota exceeded"):
                os.fsync(file.fileno())
        stored = {"first": b"first"}
        for number in range(60):
            name, body = f"f{number}", os.urandom(MIB)
            if not accepted(root, name, body):
                refused = name
                break
            stored[name] = body
        else:
            pytest.fail("the disk of the cache is never full")
        assert len(stored) > 10
        for name, body in stored.items():
            assert (root / name).read_bytes() == body
        assert wire.contents() == {}
        wire.proxy.heal()
        assert run_b2fs("sync", root).returncode == 0
        found = wire.contents()
        assert {key: body for key, body in found.items() if key in stored} == stored
        assert peak_memory_kb(site) < MOST_MEMORY_KB
        os.unlink(root / refused)
        site.umount()
    assert wire.contents() == stored


def test_a_disk_without_a_free_byte(site: Site, wire: Wire) -> None:
    """Changes are refused, not half made; what is there stays readable; and the mount lives on."""
    with small_disk(site, 80 * MIB):
        root = site.mount()
        (root / "d").mkdir()
        stored = {"a": os.urandom(2 * MIB), "d/b": b"b", "c": b"c"}
        for name, body in stored.items():
            (root / name).write_bytes(body)
        wire.proxy.harm(CAP, WRITES, times=None)
        (root / "pending").write_bytes(b"pending")
        stored["pending"] = b"pending"
        with ballast(site.identity / "ballast"):
            refused = [name for name in ("x", "y", "z") if not accepted(root, name, os.urandom(100_000))]
            assert refused == ["x", "y", "z"]
            for name, body in stored.items():
                assert (root / name).read_bytes() == body
            site.kill()
            # The next mount says so, or comes up; either way it keeps what there is.
            with mounting(site) as mount:
                wait_until(lambda: mount.poll() is not None or os.path.ismount(root), "it has made up its mind")
                if mount.poll() is None:
                    mount.kill()
            force_unmount(root)
        wire.proxy.heal()
        root = site.mount()
        for name, body in stored.items():
            assert (root / name).read_bytes() == body
        site.umount()
    assert {key: body for key, body in wire.contents().items() if key in stored} == stored


def test_a_kill_while_a_directory_is_being_renamed(site: Site, wire: Wire) -> None:
    """Twice: the second kill hits what the first left to do."""
    root = site.mount()
    stored = {f"old/{number % 3}/f{number}": b"%d" % number * 100 for number in range(120)}
    for number in range(3):
        (root / f"old/{number}").mkdir(parents=True)
    for name, body in stored.items():
        (root / name).write_bytes(body)
    assert run_b2fs("sync", root).returncode == 0
    os.rename(root / "old", root / "new")
    for _ in range(2):
        enough = min(_stored_below(wire, "new/") + 20, len(stored))
        wire.proxy.wait(partial(_has_stored, wire, "new/", enough), "files are on their way to their new names")
        site.kill()
        found = set(wire.contents())
        assert [name for name in stored if not {name, f"new{name[3:]}"} & found] == []
        root = site.mount()
        assert not (root / "old").exists()
    site.umount()
    objects = {key: body for key, body in wire.contents().items() if not key.endswith("/")}
    assert objects == {f"new{name[3:]}": body for name, body in stored.items()}


def _stored_below(wire: Wire, prefix: str) -> int:
    """How many requests have stored or copied an object there: what is still here is sent again."""
    return sum(r.operation in ("CopyObject", "PutObject") and r.key.startswith(prefix) for r in wire.proxy.seen)


def _has_stored(wire: Wire, prefix: str, count: int) -> bool:
    return _stored_below(wire, prefix) >= count


def test_recover_when_the_bucket_has_changed_meanwhile(site: Site, wire: Wire) -> None:
    """`b2fs recover` stores what a killed mount left on top of what others did; what they did stays as a version."""
    root = site.mount()
    for name in ("ours", "both", "gone", "theirs"):
        (root / name).write_bytes(name.encode())
    assert run_b2fs("sync", root).returncode == 0
    wire.proxy.harm(CAP, WRITES, times=None)
    (root / "both").write_bytes(b"ours of both")
    (root / "ours").write_bytes(b"ours again")
    os.unlink(root / "gone")
    (root / "new").write_bytes(b"new")
    site.kill()
    wire.proxy.heal()
    wire.s3.put_object(Bucket=wire.bucket, Key="both", Body=b"theirs of both")
    wire.s3.put_object(Bucket=wire.bucket, Key="theirs", Body=b"theirs again")
    wire.s3.delete_object(Bucket=wire.bucket, Key="ours")
    (identity,) = site.cache.iterdir()
    done = subprocess.run(
        [*B2FS, "recover", str(identity)],
        env={**os.environ, **site.bucket.environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert wire.contents() == {
        "both": b"ours of both",
        "ours": b"ours again",
        "theirs": b"theirs again",
        "new": b"new",
    }
    bodies = {
        wire.s3.get_object(Bucket=wire.bucket, Key="both", VersionId=version)["Body"].read()
        for version in wire.versions()["both"]
    }
    assert b"theirs of both" in bodies
    assert "both was changed by somebody else" in done.stderr
