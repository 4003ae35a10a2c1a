"""Other clients of the same bucket: what boto3, rclone and s3fs write is seen here, and what b2fs writes by them."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.e2e.programs import is_mounted, wait_until
from tests.e2e.sites import Site, need, run
from tests.e2e.trees import attributes, file_contents
from tests.servers import Server, find_binary

OLD_NS = 1_234_567_890_123_456_789

#: Deep without any marker, names with meaning to somebody, empty, and more than one block.
OBJECTS = {
    "top": b"top\n",
    "a/b/c/d/e/f/deep": b"deep\n",
    "a/b/side": b"side\n",
    "a b/ünï+code&=%20?#": b"odd\n",
    "empty": b"",
    "large": os.urandom(3_000_000),
}


def rclone_words(server: Server, bucket: str) -> tuple[str, dict[str, str]]:
    """The remote's name and the environment that describes it."""
    environ = {
        "RCLONE_CONFIG": "/dev/null",
        "RCLONE_CONFIG_S_TYPE": "s3",
        "RCLONE_CONFIG_S_PROVIDER": "Other",
        "RCLONE_CONFIG_S_ENDPOINT": server.endpoint,
        "RCLONE_CONFIG_S_ACCESS_KEY_ID": server.access_key,
        "RCLONE_CONFIG_S_SECRET_ACCESS_KEY": server.secret_key,
    }
    return f"s:{bucket}", environ


def bucket_of(site: Site) -> str:
    return site.bucket.url.removeprefix("s3://")


def test_objects_of_boto3_appear(seaweedfs_site: Site, seaweedfs: Server) -> None:
    with closing(seaweedfs.client()) as client:
        for key, body in OBJECTS.items():
            client.put_object(Bucket=bucket_of(seaweedfs_site), Key=key, Body=body)
    root = seaweedfs_site.mount()
    assert file_contents(root) == OBJECTS
    assert sorted(os.listdir(root)) == ["a", "a b", "empty", "large", "top"]
    for key, body in OBJECTS.items():
        status = os.stat(root / key)
        assert (status.st_size, stat.filemode(status.st_mode)) == (len(body), "-rw-r--r--")
    assert stat.filemode(os.stat(root / "a/b/c").st_mode) == "drwxr-xr-x"
    seaweedfs_site.umount()
    assert seaweedfs_site.bucket.contents() == OBJECTS  # looking has changed nothing


#: What a web server of the bucket would say of an object.
TOLD: dict[str, Any] = {
    "ContentType": "text/x-odd",
    "CacheControl": "max-age=60",
    "ContentDisposition": "inline",
    "ContentEncoding": "gzip",
    "ContentLanguage": "de",
    "Expires": datetime(2033, 12, 1, 16, tzinfo=UTC),
    "Metadata": {"colour": "red"},
}


def test_what_others_have_said_of_an_object_stays_when_it_is_changed(seaweedfs_site: Site, seaweedfs: Server) -> None:
    names = ["chmod", "append", "cut", "mv", "whole", "link", "xattr", "dir/inside"]
    with closing(seaweedfs.client()) as client:
        for name in names:
            client.put_object(Bucket=bucket_of(seaweedfs_site), Key=name, Body=b"body\n", **TOLD)
        client.put_object(Bucket=bucket_of(seaweedfs_site), Key="large", Body=bytes(12 << 20), **TOLD)
        root = seaweedfs_site.mount()
        (root / "chmod").chmod(0o600)
        with open(root / "append", "a") as file:
            file.write("more\n")
        os.truncate(root / "cut", 2)
        (root / "mv").rename(root / "moved")
        (root / "whole").write_text("another\n")
        os.link(root / "link", root / "linked")
        os.setxattr(root / "xattr", "user.a", b"b")
        (root / "dir").rename(root / "renamed")
        with open(root / "large", "r+b") as file:
            file.seek(6 << 20)
            file.write(b"changed")
        seaweedfs_site.umount()
        for name in (*names[:3], "moved", *names[4:-1], "linked", "renamed/inside", "large"):
            head: dict[str, Any] = {**client.head_object(Bucket=bucket_of(seaweedfs_site), Key=name)}
            head["Metadata"] = {"colour": head["Metadata"]["colour"]}  # beside ours
            assert {told: head[told] for told in TOLD} == TOLD, name


def test_objects_of_rclone_appear_with_their_times(seaweedfs_site: Site, seaweedfs: Server, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for number, (name, body) in enumerate(OBJECTS.items()):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(body)
        os.utime(tree / name, ns=(0, OLD_NS + number))
    remote, environ = rclone_words(seaweedfs, bucket_of(seaweedfs_site))
    run(find_binary("rclone"), "copy", tree, remote, environ=environ)
    root = seaweedfs_site.mount()
    assert file_contents(root) == OBJECTS
    for number, name in enumerate(OBJECTS):
        assert os.stat(root / name).st_mtime_ns == OLD_NS + number, name
    seaweedfs_site.umount()


def written_here(site: Site) -> Path:
    """A tree with attributes, on a mount."""
    root = site.mount()
    for name, body in OBJECTS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(body)
    os.chmod(root / "top", 0o640)
    os.chown(root / "top", 1234, 2345)
    os.chmod(root / "a/b/side", 0o4755)
    os.symlink("a/b/side", root / "symlink")
    os.mkdir(root / "private", 0o700)
    for name in OBJECTS:
        os.utime(root / name, ns=(OLD_NS, OLD_NS))
    return root


def test_rclone_reads_what_is_written_here(seaweedfs_site: Site, seaweedfs: Server, tmp_path: Path) -> None:
    written_here(seaweedfs_site)
    seaweedfs_site.umount()
    remote, environ = rclone_words(seaweedfs, bucket_of(seaweedfs_site))
    run(
        find_binary("rclone"),
        "copy",
        remote,
        tmp_path / "copy",
        "--exclude=/symlink",
        "--exclude=/.b2fs/**",
        environ=environ,
    )
    assert file_contents(tmp_path / "copy") == OBJECTS
    for name in OBJECTS:
        assert (tmp_path / "copy" / name).stat().st_mtime_ns == OLD_NS


def test_rclone_believes_no_checksum_of_what_was_changed_here(
    seaweedfs_site: Site, seaweedfs: Server, tmp_path: Path
) -> None:
    for name in ("changed", "moved"):
        (tmp_path / name).write_bytes(os.urandom(11 << 20))
    remote, environ = rclone_words(seaweedfs, bucket_of(seaweedfs_site))
    in_parts = ("--s3-upload-cutoff=5M", "--s3-chunk-size=5M")
    run(find_binary("rclone"), "copy", tmp_path, remote, *in_parts, environ=environ)
    root = seaweedfs_site.mount()
    with open(root / "changed", "r+b") as file:
        file.write(b"changed")
    os.chmod(root / "moved", 0o600)
    (root / "moved").rename(root / "new name")
    seaweedfs_site.umount()
    with closing(seaweedfs.client()) as client:
        heads = [client.head_object(Bucket=bucket_of(seaweedfs_site), Key=key) for key in ("changed", "new name")]
    assert ["md5chksum" in head["Metadata"] for head in heads] == [False, True]
    run(find_binary("rclone"), "copy", remote, tmp_path / "back", "--exclude=/.b2fs/**", environ=environ)
    assert file_contents(tmp_path / "back") == {
        "changed": b"changed" + (tmp_path / "changed").read_bytes()[7:],
        "new name": (tmp_path / "moved").read_bytes(),
    }


@contextmanager
def s3fs(server: Server, bucket: str, directory: Path) -> Iterator[Path]:
    """The bucket mounted by s3fs."""
    need("s3fs")
    mountpoint, passwords = directory / "s3fs", directory / "passwords"
    mountpoint.mkdir()
    passwords.touch(mode=0o600)
    passwords.write_text(f"{server.access_key}:{server.secret_key}\n")
    options = f"url={server.endpoint},use_path_request_style,passwd_file={passwords}"
    # Patient, since a server that is busy with other tests answers 500 while it makes room for a new bucket.
    command = ["s3fs", bucket, str(mountpoint), "-f", "-o", f"{options},retries=20,dbglevel=warn"]
    with (
        open(directory / "s3fs.log", "w+") as log,
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        try:
            wait_until(lambda: is_mounted(mountpoint) or process.poll() is not None, "s3fs has mounted")
            assert process.poll() is None
            yield mountpoint
        except (OSError, AssertionError) as error:
            log.seek(0)
            error.add_note(f"what s3fs said:\n{log.read()}")
            raise
        finally:
            subprocess.run(["fusermount3", "-u", "-z", str(mountpoint)], check=False)
            process.wait(30)


def test_s3fs_reads_what_is_written_here(seaweedfs_site: Site, seaweedfs: Server) -> None:
    root = written_here(seaweedfs_site)
    expected = {name: attributes(root / name) for name in (*OBJECTS, "symlink")}
    seaweedfs_site.umount()
    with s3fs(seaweedfs, bucket_of(seaweedfs_site), seaweedfs_site.directory) as mountpoint:
        assert file_contents(mountpoint) == OBJECTS
        assert {name: attributes(mountpoint / name) for name in expected} == expected
        assert (mountpoint / "private").is_dir()


def test_what_s3fs_writes_is_seen_here(seaweedfs_site: Site, seaweedfs: Server) -> None:
    with s3fs(seaweedfs, bucket_of(seaweedfs_site), seaweedfs_site.directory) as mountpoint:
        for name, body in OBJECTS.items():
            (mountpoint / name).parent.mkdir(parents=True, exist_ok=True)
            (mountpoint / name).write_bytes(body)
        os.chmod(mountpoint / "top", 0o640)
        os.chown(mountpoint / "top", 1234, 2345)
        os.symlink("a/b/side", mountpoint / "symlink")
        os.utime(mountpoint / "large", ns=(OLD_NS, OLD_NS))
    root = seaweedfs_site.mount()
    assert file_contents(root) == OBJECTS
    status = os.stat(root / "top")
    assert (stat.filemode(status.st_mode), status.st_uid, status.st_gid) == ("-rw-r-----", 1234, 2345)
    assert os.readlink(root / "symlink") == "a/b/side"
    assert os.stat(root / "large").st_mtime_ns == OLD_NS
    seaweedfs_site.umount()
