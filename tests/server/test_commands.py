"""`b2fs serve`, `serve-key` and `fsck` as a user meets them."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import boto3
import pytest

from b2fs.store.embedded.engine import Engine, EngineConfig
from tests.server.harness import KEY_ID, SECRET, Authority, run_server

B2FS = [sys.executable, "-m", "b2fs"]


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*B2FS, *arguments], input=stdin, capture_output=True, text=True, timeout=120)


def test_the_first_start_makes_a_certificate_and_a_key_and_shows_it_once(tmp_path: Path) -> None:
    shown: list[str] = []
    for _ in range(2):
        command = [*B2FS, "serve", str(tmp_path / "store"), "--listen", "127.0.0.1:0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(2)]
            url, trust = lines[0].split()[4].rstrip(","), lines[1].split(": ")[1].strip()
            if not shown:
                shown = [process.stdout.readline() for _ in range(4)]
                key_id, secret = shown[1].split()[1], shown[2].split()[1]
            client = boto3.client(
                "s3", endpoint_url=url, verify=trust, aws_access_key_id=key_id, aws_secret_access_key=secret,
                region_name="us-east-1",
            )  # fmt: skip
            client.list_buckets()
            process.send_signal(signal.SIGTERM)
            rest, errors = process.communicate(timeout=120)
            assert (process.returncode, rest, errors) == (0, "", "")
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "store" / "tls" / "key.pem").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--insecure-http", "--listen", "0.0.0.0:0"], "loopback"),
        (["--listen", "nonsense"], "is not an address and a port"),
        (["--tls-cert", "x"], "belong together"),
        (["--insecure-http", "--tls-self-signed"], "excludes"),
        (["--key-id", "x"], "belong together"),
        (["--fault", "x"], "--fault"),
        (["--cap", "x=1"], "--cap"),
        (["--latency", "5"], "is not a time"),
        (["--key-id", "4fa0c5b6d1e2", "--key-file", "-"], "form of a master key"),
    ],
)
def test_wrong_use_is_one_sentence_and_status_2(tmp_path: Path, options: list[str], message: str) -> None:
    done = run("serve", str(tmp_path / "store"), *options, stdin="secret\n")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_keys_can_be_made_beforehand(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    made = run("serve-key", "create", store, "--account", "team", "--capability", "readFiles", "--name", "reader")
    key_id = made.stdout.split("keyID:")[1].split()[0]
    assert len(key_id) == 25
    listed = run("serve-key", "list", store).stdout.splitlines()
    account = made.stdout.split("(")[1].split(")")[0]
    assert [line.split("\t")[1:] for line in listed if key_id in line] == [["key", "team", "reader", account]]
    assert run("serve-key", "create", store, "--capability", "flyFiles").returncode == 2
    assert run("serve-key", "delete", store, key_id).returncode == 0
    assert run("serve-key", "delete", store, key_id).returncode == 2


def test_the_accounts_of_given_keys_are_shown(tmp_path: Path, authority: Authority) -> None:
    """Their IDs are the owners in ACLs and listings."""
    with run_server(tmp_path, authority) as running:
        assert running.process.stdout is not None
        shown = [running.process.stdout.readline() for _ in range(2)]
        owner = running.s3().list_buckets()["Owner"]
    assert shown[0] == f"account:        main ({owner['ID']})\n"
    assert shown[1].startswith("account:        other (")


def test_fsck_finds_and_repairs(tmp_path: Path, authority: Authority) -> None:
    with run_server(tmp_path, authority) as running:
        s3 = running.s3()
        s3.create_bucket(Bucket="checked-bucket")
        s3.put_object(Bucket="checked-bucket", Key="k", Body=b"x" * 100_000)
    store = tmp_path / "store"
    assert run("fsck", str(store)).returncode == 0
    content = next(path for path in (store / "content").rglob("*") if path.is_file())
    content.write_bytes(b"y" * 100_000)
    damaged = run("fsck", str(store))
    assert (damaged.returncode, "md5" in damaged.stdout) == (1, True)


def test_another_process_uses_the_same_store(tmp_path: Path, authority: Authority) -> None:
    with run_server(tmp_path, authority) as running:
        s3 = running.s3()
        s3.create_bucket(Bucket="shared-bucket")
        s3.put_object(Bucket="shared-bucket", Key="from-http", Body=b"http")
        engine = Engine(EngineConfig(str(tmp_path / "store")))
        try:
            bucket = engine.bucket("shared-bucket")
            assert engine.read(bucket.id, "from-http")[1] == b"http"
            engine.put(bucket.id, "from-engine", b"engine")
        finally:
            engine.close()
        assert s3.get_object(Bucket="shared-bucket", Key="from-engine")["Body"].read() == b"engine"


def test_kill_leaves_a_readable_store(tmp_path: Path, authority: Authority) -> None:
    with pytest.raises(AssertionError), run_server(tmp_path, authority) as running:
        s3 = running.s3()
        s3.create_bucket(Bucket="killed-bucket")
        for number in range(5):
            s3.put_object(Bucket="killed-bucket", Key=f"k{number}", Body=os.urandom(200_000))
        running.process.kill()
        running.process.wait()
    assert run("fsck", str(tmp_path / "store")).returncode == 0
    with run_server(tmp_path, authority) as again:
        assert again.s3(KEY_ID, SECRET).list_objects_v2(Bucket="killed-bucket")["KeyCount"] == 5


def test_https_is_the_default(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*B2FS, "serve", str(tmp_path / "store"), "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[4].rstrip(",")
        assert url.startswith("https://")
        context = ssl.create_default_context(cafile=process.stdout.readline().split(": ")[1].strip())
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{url}/", context=context, timeout=60)
        process.terminate()
        process.communicate(timeout=120)
