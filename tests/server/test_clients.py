"""Other people's programs against the server, over HTTPS with the test CA: each the real one, in its usual way."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
import pytest
import urllib3
from minio import Minio
from minio.error import S3Error as MinioError
from obstore.exceptions import GenericError
from obstore.store import S3Store

from tests.mounting import require_fuse
from tests.server.harness import KEY_ID, REGION, SECRET, Server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BIN = Path(sys.executable).parent
LARGE = 12_000_000
#: Against hanging; nothing is measured by it.
DEADLINE_S = 120.0


def run(*command: str | Path, env: Mapping[str, str] | None = None) -> str:
    """A program's output; it must succeed."""
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def need(name: str) -> str:
    """A program beside our Python or on the path; without it there is nothing to test, except that CI must have it."""
    found = shutil.which(name, path=f"{BIN}:{os.environ['PATH']}")
    if found is None and os.environ.get("CI") == "true":
        pytest.fail(f"{name} is not installed")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files of several sizes and odd names."""
    root = tmp_path / "tree"
    for name, body in {
        "a.txt": b"alpha",
        "sub dir/b+ü.txt": b"beta" * 1000,
        "sub dir/deep/empty": b"",
        "large.bin": hashlib.sha512(b"seed").digest() * (LARGE // 64),
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return root


def same(left: Path, right: Path) -> bool:
    def contents(root: Path) -> dict[str, bytes]:
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    return contents(left) == contents(right)


def aws_env(server: Server, home: Path) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CA_BUNDLE": str(server.authority.ca_file),
        "AWS_ENDPOINT_URL": server.url,
        "HOME": str(home),
    }


def test_awscli(server: Server, s3: S3Client, bucket: str, tree: Path, tmp_path: Path) -> None:
    aws, env = need("aws"), aws_env(server, tmp_path)
    run(aws, "s3", "sync", tree, f"s3://{bucket}/t", env=env)
    run(aws, "s3", "cp", f"s3://{bucket}/t/large.bin", f"s3://{bucket}/copied", env=env)
    assert "sub dir/b+ü.txt" in run(aws, "s3", "ls", "--recursive", f"s3://{bucket}/", env=env)
    run(aws, "s3", "sync", f"s3://{bucket}/t", tmp_path / "back", env=env)
    assert same(tree, tmp_path / "back")
    run(aws, "s3", "rm", "--recursive", f"s3://{bucket}/t", env=env)
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["copied"]


def test_s3cmd(server: Server, bucket: str, tree: Path, tmp_path: Path) -> None:
    config = tmp_path / "s3cfg"
    config.write_text(
        f"[default]\naccess_key = {KEY_ID}\nsecret_key = {SECRET}\nhost_base = 127.0.0.1:{server.port}\n"
        f"host_bucket = 127.0.0.1:{server.port}\nca_certs_file = {server.authority.ca_file}\nuse_https = True\n"
        f"bucket_location = {REGION}\nmultipart_chunk_size_mb = 5\n"
    )
    s3cmd = [need("s3cmd"), "-c", str(config), "--no-progress"]
    run(*s3cmd, "sync", f"{tree}/", f"s3://{bucket}/t/")
    assert f"s3://{bucket}/t/sub dir/b+ü.txt" in run(*s3cmd, "ls", "--recursive", f"s3://{bucket}")
    assert "File size: 5" in run(*s3cmd, "info", f"s3://{bucket}/t/a.txt")
    run(*s3cmd, "cp", f"s3://{bucket}/t/a.txt", f"s3://{bucket}/copied")
    back = tmp_path / "back"
    back.mkdir()
    run(*s3cmd, "sync", f"s3://{bucket}/t/", f"{back}/")
    assert same(tree, back)
    run(*s3cmd, "del", "--recursive", "--force", f"s3://{bucket}/t/")
    assert "t/" not in run(*s3cmd, "ls", "--recursive", f"s3://{bucket}")


@pytest.fixture
def rclone_env(server: Server, tmp_path: Path) -> dict[str, str]:
    """Remotes `s3:` and `b2:` on the server."""
    return {
        "RCLONE_CONFIG": str(tmp_path / "rclone.conf"),
        "RCLONE_CA_CERT": str(server.authority.ca_file),
        "RCLONE_CONFIG_S3_TYPE": "s3",
        "RCLONE_CONFIG_S3_PROVIDER": "Other",
        "RCLONE_CONFIG_S3_ACCESS_KEY_ID": KEY_ID,
        "RCLONE_CONFIG_S3_SECRET_ACCESS_KEY": SECRET,
        "RCLONE_CONFIG_S3_ENDPOINT": server.url,
        "RCLONE_CONFIG_S3_REGION": REGION,
        "RCLONE_CONFIG_S3_CHUNK_SIZE": "5Mi",
        "RCLONE_CONFIG_S3_UPLOAD_CUTOFF": "5Mi",
        "RCLONE_CONFIG_NATIVE_TYPE": "b2",
        "RCLONE_CONFIG_NATIVE_ACCOUNT": KEY_ID,
        "RCLONE_CONFIG_NATIVE_KEY": SECRET,
        "RCLONE_CONFIG_NATIVE_ENDPOINT": server.url,
        "RCLONE_CONFIG_NATIVE_CHUNK_SIZE": "5Mi",
        "RCLONE_CONFIG_NATIVE_UPLOAD_CUTOFF": "5Mi",
    }


@pytest.mark.parametrize("remote", ["s3", "native"])
def test_rclone(bucket: str, tree: Path, tmp_path: Path, rclone_env: dict[str, str], remote: str) -> None:
    rclone = need("rclone")
    place = f"{remote}:{bucket}/t"
    run(rclone, "sync", tree, place, env=rclone_env)
    run(rclone, "check", tree, place, env=rclone_env)
    run(rclone, "check", "--download", tree, place, env=rclone_env)
    (tree / "a.txt").unlink()
    run(rclone, "sync", tree, place, env=rclone_env)
    assert "a.txt" not in run(rclone, "lsf", "-R", place, env=rclone_env)
    run(rclone, "copy", place, f"{remote}:{bucket}/u", env=rclone_env)
    run(rclone, "sync", f"{remote}:{bucket}/u", tmp_path / "back", env=rclone_env)
    assert same(tree, tmp_path / "back")


@contextmanager
def mounting(command: list[str], path: Path, env: Mapping[str, str]) -> Iterator[None]:
    """A program that mounts at path and ends well when the block has unmounted it."""
    process = subprocess.Popen(command, env={**os.environ, **env})
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not os.path.ismount(path):
            assert process.poll() is None, "the mount ended"
            assert time.monotonic() < deadline, "no mount"
            time.sleep(0.05)
        yield
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    require_fuse()
    path = tmp_path / "mnt"
    path.mkdir()
    yield path
    if os.path.ismount(path):
        run(need("fusermount3"), "-u", "-z", path)


def use_mount(mountpoint: Path, tree: Path) -> None:
    # Without times: rclone refuses to upload a file whose time changes while it does.
    shutil.copytree(tree, mountpoint / "tree", copy_function=shutil.copyfile)
    assert (mountpoint / "tree" / "a.txt").read_bytes() == b"alpha"
    (mountpoint / "tree" / "a.txt").rename(mountpoint / "renamed")
    assert sorted(os.listdir(mountpoint)) == ["renamed", "tree"]


def test_rclone_mount(s3: S3Client, bucket: str, tree: Path, mountpoint: Path, rclone_env: dict[str, str]) -> None:
    command = [need("rclone"), "mount", f"s3:{bucket}", str(mountpoint), "--vfs-cache-mode", "writes"]
    command += ["--vfs-write-back", "100ms", "--cache-dir", str(mountpoint.parent / "cache")]
    with mounting(command, mountpoint, rclone_env):
        use_mount(mountpoint, tree)
        deadline = time.monotonic() + DEADLINE_S
        want = {"renamed", "tree/large.bin", "tree/sub dir/b+ü.txt", "tree/sub dir/deep/empty"}
        while not want <= {item["Key"] for item in s3.list_objects_v2(Bucket=bucket).get("Contents", [])}:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        run(need("fusermount3"), "-u", mountpoint)
    assert s3.head_object(Bucket=bucket, Key="tree/large.bin")["ContentLength"] == LARGE // 64 * 64


def test_s3fs(server: Server, s3: S3Client, bucket: str, tree: Path, mountpoint: Path) -> None:
    secret = mountpoint.parent / "passwd"
    secret.write_text(f"{KEY_ID}:{SECRET}")
    secret.chmod(0o600)
    options = f"url={server.url},passwd_file={secret},use_path_request_style,endpoint={REGION}"
    # s3fs finds its CA by this variable of its TLS library.
    env = {"CURL_CA_BUNDLE": str(server.authority.ca_file)}
    with mounting([need("s3fs"), bucket, str(mountpoint), "-f", "-o", options], mountpoint, env):
        use_mount(mountpoint, tree)
        run(need("fusermount3"), "-u", mountpoint)
    head = s3.head_object(Bucket=bucket, Key="tree/large.bin")
    assert (head["ContentLength"], "mode" in head["Metadata"]) == (LARGE // 64 * 64, True)


def test_minio_sdk(server: Server, bucket: str, tree: Path) -> None:
    pool = urllib3.PoolManager(ca_certs=str(server.authority.ca_file), cert_reqs="CERT_REQUIRED")
    client = Minio(f"127.0.0.1:{server.port}", access_key=KEY_ID, secret_key=SECRET, http_client=pool)
    assert client.bucket_exists(bucket)
    client.put_object(bucket, "small", io.BytesIO(b"small"), 5, metadata={"x": "y"})
    client.fput_object(bucket, "sub/large.bin", str(tree / "large.bin"), part_size=5 << 20)
    assert client.stat_object(bucket, "sub/large.bin").size == LARGE // 64 * 64
    answer = client.get_object(bucket, "small")
    assert answer.read() == b"small"
    answer.close()
    names = {item.object_name for item in client.list_objects(bucket, recursive=True)}
    assert names == {"small", "sub/large.bin"}
    url = client.presigned_get_object(bucket, "small")
    assert pool.request("GET", url).data == b"small"
    client.remove_object(bucket, "small")
    with pytest.raises(MinioError, match="NoSuchKey"):
        client.get_object(bucket, "small")


def test_obstore(server: Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client in Rust that shares nothing with botocore."""
    monkeypatch.setenv("SSL_CERT_FILE", str(server.authority.ca_file))
    store = S3Store(
        bucket,
        endpoint=server.url,
        access_key_id=KEY_ID,
        secret_access_key=SECRET,
        region=REGION,
        retry_config={"max_retries": 0},
    )
    body = hashlib.sha512(b"seed").digest() * (LARGE // 64)
    obstore.put(store, "sub dir/b+ü.txt", b"beta")
    obstore.put(store, "large", body, chunk_size=5 << 20)
    assert bytes(obstore.get(store, "large").bytes()) == body
    starts = [0, 7_000_000]
    ranges = obstore.get_ranges(store, "large", starts=starts, lengths=[10, 10])
    assert [bytes(piece) for piece in ranges] == [body[start : start + 10] for start in starts]
    obstore.copy(store, "large", "copy")
    found = obstore.list_with_delimiter(store, "")
    assert ([item["path"] for item in found["objects"]], found["common_prefixes"]) == (["copy", "large"], ["sub dir"])
    with pytest.raises(GenericError, match="501 Not Implemented"):
        obstore.put(store, "large", b"x", mode="create", use_multipart=False)
    obstore.delete(store, ["large", "copy", "sub dir/b+ü.txt"])
    assert list(obstore.list(store).collect()) == []


@pytest.mark.parametrize("backend", ["s3", "rclone"])
def test_restic(
    server: Server, bucket: str, tree: Path, tmp_path: Path, rclone_env: dict[str, str], backend: str
) -> None:
    place = f"s3:{server.url}/{bucket}/restic" if backend == "s3" else f"rclone:s3:{bucket}/restic"
    env = aws_env(server, tmp_path) | rclone_env | {
        "RESTIC_REPOSITORY": place, "RESTIC_PASSWORD": "test", "PATH": f"{BIN}:{os.environ['PATH']}",
    }  # fmt: skip
    restic = [need("restic"), "--cacert", str(server.authority.ca_file), "--no-cache"]
    run(*restic, "init", env=env)
    run(*restic, "backup", tree, env=env)
    run(*restic, "check", "--read-data", env=env)
    run(*restic, "restore", "latest", "--target", tmp_path / "back", env=env)
    assert same(tree, tmp_path / "back" / tree.relative_to("/"))


def test_b2_program(server: Server, bucket: str, tree: Path, tmp_path: Path) -> None:
    b2 = need("b2")
    env = {
        "B2_APPLICATION_KEY_ID": KEY_ID,
        "B2_APPLICATION_KEY": SECRET,
        "B2_ENVIRONMENT": server.url,
        "B2_ACCOUNT_INFO": str(tmp_path / "account.db"),
        "REQUESTS_CA_BUNDLE": str(server.authority.ca_file),
    }
    run(b2, "account", "authorize", env=env)
    run(b2, "sync", "--no-progress", tree, f"b2://{bucket}/t", env=env)
    assert "t/sub dir/b+ü.txt" in run(b2, "ls", "--recursive", f"b2://{bucket}", env=env)
    run(b2, "sync", "--no-progress", f"b2://{bucket}/t", tmp_path / "back", env=env)
    assert same(tree, tmp_path / "back")
    made = run(b2, "key", "create", "--bucket", bucket, "reader", "readFiles,listFiles", env=env).split()
    assert len(made[0]) == 25
    assert made[0] in run(b2, "key", "list", env=env)
    run(b2, "key", "delete", made[0], env=env)
    run(b2, "rm", "--recursive", "--no-progress", f"b2://{bucket}/t", env=env)
    assert run(b2, "ls", "--recursive", f"b2://{bucket}", env=env) == ""
